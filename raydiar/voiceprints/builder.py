"""Writing an index: build, add, delete, merge, vacuum.

Every change prepares the segments of the next generation beside the current one, and then
publishes CURRENT if nobody else did. Small segments are folded together as an index grows, and
segments with many deleted rows are rewritten, so that searches stay quick without upkeep.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.output import dataset
from raydiar.errors import ConfigError, VoiceprintIndexError, VoiceprintNotFound
from raydiar.storage.folder import TEMPORARY, Folder
from raydiar.voiceprints.generation import (
    CURRENT,
    FILES,
    ID_FIELDS,
    WRITERS,
    Generation,
    drop_cached,
    read_current,
)
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.next_segments import (
    Change,
    NextSegments,
    Report,
    Rows,
    live_rows,
    silent,
)
from raydiar.voiceprints.reading import read_voiceprints
from raydiar.voiceprints.segment_writer import Layout
from raydiar.voiceprints.segments import unit_vectors

MIN_SECONDS = 2.0
"""Speech behind a voiceprint below which it is marked as too short.

Of the pairs of one person in `benchmarks/verification.py`, at a threshold of 1 % false accepts,
a third is missed where one voiceprint has less, and one in thirteen where both have more.
"""

_ABANDONED = 7 * 86400.0  # seconds after which a writer is taken for dead


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
    with NextSegments(folder, generation, Layout(), silent) as segments:
        segments.write([(ids, unit_vectors(vectors))])
        return segments.publish(version)


def delete(uri: str, recording_ids: Iterable[str], report: Report = silent) -> Change:
    """Delete all voiceprints of recordings; nothing of them is found again.

    The numbers stay in the files of older generations until `vacuum` removes these, and in their
    segment until a fifth of it is deleted; `compact=True` of `vacuum` rewrites it at once. What is
    not there is deleted already: `absent` tells of it.
    """
    wanted = pa.array(sorted(set(recording_ids)), pa.string())
    return _delete(uri, pc.field("recording_id").isin(wanted), report)


def absent(uri: str, recording_ids: Iterable[str]) -> list[str]:
    """Which recordings an index has no voiceprint of, in the order given."""
    folder = Folder(uri)
    generation, _ = read_current(folder)
    ids = list(dict.fromkeys(recording_ids))
    there = NextSegments(folder, generation, Layout(), silent).recordings
    known = is_member(hash_ids(ids), there)
    return [name for name, found in zip(ids, known, strict=True) if not found]


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
    with NextSegments(folder, generation, layout or Layout(), report) as segments:
        for other in others:
            index = VoiceprintIndex.open(other)
            index.check_embedding(generation.embedding, generation.embedding_mode)
            segments.write(segments.new(rows for s in index.segments for rows in live_rows(s)))
        return segments.publish(version)


def vacuum(
    uri: str, *, grace: float = 86400.0, compact: bool = False, report: Report = silent
) -> int:
    """Remove files that the current generation does not name.

    Parameters
    ----------
    grace : float, s
        Files younger than this stay, and all that are younger than a writer at work: it may be
        about to name them. Readers have opened all files of their generation, and one that is
        just opening goes on to the current one.
    compact : bool
        First rewrite the segments that have deleted rows, so that nothing of these is left.

    Returns
    -------
    num_removed : int
    """
    folder = Folder(uri)
    if compact:
        generation, version = read_current(folder)
        if any(entry.num_deleted for entry in generation.segments):
            with NextSegments(folder, generation, Layout(), report) as segments:
                segments.rewrite(lambda entry: entry.num_deleted > 0)
                segments.publish(version)
    named = read_current(folder)[0].file_names
    unnamed = [f"{FILES}/{name}" for name in folder.list(FILES)]
    unnamed = [name for name in unnamed if name not in named]
    if folder.is_local:
        unnamed += [f"{TEMPORARY}/{path.name}" for path in Path(folder.path(TEMPORARY)).glob("*")]
    grace = max(grace, _oldest_writer(folder, report))
    old = [name for name in unnamed if folder.age(name) >= grace]
    for name in old:
        folder.delete(name)
        drop_cached(folder, name)
    report(f"{len(old)} files removed")
    return len(old)


def _oldest_writer(folder: Folder, report: Report) -> float:
    """Seconds since the first of the writers at work began; 0 if there is none."""
    oldest = 0.0
    for name in (f"{WRITERS}/{name}" for name in folder.list(WRITERS)):
        with suppress(FileNotFoundError):  # it has just ended
            age = folder.age(name)
            if age > _ABANDONED or _has_died(folder.read(name).decode()):
                report(f"a writer that began {age / 3600:.1f} hours ago has died")
                folder.delete(name)
            else:
                oldest = max(oldest, age + 1)
    return oldest


def _has_died(writer: str) -> bool:
    """Whether a process of this machine, as `NextSegments` names itself, is no more."""
    pid, _, host = writer.partition(" ")
    if host != socket.gethostname() or not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _add(folder, generation, version, datasets, layout, report) -> Change:
    with NextSegments(folder, generation, layout, report) as segments:
        for uri in datasets:
            report(f"reading {uri}")
            segments.write(segments.new(_voiceprints(uri, segments)))
        return segments.publish(version)


def _voiceprints(uri: str, segments: NextSegments) -> Rows:
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
    with NextSegments(folder, generation, Layout(), report) as segments:
        segments.delete(condition)
        if not segments.deleted:
            return Change(generation.number)
        return segments.publish(version)
