"""Packs: the rows that travel through a job, recordings of together at most half an hour.

One call of any stage takes one pack, so packs make short clips cheap (a batch of windows spans
them) without ever making a long recording wait for others. They are formed greedily in the order
of the manifest, from durations or file sizes, and written as Parquet files that Ray Data streams:
the driver holds one file's worth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.manifest import Manifest, check_unique
from raydiar.corpus.inputs.shard_record import ShardRecord
from raydiar.corpus.inputs.shards import is_shard
from raydiar.corpus.inputs.sources import BYTES_PER_SECOND
from raydiar.storage.folder import PRIVATE, Folder, usable

PACKS = f"{PRIVATE}/packs"
PACK_SECONDS = 30 * 60.0
PACK_RECORDINGS = 256
LONG_SECONDS = 2 * 3600.0  # from here on packs are rationed by their bytes
UNKNOWN_SECONDS = 10 * 60.0  # a recording of which neither duration nor size is known
UNKNOWN_SHARD_SECONDS = 36 * 3600.0  # 1 GB of mp3
_FILE_RECORDINGS = 20_000


@dataclass(frozen=True)
class PackPlan:
    """What a run has to do, as written to `folder`.

    Attributes
    ----------
    folder : str
        Name inside the output; holds subfolders `short`, `long` and `shards` of Parquet files.
    num_recordings, num_packs, num_long : int
        Long packs are those of more than `LONG_SECONDS`.
    longest_seconds : float
        Estimated duration of the longest pack.
    num_done : int
        Recordings of the manifest that already have a row, and those of shards that need not be
        read again.
    seconds : float
        Estimated duration of all packs.
    exact : bool
        Whether the manifest gives every duration, so that nothing is estimated.
    hashes : (num_recordings,) S16
        Sorted, of the recordings to be done, those of shards aside.
    num_shards : int
        Shards to read; what they hold shows then.
    num_shard_packs : int
        Packs that they are estimated to give.
    """

    folder: str
    num_recordings: int
    num_packs: int
    num_long: int
    longest_seconds: float
    num_done: int
    seconds: float
    exact: bool
    hashes: np.ndarray = field(repr=False)
    num_shards: int = 0
    num_shard_packs: int = 0


def pack_folder(run: str) -> str:
    """Name of the folder, inside an output, that holds the packs of a run."""
    return f"{PACKS}/{run}"


def pack_schema(recording: pa.Schema) -> pa.Schema:
    """Schema of a file of packs, from that of a manifest."""
    return pa.schema(
        [
            ("pack", pa.int64()),
            ("seconds", pa.float64()),
            ("recordings", pa.list_(pa.struct(list(recording)))),
        ]
    )


def write_packs(
    manifest: Manifest,
    done: np.ndarray,
    output: Folder,
    run: str,
    shards: ShardRecord | None = None,
) -> PackPlan:
    """Write the packs of all recordings of a manifest that are not done.

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
    folder = pack_folder(run)
    shards = shards or ShardRecord()
    seen: list[np.ndarray] = [np.empty(0, "S16")]
    to_do: list[np.ndarray] = [np.empty(0, "S16")]
    writers = {
        kind: _PackWriter(output, f"{folder}/{kind}", pack_schema(manifest.schema))
        for kind in ("short", "long", "shards")
    }
    num_done = num_shard_packs = 0
    shard_seconds = 0.0

    def remaining() -> Iterator[dict]:
        nonlocal num_done, num_shard_packs, shard_seconds
        for batch in manifest.batches():
            hashes = hash_ids(batch.column("recording_id").to_pylist())
            seen.append(hashes)
            skipped = is_member(hashes, done) | is_member(hashes, shards.whole)
            num_done += sum(map(shards.num_recordings, hashes[skipped].tolist()))
            rows = batch.filter(pa.array(~skipped)).to_pylist()
            shard = np.array([is_shard(row["uri"]) for row in rows], bool)
            to_do.append(hashes[~skipped][~shard])
            for row, of_many in zip(rows, shard, strict=True):
                if not of_many:
                    yield row
                    continue
                seconds = estimate_seconds(row, UNKNOWN_SHARD_SECONDS)
                pack = {"pack": writers["shards"].num_packs, "seconds": seconds}
                writers["shards"].add(pack | {"recordings": [row]})
                shard_seconds += seconds
                num_shard_packs += max(1, int(seconds / PACK_SECONDS))

    num_recordings = num_packs = 0
    longest = total = 0.0
    exact = True
    for seconds, recordings in form_packs(remaining()):
        pack = {"pack": num_packs, "seconds": seconds, "recordings": recordings}
        writers["long" if seconds > LONG_SECONDS else "short"].add(pack)
        num_packs += 1
        num_recordings += len(recordings)
        longest = max(longest, seconds)
        total += seconds
        exact = exact and all(recording["duration"] is not None for recording in recordings)
    check_unique(manifest, np.concatenate(seen))
    for writer in writers.values():
        writer.flush()
    return PackPlan(
        folder=folder,
        num_recordings=num_recordings,
        num_packs=num_packs,
        num_long=writers["long"].num_packs,
        longest_seconds=longest,
        num_done=num_done,
        seconds=total + shard_seconds,
        exact=exact and not writers["shards"].num_packs,
        hashes=np.sort(np.concatenate(to_do)),
        num_shards=writers["shards"].num_packs,
        num_shard_packs=num_shard_packs,
    )


def form_packs(recordings: Iterator[dict]) -> Iterator[tuple[float, list[dict]]]:
    """Group recordings, in order, into packs and their estimated seconds."""
    pack: list[dict] = []
    total = 0.0
    for recording in recordings:
        seconds = estimate_seconds(recording)
        if seconds > PACK_SECONDS:
            yield seconds, [recording]
            continue
        if pack and (total + seconds > PACK_SECONDS or len(pack) == PACK_RECORDINGS):
            yield total, pack
            pack, total = [], 0.0
        pack.append(recording)
        total += seconds
    if pack:
        yield total, pack


def estimate_seconds(recording: dict, unknown: float = UNKNOWN_SECONDS) -> float:
    """Duration of a recording, or shard, as far as a manifest tells without opening the audio."""
    if recording["duration"] is not None and not is_shard(recording["uri"]):
        return recording["duration"]
    size = recording["size"]
    if size is None:
        size = _local_size(recording["uri"])
    if size is None:
        return unknown
    suffix = PurePosixPath(recording["uri"]).suffix.lower()
    return size / BYTES_PER_SECOND.get(suffix, 4_000)


def _local_size(uri: str) -> int | None:
    if "://" in uri:
        return None  # asking an object store would cost a request for every recording
    try:
        return os.stat(uri).st_size
    except OSError:
        return None


class _PackWriter:
    def __init__(self, output: Folder, folder: str, schema: pa.Schema):
        self.output, self.folder, self.schema = output, folder, schema
        self.num_packs = 0
        self._packs: list[dict] = []
        self._num_recordings = self._num_files = 0

    def add(self, pack: dict) -> None:
        self._packs.append(pack)
        self.num_packs += 1
        self._num_recordings += len(pack["recordings"])
        if self._num_recordings >= _FILE_RECORDINGS:
            self.flush()

    def flush(self) -> None:
        if not self._packs:
            return
        name = f"{self.folder}/{self._num_files:06d}.parquet"
        with usable(self.output):
            self.output.publish_table(name, pa.Table.from_pylist(self._packs, self.schema))
        self._packs, self._num_recordings = [], 0
        self._num_files += 1
