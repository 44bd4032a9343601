"""The segments of the next generation, while a writer makes them beside the current one."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.storage.folder import Folder
from raydiar.voiceprints.generation import (
    WRITERS,
    Generation,
    SegmentEntry,
    StoredFile,
    publish,
)
from raydiar.voiceprints.segment_writer import Layout, SegmentWriter, scratch_folder
from raydiar.voiceprints.segments import Segment

_DEAD_FRACTION = 0.2  # of a segment's rows; it is then rewritten
_MAX_SMALL = 8  # exact segments beside each other; each costs a search a little

Rows = Iterable[tuple[pa.Table, np.ndarray]]
Report = Callable[[str], None]


def silent(line: str) -> None:
    """A report that nobody reads."""


@dataclass(frozen=True)
class Change:
    """What a writer did; as text, one line."""

    generation: int
    added: int = 0
    known: int = 0
    without_voice: int = 0
    short: int = 0
    deleted: int = 0

    def __str__(self) -> str:
        parts = [f"generation {self.generation}"]
        for number, what in (
            (self.added, "voiceprints added"),
            (self.short, "of them too short to be searched by default"),
            (self.without_voice, "speakers without voiceprint left out"),
            (self.known, "recordings were there already"),
            (self.deleted, "voiceprints deleted"),
        ):
            if number:
                parts.append(f"{number:,} {what}")
        return ", ".join(parts)


def live_rows(segment: Segment) -> Rows:
    for rows, vectors in segment.blocks(segment.alive):
        yield segment.known.take(rows), vectors


class NextSegments:
    """The segments of the generation that follows one, while they are made; use with `with`."""

    def __init__(self, folder: Folder, generation: Generation, layout: Layout, report: Report):
        self.folder, self.generation = folder, generation
        self.layout, self.report = layout, report
        self.entries = list(generation.segments)
        self.next_id = generation.next_id
        self.added = self.short = self.known = self.without_voice = self.deleted = 0
        self._writer = f"{WRITERS}/{uuid.uuid4().hex}"
        self._writing = False

    def __enter__(self) -> NextSegments:
        return self

    def __exit__(self, *_) -> None:
        if self._writing:
            self.folder.delete(self._writer)

    def _begin_to_write(self) -> None:
        """Say so before the first file: `vacuum` then leaves all that follow alone."""
        if not self._writing:
            self.folder.publish(self._writer, f"{os.getpid()} {socket.gethostname()}".encode())
            self._writing = True

    @cached_property
    def recordings(self) -> np.ndarray:
        """Sorted hashes of the recordings that are in the index."""
        hashes = [np.empty(0, "S16")]
        for segment in map(self._open, self.entries):
            names = segment.column("recording_id").filter(pa.array(segment.alive)).unique()
            hashes.append(hash_ids(names.to_pylist()))
        return np.unique(np.concatenate(hashes))

    def new(self, source: Rows) -> Rows:
        """Rows of one source without those of recordings that the index has already."""
        seen = [self.recordings]
        for ids, vectors in source:
            hashes = hash_ids(ids.column("recording_id").to_pylist())
            fresh = ~is_member(hashes, self.recordings)
            self.known += len(np.unique(hashes[~fresh]))
            seen.append(np.unique(hashes[fresh]))
            if fresh.any():
                yield ids.filter(pa.array(fresh)), vectors[fresh]
        self.recordings = np.unique(np.concatenate(seen))

    def write(self, rows: Rows) -> None:
        """Add new rows, which get their ids here, and fold small segments."""
        self._store(self._numbered(*pair) for pair in rows)
        small = [e for e in self.entries if e.kind == "exact"]
        if (
            self.layout.kind == "auto"
            and (
                len(small) > _MAX_SMALL or sum(e.num_rows for e in small) > self.layout.exact_limit
            )
            and len(small) > 1
        ):
            self.report(f"folding {len(small)} small segments")
            self._fold(small)

    def delete(self, condition: pc.Expression) -> None:
        """Mark the rows that fulfil a condition, and rewrite segments with many such."""
        for number, entry in enumerate(self.entries):
            segment = self._open(entry)
            rows = segment.known.append_column("_row", pa.array(np.arange(len(segment))))
            found = rows.filter(pa.array(segment.alive)).filter(condition)["_row"].to_numpy()
            if len(found):
                self.deleted += len(found)
                dead = np.sort(np.concatenate([np.flatnonzero(~segment.alive), found]))
                self.entries[number] = replace(
                    entry, deleted=self._stored(dead), num_deleted=len(dead)
                )
        self.rewrite(lambda entry: entry.num_deleted > _DEAD_FRACTION * entry.num_rows)

    def rewrite(self, which: Callable[[SegmentEntry], bool]) -> None:
        """Write segments anew without their deleted rows."""
        for entry in [e for e in self.entries if which(e)]:
            self._fold([entry])

    def publish(self, version: str | None) -> Change:
        following = self.generation.next(segments=tuple(self.entries), next_id=self.next_id)
        publish(self.folder, following, version)
        return Change(
            following.number, self.added, self.known, self.without_voice, self.short, self.deleted
        )

    def _fold(self, entries: list[SegmentEntry]) -> None:
        self.entries = [entry for entry in self.entries if entry not in entries]
        self._store(rows for entry in entries for rows in live_rows(self._open(entry)))

    def _store(self, rows: Rows) -> None:
        """Write rows into as many segments as it takes."""
        rows = iter(rows)
        self._begin_to_write()
        while (pair := next(rows, None)) is not None:
            with SegmentWriter(
                self.folder, self.generation.dimension, self.layout, self.report
            ) as writer:
                while pair is not None:
                    writer.write(*pair)
                    full = writer.num_rows >= self.layout.segment_rows
                    pair = None if full else next(rows, None)
                self.entries.append(writer.finish())

    def _numbered(self, ids: pa.Table, vectors: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        number = len(ids)
        short = pc.less(ids.column("seconds"), self.generation.min_seconds)
        numbers = pa.array(np.arange(self.next_id, self.next_id + number))
        known = dict(zip(ids.column_names, ids.columns, strict=True))
        known |= {"id": numbers, "short": short}
        schema = self.generation.schema()
        columns = [
            known[f.name].cast(f.type) if f.name in known else pa.nulls(number, f.type)
            for f in schema
        ]
        self.next_id += number
        self.added += number
        self.short += pc.sum(short).as_py() or 0
        return pa.table(columns, schema=schema), vectors

    def _open(self, entry: SegmentEntry) -> Segment:
        return Segment(self.folder, entry, self.generation.dimension)

    def _stored(self, rows: np.ndarray) -> StoredFile:
        self._begin_to_write()
        with scratch_folder(self.folder) as scratch:
            path = scratch / "deleted"
            rows.astype("<i8").tofile(path)
            return StoredFile.store(self.folder, path, "deleted")
