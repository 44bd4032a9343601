"""The stage that decodes shards: one row in, packs out while it reads.

The packs have the form of `Decode`'s, so that what follows need not know where they came from.
Which recordings a shard holds shows only here: members that have a row already are passed over,
and the packs tell the driver how many rows to expect.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raydiar.audio.resampling import SAMPLE_RATE
from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.manifest import default_id
from raydiar.corpus.inputs.packs import PACK_RECORDINGS, PACK_SECONDS
from raydiar.corpus.inputs.shards import read_members
from raydiar.corpus.job.stages import MOST_ATTEMPTS, Decode, decoded_pack, decoder
from raydiar.errors import ShardError
from raydiar.failures import MACHINE, describe, failure_cause
from raydiar.naming import is_audio
from raydiar.storage import display_name

Decoded = tuple[dict, np.ndarray | dict]  # a recording, and its PCM or error


@dataclass(frozen=True)
class DecodeShard:
    """Decode the recordings of a shard that have no row yet, in a child process.

    A shard that cannot be read is an error row of its own, after the rows of what was read, and
    retryable whatever the cause: shards are uploaded again, and hold thousands of recordings.

    Parameters
    ----------
    decode : Decode
    done : object reference of (num_done,) S16
        Sorted hashes of the recordings that have a row.
    coordinator : handle of a `Coordinator` actor
        Counts how often a shard has ended the process that read it.
    pack_seconds : float
    """

    decode: Decode
    done: object = field(repr=False)
    coordinator: object = field(repr=False)
    pack_seconds: float = PACK_SECONDS

    def __call__(self, row: pa.Table) -> Iterator[pa.Table]:
        import ray

        [[shard]] = row.column("recordings").to_pylist()
        [number] = row.column("pack").to_pylist()
        members = _Members(shard, ray.get(self.done), self.decode)
        key = ("shard", number)
        attempt = ray.get(self.coordinator.begin.remote(key))
        decoded = members.failed(attempt) if attempt > MOST_ATTEMPTS else members.decoded()
        total_rows = 0
        begun = time.perf_counter()
        for place, (group, last) in enumerate(self._groups(decoded)):
            total_rows += len(group)
            told = {"recording_id": shard["recording_id"], "num_rows": len(group)}
            if last:
                told |= {"total_rows": total_rows, "num_done": members.num_done}
                told |= {"whole": members.whole}
            pack = {
                "pack": (number + 1) << 32 | place,  # no number of another pack, or shard
                "seconds": sum(_num_samples(one) for one in group) / SAMPLE_RATE,
                "recordings": [recording for recording, _ in group],
            }
            pack = pa.Table.from_pylist([pack], row.schema)
            yield decoded_pack(pack, [outcome for _, outcome in group], begun, told)
            begun = time.perf_counter()  # not counting the wait for what follows
        self.coordinator.end.remote(key)

    def _groups(self, decoded: Iterator[Decoded]) -> Iterator[tuple[list[Decoded], bool]]:
        """Packs, and whether it is the last one, which may be empty."""
        group: list[Decoded] = []
        room = limit = int(self.pack_seconds * SAMPLE_RATE)
        for one in decoded:
            if group and (_num_samples(one) > room or len(group) == PACK_RECORDINGS):
                yield group, False
                group, room = [], limit
            group.append(one)
            room -= _num_samples(one)
        yield group, True


def _num_samples(one: Decoded) -> int:
    return 0 if isinstance(one[1], dict) else len(one[1])


class _Members:
    """The recordings of one shard.

    Attributes
    ----------
    num_done : int
        Passed over, since they have a row.
    whole : bool
        Whether the shard was read to its end.
    """

    def __init__(self, shard: dict, done: np.ndarray, decode: Decode):
        self.num_done, self.whole = 0, False
        self._shard, self._done, self._decode = shard, done, decode
        place = (shard["uri"], shard["start"], shard["duration"], shard["channel"])
        named = shard["recording_id"] != default_id(*place)
        self._stem = shard["recording_id"] if named else shard["uri"]

    def decoded(self) -> Iterator[Decoded]:
        try:
            for name, data in read_members(self._shard["uri"], is_audio, self._is_wanted):
                if data is None:
                    self.num_done += 1
                    continue
                source = _Bytes(data, f"{display_name(self._shard['uri'])}#{name}")
                for recording in self._recordings(name, source):
                    yield recording, self._decode.decode(recording, source)
        except Exception as error:
            if failure_cause(error) == MACHINE:
                raise
            yield self._failure(error)
        else:
            self.whole = True

    def failed(self, attempt: int) -> Iterator[Decoded]:
        """One row for a shard that ends every process that reads it."""
        yield self._failure(
            ShardError(
                f"{display_name(self._shard['uri'])}: {attempt - 1} processes died of reading it, "
                "for want of memory or with their nodes."
            )
        )

    def _failure(self, error: Exception) -> Decoded:
        return self._shard, describe(error) | {"retryable": True}

    def _is_wanted(self, name: str) -> bool:
        # how many channels there are to split shows only in the member
        return self._shard["channel"] == "split" or self._is_new(self._id(name))

    def _is_new(self, recording_id: str) -> bool:
        return not is_member(hash_ids([recording_id]), self._done)[0]

    def _id(self, name: str, channel: str | None = None) -> str:
        shard = self._shard
        place = (shard["start"], shard["duration"], channel or shard["channel"])
        return default_id(f"{self._stem}#{name}", *place)

    def _recordings(self, name: str, source: _Bytes) -> Iterator[dict]:
        member = self._shard | {"uri": f"{self._shard['uri']}#{name}"}
        if member["channel"] != "split":
            yield member | {"recording_id": self._id(name)}
            return
        try:
            found = decoder(self._decode.time_limit).probe(source)
            channels = [str(n) for n in range(found.num_channels)]
        except Exception as error:
            if failure_cause(error) == MACHINE:
                raise
            channels = ["split"]  # stays one recording, for decoding to say what is wrong
        for channel in channels:
            recording_id = self._id(name, channel)
            if self._is_new(recording_id):
                yield member | {"recording_id": recording_id, "channel": channel}
            else:
                self.num_done += 1


class _Bytes(io.BytesIO):
    """The bytes of a member, with a name for messages."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name
