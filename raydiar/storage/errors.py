"""Whose failure it is that a storage does not give what it was asked for.

fsspec's clients each raise their own exceptions, which are known here by their names and the
status that a service answered: importing the clients to know their types would cost seconds.
"""

import errno
import socket
import ssl

from raydiar.errors import AudioNotFound, StorageDenied, StorageUnavailable


def storage_error(error: Exception, label: str) -> Exception:
    """Say whose failure it is that a source cannot be read.

    Returns
    -------
    error : Exception
        AudioNotFound (the recording's), StorageUnavailable (the moment's), StorageDenied (the
        operator's), or `error` itself where the cause is this machine (disk full, too many open
        files, a missing storage driver).
    """
    links = _chain(error)
    # The innermost cause knows best: fsspec reports every HTTP failure as FileNotFoundError.
    status = http_status(error)
    if status in (401, 403) or any(
        isinstance(link, PermissionError) or "Credential" in type(link).__name__ for link in links
    ):
        return StorageDenied(
            f"{label}: the storage refused access ({_reason(links)}). "
            "Check the credentials of this process and the permissions of the object."
        )
    gone = status in (404, 410)
    busy = status in (408, 425, 429) or (status is not None and status >= 500)
    if busy or (not gone and any(_is_network(link) for link in links)):
        return StorageUnavailable(
            f"{label}: the storage did not answer ({_reason(links)}). Try again later."
        )
    if gone or isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return AudioNotFound(f"{label}: no such file. Check the path or URI.")
    if isinstance(error, ValueError) and "rotocol" in str(error):
        return AudioNotFound(f"{label}: no storage is known by that scheme ({error}).")
    machine = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
    if isinstance(error, OSError) and error.errno not in machine:
        return StorageUnavailable(f"{label}: cannot be read ({error}). Try again later.")
    return error


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and its causes, outermost first."""
    links = []
    while error is not None and error not in links:
        links.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return links


def http_status(error: BaseException) -> int | None:
    """What a storage service answered, if that is why a call failed."""
    return next((code for link in reversed(_chain(error)) if (code := _status_of(link))), None)


def _status_of(error: BaseException) -> int | None:
    status = getattr(error, "status", None)  # aiohttp
    if status is None and isinstance(getattr(error, "response", None), dict):  # botocore
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if status is None:
        status = getattr(error, "code", None)  # gcsfs, urllib
    return int(status) if str(status).isdigit() else None


def _is_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError):
        return True
    return type(error).__module__.partition(".")[0] in ("aiohttp", "botocore", "urllib3")


def _reason(links: list[BaseException]) -> str:
    """The innermost cause in one line; an HTTP status says it without repeating a signed URL."""
    status = http_status(links[0])
    return f"HTTP {status}" if status else f"{type(links[-1]).__name__}"
