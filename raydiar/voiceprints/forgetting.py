"""Forgetting recordings, everywhere that an index and its identities reach, and proving it.

Deleting marks rows; here segments are written anew without them at once, older generations are
removed with what this machine has cached of them, identities lose their rows, and then all that
is left is searched for the recordings' names and numbers. What no program can reach from here:
backups, old versions that a bucket keeps, other machines' caches, and the diarization datasets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydiar.errors import VoiceprintIndexError, VoiceprintNotFound
from raydiar.hub import default_cache_dir
from raydiar.storage.folder import Folder
from raydiar.voiceprints import builder, identities
from raydiar.voiceprints.generation import CURRENT, FILES, read_current
from raydiar.voiceprints.index import VoiceprintIndex

_CACHED = "remote"  # folder of the cache that files of indexes lie in, by hash


@dataclass(frozen=True)
class Forgotten:
    """What was forgotten; as text, one line.

    Attributes
    ----------
    voiceprints, identities : int
        Rows that were there of the recordings.
    files, num_bytes : int
        That were searched afterwards, and hold nothing of them.
    datasets : tuple of str
        Diarization datasets that the voiceprints are from, and which hold them still.
    """

    voiceprints: int
    identities: int
    files: int
    num_bytes: int
    datasets: tuple[str, ...]

    def __str__(self) -> str:
        told = (
            f"{self.voiceprints:,} voiceprints and {self.identities:,} rows of identities "
            f"forgotten; nothing of them is in the {self.files:,} files ({self.num_bytes:,} bytes) "
            "that are left"
        )
        if self.datasets:
            told += f". The diarization datasets still hold them: {', '.join(self.datasets)}"
        return told


def forget_recordings(
    uri: str,
    recording_ids: Sequence[str],
    people: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> Forgotten:
    """Wipe recordings from an index, from identities and from this machine's cache.

    Parameters
    ----------
    uri : str
        Of the index.
    recording_ids : sequence of str
    people : sequence of str
        Folders of identities that were linked from it.
    report : callable
        Told in lines what is done.

    Raises
    ------
    VoiceprintNotFound
        If none of these knows one of the recordings.
    VoiceprintIndexError
        If something of them was found afterwards; the message names the file.
    VoiceprintIndexConflict
        If another writer was at it: run it again.
    """
    wanted = list(dict.fromkeys(recording_ids))
    index = VoiceprintIndex.open(uri)
    ids = index.ids_where(pc.field("recording_id").isin(pa.array(wanted, pa.string())))
    known = index.columns(ids, ["recording_id", "dataset"])
    told_of = set(known["recording_id"].to_pylist())
    needles = _needles(index.vectors(ids))
    rows = 0
    for folder in people:
        table, _ = identities.read_identities(folder)
        if table is not None:
            told_of |= set(wanted) & set(table["recording_id"].unique().to_pylist())
    if missing := [name for name in wanted if name not in told_of]:
        raise VoiceprintNotFound(f"{uri} holds nothing of the recording {missing[0]!r}")
    if len(ids):
        builder.delete(uri, wanted, report)
    # also what an earlier deletion left
    builder.vacuum(uri, grace=0, compact=True, report=report)
    _drop_cached(wanted, needles)
    for folder in people:
        rows += identities.forget(folder, wanted)
    num_files = num_bytes = 0
    for name, data in _left(Folder(uri), people):
        if what := _found(name, data, wanted, needles):
            raise VoiceprintIndexError(f"{name} still holds {what}: run the command again")
        num_files += 1
        num_bytes += len(data)
    datasets = tuple(sorted(set(known["dataset"].to_pylist()) - {None}))
    return Forgotten(len(ids), rows, num_files, num_bytes, datasets)


def _needles(vectors: np.ndarray) -> list[bytes]:
    """The bytes of voiceprints as segments hold them: float32, and int8 to the largest."""
    rounded = np.rint(vectors * (127 / np.abs(vectors).max(axis=1, initial=1e-9, keepdims=True)))
    return [
        row.tobytes() for table in (vectors.astype("<f4"), rounded.astype("i1")) for row in table
    ]


def _left(folder: Folder, people: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    yield f"{folder.uri}/{CURRENT}", folder.read(CURRENT)
    named = read_current(folder)[0].file_names
    for name in sorted({f"{FILES}/{file}" for file in folder.list(FILES)} | named):
        yield f"{folder.uri}/{name}", folder.read(name)
    for output in people:
        one = Folder(output)
        for name in one.list():
            yield f"{one.uri}/{name}", one.read(name)
    for path in _cached():
        yield str(path), path.read_bytes()


def _cached() -> list[Path]:
    """Files of indexes that this machine has cached: named by their hash, as their folder is."""
    return sorted(
        path
        for path in (Path(default_cache_dir()) / _CACHED).glob("*/*")
        if path.is_file() and path.name.partition(".")[0] == path.parent.name
    )


def _drop_cached(wanted: list[str], needles: list[bytes]) -> None:
    for path in _cached():
        if _found(str(path), path.read_bytes(), wanted, needles):
            path.unlink()


def _found(name: str, data: bytes, wanted: list[str], needles: list[bytes]) -> str | None:
    """What a file holds of the recordings, if anything."""
    if name.endswith(".parquet"):  # compressed: its bytes say nothing
        table = pq.read_table(pa.BufferReader(data))
        for column in (c for c in table.column_names if pa.types.is_string(table[c].type)):
            if pc.any(pc.is_in(table[column], pa.array(wanted))).as_py():
                return f"the name of a recording, in column {column!r}"
    if any(needle in data for needle in needles):
        return "a voiceprint"
    if any(name.encode() in data for name in wanted):
        return "the name of a recording"
    return None
