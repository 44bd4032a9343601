"""Reconstruction: from voices of local speakers to turns on the recording's timeline.

Windows vote, frame by frame, for the voices of their active local speakers; as many voices win as
speakers were counted. The timeline is worked through in blocks: a day holds five million frames,
and frames by voices at once would not fit. Equal votes are broken by posteriors, then by the lower
cluster number (pyannote.audio leaves the order of ties to an unstable sort).
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from raydiar.clustering.assignment import UNASSIGNED
from raydiar.clustering.parameters import CountingParameters
from raydiar.clustering.vectors import pieces
from raydiar.local_speakers import LocalSpeakers
from raydiar.windows import coverage, overlap_sum

BLOCK_FRAMES = 32768  # 9 minutes
BLOCK_WINDOWS = 1024


@dataclass(frozen=True)
class Runs:
    """Uninterrupted stretches of frames of one cluster each.

    Attributes
    ----------
    cluster, start, stop : (num_runs,) int64
        Frames start to stop - 1 of the shared grid.
    confidence : (num_runs,) float64
        Mean posterior over the run, where it was asked for.
    """

    cluster: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    confidence: np.ndarray | None = None


def count_speakers(local: LocalSpeakers, counting: CountingParameters | None = None) -> np.ndarray:
    """Speakers talking at once.

    Frames whose middle lies past the end of the recording count none.

    Parameters
    ----------
    counting : CountingParameters, optional
        By beliefs; otherwise, as the reference does it, the mean over windows of how many were
        decided to speak, rounded half to even.

    Returns
    -------
    count : (total_frames,) uint8
    """
    count = _decided(local) if counting is None else _believed(local, counting)
    count[local.grid.frame_time(np.arange(len(count))) >= local.duration] = 0
    return count


def _decided(local: LocalSpeakers) -> np.ndarray:
    grid = local.grid
    active = np.empty((local.num_windows, grid.num_frames), np.uint16)
    for piece in pieces(local.num_windows, BLOCK_WINDOWS):
        local.active(piece.start, piece.stop).sum(axis=2, out=active[piece])
    total = overlap_sum(active, grid)
    covered = np.maximum(coverage(local.num_windows, grid), 1)
    return np.rint(total / covered.astype(np.float32)).astype(np.uint8)


def _believed(local: LocalSpeakers, counting: CountingParameters) -> np.ndarray:
    """Posteriors of a window add up to how many speak there: up to one, or one and more besides.

    It takes one who may be either of two voices for one, as it should; only where two speak or
    nobody does, and the window cannot say which, is this too high.
    """
    grid = local.grid
    total = grid.total_frames(local.num_windows)
    speech, second, third = (np.zeros(total, np.float32) for _ in range(3))
    for piece in pieces(local.num_windows, BLOCK_WINDOWS):
        expected = local.posteriors[piece].sum(axis=2, dtype=np.uint16)
        offsets = grid.frame_offsets(expected.shape[0], piece.start)
        for window, offset in zip(expected.astype(np.float32) / 255, offsets, strict=True):
            frames = slice(offset, offset + grid.num_frames)
            speech[frames] += np.minimum(window, 1)
            second[frames] += (window - 1).clip(0, 1)
            third[frames] += (window - 2).clip(0)
    covered = np.maximum(coverage(local.num_windows, grid), 1)
    count = (speech > counting.speech * covered).astype(np.uint8)
    count += (count > 0) & (second > counting.overlap * covered)
    count += (count > 1) & (third > counting.overlap * covered)
    return count


def clean_runs(local: LocalSpeakers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches in which a local speaker is the only active one of its window.

    Returns
    -------
    row : (num_runs,) int64
        Index of the local speaker in `local.owners`.
    start, stop : (num_runs,) int64
        Frames of the shared grid.
    """
    row_of = _by_window(local, np.arange(len(local.owners)))
    offsets = local.grid.frame_offsets(local.num_windows)
    found = []
    for piece in pieces(local.num_windows, BLOCK_WINDOWS):
        active = local.active(piece.start, piece.stop)
        clean = active * (active.sum(axis=2, keepdims=True) == 1)
        edges = np.diff(np.moveaxis(clean, 1, 2).astype(np.int8), axis=2, prepend=0, append=0)
        window, speaker, start = np.nonzero(edges == 1)
        stop = np.nonzero(edges == -1)[2]
        window += piece.start
        found.append((row_of[window, speaker], start + offsets[window], stop + offsets[window]))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def shared_frames(some: Runs, others: Runs) -> np.ndarray:
    """Frames of each cluster that lie in runs of both kinds; runs of a kind may overlap.

    Returns
    -------
    lengths : (num_clusters,) int64
    """
    columns = [(runs.cluster, runs.start, runs.stop) for runs in (some, others)]
    columns.append(tuple(np.concatenate(pair) for pair in zip(*columns, strict=True)))
    num_clusters = columns[-1][0].max(initial=-1) + 1
    one, other, either = (_union_lengths(*runs, num_clusters) for runs in columns)
    return one + other - either


