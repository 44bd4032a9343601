"""Which shards of a corpus have been read, so that a second run need not read them again.

A shard counts as read once the rows of all its packs are published: its last pack tells how many
packs there are, the receipts which have arrived. The record lags behind by seconds; a shard that a
killed run had just read is read once more, and its members are found to be done.
"""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.hashes import hash_ids
from raydiar.failures import retrying
from raydiar.storage.folder import PRIVATE, Folder
from raydiar.storage.lock import check_lock

SHARDS_FILE = f"{PRIVATE}/shards.parquet"
SHARD = pa.struct(
    [
        ("recording_id", pa.string()),  # of the shard's row in the manifest
        ("place", pa.int64()),  # of this pack among the shard's
        ("num_rows", pa.int64()),  # in it
        ("last", pa.bool_()),
        ("num_done", pa.int64()),  # members that had a row before, told by the last
        ("whole", pa.bool_()),  # read to its end, likewise
    ]
)
"""What each pack of a shard tells of it."""

# hashes as numpy gives them, without the zero bytes at their end
_SCHEMA = pa.schema([("shard", pa.binary()), ("num_recordings", pa.int64()), ("whole", pa.bool_())])
_EVERY = 30.0  # seconds between two publications


@dataclass
class ShardRecord:
    """The shards that the runs on an output have read.

    Attributes
    ----------
    shards : dict
        From the hash of a shard's id to the number of its rows, and whether it was read whole.
    """

    shards: dict[bytes, tuple[int, bool]] = field(default_factory=dict)

    @classmethod
    def load(cls, output: Folder) -> ShardRecord:
        if not output.exists(SHARDS_FILE):
            return cls()
        columns = pq.read_table(pa.BufferReader(output.read(SHARDS_FILE))).to_pydict()
        counts = zip(columns["num_recordings"], columns["whole"], strict=True)
        return cls(dict(zip(columns["shard"], counts, strict=True)))

    def publish(self, output: Folder) -> None:
        columns = {
            "shard": list(self.shards),
            "num_recordings": [number for number, _ in self.shards.values()],
            "whole": [whole for _, whole in self.shards.values()],
        }
        output.publish_table(SHARDS_FILE, pa.table(columns, schema=_SCHEMA))

    @cached_property
    def whole(self) -> np.ndarray:
        """Sorted hashes of the shards read to their end: (num_shards,) S16.

        Such a shard has no row of its own: one that tells of an earlier failure is overruled.
        """
        hashes = [shard for shard, (_, whole) in self.shards.items() if whole]
        return np.sort(np.array(hashes, "S16"))

    def num_recordings(self, shard: bytes) -> int:
        """Rows of a shard that is not to be read again; 1, of its failure, if nothing is known."""
        return self.shards.get(shard, (1, False))[0]


class ShardLog:
    """Follows, by the receipts of a run, which shards are read and written.

    Parameters
    ----------
    output : Folder
    run : str
    record : ShardRecord
        Grows.

    Attributes
    ----------
    num_rows : int
        Of all shards that were read, whether to their end or not.
    num_read : int
        Shards of which every row has been published.
    """

    def __init__(self, output: Folder, run: str, record: ShardRecord):
        self.output, self.run, self.record = output, run, record
        self.num_rows = self.num_read = 0
        self._written: dict[str, dict[int, int]] = {}  # rows by the place of their pack
        self._ends: dict[str, dict] = {}
        self._unpublished = False
        self._published = time.monotonic()

    def __enter__(self) -> ShardLog:
        return self

    def __exit__(self, kind, *_) -> None:
        """Publish what is known, also where the run stops early, if the output still takes it."""
        with suppress(Exception) if kind else nullcontext():
            self.publish()

    def add(self, receipt: dict) -> None:
        """Count the packs of a receipt (`stages.RECEIPT`).

        Raises
        ------
        OutputError
            If another run has taken the output over.
        """
        for part in receipt["shards"]:
            name = part["recording_id"]
            self._written.setdefault(name, {})[part["place"]] = part["num_rows"]
            if part["last"]:
                self._ends[name] = part
            end = self._ends.get(name)
            if end and len(self._written[name]) == end["place"] + 1:
                self._finish(name, end)
        if time.monotonic() - self._published > _EVERY:
            self.publish()

    def publish(self) -> None:
        self._published = time.monotonic()
        if self._unpublished:
            retrying(lambda: check_lock(self.output, self.run))
            retrying(lambda: self.record.publish(self.output))
            self._unpublished = False

    def _finish(self, name: str, end: dict) -> None:
        [shard] = hash_ids([name]).tolist()
        num_rows = sum(self._written[name].values())
        self.record.shards[shard] = (num_rows + end["num_done"], end["whole"])
        self._unpublished = True
        self.num_rows += num_rows
        self.num_read += 1
        del self._ends[name], self._written[name]
