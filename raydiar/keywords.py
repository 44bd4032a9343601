"""What is wrong with the arguments of a call, told by name."""

from __future__ import annotations

import functools
import inspect
import io
import math
from collections.abc import Callable

from raydiar.errors import ConfigError, InvalidSamples


def known_keywords(function: Callable) -> Callable:
    """Make an unknown keyword of a function an error that names those it has."""
    parameters = inspect.signature(function).parameters
    known = {name for name in parameters if name not in ("self", "cls")}

    @functools.wraps(function)
    def checked(*arguments, **keywords):
        if unknown := keywords.keys() - known:
            owner = function.__qualname__.removesuffix(".__init__")
            names = ", ".join(name for name in parameters if name in known)
            raise ConfigError(f"{owner} has no {', '.join(sorted(unknown))}: it takes {names}")
        return function(*arguments, **keywords)

    return checked


def check_number(name: str, value, least: float = 0.0, *, above: bool = False) -> None:
    """
    Parameters
    ----------
    name : str
    value : object
        Given as a number.
    least : float
    above : bool
        Whether `least` itself is too little.

    Raises
    ------
    ConfigError
        It is no number, or too small a one.
    """
    number = math.nan
    if hasattr(value, "__float__") and not isinstance(value, bool):
        number = float(value)
    if math.isfinite(number) and (number > least or (number == least and not above)):
        return
    wanted = f"a number above {least:g}" if above else f"a number from {least:g} on"
    raise ConfigError(f"{name} must be {wanted}, not {value!r}")


def check_hook(hook) -> None:
    """
    Raises
    ------
    ConfigError
        It cannot be called.
    """
    if hook is not None and not callable(hook):
        raise ConfigError(f"a hook is called with the steps of the work: {hook!r} cannot be called")


def check_binary(file) -> None:
    """
    Raises
    ------
    InvalidSamples
        An open file that gives text, or that was closed.
    """
    if getattr(file, "closed", False):
        raise InvalidSamples("the file was closed: pass it open, or its path")
    if isinstance(file, io.TextIOBase):
        raise InvalidSamples('the file gives text: open it with mode "rb"')
