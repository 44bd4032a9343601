"""Resolve: from the local speakers of all windows to the speakers of the recording.

Count who talks at once, cluster the embeddings that are clean enough, give every local speaker a
voice, vote. Needs no GPU and no torch. Numbers follow pyannote.audio 4.0.7 except where its output
makes no sense: no turn runs past the end of the recording, speakers are numbered in the order in
which they are first heard, bounds that cannot be met give a warning, voiceprints are never NaN.
"""

import numpy as np

from raydiar.clustering.agglomerative import agglomerate
from raydiar.clustering.assignment import UNASSIGNED, assign, usable_rows
from raydiar.clustering.clusters import Clusters
from raydiar.clustering.kmeans import kmeans
from raydiar.clustering.parameters import (
    AgglomerativeParameters,
    CountingParameters,
    KMeansParameters,
    SpeakerBounds,
    VBxParameters,
    speaker_bounds,
)
from raydiar.clustering.plda import PLDA
from raydiar.clustering.reconstruction import (
    Runs,
    clean_runs,
    count_speakers,
    reconstruct,
    shared_frames,
)
from raydiar.clustering.vbx import cluster_vbx
from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.errors import ConfigError
from raydiar.local_speakers import LocalSpeakers

MIN_CLEAN_RATIO = 0.2
"""Share of a window that a local speaker must speak alone for its embedding to shape a voice."""

EXACT_LIMIT = 8000

Clustering = AgglomerativeParameters | VBxParameters | KMeansParameters


def resolve(
    local: LocalSpeakers,
    clustering: Clustering,
    *,
    plda: PLDA | None = None,
    num_speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
    min_duration_off: float = 0.0,
    uri: str = "recording",
    exact_limit: int = EXACT_LIMIT,
    counting: CountingParameters | None = None,
    count: np.ndarray | None = None,
) -> Diarization:
    """Join the local speakers of a recording into its speakers and their turns.

    Parameters
    ----------
    local : LocalSpeakers
        Of the whole recording.
    clustering : AgglomerativeParameters, VBxParameters or KMeansParameters
    plda : PLDA, optional
        Needed by VBx only.
    num_speakers, min_speakers, max_speakers : int, optional
        What is known of the number of speakers. What cannot be met is met as nearly as possible,
        with a warning in the result.
    min_duration_off : float
        Pauses of one speaker shorter than this (s) are filled.
    exact_limit : int
        With more embeddings than this to cluster, sub-clusters are clustered in their place
        ("two-level"): memory grows with the square of this number, 0.5 GB for 8,000.
    counting : CountingParameters, optional
        Count speakers by what windows believe; by default by what they decided, as the reference.
    count : (total_frames,) uint8, optional
        Speakers talking at once, where something knows better than the segmentation.

    Raises
    ------
    ConfigError
        If parameters contradict each other, VBx has no PLDA or one for other embeddings, or
        k-means does not know the number of speakers.
    ValueError
        If `local` is only a slice of the recording.
    """
    bounds = speaker_bounds(num_speakers, min_speakers, max_speakers)
    _check(local, clustering, plda, bounds, min_duration_off, exact_limit)
    count = count_speakers(local, counting) if count is None else count
    if not count.any():
        unmet = (f"no speech found, {bounds} speakers asked for",) if bounds.minimum > 1 else ()
        return Diarization(uri=uri, duration=local.duration, warnings=bounds.warnings + unmet)
    if bounds.maximum is not None:
        count = np.minimum(count, bounds.maximum)

    rows, starts, stops = clean_runs(local)
    clean_frames = np.bincount(rows, weights=stops - starts, minlength=len(local.owners))
    enough = clean_frames >= MIN_CLEAN_RATIO * local.grid.num_frames
    kept = np.flatnonzero(enough & usable_rows(local.embeddings))
    clusters = _cluster(local.embeddings[kept], clustering, plda, bounds, exact_limit)
    num_clusters = len(clusters.centroids)
    labels = assign(local.embeddings, local.owners[:, 0], clusters.centroids, clusters.constrained)
    runs, exclusive_runs = reconstruct(local, labels, count, num_clusters, min_duration_off)

    shaped = np.full(len(local.owners), UNASSIGNED)
    shaped[kept] = clusters.labels
    behind = shaped[rows] != UNASSIGNED
    clean = Runs(shaped[rows[behind]], starts[behind], stops[behind])
    names = _names_by_first_turn(runs)
    turns = _turns(runs, names, local)
    speakers = _speakers(names, turns, clusters, shared_frames(runs, clean), local)
    return Diarization(
        uri=uri,
        duration=local.duration,
        turns=turns,
        exclusive_turns=_turns(exclusive_runs, names, local),
        speakers=speakers,
        clustering="two-level" if clusters.two_level else "exact",
        warnings=_warnings(clusters, bounds, len(speakers), len(kept)),
    )


