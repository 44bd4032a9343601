"""Writing an index: build, add, delete, merge, vacuum.

Every change prepares the segments of the next generation beside the current one, and then
publishes CURRENT if nobody else did. Small segments are folded together as an index grows, and
segments with many deleted rows are rewritten, so that searches stay quick without upkeep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.corpus import dataset
from raydiar.corpus.folder import TEMPORARY, Folder
from raydiar.corpus.manifest import hash_ids
from raydiar.errors import ConfigError, VoiceprintIndexError, VoiceprintNotFound
from raydiar.voiceprints.generation import (
    CURRENT,
    FILES,
    ID_FIELDS,
    Generation,
    SegmentEntry,
    StoredFile,
    publish,
    read_current,
)
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.reading import read_voiceprints
from raydiar.voiceprints.segment_writer import Layout, SegmentWriter, scratch_folder
from raydiar.voiceprints.segments import Segment, unit_vectors

MIN_SECONDS = 2.0
"""Speech behind a voiceprint below which it is marked as too short.

Of the pairs of one person in `benchmarks/verification.py`, at a threshold of 1 % false accepts,
a third is missed where one voiceprint has less, and one in thirteen where both have more.
"""

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


def build(
    uri: str,
    datasets: Sequence[str],
    *,
    columns: Sequence[str] = (),
    min_seconds: float = MIN_SECONDS,
    layout: Layout | None = None,
    report: Report = silent,
) -> Change:
    """Make an index of diarization datasets.

    Parameters
    ----------
    uri : str
        Folder of the new index: local path or fsspec URI.
    datasets : sequence of str
        Their folders.
    columns : sequence of str
        Carried columns to keep, for filters.
    min_seconds : float
        Voiceprints of less speech are marked, and left out of searches by default.
    layout : Layout, optional
    report : callable, optional
        Told in lines what is chosen and done.

    Raises
    ------
    VoiceprintIndexError
        If there is an index already, or datasets differ in their embedding.
    OutputError
        If there is no dataset.
    ConfigError
        An unknown column, or one named like a column of the index.
    """
    folder = Folder(uri)
    if folder.exists(CURRENT):
        raise VoiceprintIndexError(f"{uri} holds an index already: `add` to it, or choose another")
    if not datasets:
        raise ConfigError("an index is built from at least one diarization dataset")
    if taken := set(columns) & set(ID_FIELDS.names):
        raise ConfigError(f"an index has columns {sorted(taken)} of its own: rename the carried")
    if not (math.isfinite(min_seconds) and min_seconds >= 0):
        raise ConfigError(f"min_seconds must be 0 or more, got {min_seconds}")
    first = dataset.open(datasets[0])
    speakers = first.schema.field("speakers").type.value_type
    embedding, embedding_mode = _embedding_of(first, datasets[0])
    generation = Generation(
        embedding=embedding,
        embedding_mode=embedding_mode,
        dimension=speakers.field("embedding").type.list_size,
        min_seconds=min_seconds,
        columns=_column_types(first, columns),
    )
    return _add(folder, generation, None, datasets, layout or Layout(), report)


def add(
    uri: str, datasets: Sequence[str], *, layout: Layout | None = None, report: Report = silent
) -> Change:
    """Add the recordings of diarization datasets that an index does not have yet.

    Raises
    ------
    VoiceprintIndexError
        If there is no index, or it was made with another embedding.
    VoiceprintIndexConflict
        If another writer came first.
    OutputError
        If there is no dataset.
    """
    folder = Folder(uri)
    generation, version = read_current(folder)
    return _add(folder, generation, version, datasets, layout or Layout(), report)


def add_rows(uri: str, ids: pa.Table, vectors: np.ndarray) -> Change:
    """Add voiceprints that come from no dataset, e.g. of enrolled people.

    Parameters
    ----------
    ids : Table
        Of `ID_FIELDS`; missing columns are null, `id` and `short` are set here.
    vectors : (num_rows, dimension) float32
        Need not be normalised.
    """
    folder = Folder(uri)
    generation, version = read_current(folder)
    segments = _NextSegments(folder, generation, Layout(), silent)
    segments.write([(ids, unit_vectors(vectors))])
    return segments.publish(version)


def delete(uri: str, recording_ids: Iterable[str], report: Report = silent) -> Change:
    """Delete all voiceprints of recordings; nothing of them is found again.

    The numbers stay in the files of older generations until `vacuum` removes these, and in their
    segment until a fifth of it is deleted; `compact=True` of `vacuum` rewrites it at once.
    """
    wanted = pa.array(sorted(set(recording_ids)), pa.string())
    return _delete(uri, pc.field("recording_id").isin(wanted), report)


def forget(uri: str, name: str) -> Change:
    """Delete an enrolled person.

    Raises
    ------
    VoiceprintNotFound
        If nobody of that name is enrolled.
    """
    change = _delete(uri, pc.field("name") == name, silent)
    if not change.deleted:
        raise VoiceprintNotFound(f"nobody named {name!r} is enrolled in {uri}")
    return change


def merge(
    uri: str, others: Sequence[str], *, layout: Layout | None = None, report: Report = silent
) -> Change:
    """Add the voiceprints of other indexes, under new ids; recordings known here are left out.

    Raises
    ------
    VoiceprintIndexError
        If one is missing or damaged, or was made with another embedding.
    VoiceprintIndexConflict
    """
    folder = Folder(uri)
    generation, version = read_current(folder)
    segments = _NextSegments(folder, generation, layout or Layout(), report)
    for other in others:
        index = VoiceprintIndex.open(other)
        index.check_embedding(generation.embedding, generation.embedding_mode)
        segments.write(segments.new(rows for s in index.segments for rows in _live_rows(s)))
    return segments.publish(version)


def vacuum(
    uri: str, *, grace: float = 86400.0, compact: bool = False, report: Report = silent
) -> int:
    """Remove files that the current generation does not name.

    Parameters
    ----------
    grace : float, s
        Files younger than this stay: a writer may be about to name them. Readers have opened
        all files of their generation, and one that is just opening goes on to the current one.
    compact : bool
        First rewrite the segments that have deleted rows, so that nothing of these is left.

    Returns
    -------
    num_removed : int
    """
    folder = Folder(uri)
    if compact:
        generation, version = read_current(folder)
        segments = _NextSegments(folder, generation, Layout(), report)
        segments.rewrite(lambda entry: entry.num_deleted > 0)
        segments.publish(version)
    named = read_current(folder)[0].file_names
    unnamed = [f"{FILES}/{name}" for name in folder.list(FILES)]
    unnamed = [name for name in unnamed if name not in named]
    if folder.is_local:
        unnamed += [f"{TEMPORARY}/{path.name}" for path in Path(folder.path(TEMPORARY)).glob("*")]
    old = [name for name in unnamed if folder.age(name) >= grace]
    for name in old:
        folder.delete(name)
    report(f"{len(old)} files removed")
    return len(old)


def _add(folder, generation, version, datasets, layout, report) -> Change:
    segments = _NextSegments(folder, generation, layout, report)
    for uri in datasets:
        report(f"reading {uri}")
        segments.write(segments.new(_voiceprints(uri, segments)))
    return segments.publish(version)


def _voiceprints(uri: str, segments: _NextSegments) -> Rows:
    for found in read_voiceprints(uri, segments.generation):
        segments.without_voice += found.without_voice
        if len(found.vectors):
            yield found.ids, found.vectors


def _embedding_of(source: dataset.DiarizationDataset, uri: str) -> tuple[str, str]:
    pipeline = dataset.pipeline_of(source.schema)
    if pipeline is None:
        pipeline = next((b["pipeline"][0].as_py() for b in source.batches(["pipeline"])), None)
    if pipeline is None:
        raise VoiceprintIndexError(f"{uri} holds no recordings yet")
    return pipeline["embedding"], pipeline["embedding_mode"]


def _column_types(source: dataset.DiarizationDataset, columns: Sequence[str]) -> dict[str, str]:
    types = {}
    for name in columns:
        if name not in source.schema.names:
            raise ConfigError(
                f"{source.output.uri} has no column {name!r}; it has "
                f"{', '.join(source.schema.names)}"
            )
        types[name] = str(source.schema.field(name).type)
        try:
            pa.type_for_alias(types[name])
        except ValueError:
            raise ConfigError(f"column {name!r} of type {types[name]} cannot be kept") from None
    return types


def _delete(uri: str, condition: pc.Expression, report: Report) -> Change:
    folder = Folder(uri)
    generation, version = read_current(folder)
    segments = _NextSegments(folder, generation, Layout(), report)
    segments.delete(condition)
    if not segments.deleted:
        return Change(generation.number)
    return segments.publish(version)


# -- writing segments --------------------------------------------------------------------------


def _live_rows(segment: Segment) -> Rows:
    for rows, vectors in segment.blocks(segment.alive):
        yield segment.known.take(rows), vectors


class _NextSegments:
    """The segments of the generation that follows one, while they are made."""

    def __init__(self, folder: Folder, generation: Generation, layout: Layout, report: Report):
        self.folder, self.generation = folder, generation
        self.layout, self.report = layout, report
        self.entries = list(generation.segments)
        self.next_id = generation.next_id
        self.added = self.short = self.known = self.without_voice = self.deleted = 0

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
            fresh = ~dataset.is_done(hashes, self.recordings)
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
        self._store(rows for entry in entries for rows in _live_rows(self._open(entry)))

    def _store(self, rows: Rows) -> None:
        """Write rows into as many segments as it takes."""
        rows = iter(rows)
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
        with scratch_folder(self.folder) as scratch:
            path = scratch / "deleted"
            rows.astype("<i8").tofile(path)
            return StoredFile.store(self.folder, path, "deleted")
