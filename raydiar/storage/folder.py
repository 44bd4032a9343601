"""A folder in a file system or object store where files appear whole or not at all.

Files are published by one call that the store makes atomic: rename after fsync on a file system,
one PUT on an object store. Nothing is written through file objects: an exception while one is
open publishes half a file on object stores.
"""

from __future__ import annotations

import errno
import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from raydiar.errors import OutputError, RaydiarError
from raydiar.storage.errors import http_status

PRIVATE = "_raydiar"  # Parquet readers skip names with a leading underscore
TEMPORARY = f"{PRIVATE}/tmp"
# answers to a PUT with a condition: it does not hold, or another writer is at it
_CONDITION_FAILED = (409, 412)
# a process that was stopped while it compares and replaces must not stop all others for good
_GUARD_SECONDS = 60.0
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # as some mounted stores answer
_SWEEPS = 5  # times that a temporary file may be swept away by the end of another run


class FolderConflict(Exception):
    """Another writer replaced a file first."""


def to_parquet(table: pa.Table) -> bytes:
    """A Parquet file in memory, to be published whole."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


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

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders right inside a folder, in order; [] if absent."""
        try:
            found = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            entry["name"].rstrip("/").rpartition("/")[2]
            for entry in found
            if entry["type"] == "directory"
        )

    def versions(self, folder: str = "") -> dict[str, str]:
        """Names of the files right inside a folder, in order, and what changes if one does.

        That is size and entity tag, or size and time of change: one listing tells it.
        """
        try:
            found = self.fs.ls(self.path(folder), detail=True)
        except FileNotFoundError:
            return {}
        versions = {}
        for entry in found:
            if entry["type"] == "file":
                changed = next((entry[k] for k in ("ETag", "etag", "mtime") if k in entry), "")
                versions[entry["name"].rpartition("/")[2]] = f"{entry['size']} {changed}"
        return dict(sorted(versions.items()))

    def publish(self, name: str, data: bytes) -> None:
        """Make a file appear whole, in place of an older one of that name."""
        path = self.path(name)
        if not self.is_local:
            self.fs.pipe_file(path, data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self._place(data, lambda temporary: os.replace(temporary, path))

    def _place(self, data: bytes, place) -> None:
        """Write a temporary file of this disk, and let `place` give it its name."""
        for sweeps in range(1, _SWEEPS + 1):
            temporary = self.path(f"{TEMPORARY}/{uuid.uuid4().hex}")
            try:
                os.makedirs(os.path.dirname(temporary), exist_ok=True)
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                place(temporary)
                return
            except FileNotFoundError:  # the end of another run swept the temporary files away
                if sweeps == _SWEEPS:
                    raise
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    def publish_table(self, name: str, table: pa.Table) -> None:
        """Make a Parquet file appear whole, in place of an older one of that name."""
        self.publish(name, to_parquet(table))

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
                # fsspec knows only AWS's own words for it
                if http_status(error) in _CONDITION_FAILED:
                    raise FileExistsError(f"{self.uri}/{name}") from error
                raise
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            # a link, so that a kill leaves no empty file that would count as the other's
            self._place(data, lambda temporary: os.link(temporary, path))
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with open(path, "xb") as file:
                file.write(data)

    def read_version(self, name: str) -> tuple[bytes | None, str | None]:
        """Content of a file and what `replace` knows it by; None and None if it is absent."""
        try:
            # the tag first: if the file changes in between, the tag is too old and `replace` fails
            tag = None if self.is_local else self._entity_tag(name)
            data = self.read(name)
        except FileNotFoundError:
            return None, None
        return data, tag or _digest(data)

    def replace(self, name: str, data: bytes, version: str | None) -> None:
        """Publish a file if its version is still `version` (None: if it is absent).

        One PUT with a condition on S3, a comparison and a rename under a lock on a file system.
        Other stores compare first and then write, which leaves a gap of milliseconds.

        Raises
        ------
        FolderConflict
            If another writer came first; nothing was written.
        """
        try:
            if self.is_local:
                with self._guard(name):
                    self._check_version(name, version)
                    self.publish(name, data)
            elif version is None:
                self.create(name, data)
            elif "s3" in self.fs.protocol:
                self.fs.pipe_file(self.path(name), data, IfMatch=version)
            else:
                self._check_version(name, version)
                self.publish(name, data)
        except FileExistsError:
            self._check_mine(name, data)
        except OSError as error:
            if http_status(error) not in _CONDITION_FAILED:
                raise
            self._check_mine(name, data)

    def remove(self, name: str, version: str | None) -> None:
        """Delete a file if its version is still `version`.

        Exact on a file system; object stores compare first and then delete, which leaves a gap.

        Raises
        ------
        FolderConflict
            If another writer came first; nothing was deleted.
        """
        if not self.is_local:
            self._check_version(name, version)
            self.delete(name)
            return
        with self._guard(name):
            self._check_version(name, version)
            os.unlink(self.path(name))

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        """One process of a file system at a time that compares and then replaces a file."""
        guard = Path(self.path(f"{PRIVATE}/{name.removeprefix(f'{PRIVATE}/')}.guard"))
        guard.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(guard, timeout=_GUARD_SECONDS):
            yield

    def _entity_tag(self, name: str) -> str | None:
        self.fs.invalidate_cache(os.path.dirname(self.path(name)))
        return self.fs.info(self.path(name)).get("ETag")

    def _check_version(self, name: str, version: str | None) -> None:
        if self.read_version(name)[1] != version:
            raise FolderConflict(name)

    def _check_mine(self, name: str, data: bytes) -> None:
        """A PUT that succeeded, but whose answer was lost, fails when it is sent again."""
        if self.read_version(name)[0] != data:
            raise FolderConflict(name)

    def age(self, name: str) -> float:
        """Seconds since a file was written, by the clock of the store where it tells the time.

        Raises
        ------
        FileNotFoundError
        """
        if hasattr(self.fs, "call_s3"):
            bucket, key, _ = self.fs.split_path(self.path(name))
            told = self.fs.call_s3("head_object", Bucket=bucket, Key=key, **self.fs.req_kw)
            date = told.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
            with suppress(TypeError, ValueError):
                clock = parsedate_to_datetime(date)
                if clock.tzinfo is None:  # "-0000": universal time too, by RFC 5322
                    clock = clock.replace(tzinfo=UTC)
                return (clock - told["LastModified"]).total_seconds()
        return time.time() - self.fs.modified(self.path(name)).timestamp()

    def move_in(self, source: str | os.PathLike, name: str) -> None:
        """Publish a file of this machine under a name of its own, and remove the original."""
        if not self.is_local:
            self.fs.put_file(os.fspath(source), self.path(name))
            os.unlink(source)
            return
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(source, "rb") as file:
            os.fsync(file.fileno())
        os.replace(source, self.path(name))

    def delete(self, name: str) -> None:
        """Delete a file or a whole folder; nothing happens if it is absent."""
        path = self.path(name)
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def delete_empty(self, folder: str) -> None:
        """Delete a folder that holds nothing; object stores have none."""
        if self.is_local:
            with suppress(OSError):
                os.rmdir(self.path(folder))


@contextmanager
def usable(folder: Folder) -> Iterator[None]:
    """Errors of reading and writing a job's output, told as such.

    Raises
    ------
    OutputError
        For an OSError of the block, which must touch nothing but the output.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, RaydiarError):
            raise
        raise OutputError(f"{folder.uri} cannot be used as output: {error}") from error


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


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
