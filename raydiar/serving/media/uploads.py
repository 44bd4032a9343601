"""Uploads that appear whole or not at all, in a local folder or an object store.

Both kinds do nothing before their first `write`, block, and take `discard` at any time, also
after `publish` has succeeded.
"""

import os
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

from raydiar.errors import AudioNotFound, RaydiarError, StorageUnavailable
from raydiar.serving.storage.private import create_private, make_private_folder
from raydiar.storage import storage_error
from raydiar.storage.folder import TEMPORARY, Folder

_PART_BYTES = 8 * 2**20  # of multipart uploads: S3 takes 10,000 parts of at least 5 MiB


class FileUpload:
    """An upload to a local folder: a temporary file there, renamed at the end."""

    def __init__(self, folder: Folder, name: str, label: str):
        self._label = label
        self._path = Path(folder.path(name))
        self._temporary = Path(folder.path(f"{TEMPORARY}/{uuid.uuid4().hex}"))
        self._file = None

    def write(self, block: bytes) -> None:
        with _storing(self._label):
            if self._file is None:
                make_private_folder(self._temporary.parent)
                self._file = create_private(self._temporary)
            self._file.write(block)

    def publish(self) -> None:
        self.write(b"")
        with _storing(self._label):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            make_private_folder(self._path.parent)
            os.replace(self._temporary, self._path)

    def discard(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk is told of again by what is still buffered
                self._file.close()
            self._temporary.unlink(missing_ok=True)


class ObjectUpload:
    """An upload to an object store: one PUT, or in parts that appear as one when it is closed."""

    def __init__(self, folder: Folder, name: str, label: str):
        self._fs, self._path, self._label = folder.fs, folder.path(name), label
        self._file = None
        self._published = False

    def write(self, block: bytes) -> None:
        with _storing(self._label):
            if self._file is None:
                self._file = self._fs.open(self._path, "wb", block_size=_PART_BYTES)
            self._file.write(block)

    def publish(self) -> None:
        self.write(b"")
        with _storing(self._label):
            self._file.close()
        self._published = True

    def discard(self) -> None:
        if self._file is None or self._published:
            return
        self._file.closed = True  # or the garbage collector would close, and so publish, it
        with suppress(Exception):  # what brought us here is what must be told; `expire` is next
            self._file.discard()


@contextmanager
def _storing(label: str):
    """As `told`; also where this machine cannot store anything, having no room or open files."""
    try:
        with told(label):
            yield
    except RaydiarError:  # some are OSErrors too
        raise
    except OSError as error:
        raise StorageUnavailable(
            f"{label}: cannot be stored for the moment ({error.strerror})."
        ) from error


@contextmanager
def told(label: str):
    """Say whose failure it is that the store fails; without its address, for clients read this.

    Raises
    ------
    AudioNotFound, StorageDenied, StorageUnavailable
    """
    try:
        yield
    except Exception as error:
        meaning = storage_error(error, label)
        if isinstance(meaning, AudioNotFound):
            meaning = not_found(label)
        if meaning is error:
            raise
        raise meaning from error


def not_found(label: str) -> AudioNotFound:
    """What is raised for an upload that is not there."""
    return AudioNotFound(f"{label}: no such upload. It may have expired; send it again.")
