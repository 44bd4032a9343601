"""Recordings as seekable bytes wherever they lie.

Remote objects are read in blocks of 4 MiB: memory stays constant, an excerpt of a long file costs
little more than its own bytes, and a few large requests are what object stores are fast at. The
price is that decoding waits for each block; a host hides it by running a few more decodes than it
has cores. A source that cannot seek (a pipe, an HTTP server that ignores ranges)
is copied to an unnamed temporary file first, because half of all containers keep their index at
the end.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, BinaryIO

from raydiar.naming import local_path, printable, public_uri, without_secrets
from raydiar.storage.errors import storage_error

BLOCK_BYTES = 4 * 2**20
PROBE_BLOCK_BYTES = 2**18  # a header is smaller; a large block would be fetched for nothing

Source = str | os.PathLike | BinaryIO


class Reader:
    """Seekable bytes of one source, in the form in which FFmpeg reads them.

    FFmpeg takes a failing read for the end of the file, so the reason is kept here: a network
    error must never pass for a truncated recording.

    Attributes
    ----------
    label : str
        The source in messages, without credentials.
    remote : bool
        Whether reading crosses a network.
    reading : bool
        Whether a read is under way: a stall is then the storage's, not the decoder's.
    failure : Exception or None
        What the last failing read raised.
    """

    def __init__(self, file: BinaryIO, label: str, remote: bool = False):
        self.label = label
        self.remote = remote
        self.reading = False
        self.failure: Exception | None = None
        self._file = file

    def read(self, size: int = -1) -> bytes:
        self.reading = True
        try:
            return self._file.read(size)
        except Exception as error:
            self.failure = error
            raise
        finally:
            self.reading = False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def size(self) -> int:
        """Number of bytes; rewinds to the start."""
        size = self.seek(0, os.SEEK_END)
        self.seek(0)
        return size


@contextmanager
def open_source(
    source: Source,
    storage_options: dict[str, Any] | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Reader]:
    """Open a path, an fsspec URI, or an open binary file object for seeking and reading.

    A file object is read from its beginning (from where it stands if it cannot seek) and left
    open.

    Raises
    ------
    AudioNotFound, StorageDenied, StorageUnavailable
    """
    label = display_name(source)
    with ExitStack() as stack:
        try:
            if hasattr(source, "read"):
                file, remote = source, False
            else:
                uri = os.fspath(source)
                remote = is_remote(uri)
                file = stack.enter_context(_open_uri(uri, storage_options or {}, block_bytes))
            if not _can_seek(file):
                file = stack.enter_context(_spooled(file))
        except Exception as error:
            raise storage_error(error, label) from error
        yield Reader(file, label, remote)


def is_remote(uri: str) -> bool:
    """Whether reading this URI crosses a network, as far as its scheme tells."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme not in ("file", "local", "memory")


def display_name(source: Source) -> str:
    """The source as messages name it: without password, and without a signed URL's signature."""
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        return without_secrets(printable(name)) if isinstance(name, str) else "file object"
    return public_uri(source)


def _open_uri(uri: str, storage_options: dict[str, Any], block_bytes: int) -> BinaryIO:
    if (path := local_path(uri)) is not None:
        return open(path, "rb")
    # fsspec is imported late: most recordings of a laptop or a mounted disk never need it
    from fsspec.core import url_to_fs

    uri, options = as_given(uri)
    web = uri.lower().startswith(("http://", "https://"))
    fs, path = url_to_fs(uri, **(options | storage_options))
    if not is_remote(uri):
        return fs.open(path, "rb")
    file = fs.open(path, "rb", block_size=block_bytes, cache_type="readahead")
    if web and not _serves_ranges(file):
        file.close()
        return _spooled(fs.open(path, "rb", block_size=0))
    return file


def as_given(uri: str) -> tuple[str, dict[str, Any]]:
    """A URI and fsspec's options by which a URL is requested byte for byte as it stands.

    What is encoded in it stays so: a signature may cover it. White space is encoded.
    """
    if not (uri.lower().startswith(("http://", "https://")) and uri.isascii()):
        return uri, {}
    blank = re.compile(r"[\x00-\x20\x7f]")
    return blank.sub(lambda found: f"%{ord(found[0]):02X}", uri), {"encoded": True}


def _serves_ranges(file) -> bool:
    """Whether the HTTP server behind a file answers range requests; few say so in their headers."""
    try:
        if file.size > 1:
            file._fetch_range(1, 2)
    except (ValueError, TypeError, NotImplementedError):  # the whole body came, or size is unknown
        return False
    return True


def _can_seek(file: BinaryIO) -> bool:
    if not getattr(file, "seekable", lambda: hasattr(file, "seek"))():
        return False
    file.seek(0)
    return True


def _spooled(file: BinaryIO) -> BinaryIO:
    """Copy what cannot seek to a temporary file that vanishes when closed."""
    copy = tempfile.TemporaryFile(prefix="raydiar-")  # noqa: SIM115 (the caller closes it)
    shutil.copyfileobj(file, copy, BLOCK_BYTES)
    copy.seek(0)
    return copy
