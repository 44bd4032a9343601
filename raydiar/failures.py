"""Whose failure is it: the recording's, the moment's, or the machine's and its operator's?

A job over millions of hours meets all three, and mixing them up costs either the job (one broken
file stops it) or its result (a full disk turns good recordings into error rows).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from raydiar import errors
from raydiar.naming import printable, without_secrets
from raydiar.storage import storage_error

Result = TypeVar("Result")

RECORDING, MOMENT, MACHINE = "recording", "moment", "machine"

_OF_RECORDING = (
    errors.AudioDecodeError,
    errors.InvalidSamples,
    errors.RecordingTooLong,
    errors.AudioNotFound,
    errors.DecoderCrashed,
    errors.DecoderStalled,
    errors.ShardError,
)
_OF_MACHINE = (errors.RaydiarError, MemoryError, ImportError)
# clients of storage whose own exceptions are no OSError
_STORAGE_CLIENTS = frozenset(("aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3"))


def failure_cause(error: BaseException) -> str:
    """RECORDING, MOMENT or MACHINE.

    An exception nobody expected counts against the recording that met it: one odd file among
    millions must not stop the rest, and when it is no odd file, the job's limit on failed
    recordings stops it.
    """
    if isinstance(error, errors.StorageUnavailable):
        return MOMENT
    if isinstance(error, _OF_RECORDING):
        return RECORDING
    if isinstance(error, _OF_MACHINE) or is_device_error(error):
        return MACHINE
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in _STORAGE_CLIENTS:
        told = storage_error(error, "storage")
        return MACHINE if told is error else failure_cause(told)
    return RECORDING


def is_device_error(error: BaseException) -> bool:
    """Whether a GPU failed: afterwards every CUDA call of the process may fail as well."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"AcceleratorError", "OutOfMemoryError"}:
        return True
    return isinstance(error, RuntimeError) and any(
        sign in str(error) for sign in ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS")
    )


def describe(error: BaseException) -> dict:
    """The `error` column of a dataset row."""
    message = without_secrets(printable(str(error) or repr(error)))
    return {
        "type": type(error).__name__,
        "message": message if len(message) <= 2000 else f"{message[:1999]}…",
        "retryable": failure_cause(error) == MOMENT,
        "attempt": getattr(error, "attempt", 1),
    }


def retrying(call: Callable[[], Result], attempts: int = 5, first_wait: float = 1.0) -> Result:
    """Call until it is no longer the moment that fails, with doubling, jittered waits.

    Raises
    ------
    Exception
        Whatever `call` raised when it was not the moment's, or when attempts were used up. It
        carries the number of attempts as `error.attempt`.
    """
    for attempt in count(1):
        try:
            return call()
        except Exception as error:
            error.attempt = attempt
            if attempt == attempts or failure_cause(error) != MOMENT:
                raise
            time.sleep(first_wait * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
