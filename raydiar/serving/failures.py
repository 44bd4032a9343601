"""Whose failure is it that a job fails: the recording's, the moment's, or the machine's?

As in a corpus job (`raydiar.failures`), with what a server meets besides: URLs of clients,
a database, and replicas that come and go.
"""

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException

from raydiar import errors
from raydiar.failures import MACHINE, MOMENT, RECORDING, failure_cause
from raydiar.serving.outbound.addresses import url_label

__all__ = ["MACHINE", "MOMENT", "RECORDING", "cause_of", "is_lost_replica", "message", "verdict"]

_OF_MOMENT = (
    errors.StorageUnavailable,
    errors.DatabaseUnavailable,
    errors.DecoderKilled,
    errors.DeviceFailed,
    errors.WorkerUnhealthy,
    RayError,
    RayServeException,
)
_OF_MACHINE = (errors.StorageDenied, errors.WeightsNotFound, errors.CheckpointError)

# what a client of this interface can do in place of what others can
_ADVICE = {
    "Fetch the file again, or use what is there by giving its `duration`.": (
        "Send the file again, or only the part of it that is whole."
    ),
    "Decode it from its start, or convert it.": "Convert it.",
}


def cause_of(error: BaseException) -> BaseException:
    """What another replica raised, without what Ray wraps around it."""
    while isinstance(error, RayTaskError) and error.cause is not None:
        error = error.cause
    return error


def is_lost_replica(error: BaseException) -> bool:
    """Whether a replica died or is about to: another may answer the same request."""
    return isinstance(error, errors.DeviceFailed | RayError) and not isinstance(error, RayTaskError)


def verdict(error: BaseException) -> str:
    """RECORDING, MOMENT or MACHINE.

    What a client asked for counts as the recording's: it fails the job, and nothing else.
    """
    if isinstance(error, errors.FetchFailed):
        return MOMENT if error.retryable else RECORDING
    if isinstance(error, _OF_MOMENT):
        return MOMENT
    if isinstance(error, errors.RaydiarError) and not isinstance(error, _OF_MACHINE):
        return RECORDING
    return failure_cause(error)


def message(error: BaseException, media: str, path: str | None = None) -> str:
    """What a client may read of a failure.

    Parameters
    ----------
    error : Exception
    media : str
        URL of the recording, as the client gave it.
    path : str, optional
        Where this machine keeps the recording: not the client's business.
    """
    if not isinstance(error, errors.RaydiarError):
        return f"the server failed at this recording ({type(error).__name__})"
    text = str(error)
    for advice, ours in _ADVICE.items():
        text = text.replace(advice, ours)
    return text.replace(path, url_label(media)) if path else text
