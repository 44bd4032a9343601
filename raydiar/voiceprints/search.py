"""Where else does this voice speak: hits for people to read.

Turns stay in the diarization datasets; they are looked up for the hits that are shown, in the one
file of the dataset that the index names for a recording.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydiar.corpus.output import dataset
from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.errors import ConfigError, VoiceprintNotFound
from raydiar.storage.folder import Folder
from raydiar.voiceprints.evidence import Evidence, prior_of_size
from raydiar.voiceprints.generation import ID_FIELDS
from raydiar.voiceprints.searchable import SearchableIndex
from raydiar.voiceprints.segments import unit_vectors
from raydiar.voiceprints.verification import Calibration

if TYPE_CHECKING:
    from raydiar.pipelines import SpeakerDiarization


@dataclass(frozen=True)
class Hit:
    """A voiceprint that was found.

    Attributes
    ----------
    id : int
    score : float
        Cosine.
    probability : float or None
        Of being the same person; None without a calibration.
    recording_id, uri, speaker : str
    seconds : float
        Of speech behind the voiceprint.
    columns : dict
        Carried columns.
    """

    id: int
    score: float
    probability: float | None
    recording_id: str
    uri: str
    speaker: str
    seconds: float
    dataset: str | None = field(repr=False)
    file: str | None = field(repr=False)
    columns: dict[str, Any] = field(default_factory=dict)


def search(
    index: SearchableIndex,
    voiceprints: np.ndarray,
    k: int = 10,
    *,
    calibration: Calibration | Evidence | None = None,
    prior: float | None = None,
    own: Sequence[str | None] | None = None,
    per_recording: bool = True,
    **options,
) -> list[list[Hit]]:
    """The recordings' voices most like each voiceprint, best first.

    Parameters
    ----------
    voiceprints : (num_queries, dimension) float32
        One or thousands; need not be normalised.
    k : int
        Hits of each at most.
    calibration : Calibration or Evidence, optional
        Gives scores a probability, at `prior`.
    prior : float, optional
        How likely a voice of the index is the one that is sought before it is heard; by default
        by the size of the index.
    own : sequence of str or None, optional
        The recording of each voiceprint, whose speakers are no hits: the others are other people.
    per_recording : bool
        Of each recording the voice that is most like only.
    options
        `where`, `include_short`, `exact`, `probes`, `candidates` of `SearchableIndex.neighbors`.
    """
    if own is not None and len(own) != len(voiceprints):
        raise ConfigError(f"{len(own)} recordings were given for {len(voiceprints)} voiceprints")
    scores, ids = nearest_in_recordings(index, voiceprints, k, own, per_recording, **options)
    found = ids >= 0
    records = index.records(ids[found])
    probabilities = np.full(scores.shape, np.nan)
    if calibration is not None:
        prior = prior_for(index, calibration) if prior is None else prior
        seconds = np.array([record["seconds"] for record in records])
        probabilities[found] = meaning(calibration, scores[found], prior, seconds)
    remaining = iter(records)
    return [
        [
            _hit(next(remaining), score, probability, index.generation.columns)
            for score, probability in zip(*pair, strict=True)
        ]
        for pair in (
            (scores[query, found[query]], probabilities[query, found[query]])
            for query in range(len(ids))
        )
    ]


def meaning(
    calibration: Calibration | Evidence, scores: np.ndarray, prior: float, seconds: np.ndarray
) -> np.ndarray:
    """Probabilities of being one person; evidence knows what length does to them."""
    if isinstance(calibration, Evidence):
        return calibration.probability(scores, prior, seconds)
    return calibration.probability(scores, prior)


def prior_for(index: SearchableIndex, calibration: Calibration | Evidence) -> float:
    """How likely a voice of an index is one that is sought, before it is heard."""
    if isinstance(calibration, Evidence):
        return prior_of_size(len(index), calibration.mates)
    return prior_of_size(len(index))


def nearest_in_recordings(
    index: SearchableIndex,
    voiceprints: np.ndarray,
    k: int,
    own: Sequence[str | None] | None = None,
    per_recording: bool = True,
    **options,
) -> tuple[np.ndarray, np.ndarray]:
    """`SearchableIndex.neighbors`, without a query's own recording, and one of each recording.

    Parameters as in `search`; returns as `neighbors`.
    """
    if own is None and not per_recording:
        return index.neighbors(voiceprints, k, **options)
    scores = np.full((len(voiceprints), k), -np.inf, np.float32)
    ids = np.full((len(voiceprints), k), -1, np.int64)
    open_, number = np.arange(len(voiceprints)), k + 4
    while len(open_):
        near, found = index.neighbors(np.asarray(voiceprints)[open_], number, **options)
        recordings = np.full(found.shape, None, object)
        recordings[found >= 0] = index.columns(found[found >= 0], ["recording_id"])[
            "recording_id"
        ].to_pylist()
        wanting = []
        for row, query in enumerate(open_):
            chosen = _chosen(recordings[row], None if own is None else own[query], per_recording)
            there = found[row][chosen] >= 0
            chosen = chosen[there][:k]
            # there is more to look at, and it may be of other recordings
            if len(chosen) < k and (found[row] >= 0).all():
                wanting.append(query)
            scores[query, : len(chosen)] = near[row][chosen]
            ids[query, : len(chosen)] = found[row][chosen]
        open_, number = np.array(wanting, np.int64), 4 * number
    return scores, ids


def _chosen(recordings: np.ndarray, own: str | None, per_recording: bool) -> np.ndarray:
    """Places of the hits that are kept, of one query."""
    seen, places = {own} - {None}, []
    for place, recording in enumerate(recordings):
        if recording not in seen:
            places.append(place)
            if per_recording:
                seen.add(recording)
    return np.array(places, np.int64)


def search_speaker(
    index: SearchableIndex, recording_id: str, speaker: str, k: int = 10, **options
) -> list[Hit]:
    """Voiceprints of other recordings like that of a speaker; options as in `search`.

    Raises
    ------
    VoiceprintNotFound
    """
    own = index.id_of(recording_id, speaker)
    [hits] = search(index, index.vectors([own]), k, own=[recording_id], **options)
    return hits


def search_name(index: SearchableIndex, name: str, k: int = 10, **options) -> list[Hit]:
    """Voiceprints like those of an enrolled person; options as in `search`.

    Raises
    ------
    VoiceprintNotFound
        If nobody of that name is enrolled; the message says who is.
    """
    [hits] = search(index, voiceprint_of(index, name)[None], k, **options)
    return hits


def search_audio(
    index: SearchableIndex, pipeline: SpeakerDiarization, file, k: int = 10, **options
) -> list[tuple[Speaker, list[Hit]]]:
    """Every speaker of a clip, and the voiceprints like theirs; options as in `search`.

    Raises
    ------
    VoiceprintNotFound
        If nobody in the clip speaks long enough alone.
    VoiceprintIndexError
        If the pipeline's voiceprints are not those of the index.
    """
    check_pipeline(index, pipeline)
    speakers = heard(pipeline(file))
    found = search(index, np.stack([s.embedding for s in speakers]), k, **options)
    return list(zip(speakers, found, strict=True))


def heard(output: Diarization) -> list[Speaker]:
    """The speakers of a recording who have a voiceprint.

    Raises
    ------
    VoiceprintNotFound
        If none has.
    """
    speakers = [s for s in output.speakers if s.embedding is not None and np.any(s.embedding)]
    if not speakers:
        raise VoiceprintNotFound(
            f"{output.uri} gives no voiceprint: nobody in it speaks for two seconds without "
            "another. Take a longer clip."
        )
    return speakers


def main_speaker(output: Diarization) -> Speaker:
    """Who speaks most of those with a voiceprint.

    Raises
    ------
    VoiceprintNotFound
        If nobody has one.
    """
    return max(heard(output), key=lambda speaker: speaker.speech_seconds)


def check_pipeline(index: SearchableIndex, pipeline: SpeakerDiarization) -> None:
    """
    Raises
    ------
    VoiceprintIndexError
        If the pipeline's voiceprints are not those of the index.
    """
    description = pipeline.describe()
    index.check_embedding(description["embedding"], description["embedding_mode"])


def voiceprint_of(index: SearchableIndex, name: str) -> np.ndarray:
    """The mean of an enrolled person's voiceprints, weighted by their speech.

    Returns
    -------
    voiceprint : (dimension,) float32
        A unit vector.

    Raises
    ------
    VoiceprintNotFound
    """
    ids = index.ids_where(pc.field("name") == name)
    if not len(ids):
        enrolled = ", ".join(index.names()) or "nobody"
        raise VoiceprintNotFound(
            f"{name!r} is not enrolled in {index.folder.uri}; it knows {enrolled}"
        )
    seconds = [record["seconds"] for record in index.records(ids)]
    return unit_vectors(np.asarray(seconds) @ index.vectors(ids))


def turns_of(hits: Iterable[Hit]) -> dict[int, tuple[Turn, ...]]:
    """When the voices of hits speak, by their ids; read from the diarization datasets.

    Raises
    ------
    OutputError
        If the dataset of a hit is no more.
    VoiceprintNotFound
        If it has no such recording any more.
    """
    wanted: dict[tuple[str, str], list[Hit]] = {}
    for hit in hits:
        if hit.dataset is not None:
            wanted.setdefault((hit.dataset, hit.file), []).append(hit)

    def read(item) -> dict[int, tuple[Turn, ...]]:
        (source, file), some = item
        found = _turns(Folder(source), [file], some)
        if len(found) < len(some):  # the end of a job rewrites files
            opened = dataset.open(source)
            missing = [hit for hit in some if hit.id not in found]
            found |= _turns(opened.output, opened.inventory.files, missing)
        return found

    turns: dict[int, tuple[Turn, ...]] = {}
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(read, wanted.items()):
            turns |= found
    for hit in (hit for some in wanted.values() for hit in some if hit.id not in turns):
        raise VoiceprintNotFound(f"{hit.dataset} has no recording {hit.recording_id!r} any more")
    return turns


def _turns(folder: Folder, files: Sequence[str], hits: list[Hit]) -> dict[int, tuple[Turn, ...]]:
    turns = {}
    condition = [("recording_id", "in", sorted({hit.recording_id for hit in hits}))]
    for name in files:
        try:
            with folder.open(name) as file:
                rows = pq.read_table(file, columns=["recording_id", "turns"], filters=condition)
        except FileNotFoundError:
            continue
        by_recording = {row["recording_id"]: row["turns"] or [] for row in rows.to_pylist()}
        for hit in hits:
            if hit.recording_id in by_recording and hit.id not in turns:
                turns[hit.id] = tuple(
                    Turn(**turn)
                    for turn in by_recording[hit.recording_id]
                    if turn["speaker"] == hit.speaker
                )
        if len(turns) == len(hits):
            break
    return turns


def _hit(record: dict, score: float, probability: float, columns: Iterable[str]) -> Hit:
    known = {field.name: record[field.name] for field in ID_FIELDS}
    return Hit(
        score=float(score),
        probability=None if np.isnan(probability) else float(probability),
        columns={name: record[name] for name in columns},
        **{n: known[n] for n in ("id", "recording_id", "uri", "speaker", "seconds", "dataset")},
        file=known["file"],
    )
