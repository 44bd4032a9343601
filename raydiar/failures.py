"""Whose failure is it: the recording's, the moment's, or the machine's and its operator's?

A job over millions of hours meets all three, and mixing them up costs either the job (one broken
file stops it) or its result (a full disk turns good recordings into error rows).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
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
    errors.ScoresNotFinite,
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
    if isinstance(error, _OF_MACHINE) or is_out_of_memory(error) or is_device_error(error):
        return MACHINE
    if isinstance(error, OSError) or type(error).__module__.split(".")[0] in _STORAGE_CLIENTS:
        told = storage_error(error, "storage")
        return MACHINE if told is error else failure_cause(told)
    return RECORDING


# What torch and the libraries below it say where neither a recording nor storage can be at fault.
# Their exceptions are mostly plain RuntimeErrors, so that only the words tell.
_SAID_OF_MEMORY = re.compile(
    r"out of memory|out of host memory|can't allocate memory|cannot allocate memory"
    r"|not enough memory|bad_alloc|(CUBLAS_STATUS|CUDNN_STATUS|CUFFT|CUSOLVER_STATUS)_ALLOC_FAILED"
    r"|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_SAID_OF_DEVICE = re.compile(
    r"\bCUDA (driver )?(error|initialization|failure)|CUDA driver version|CUDA-capable|CUDA GPUs?\b"
    r"|cudaError|\bCUDA_ERROR_|device-side assert|no kernel image|illegal memory access"
    r"|\bcuDNN(_STATUS| error)|\bcuBLAS(Lt)?(_STATUS| error)|\bcuFFT(_| error)"
    r"|\bcuSOLVER(_STATUS| error)|\bcuSPARSE(_STATUS| error)|\bnvrtc\b|\bNVRTC_|\bnvjitlink"
    r"|\bNVML|\bNCCL\b|NVIDIA driver|\bTriton\b|\bptxas\b|\bHIP (error|out)|\bhipError|\bMPS\b"
    r"|\bXID\b|\bECC error|GPU (has fallen|is lost)|CUDACachingAllocator",
    re.IGNORECASE,
)
# whose exceptions are about compiling for a device, whatever they say
_COMPILERS = ("triton", "torch._inductor", "torch._dynamo")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, a GPU's or the machine's."""
    if isinstance(error, MemoryError) or "OutOfMemoryError" in _names(error):
        return True
    return _may_be_native(error) and bool(_SAID_OF_MEMORY.search(str(error)))


def is_device_error(error: BaseException) -> bool:
    """Whether a GPU failed, its driver, or what compiles for it.

    After most of these failures every CUDA call of the process may fail as well.
    """
    if _names(error) & {"AcceleratorError", "OutOfMemoryError", "DeferredCudaCallError"}:
        return True
    if isinstance(error, errors.DeviceFailed) or type(error).__module__.startswith(_COMPILERS):
        return True
    return _may_be_native(error) and bool(_SAID_OF_DEVICE.search(str(error)))


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}


def _may_be_native(error: BaseException) -> bool:
    """Whether an exception may come from below Python, and not from us or from storage."""
    own = (errors.RaydiarError, OSError)
    return isinstance(error, RuntimeError | AssertionError) and not isinstance(error, own)


def describe(error: BaseException) -> dict:
    """The `error` column of a dataset row."""
    message = without_secrets(printable(str(error) or repr(error)))
    return {
        "type": type(error).__name__,
        "message": message if len(message) <= 2000 else f"{message[:1999]}…",
        "retryable": failure_cause(error) == MOMENT or isinstance(error, errors.StorageDenied),
        "attempt": getattr(error, "attempt", 1),
    }


def recordings_error(error: Exception) -> dict:
    """The `error` column of a recording that could not be read.

    Also of one that its storage refuses: a geo-blocked URL, an expired signature, a file of
    somebody else. Where all are refused, the job's limits on failures stop it.

    Raises
    ------
    Exception
        The error itself, if the machine or its operator caused it.
    """
    if failure_cause(error) == MACHINE and not isinstance(error, errors.StorageDenied):
        raise error
    return describe(error)


def retrying(call: Callable[[], Result], attempts: int = 5, first_wait: float = 1.0) -> Result:
    """Call until it is no longer the moment that fails, with doubling, jittered waits.

    A decoder that was killed for want of memory is the machine's failure, but has its moments.

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
            if not _passes(error, attempt, attempts):
                raise
            _wait(attempt, first_wait)


def retrying_pieces(
    begin: Callable[[], Iterator[Result]], attempts: int = 5, first_wait: float = 1.0
) -> Iterator[Result]:
    """As `retrying`, for what comes in pieces, the same ones each time: none is given twice."""
    given = 0
    for attempt in count(1):
        try:
            for number, piece in enumerate(begin()):
                if number >= given:
                    given += 1
                    yield piece
            return
        except Exception as error:
            if not _passes(error, attempt, attempts):
                raise
            _wait(attempt, first_wait)


def _passes(error: Exception, attempt: int, attempts: int) -> bool:
    """Whether a failure may have been the moment's, and there are attempts left."""
    error.attempt = attempt
    momentary = failure_cause(error) == MOMENT or isinstance(error, errors.DecoderKilled)
    return momentary and attempt < attempts


def _wait(attempt: int, first: float) -> None:
    time.sleep(first * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