def _check(local, clustering, plda, bounds, min_duration_off, exact_limit) -> None:
    if not local.complete:
        raise ValueError("only a whole recording can be resolved: join its slices first")
    if not min_duration_off >= 0:
        raise ConfigError(f"min_duration_off must not be negative, got {min_duration_off}")
    if exact_limit < 2:
        raise ConfigError(f"exact_limit must be at least 2, got {exact_limit}")
    if isinstance(clustering, VBxParameters):
        if plda is None:
            raise ConfigError("VBx clustering needs a PLDA: give plda=PLDA.load(directory)")
        if plda.dimension != local.dimension:
            raise ConfigError(
                f"the PLDA is for embeddings of dimension {plda.dimension}, these have "
                f"{local.dimension}: take the PLDA that was published with the embedding network"
            )
    if isinstance(clustering, KMeansParameters) and bounds.exact is None:
        raise ConfigError(
            "k-means must know the number of speakers: give num_speakers, "
            "or use agglomerative or VBx clustering"
        )


def _cluster(
    embeddings: np.ndarray,
    clustering: Clustering,
    plda: PLDA | None,
    bounds: SpeakerBounds,
    exact_limit: int,
) -> Clusters:
    bounds = bounds.clamped(max(1, len(embeddings)))
    if isinstance(clustering, AgglomerativeParameters):
        return agglomerate(embeddings, clustering, bounds, exact_limit)
    if isinstance(clustering, VBxParameters):
        return cluster_vbx(embeddings, clustering, plda, bounds, exact_limit)
    return kmeans(embeddings, bounds.minimum)


def _names_by_first_turn(runs: Runs) -> dict[int, str]:
    """Labels of clusters, SPEAKER_00 being heard first; padded so that they sort as text."""
    order = np.lexsort((runs.cluster, runs.start))
    heard = list(dict.fromkeys(runs.cluster[order].tolist()))
    width = max(2, len(str(len(heard) - 1)))
    return {cluster: f"SPEAKER_{number:0{width}d}" for number, cluster in enumerate(heard)}


def _turns(runs: Runs, names: dict[int, str], local: LocalSpeakers) -> tuple[Turn, ...]:
    """Turns, from the middle of the first frame to the middle of the first frame after."""
    starts = local.grid.frame_time(runs.start)
    ends = np.minimum(local.grid.frame_time(runs.stop), local.duration)
    turns = [
        Turn(start, end, names[cluster], confidence)
        for start, end, cluster, confidence in zip(
            starts.tolist(),
            ends.tolist(),
            runs.cluster.tolist(),
            runs.confidence.tolist(),
            strict=True,
        )
    ]
    return tuple(sorted(turns, key=lambda turn: (turn.start, turn.end, turn.speaker)))


def _speakers(
    names: dict[int, str],
    turns: tuple[Turn, ...],
    clusters: Clusters,
    voice_frames: np.ndarray,
    local: LocalSpeakers,
) -> tuple[Speaker, ...]:
    seconds = dict.fromkeys(names.values(), 0.0)
    for turn in turns:
        seconds[turn.speaker] += turn.duration
    sizes = np.bincount(clusters.labels, minlength=len(clusters.centroids)).tolist()
    frame_seconds = local.grid.frame_step / local.grid.sample_rate
    speakers = []
    for cluster, name in names.items():
        known = cluster < len(sizes) and sizes[cluster] > 0
        speakers.append(
            Speaker(
                speaker=name,
                speech_seconds=seconds[name],
                embedding_seconds=int(voice_frames[cluster]) * frame_seconds if known else 0.0,
                num_embeddings=sizes[cluster] if known else 0,
                embedding=clusters.centroids[cluster].astype(np.float32) if known else None,
            )
        )
    return tuple(speakers)


def _warnings(
    clusters: Clusters, bounds: SpeakerBounds, num_speakers: int, num_kept: int
) -> tuple[str, ...]:
    if bounds.minimum <= num_speakers <= (bounds.maximum or num_speakers):
        return bounds.warnings
    message = f"found {num_speakers} speakers, {bounds} asked for"
    if num_kept < bounds.minimum:
        message += f": only {num_kept} local speakers spoke long enough alone to be told apart"
    return (*bounds.warnings, message, *clusters.warnings)
