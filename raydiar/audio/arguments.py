"""What calls of this room have in common: excerpts, channels, and where warnings go."""

import math
import warnings as python_warnings
from numbers import Real

import numpy as np

from raydiar.errors import AudioWarning, ConfigError


def check_excerpt(label: str, start: float, duration: float | None) -> None:
    """
    Raises
    ------
    ConfigError
        If there can be no such part of a recording.
    """
    given = [start] if duration is None else [start, duration]
    if not all(isinstance(number, Real) for number in given) or not (
        0 <= start < math.inf and (duration is None or duration > 0)
    ):
        raise ConfigError(
            f"{label}: an excerpt has start >= 0 and duration > 0 seconds, "
            f"not start={start!r} and duration={duration!r}."
        )


def channel_index(channel: int | str | None) -> int | None:
    """The channel to keep, None for the mean of all.

    Raises
    ------
    ConfigError
    """
    if channel is None or channel == "mix":
        return None
    if isinstance(channel, int | np.integer) and channel >= 0:
        return int(channel)
    raise ConfigError(f'A channel is a number counted from 0, or "mix", not {channel!r}.')


def hand_over(found: list[str], warnings: list[str] | None) -> None:
    """Give warnings to the caller's list; to Python's `warnings` where it has none."""
    if warnings is not None:
        warnings += found
        return
    for text in found:
        python_warnings.warn(text, AudioWarning, stacklevel=3)
