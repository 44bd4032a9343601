"""Joining the parts of a long recording: what was inferred of its packs becomes one again.

Ray Data has no join by key in a stream, and what an actor or the object store holds is gone with
its node. So parts wait in the scratch folder of the run, on the output's storage: each is published
under its own name, whoever finds all of them there claims the recording, and the pack of the
claimant carries it on. All of it may be repeated. A part that is inferred twice is published twice
under one name; a claimant that is lost before its rows are written is run again by Ray, as the same
part, and finds its own claim; the others, run again, find a claim that is not theirs.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.hashes import hash_ids
from raydiar.corpus.job.pack import Pack
from raydiar.failures import retrying
from raydiar.local_speakers import LocalSpeakers
from raydiar.storage.folder import Folder
from raydiar.window_scores import WindowScores

_CLAIM = "claim"
_LAST = "-last.parquet"  # tells how many parts there are


@dataclass(frozen=True)
class Join:
    """Hand on packs of whole recordings; keep parts until the recording is whole.

    Parameters
    ----------
    output : Folder
    folder : str
        Name in it, below which parts may lie.
    """

    output: Folder
    folder: str

    def __call__(self, table: pa.Table) -> pa.Table:
        pack = Pack(table)
        if (part := pack.part) is None:
            return table
        [recording] = pack.recordings()
        [name] = hash_ids([recording["recording_id"]])
        place = f"{self.folder}/{bytes(name).hex()}"
        index = part["index"]
        ending = ".parquet" if part["num_parts"] is None else _LAST
        retrying(lambda: self.output.publish_table(f"{place}/{index:05d}{ending}", table))
        parts = [f for f in retrying(lambda: self.output.list(place)) if f.endswith(".parquet")]
        num_parts = max(
            (int(f.removesuffix(_LAST)) + 1 for f in parts if f.endswith(_LAST)), default=0
        )
        if not num_parts or len(parts) < num_parts or not self._claimed(place, index):
            return pack.without_recordings().table
        return self._joined(pack, [f"{place}/{file}" for file in parts]).table

    def _claimed(self, place: str, index: int) -> bool:
        claim = f"{index}".encode()
        try:
            retrying(lambda: self.output.create(f"{place}/{_CLAIM}", claim))
        except FileExistsError:
            return retrying(lambda: self.output.read(f"{place}/{_CLAIM}")) == claim
        return True

    def _joined(self, pack: Pack, files: list[str]) -> Pack:
        parts = [self._read(file) for file in files]
        warnings = [warning for part in parts for warning in part.warnings()[0]]
        errors = [error for part in parts for error in part.errors() if error is not None]
        if errors:
            return pack.whole(None, errors[0], warnings)
        # how long the recording is was known to the last part only
        kind = WindowScores if pack.detects else LocalSpeakers
        found = [part.found()[0] for part in parts]
        num_samples = max(part.num_samples for part in found)
        found = [replace(part, num_samples=num_samples) for part in found]
        return pack.whole(kind.concat(found), None, warnings)

    def _read(self, file: str) -> Pack:
        data = retrying(lambda: self.output.read(file))
        return Pack(pq.read_table(io.BytesIO(data)).combine_chunks())