def _union_lengths(
    cluster: np.ndarray, start: np.ndarray, stop: np.ndarray, num_clusters: int
) -> np.ndarray:
    apart = cluster * (stop.max(initial=0) + 1)  # every cluster on its own stretch of one line
    order = np.argsort(start + apart)
    start, stop = (start + apart)[order], (stop + apart)[order]
    reached = np.maximum.accumulate(np.concatenate([[0], stop[:-1]]))
    new = np.maximum(stop - np.maximum(start, reached), 0)
    return np.bincount(cluster[order], weights=new, minlength=num_clusters).astype(np.int64)


def reconstruct(
    local: LocalSpeakers,
    labels: np.ndarray,
    count: np.ndarray,
    num_clusters: int,
    min_duration_off: float = 0.0,
) -> tuple[Runs, Runs]:
    """Runs of every cluster, and exclusive runs with one cluster at a time.

    Where more speakers were counted than there are clusters, further ones are made up: the
    segmentation heard several voices even if clustering could not tell them apart.

    Parameters
    ----------
    labels : (num_embeddings,) int64
        Cluster of each local speaker, or UNASSIGNED.
    count : (total_frames,) uint8
    min_duration_off : float
        Pauses of one speaker shorter than this (s) are filled; between exclusive runs only where
        nobody else speaks.
    """
    most = int(count.max(initial=0))
    if most == 0:  # nobody speaks
        nothing = Runs(*np.zeros((3, 0), np.int64), np.zeros(0))
        return nothing, nothing
    label_of = _by_window(local, labels)
    summed = np.zeros(max(num_clusters, most))
    found, found_exclusive = [], []
    for start in range(0, len(count), BLOCK_FRAMES):
        block = count[start : start + BLOCK_FRAMES]
        clusters, ranking, posteriors = _votes(local, label_of, start, start + len(block), most)
        sums = np.cumsum(np.column_stack([summed[clusters], posteriors]), axis=1)
        summed[clusters] = sums[:, -1]

        active = np.zeros(ranking.shape, bool)
        frames = np.arange(len(block))
        for rank in range(most):
            winner = ranking.argmax(axis=0)
            chosen = frames[block > rank]
            active[winner[chosen], chosen] = True
            ranking[winner, frames] = -1
            if rank == 0:
                found_exclusive.append(_block_runs(active, sums, clusters, start))
        found.append(_block_runs(active, sums, clusters, start))
    max_gap = min_duration_off * local.grid.sample_rate / local.grid.frame_step
    return _joined(found, max_gap), _joined(found_exclusive, max_gap, exclusive=True)


def _by_window(local: LocalSpeakers, values: np.ndarray) -> np.ndarray:
    """(num_windows, num_speakers) values of local speakers, UNASSIGNED where inactive."""
    table = np.full((local.num_windows, local.num_speakers), UNASSIGNED, np.int64)
    table[local.owners[:, 0] - local.first_window, local.owners[:, 1]] = values
    return table


