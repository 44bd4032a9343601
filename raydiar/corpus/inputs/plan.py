"""The plan of a run: the rows of the manifest that are to be done, as files that the job streams.

Nothing here knows how long a recording is. A row has a *load*, which says how much of one decode
task it is: by the bytes to fetch, or the seconds that the manifest states, where either is known,
and by a count where neither is. Decode tasks get rows by their load; packs are formed afterwards,
from what was decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.manifest import Manifest, check_unique
from raydiar.corpus.inputs.shard_record import ShardRecord
from raydiar.corpus.inputs.shards import is_shard
from raydiar.storage.folder import PRIVATE, Folder, usable

PLANS = f"{PRIVATE}/plan"
LOAD = "raydiar load"  # the column that follows those of the manifest

# What one decode task takes on at most: fetched again when its node is lost, but enough to fill a
# pack with clips
TASK_BYTES = 128 * 2**20
TASK_SECONDS = 2 * 3600.0
TASK_RECORDINGS = 256
TASK_UNKNOWN = 16  # recordings of which neither size nor seconds are known
_LARGE = 4.0  # decode tasks' worth: such rows come first, lest a job wait for one at its end
_FILE_ROWS = 20_000
# Half an hour of mp3, and of a shard whose size is unknown: these say only into how many files the
# rows go
_SHARD_PACK_BYTES, _SHARD_PACKS = 14_400_000, 72


@dataclass(frozen=True)
class Plan:
    """What a run has to do, as written to `folder`.

    Attributes
    ----------
    folder : str
        Name inside the output.
    files : tuple of str
        Parquet files, by their names in it.
    num_recordings : int
        To be done, those of shards aside.
    num_done : int
        Recordings of the manifest that already have a row, and those of shards that need not be
        read again.
    hashes : (num_recordings,) S16
        Sorted, of the recordings to be done.
    num_shards : int
        Shards to read; what they hold shows then.
    load : float
        Of all rows, in decode tasks.
    most_packs : int
        More packs are not to be expected.
    seconds : float
        Of the recordings whose seconds the manifest states.
    exact : bool
        Whether it states them of all.
    longest : float or None
        Of the recordings, in seconds, where it does.
    """

    folder: str
    files: tuple[str, ...]
    num_recordings: int
    num_done: int
    hashes: np.ndarray = field(repr=False)
    num_shards: int = 0
    load: float = 0.0
    most_packs: int = 0
    seconds: float = 0.0
    exact: bool = False
    longest: float | None = None


def plan_folder(run: str) -> str:
    """Name of the folder, inside an output, that holds the plan of a run."""
    return f"{PLANS}/{run}"


def write_plan(
    manifest: Manifest,
    done: np.ndarray,
    output: Folder,
    run: str,
    shards: ShardRecord | None = None,
) -> Plan:
    """Write the plan of all recordings of a manifest that are not done.

    Parameters
    ----------
    manifest : Manifest
    done : (num_done,) S16
        Sorted hashes of the recordings that have a row.
    shards : ShardRecord, optional
        Shards of which those read whole are done as well.

    Raises
    ------
    ManifestError
        If the manifest holds a wrong value or a recording twice.
    """
    folder = plan_folder(run)
    shards = shards or ShardRecord()
    seen: list[np.ndarray] = [np.empty(0, "S16")]
    to_do: list[np.ndarray] = [np.empty(0, "S16")]
    schema = manifest.schema.append(pa.field(LOAD, pa.float32()))
    writers = [_Writer(output, f"{folder}/{name}", schema) for name in ("0-large", "1-other")]
    num_done = num_shards = 0
    load = packs = seconds = longest = 0.0
    exact = True
    for batch in manifest.batches():
        hashes = hash_ids(batch.column("recording_id").to_pylist())
        seen.append(hashes)
        skipped = is_member(hashes, done) | is_member(hashes, shards.whole)
        num_done += sum(map(shards.num_recordings, hashes[skipped].tolist()))
        rows = batch.filter(pa.array(~skipped))
        shard = np.array([is_shard(uri) for uri in rows.column("uri").to_pylist()], bool)
        to_do.append(hashes[~skipped][~shard])
        stated = stated_seconds(rows)
        stated[shard] = np.nan
        loads = row_loads(rows, stated)
        loads[shard] = np.maximum(loads[shard], _LARGE)
        num_shards += int(shard.sum())
        load += float(loads.sum())
        sizes = _numbers(rows, "size")
        unknown = np.isnan(sizes) & np.isnan(stated)
        packs += float(np.where(unknown, 1.0, loads)[~shard].sum())
        packs += float(np.nan_to_num(sizes[shard] / _SHARD_PACK_BYTES, nan=_SHARD_PACKS).sum())
        seconds += float(np.nansum(stated))
        exact = exact and not np.isnan(stated).any()
        longest = max(longest, np.nanmax(stated, initial=0.0))
        rows = pa.Table.from_batches([rows]).append_column(LOAD, pa.array(loads, pa.float32()))
        for writer, chosen in zip(writers, (loads >= _LARGE, loads < _LARGE), strict=True):
            writer.add(rows.filter(pa.array(chosen)))
    check_unique(manifest, np.concatenate(seen))
    hashes = np.sort(np.concatenate(to_do))
    return Plan(
        folder=folder,
        files=tuple(name for writer in writers for name in writer.finish()),
        num_recordings=len(hashes),
        num_done=num_done,
        hashes=hashes,
        num_shards=num_shards,
        load=load,
        most_packs=int(np.ceil(packs)),
        seconds=seconds,
        exact=exact,
        longest=float(longest) if exact else None,
    )


def stated_seconds(rows: pa.RecordBatch | pa.Table) -> np.ndarray:
    """Seconds of recordings as their manifest states them: (num_rows,) float64, NaN if not."""
    duration = _numbers(rows, "duration")
    return np.where(np.isnan(duration), _numbers(rows, "seconds"), duration)


def row_loads(rows: pa.RecordBatch, stated: np.ndarray) -> np.ndarray:
    """How much of a decode task each row is: (num_rows,) float64."""
    size = _numbers(rows, "size")
    loads = np.fmax(size / TASK_BYTES, stated / TASK_SECONDS)
    loads = np.where(np.isnan(loads), 1 / TASK_UNKNOWN, loads)
    return np.maximum(loads, 1 / TASK_RECORDINGS)


def _numbers(rows: pa.RecordBatch | pa.Table, name: str) -> np.ndarray:
    return np.asarray(pc.cast(rows.column(name), pa.float64()).to_numpy(zero_copy_only=False))


class _Writer:
    """Files of one kind of rows."""

    def __init__(self, output: Folder, stem: str, schema: pa.Schema):
        self.output, self.stem, self.schema = output, stem, schema
        self._rows: list[pa.Table] = []
        self._num_rows = 0
        self._names: list[str] = []

    def add(self, rows: pa.Table) -> None:
        self._rows.append(rows)
        self._num_rows += len(rows)
        if self._num_rows >= _FILE_ROWS:
            self._flush(_FILE_ROWS)

    def finish(self) -> list[str]:
        """Write what is left; names of all files inside the folder of the plan."""
        self._flush(1)
        return self._names

    def _flush(self, at_least: int) -> None:
        rows = pa.concat_tables(self._rows) if self._rows else self.schema.empty_table()
        while len(rows) >= at_least:
            path = f"{self.stem}-{len(self._names):06d}.parquet"
            with usable(self.output):
                self.output.publish_table(path, rows.slice(0, _FILE_ROWS).cast(self.schema))
            self._names.append(path.rpartition("/")[2])
            rows = rows.slice(_FILE_ROWS)
        self._rows, self._num_rows = [rows], len(rows)
