"""Recordings inside tar shards, read by excerpts: `shard.tar#member`, as the corpus job names them.

A tar has no table of contents. The headers are read once, when the index is made, which keeps
where each member lies; a window then costs its own bytes of the shard, wherever it is drawn.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from raydiar.errors import ManifestError
from raydiar.storage import display_name, open_source

Place = tuple[int, int]
"""Offset and length in bytes of a member of a shard."""

_MEMBER = re.compile(r"(?P<shard>.+?\.(?P<kind>tar|tar\.gz|tgz|parquet|pq))#(?P<member>.+)", re.I)
_HEADER_BYTES = 1 << 16  # read at a time while only headers are wanted


def shard_of(uri: str) -> tuple[str, str] | None:
    """Shard and member that a URI names, if it names any.

    Raises
    ------
    ManifestError
        If the shard cannot be read by excerpts.
    """
    match = _MEMBER.fullmatch(uri)
    if match is None:
        return None
    if match["kind"].lower() != "tar":
        raise ManifestError(
            f"{display_name(match['shard'])}: training reads windows anywhere in a shard, which "
            "only a tar without compression allows; unpack it, or pack it again without"
        )
    return match["shard"], match["member"]


def place_of(uri: str) -> Place | None:
    """Where a recording lies in its shard; None for a file of its own.

    Raises
    ------
    ManifestError
        If the shard has no such member, or cannot be read by excerpts.
    AudioNotFound, StorageDenied, StorageUnavailable
    """
    named = shard_of(uri)
    if named is None:
        return None
    shard, member = named
    found = _members(shard)
    if member not in found:
        raise ManifestError(
            f"{display_name(shard)} has no member {member!r}; it has "
            f"{', '.join(list(found)[:5])}{' …' if len(found) > 5 else ''}"
        )
    return found[member]


@lru_cache(maxsize=64)
def _members(shard: str) -> dict[str, Place]:
    with open_source(shard, block_bytes=_HEADER_BYTES) as reader:
        try:
            with tarfile.open(fileobj=reader, mode="r:") as tar:
                return {one.name: (one.offset_data, one.size) for one in tar if one.isfile()}
        except tarfile.TarError as error:
            raise ManifestError(f"{display_name(shard)} is no tar: {error}") from error


@contextmanager
def opened(uri: str, place: Place | None) -> Iterator[str | io.RawIOBase]:
    """What `raydiar.audio.decode` takes: the URI, or a file that is a part of a shard."""
    if place is None:
        yield uri
        return
    shard, _ = shard_of(uri)
    with open_source(shard) as reader:
        yield _Part(reader, *place, display_name(uri))


class _Part(io.RawIOBase):
    def __init__(self, reader, offset: int, size: int, name: str):
        self._reader, self._offset, self._size, self.name = reader, offset, size, name
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer) -> int:
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        self._reader.seek(self._offset + self._at)
        data = self._reader.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