def _votes(
    local: LocalSpeakers, label_of: np.ndarray, start: int, stop: int, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the windows say of grid frames `start` to `stop`.

    Returns
    -------
    clusters : (num_clusters,) int64
        Those heard here, and the first `most`, for frames with more speakers than votes.
    ranking : (num_clusters, num_frames) int64
        Higher wins: votes first, then summed posteriors.
    posteriors : (num_clusters, num_frames) float64
        Mean over the windows in which the cluster has a local speaker.
    """
    num_frames = local.grid.num_frames
    offsets = local.grid.frame_offsets(local.num_windows)
    first, last = np.searchsorted(offsets, [start - num_frames + 1, stop])
    label_of = label_of[first:last].copy()
    active = np.ascontiguousarray(np.moveaxis(local.active(first, last), 1, 2))
    posterior = np.ascontiguousarray(np.moveaxis(local.posteriors[first:last], 1, 2))
    for one, other in combinations(range(local.num_speakers), 2):
        # local speakers of one voice vote once
        same = (label_of[:, one] == label_of[:, other]) & (label_of[:, one] != UNASSIGNED)
        active[same, one] |= active[same, other]
        posterior[same, one] = np.maximum(posterior[same, one], posterior[same, other])
        label_of[same, other] = UNASSIGNED

    heard = label_of != UNASSIGNED
    clusters = np.union1d(label_of[heard], np.arange(most))
    # a window's margin on both sides, so that no window has to be clipped
    shape = (len(clusters), stop - start + 2 * num_frames)
    votes, voices, summed = (np.zeros(shape, dtype) for dtype in (np.int16, np.int16, np.int32))
    windows, speakers = np.nonzero(heard)
    rows = np.searchsorted(clusters, label_of[heard])
    begins = offsets[first + windows] - start + num_frames
    for window, speaker, row, begin in zip(
        windows.tolist(), speakers.tolist(), rows.tolist(), begins.tolist(), strict=True
    ):
        frames = slice(begin, begin + num_frames)
        votes[row, frames] += active[window, speaker]
        voices[row, frames] += 1
        summed[row, frames] += posterior[window, speaker]
    inside = slice(num_frames, -num_frames)
    votes, voices, summed = votes[:, inside], voices[:, inside], summed[:, inside]
    ranking = votes * (summed.max(initial=0) + np.int64(1)) + summed
    return clusters, ranking, summed / (255.0 * np.maximum(voices, 1))


def _block_runs(active: np.ndarray, sums: np.ndarray, clusters: np.ndarray, offset: int) -> tuple:
    """Runs of a block, and the running sum of posteriors where each begins and ends."""
    edges = np.diff(active.astype(np.int8), axis=1, prepend=0, append=0)
    row, start = np.nonzero(edges == 1)
    stop = np.nonzero(edges == -1)[1]
    return clusters[row], start + offset, stop + offset, sums[row, start], sums[row, stop]


def _joined(found: list[tuple], max_gap: float, exclusive: bool = False) -> Runs:
    """Runs of all blocks, joined across block borders and across gaps below `max_gap` frames."""
    cluster, start, stop, before, after = (
        np.concatenate(column) for column in zip(*found, strict=True)
    )
    # exclusive runs may be joined only to their neighbour in time
    order = np.argsort(start) if exclusive else np.lexsort((start, cluster))
    cluster, start, stop = cluster[order], start[order], stop[order]
    gap = start[1:] - stop[:-1]
    apart = (cluster[1:] != cluster[:-1]) | ((gap > 0) & (gap >= max_gap))
    first = np.flatnonzero(np.append(True, apart))
    last = np.append(first[1:], len(order)) - 1
    start, stop = start[first], stop[last]
    confidence = (after[order][last] - before[order][first]) / (stop - start)
    return Runs(cluster[first], start, stop, confidence.clip(0.0, 1.0))
