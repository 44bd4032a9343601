"""Where uploads live: a folder or a bucket, with signed URLs of this server to put and get them.

An object is named by hashes of its owner and its key, so that no key, whatever it holds, leads out
of its owner's part of the store or collides with another on a file system. Uploads stream through
this server, not to presigned URLs of the bucket: the limit on their size then holds while they
come in, and a local folder works like a bucket. With several nodes, a local folder must be one
that all of them mount.
"""

import hashlib
import hmac
import json
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from raydiar.errors import AudioNotFound, ConfigError, MediaKeyError, SignatureRefused
from raydiar.serving.media.names import SCHEME, check_key
from raydiar.serving.media.uploads import FileUpload, ObjectUpload, not_found, told
from raydiar.serving.storage.streams import in_thread, write_blocks
from raydiar.storage import BLOCK_BYTES
from raydiar.storage.folder import TEMPORARY, Folder

MIN_SECRET = 16  # bytes

Action = Literal["put", "get"]

_OBJECT = re.compile(r"[0-9a-f]{64}/[0-9a-f]{64}")
_ROUTES = {"put": "upload", "get": "download"}


@dataclass(frozen=True)
class MediaStore:
    """Uploads of all owners; cheap to send to other processes.

    An owner is an identifier that may be seen in URLs, not a credential.

    Parameters
    ----------
    uri : str
        A folder, or `s3://bucket/prefix`; nothing else should write there. fsspec's other object
        stores work too, but what a killed server leaves of an upload is then theirs to clear up.
    secret : str
        Signs URLs; at least 16 bytes. All replicas need the same.
    public_url : str
        Where clients reach this server, such as https://diarize.example.com.

    Raises
    ------
    ConfigError
        If the secret is too short.
    """

    uri: str
    secret: str = field(repr=False)
    public_url: str

    def __post_init__(self):
        if len(self.secret.encode()) < MIN_SECRET:
            raise ConfigError(f"The secret for signed URLs needs at least {MIN_SECRET} bytes.")

    @cached_property
    def folder(self) -> Folder:
        return Folder(self.uri)

    # -- signed URLs ---------------------------------------------------------------------------

    def sign(
        self, action: Action, owner: str, key: str, expires_in: float, now: float | None = None
    ) -> str:
        """URL that lets whoever holds it put or get one object until it expires.

        Parameters
        ----------
        action : "put" or "get"
            To `/v1/media/upload/<key>` or from `/v1/media/download/<key>`.
        owner, key : str
        expires_in : float
            Seconds.
        now : float, optional
            Unix seconds; the clock's by default.

        Raises
        ------
        MediaKeyError
        """
        check_key(key)
        expires = int((time.time() if now is None else now) + expires_in)
        query = urlencode(
            {
                "owner": owner,
                "expires": expires,
                "signature": self._signature(action, owner, key, expires),
            }
        )
        return f"{self.public_url.rstrip('/')}/v1/media/{_ROUTES[action]}/{key}?{query}"

    def verify(
        self, action: Action, key: str, query: Mapping[str, str], now: float | None = None
    ) -> str:
        """Owner for whom a URL was signed.

        Parameters
        ----------
        action : "put" or "get"
            What is asked for.
        key : str
            From the path.
        query : mapping of str to str
        now : float, optional
            Unix seconds; the clock's by default.

        Raises
        ------
        SignatureRefused
            If the URL has expired, was altered, or was signed for the other action.
        """
        owner, expires = query.get("owner", ""), query.get("expires", "")
        number = int(expires) if re.fullmatch(r"[0-9]{1,12}", expires) else 0
        expected = self._signature(action, owner, key, number)
        given = query.get("signature", "")
        if not hmac.compare_digest(expected.encode(), given.encode(errors="replace")):
            raise SignatureRefused("The URL's signature is not valid. Ask for a new URL.")
        if (time.time() if now is None else now) >= number:
            raise SignatureRefused("The URL has expired. Ask for a new one.")
        return owner

    def _signature(self, action: Action, owner: str, key: str, expires: int) -> str:
        # JSON keeps the parts apart, whatever they hold; the name, this use of the secret
        content = json.dumps(["raydiar media", action, owner, key, expires]).encode()
        return hmac.new(self.secret.encode(), content, hashlib.sha256).hexdigest()

    # -- objects -------------------------------------------------------------------------------

    def path_of(self, owner: str, key: str) -> str:
        """An object's path within the store, for those who keep books about it.

        Raises
        ------
        MediaKeyError
        """
        check_key(key)
        return f"{_digest(owner)}/{_digest(key)}"

    def uri_of(self, owner: str, key: str) -> str:
        """Where an object lies, for those who read it themselves.

        Raises
        ------
        MediaKeyError
        """
        path = self.path_of(owner, key)
        return self.folder.path(path) if self.folder.is_local else f"{self.uri.rstrip('/')}/{path}"

    async def write(
        self, owner: str, key: str, chunks: AsyncIterator[bytes], max_bytes: int
    ) -> int:
        """Store a stream under a key, whole or not at all, in place of what was there.

        Parameters
        ----------
        owner, key : str
        chunks : async iterator of bytes
            A request's body. When it fails, or this task is cancelled, nothing is stored.
        max_bytes : int

        Returns
        -------
        num_bytes : int

        Raises
        ------
        MediaKeyError, MediaTooLarge, StorageDenied, StorageUnavailable
        """
        path = self.path_of(owner, key)
        make_upload = FileUpload if self.folder.is_local else ObjectUpload
        upload = make_upload(self.folder, path, SCHEME + key)
        try:
            num_bytes = await write_blocks(chunks, upload.write, max_bytes, SCHEME + key)
            await in_thread(upload.publish)
        except BaseException:
            await in_thread(upload.discard)
            raise
        return num_bytes

    async def size(self, owner: str, key: str) -> int:
        """Number of bytes.

        Raises
        ------
        MediaKeyError, AudioNotFound, StorageDenied, StorageUnavailable
        """
        return await in_thread(self._size, owner, key)

    def _size(self, owner: str, key: str) -> int:
        with told(SCHEME + key):
            return self.folder.fs.size(self.folder.path(self.path_of(owner, key)))

    async def read_range(self, owner: str, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """Bytes from `start` up to, not including, `end`, in blocks.

        An object that is replaced meanwhile is not mixed with its successor.

        Raises
        ------
        MediaKeyError, AudioNotFound, StorageDenied, StorageUnavailable
            With the first block, or later.
        """
        opened = _OpenObject(self.folder, self.path_of(owner, key), SCHEME + key)
        try:
            while start < end:
                block = await in_thread(opened.read, start, min(end, start + BLOCK_BYTES))
                if not block:
                    return
                start += len(block)
                yield block
        finally:
            await in_thread(opened.close)

    @asynccontextmanager
    async def local_path(self, owner: str, key: str) -> AsyncIterator[Path]:
        """A file of this machine with an object's bytes, while the block lasts.

        In a local folder it is the object itself: read only.

        Raises
        ------
        MediaKeyError, AudioNotFound, StorageDenied, StorageUnavailable
        """
        path = self.folder.path(self.path_of(owner, key))
        if self.folder.is_local:
            if not os.path.isfile(path):
                raise not_found(SCHEME + key)
            yield Path(path)
            return
        with tempfile.TemporaryDirectory(prefix="raydiar-") as folder:
            copy = Path(folder) / "media"
            await in_thread(self._download, path, copy, key)
            yield copy

    def _download(self, path: str, copy: Path, key: str) -> None:
        with told(SCHEME + key):
            self.folder.fs.get_file(path, str(copy))

    async def delete(self, owner: str, key: str) -> None:
        """Delete an object; nothing happens if it is absent."""
        await self.delete_path(self.path_of(owner, key))

    async def delete_path(self, path: str) -> None:
        """Delete an object by what `path_of` called it; nothing happens if it is absent.

        Raises
        ------
        MediaKeyError
            If it is not such a path.
        StorageDenied, StorageUnavailable
        """
        if not _OBJECT.fullmatch(path):
            raise MediaKeyError(f"{path!r} is not the path of an upload.")
        await in_thread(self._delete, path)

    def _delete(self, path: str) -> None:
        with suppress(AudioNotFound), told(SCHEME + path):
            self.folder.fs.rm_file(self.folder.path(path))

    async def expire(self, before: float, kept: Collection[str] = ()) -> int:
        """Delete objects last written before a time, and what broken uploads older than it left.

        An upload that is replaced in this very moment may be deleted with its predecessor.

        Parameters
        ----------
        before : float
            Unix seconds. Uploads under way since before it are broken off.
        kept : collection of str
            Paths of objects that stay, however old they are.

        Returns
        -------
        num_objects : int
            Deleted, not counting leftovers.

        Raises
        ------
        StorageDenied, StorageUnavailable
        """
        return await in_thread(self._expire, before, kept)

    def _expire(self, before: float, kept: Collection[str]) -> int:
        fs, root = self.folder.fs, self.folder.path() + "/"
        objects, leftovers = [], []
        with told("expired uploads"):
            for path, entry in fs.find(root, detail=True).items():
                name = path.removeprefix(root)
                ours = _OBJECT.fullmatch(name)
                if name in kept:
                    continue
                if (ours or name.startswith(f"{TEMPORARY}/")) and _written(fs, entry) < before:
                    (objects if ours else leftovers).append(path)
            self._remove(objects + leftovers)
            if "s3" in fs.protocol:
                self._abort_uploads(before)
        return len(objects)

    def _remove(self, paths: list[str]) -> None:
        if not self.folder.is_local:
            if paths:
                self.folder.fs.rm(paths)
            return
        for path in paths:
            Path(path).unlink(missing_ok=True)  # another replica may be at it too

    def _abort_uploads(self, before: float) -> None:
        """End multipart uploads that nobody ended: they are listed nowhere, but cost money."""
        bucket, _, prefix = self.folder.path().partition("/")
        prefix = f"{prefix}/" if prefix else ""
        for upload in self.folder.fs.list_multipart_uploads(bucket):
            key = upload["Key"]
            ours = key.startswith(prefix) and _OBJECT.fullmatch(key.removeprefix(prefix))
            if ours and upload["Initiated"].timestamp() < before:
                self.folder.fs.abort_mpu(bucket, key, upload["UploadId"])


class _OpenObject:
    """An object that is opened at its first read."""

    def __init__(self, folder: Folder, name: str, label: str):
        self._fs, self._path, self._label = folder.fs, folder.path(name), label
        self._file = None

    def read(self, start: int, end: int) -> bytes:
        with told(self._label):
            if self._file is None:
                # without read-ahead: what is beyond the range is not wanted
                self._file = self._fs.open(self._path, "rb", cache_type="none")
            self._file.seek(start)
            return self._file.read(end - start)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _written(fs, entry: dict) -> float:
    """When an object of a listing was last written, in Unix seconds."""
    if "mtime" in entry and isinstance(entry["mtime"], float):
        return entry["mtime"]
    written = entry.get("LastModified") or fs.modified(entry["name"])
    return written.timestamp()
