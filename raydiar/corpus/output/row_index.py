"""Which recordings each file of a dataset holds, kept so that a run need not open every file.

It is a cache and never the truth: a listing of the output says which files there are, and an entry
counts only for a file of the same name, size and entity tag (or time of change). Its segments are
named by their content, and one that is damaged, or absent, is a reason to open the files it was of.
A run adds one segment for what is new, and now and then joins them.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.storage.folder import PRIVATE, Folder, to_parquet

INDEX = f"{PRIVATE}/index"
FEW_FILES = 64  # are opened as fast as an index is read
_MOST_SEGMENTS = 16
_SCHEMA = pa.schema(
    [("file", pa.string()), ("version", pa.string()), ("hashes", pa.large_binary())]
)


@dataclass(frozen=True)
class IndexedFile:
    """What is known of a file of rows.

    Attributes
    ----------
    version : str
        See `Folder.versions`.
    hashes : (num_rows,) S16
        Of the recording ids, in row order.
    segment : str
        Where this is kept.
    """

    version: str
    hashes: np.ndarray
    segment: str = ""


def read_index(output: Folder, versions: Mapping[str, str]) -> dict[str, IndexedFile]:
    """What is known of the files of an output, as they are now.

    Parameters
    ----------
    versions : dict
        Of the files that there are.
    """
    known: dict[str, IndexedFile] = {}
    with ThreadPoolExecutor(8) as threads:
        for segment in threads.map(lambda name: _read(output, name), output.list(INDEX)):
            for name, file in segment.items():
                if versions.get(name) == file.version:
                    known[name] = file
    return known


def update_index(output: Folder, files: Mapping[str, IndexedFile]) -> None:
    """Keep what was read of files, unless they are few.

    Parameters
    ----------
    files : dict
        All files of the output, those that `read_index` gave with the segment they are in.
    """
    new = {name for name, file in files.items() if not file.segment}
    sizes = output.list(INDEX)
    if len(new) < FEW_FILES and len(sizes) <= _MOST_SEGMENTS:
        return
    if len(sizes) >= _MOST_SEGMENTS:  # all but the largest, which are too much to write each time
        half = sum(sizes.values()) / 2
        joined = {name for name, size in sizes.items() if size < half}
        new |= {name for name, file in files.items() if file.segment in joined}
    else:
        joined = set()
    written = ""
    if new:
        columns = {
            "file": sorted(new),
            "version": [files[name].version for name in sorted(new)],
            "hashes": [files[name].hashes.tobytes() for name in sorted(new)],
        }
        data = to_parquet(pa.table(columns, schema=_SCHEMA))
        written = f"{_digest(data)}.parquet"
        output.publish(f"{INDEX}/{written}", data)
    living = {file.segment for file in files.values()} - joined
    for name in sizes:
        if name not in living and name != written:  # which may be there, damaged
            output.delete(f"{INDEX}/{name}")


def _read(output: Folder, name: str) -> dict[str, IndexedFile]:
    try:
        data = output.read(f"{INDEX}/{name}")
        if name != f"{_digest(data)}.parquet":
            return {}
        table = pq.read_table(pa.BufferReader(data), schema=_SCHEMA)
    except (FileNotFoundError, pa.ArrowException):
        return {}
    return {
        file: IndexedFile(version, np.frombuffer(hashes.as_buffer(), "S16"), name)
        for file, version, hashes in zip(
            table["file"].to_pylist(), table["version"].to_pylist(), table["hashes"], strict=True
        )
    }


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
