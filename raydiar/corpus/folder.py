"""A folder in a file system or object store where files appear whole or not at all.

Files are published by one call that the store makes atomic: rename after fsync on a file system,
one PUT on an object store. Nothing is written through file objects: an exception while one is
open publishes half a file on object stores.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from raydiar.storage import http_status

PRIVATE = "_raydiar"  # Parquet readers skip names with a leading underscore
TEMPORARY = f"{PRIVATE}/tmp"


@dataclass(frozen=True)
class Folder:
    """A folder named by a local path or fsspec URI; cheap to send to other processes.

    File names are relative to it, with `/` between parts.
    """

    uri: str

    @cached_property
    def _located(self) -> tuple[AbstractFileSystem, str]:
        # without fsspec's listings cache: what other processes write must be seen
        fs, path = url_to_fs(self.uri, use_listings_cache=False)
        return fs, path.rstrip("/")

    def __getstate__(self):
        return {"uri": self.uri}  # connections stay where they were opened

    @property
    def fs(self) -> AbstractFileSystem:
        return self._located[0]

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str = "") -> str:
        root = self._located[1]
        return f"{root}/{name}" if name else root

    def read(self, name: str) -> bytes:
        return self.fs.cat_file(self.path(name))

    def open(self, name: str):
        return self.fs.open(self.path(name), "rb")

    def exists(self, name: str) -> bool:
        return self.fs.exists(self.path(name))

    def list(self, folder: str = "") -> dict[str, int]:
        """Names and sizes in bytes of the files right inside a folder, in order; {} if absent."""
        path = self.path(folder)
        try:
            found = self.fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        files = {e["name"].rpartition("/")[2]: e["size"] for e in found if e["type"] == "file"}
        return dict(sorted(files.items()))

    def publish(self, name: str, data: bytes) -> None:
        """Make a file appear whole, in place of an older one of that name."""
        path = self.path(name)
        if not self.is_local:
            self.fs.pipe_file(path, data)
            return
        temporary = self.path(f"{TEMPORARY}/{uuid.uuid4().hex}")
        os.makedirs(os.path.dirname(temporary), exist_ok=True)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise

    def create(self, name: str, data: bytes) -> None:
        """Make a file unless it exists.

        Raises
        ------
        FileExistsError
            If it exists. Stores without conditional writes check first, which leaves a gap.
        """
        path = self.path(name)
        if not self.is_local:
            try:
                self.fs.pipe_file(path, data, mode="create")
            except OSError as error:
                # 412: it exists; 409: another writer is at it. fsspec knows only AWS's own answer
                if http_status(error) in (409, 412):
                    raise FileExistsError(f"{self.uri}/{name}") from error
                raise
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "xb") as file:
            file.write(data)

    def delete(self, name: str) -> None:
        """Delete a file or a whole folder; nothing happens if it is absent."""
        path = self.path(name)
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)


@contextmanager
def staged(destination: str) -> Iterator[str]:
    """A local path to write a file at, which is published whole if the block ends well.

    For files that do not fit into memory. Local ones are staged where they will lie, others in the
    temporary folder of this machine.

    Parameters
    ----------
    destination : str
        Path or fsspec URI; an older file there is replaced.
    """
    fs, path = url_to_fs(destination)
    if not isinstance(fs, LocalFileSystem):
        with tempfile.TemporaryDirectory(prefix="raydiar-") as folder:
            yield f"{folder}/file"
            fs.put_file(f"{folder}/file", path)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/.{name}.{uuid.uuid4().hex}"
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
