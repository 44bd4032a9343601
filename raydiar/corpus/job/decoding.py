"""The stage that decodes: a portion of the plan in, packs of measured audio out while it works.

Recordings come from a portion's rows or from the members of a shard, and are treated alike from
there on. Packs close at half an hour of what was really decoded, whatever a manifest or the size
of a file suggests; what lasts longer than a pack may goes in parts, while it is decoded. Which
recordings a shard holds shows only here: members that have a row already are passed over, and its
packs tell the driver how many rows to expect.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain

import numpy as np
import pyarrow as pa

from raydiar.audio import MAX_DURATION, SAMPLE_RATE
from raydiar.audio.isolation import IsolatedDecoder
from raydiar.audio.parts import Cut
from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.manifest import default_id
from raydiar.corpus.inputs.shards import is_shard, read_members
from raydiar.corpus.job.pack import Outcome, Pack
from raydiar.corpus.job.portions import pack_number
from raydiar.corpus.job.prefetch import NamedBytes, prefetched
from raydiar.errors import ShardError, StorageUnavailable
from raydiar.failures import recordings_error, retrying_pieces
from raydiar.naming import is_audio
from raydiar.storage import Source, display_name

PACK_SECONDS = 30 * 60.0  # of audio, at which a pack is closed
MOST_SECONDS = 2 * 3600.0  # of a pack; a recording of more goes in parts
PART_SECONDS = 3600.0
PACK_RECORDINGS = 256
OVERLAP_SECONDS = 60.0  # so that the last windows of a part are whole, which are of 10 s

Piece = tuple[Outcome, dict | None]


@cache
def decoder(time_limit: float) -> IsolatedDecoder:
    """The decoding child of this process, which serves task after task."""
    return IsolatedDecoder(time_limit)


@dataclass(frozen=True)
class Decode:
    """How recordings are decoded, in a child process.

    Parameters
    ----------
    max_duration : float, s
    time_limit : float, s
        See `IsolatedDecoder`.
    attempts : int
        For failures of the moment.
    pack_seconds, most_seconds, part_seconds, overlap_seconds : float, s
        At how much audio a pack is closed, how much it holds at most, how much of a longer
        recording a part of it does, and how much of the next part it holds as well.
    """

    max_duration: float = MAX_DURATION
    time_limit: float = 120.0
    attempts: int = 5
    pack_seconds: float = field(default_factory=lambda: PACK_SECONDS)
    most_seconds: float = field(default_factory=lambda: MOST_SECONDS)
    part_seconds: float = field(default_factory=lambda: PART_SECONDS)
    overlap_seconds: float = field(default_factory=lambda: OVERLAP_SECONDS)

    def __call__(self, recording: dict, source: Source) -> Iterator[Piece]:
        """Samples of a recording, or the error that becomes its row.

        Yields
        ------
        outcome : Outcome
            Of the whole recording; or of one part after another, the last of which may be an error.
        part : dict or None
            Which part that is (`PART`).

        Raises
        ------
        Exception
            What the machine is to blame for.
        """
        index = 0
        try:
            for samples, start, last, warnings in retrying_pieces(
                lambda: self._decode(recording, source), self.attempts
            ):
                outcome = Outcome(recording, None, warnings, samples)
                whole = last and not index
                yield outcome, None if whole else self._place(index, outcome, start, last)
                index += 1
        except Exception as raised:
            failed = Outcome(recording, recordings_error(raised))
            yield failed, {"index": index, "num_parts": index + 1} if index else None

    def _place(self, index: int, part: Outcome, start: int, last: bool) -> dict:
        place = {"index": index, "start": start}
        if not last:
            return place | {"stop": start + self.cut.part}
        end = start + len(part.samples)
        return place | {"num_parts": index + 1, "stop": end, "num_samples": end}

    @property
    def cut(self) -> Cut:
        seconds = (self.most_seconds, self.part_seconds, self.overlap_seconds)
        return Cut(*(int(SAMPLE_RATE * length) for length in seconds))

    def _decode(
        self, recording: dict, source: Source
    ) -> Iterator[tuple[np.ndarray, int, bool, list[str]]]:
        channel = recording["channel"]
        if channel == "split":
            decoder(self.time_limit).probe(source)  # raises what is wrong with it
            raise StorageUnavailable(
                f"{recording['uri']}: its channels could not be counted when the manifest was "
                "read. Run the job again to split it."
            )
        warnings: list[str] = []
        for part in decoder(self.time_limit).parts(
            source,
            self.cut,
            start=recording["start"] or 0.0,
            duration=recording["duration"],
            channel=None if channel is None else int(channel),
            max_duration=self.max_duration,
            warnings=warnings,
        ):
            yield *part, warnings


@dataclass(frozen=True)
class DecodePortion:
    """Decode a portion of the plan, or the recordings of a shard that have no row yet.

    A shard that cannot be read is an error row of its own, after the rows of what was read, and
    retryable whatever the cause: shards are uploaded again, and hold thousands of recordings.

    Parameters
    ----------
    decode : Decode
    done : object reference of (num_done,) S16
        Sorted hashes of the recordings that have a row; needed for shards.
    coordinator : handle of a `Coordinator` actor
        Counts how often a shard has ended the process that read it; likewise.
    """

    decode: Decode
    done: object = field(default=None, repr=False)
    coordinator: object = field(default=None, repr=False)

    def __call__(self, portion: pa.Table) -> Iterator[pa.Table]:
        [number] = portion.column("portion").to_pylist()
        [rows] = portion.column("recordings").to_pylist()
        kind = portion.schema.field("recordings").type.value_type
        if len(rows) == 1 and is_shard(rows[0]["uri"]):
            packs = self._shard(number, rows[0])
        else:
            pieces = (piece for one in prefetched(rows) for piece in self.decode(*one))
            packs = ((group, part, None) for group, part in form_packs(pieces, self.decode))
        begun = time.perf_counter()
        for place, (group, part, told) in enumerate(packs):
            seconds = time.perf_counter() - begun
            numbered = pack_number(number, place)
            yield Pack.of(numbered, group, kind, seconds, told, part).table
            begun = time.perf_counter()  # not counting the wait for what follows

    def _shard(self, number: int, shard: dict) -> Iterator[tuple[list[Outcome], dict | None, dict]]:
        """Packs of a shard, with what they tell of it; the last one tells that it is, and how.

        When a task is run again, Ray leaves out as many packs as it has taken before. One that
        gives up must therefore give as many as its predecessors did, empty ones, lest its failure
        be left out.
        """
        import ray

        from raydiar.corpus.job.attempts import Attempts

        members = _Members(shard, ray.get(self.done), self.decode)
        attempts, key = Attempts(self.coordinator), ("shard", number)
        refusal = attempts.begin(key, f"reading {display_name(shard['uri'])}")
        pieces, before = members.decoded(), 0
        if refusal:
            pieces, before = members.refused(refusal), attempts.given(key)
        groups = chain([([], None)] * before, form_packs(pieces, self.decode))
        place = -1
        for place, (group, part) in enumerate(groups):
            attempts.give(key)
            # the parts of a recording become one row, with the pack that they are joined in
            yield group, part, _told(shard, place, len(group))
        told = {"last": True, "num_done": members.num_done, "whole": members.whole}
        yield [], None, _told(shard, place + 1) | told
        attempts.end(key)


def _told(shard: dict, place: int, num_rows: int = 0) -> dict:
    """What a pack tells of its shard (`SHARD`), unless it is the last."""
    told = {"recording_id": shard["recording_id"], "place": place, "num_rows": num_rows}
    return told | {"last": False, "num_done": 0, "whole": False}


def form_packs(
    pieces: Iterator[Piece], decode: Decode
) -> Iterator[tuple[list[Outcome], dict | None]]:
    """Group what was decoded, in order, into packs.

    Yields
    ------
    group : list of Outcome
    part : dict or None
        Which part of its one recording a pack holds (`PART`), if that is longer than a pack.
    """
    group: list[Outcome] = []
    total, most = 0, int(decode.most_seconds * SAMPLE_RATE)
    for one, part in pieces:
        if part is not None:
            yield [one], part
            continue
        length = 0 if one.samples is None else len(one.samples)
        if group and total + length > most:
            yield group, None
            group, total = [], 0
        group.append(one)
        total += length
        if total >= decode.pack_seconds * SAMPLE_RATE or len(group) == PACK_RECORDINGS:
            yield group, None
            group, total = [], 0
    if group:
        yield group, None


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

    def decoded(self) -> Iterator[Piece]:
        try:
            for name, data in read_members(self._shard["uri"], is_audio, self._is_wanted):
                if data is None:
                    self.num_done += 1
                    continue
                source = NamedBytes(data, f"{display_name(self._shard['uri'])}#{name}")
                for recording in self._recordings(name, source):
                    yield from self._decode(recording, source)
        except Exception as error:
            yield self._failure(error), None
        else:
            self.whole = True

    def refused(self, reason: str) -> Iterator[Piece]:
        """One row for a shard that ends every process that reads it."""
        yield self._failure(ShardError(reason)), None

    def _failure(self, error: Exception) -> Outcome:
        return Outcome(self._shard, recordings_error(error) | {"retryable": True})

    def _is_wanted(self, name: str) -> bool:
        # how many channels there are to split shows only in the member
        return self._shard["channel"] == "split" or self._is_new(self._id(name))

    def _is_new(self, recording_id: str) -> bool:
        return not is_member(hash_ids([recording_id]), self._done)[0]

    def _id(self, name: str, channel: str | None = None) -> str:
        shard = self._shard
        place = (shard["start"], shard["duration"], channel or shard["channel"])
        return default_id(f"{self._stem}#{name}", *place)

    def _recordings(self, name: str, source: NamedBytes) -> Iterator[dict]:
        member = self._shard | {"uri": f"{self._shard['uri']}#{name}"}
        if member["channel"] != "split":
            yield member | {"recording_id": self._id(name)}
            return
        try:
            found = decoder(self._decode.time_limit).probe(source)
            channels = [str(n) for n in range(found.num_channels)]
        except Exception as error:
            recordings_error(error)  # raises what the machine caused
            channels = ["split"]  # stays one recording, for decoding to say what is wrong
        for channel in channels:
            recording_id = self._id(name, channel)
            if self._is_new(recording_id):
                yield member | {"recording_id": recording_id, "channel": channel}
            else:
                self.num_done += 1
