"""What shards hold: the audio files of a tar (WebDataset) or a Parquet file, one after another.

A tar is read as one stream from its first byte to its last, a Parquet file row group by row group
and in it value by value: the memory is that of one member, however large the shard. Python's
`tarfile` takes a damaged header for the end of the archive; here only the end mark ends one, since
members that are silently missing are the worst that can happen to a corpus.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.errors import RaydiarError, ShardError
from raydiar.failures import retrying
from raydiar.storage import Reader, display_name, open_source, storage_error

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz")
PARQUET_ENDINGS = (".parquet", ".pq")
_BUFFER_BYTES = 2**20
_TAR_BYTES = 2**16  # read at a time: where a gzip breaks off, what is left of them is lost
_ROWS = 8  # of a Parquet file that are read at a time

Members = Iterator[tuple[str, bytes | None]]


def is_shard(uri: str) -> bool:
    """Whether a URI names a file that holds recordings, by its ending."""
    return _path(uri).endswith(TAR_ENDINGS + PARQUET_ENDINGS)


def read_members(
    uri: str, is_audio: Callable[[str], bool], is_wanted: Callable[[str], bool]
) -> Members:
    """Stream the names and bytes of the recordings in a shard, in their order.

    Parameters
    ----------
    uri : str
        A tar, compressed by gzip or not, of whose members those are taken that `is_audio` says;
        or a Parquet file with a column `audio` of structs {bytes, path}, as Hugging Face writes
        it, or of bytes (or named `bytes`) beside a column `path` or `id`. Rows without a name are
        named by their number, from 0. A name that comes again is followed by `#` and its place.
    is_wanted : callable
        Takes a name: the bytes of other members are skipped and given as None.

    Raises
    ------
    ShardError
        After the members before it, when a shard turns out to be none, or to break off.
    AudioNotFound, StorageDenied, StorageUnavailable
    """
    label = display_name(uri)
    with open_source(uri) as reader:
        source = io.BufferedReader(_Steady(reader), _BUFFER_BYTES)
        if _path(uri).endswith(PARQUET_ENDINGS):
            yield from _parquet_members(source, label, is_wanted)
        else:
            yield from _tar_members(source, label, is_audio, is_wanted)


def _path(uri: str) -> str:
    return (urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri).lower()


class _Steady(io.RawIOBase):
    """A source whose reads are repeated while it is the moment that fails."""

    def __init__(self, reader: Reader):
        self._reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = retrying(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._reader.seek(offset, whence)

    def tell(self) -> int:
        return self._reader.tell()

    def _read(self, size: int) -> bytes:
        try:
            return self._reader.read(size)
        except Exception as error:
            raise storage_error(error, self._reader.label) from error


class _Names:
    """Makes the names of a shard's members unique."""

    def __init__(self):
        self._seen: set[str] = set()
        self._place = -1

    def __call__(self, name: str | None) -> str:
        self._place += 1
        if name is None:
            name = str(self._place)
        if name in self._seen:
            name = f"{name}#{self._place}"
        self._seen.add(name)
        return name


# -- tar ---------------------------------------------------------------------------------------


class _Header(tarfile.TarInfo):
    """A member of a tar whose header, if damaged or missing, is an error and not the end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _tar_members(
    source: io.BufferedReader,
    label: str,
    is_audio: Callable[[str], bool],
    is_wanted: Callable[[str], bool],
) -> Members:
    names, num_members, num_audio = _Names(), 0, 0
    try:
        if source.peek(2)[:2] == b"\x1f\x8b":
            source = gzip.GzipFile(fileobj=source)
        with tarfile.open(fileobj=source, mode="r|", bufsize=_TAR_BYTES, tarinfo=_Header) as tar:
            while (member := tar.next()) is not None:
                num_members += 1
                tar.members.clear()  # which it keeps for random access
                if not (member.isreg() and is_audio(member.name)):
                    continue
                num_audio += 1
                name = names(member.name.removeprefix("./"))
                yield name, tar.extractfile(member).read() if is_wanted(name) else None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        begun = num_members or isinstance(error, EOFError)
        what = f"breaks off after {num_members} members" if begun else "is not a tar archive"
        raise ShardError(f"{label} {what} ({error}). Upload it again, or make it anew.") from error
    if not num_audio:
        raise ShardError(f"{label} holds no audio among its {num_members} members.")


# -- Parquet -----------------------------------------------------------------------------------


def _parquet_members(
    source: io.BufferedReader, label: str, is_wanted: Callable[[str], bool]
) -> Members:
    try:
        file = pq.ParquetFile(source, buffer_size=_BUFFER_BYTES)
        audio, named = _columns(file.schema_arrow, label)
        names = _Names()
        for group in range(file.num_row_groups):
            ids = _row_ids(file, group, named)
            listed = [names(given) for given in ids]
            wanted = [is_wanted(name) for name in listed]
            if not any(wanted):
                yield from ((name, None) for name in listed)
                continue
            values = _values(file, group, audio)
            for name, want, value in zip(listed, wanted, values, strict=True):
                yield name, value.as_py() or b"" if want else None
    except (pa.ArrowException, OSError) as error:
        # Arrow's own OSErrors have no number; what storage raised, and this machine, is no shard's
        if isinstance(error, RaydiarError | MemoryError) or getattr(error, "errno", None):
            raise
        raise ShardError(
            f"{label} cannot be read as Parquet ({error}). Upload it again, or make it anew."
        ) from error


def _columns(schema: pa.Schema, label: str) -> tuple[str, str | None]:
    """Columns of the audio's bytes and of its name, as paths into structs."""
    for field in schema:
        if field.name == "audio" and pa.types.is_struct(field.type):
            inside = {part.name for part in field.type}
            if "bytes" in inside:
                return "audio.bytes", "audio.path" if "path" in inside else _named(schema)
        elif field.name in ("audio", "bytes") and _is_binary(field.type):
            return field.name, _named(schema)
    raise ShardError(
        f"{label} has no column of audio: `audio` of structs {{bytes, path}} or of bytes, or "
        f"`bytes`. It has: {', '.join(schema.names) or None}"
    )


def _named(schema: pa.Schema) -> str | None:
    return next((name for name in ("path", "id") if name in schema.names), None)


def _is_binary(type_: pa.DataType) -> bool:
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_)


def _row_ids(file: pq.ParquetFile, group: int, column: str | None) -> list[str | None]:
    if column is None:
        return [None] * file.metadata.row_group(group).num_rows
    ids = (value.as_py() for value in _values(file, group, column))
    return [None if value in (None, "") else str(value) for value in ids]


def _values(file: pq.ParquetFile, group: int, column: str) -> Iterator[pa.Scalar]:
    """Values of one column of a row group, read as they are asked for."""
    batches = file.iter_batches(_ROWS, row_groups=[group], columns=[column], use_threads=False)
    for batch in batches:
        values = batch.column(0)
        if "." in column:
            # null where the struct is
            values = values.flatten()[0]
        yield from values
