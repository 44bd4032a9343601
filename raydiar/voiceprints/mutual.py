"""Who resembles whom among all voiceprints: the mutual neighbours that linking starts from.

Only pairs above a threshold matter, so nothing of size n² is ever held: blocks of scores are
matrix products that stay in the processor's cache, and what passes is kept, k of each voice at
most. Beyond some 200,000 voices a CPU compares each with those in the lists nearest to it, list
by list, so that this is a matrix product too; a pair is found from either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from raydiar.voiceprints.segments import has_gpu, knn

EXACT_LIMIT = 200_000
"""Voices up to which a CPU compares every pair."""

PROBES = 128
"""Lists that each voice is compared with, of about 2 √n."""

_ROWS = 2048  # of a block of scores: 8 MB with as many columns
_FRESH = 4_000_000  # pairs that may pile up before all but the best are dropped
_QUERIES = 65_536  # whose lists are known at a time
_SAMPLE = 1000  # voices whose neighbours are sought exactly to know the recall


@dataclass(frozen=True)
class Mutual:
    """Pairs of voices that are each among the k nearest of the other.

    Attributes
    ----------
    first, second : (num_pairs,) int64
        Rows; `first` < `second`, in rising order.
    scores : (num_pairs,) float32
        Cosines.
    recall : float or None
        Share of the pairs that a search of everything finds, of a sample; None where everything
        was searched.
    """

    first: np.ndarray = field(repr=False)
    second: np.ndarray = field(repr=False)
    scores: np.ndarray = field(repr=False)
    recall: float | None = None

    def __len__(self) -> int:
        return len(self.first)


def mutual_neighbors(
    vectors: np.ndarray,
    threshold: float,
    k: int = 50,
    *,
    exact: bool | None = None,
    probes: int = PROBES,
    report: Callable[[str], None] = lambda line: None,
) -> Mutual:
    """Pairs with a cosine of at least `threshold`, each among the k nearest of the other.

    Parameters
    ----------
    vectors : (num_voices, dimension) float32
        Unit vectors.
    threshold : float
    k : int
    exact : bool, optional
        Compare every pair. By default up to `EXACT_LIMIT` voices, and on a GPU.
    probes : int
        Lists that each voice is compared with where not.
    report : callable
        Told in lines what is done.
    """
    num_voices = len(vectors)
    if exact is None:
        exact = has_gpu() or num_voices <= EXACT_LIMIT
    if exact and has_gpu():
        found = _with_gpu(vectors, threshold, k)
        label = "every pair on the GPU"
    elif exact:
        tasks = _every_pair(num_voices)
        found = _in_threads(vectors, tasks, threshold)
        label = "every pair"
    else:
        num_lists = _num_lists(num_voices)
        probes = min(probes, num_lists)
        vectors, order, tasks = _by_lists(vectors, num_lists, probes)
        found = ((order[i], order[j], s) for i, j, s in _in_threads(vectors, tasks, threshold))
        label = f"each with the {probes} nearest of {num_lists} lists"
    report(f"comparing {num_voices:,} voices, {label}")
    first, second, scores = _collect(found, num_voices, k)
    recall = None
    if not exact:
        unsorted = np.empty_like(order)
        unsorted[order] = np.arange(num_voices)
        recall = _recall(vectors, unsorted[first], unsorted[second], threshold, k)
    return Mutual(first, second, scores, recall)


# -- what is compared with what ----------------------------------------------------------------


def _every_pair(num_voices: int) -> Iterator[tuple]:
    starts = range(0, num_voices, _ROWS)
    for a in starts:
        for b in range(a, num_voices, _ROWS):
            yield slice(a, min(a + _ROWS, num_voices)), slice(b, min(b + _ROWS, num_voices))


def _num_lists(num_voices: int) -> int:
    return max(1, 2 ** round(np.log2(2 * np.sqrt(num_voices))))


def _by_lists(vectors, num_lists, probes):
    """Vectors in the order of their lists, that order, and (queries, members) to compare."""
    dimension = vectors.shape[1]
    means = faiss.Kmeans(
        dimension, num_lists, niter=8, spherical=True, seed=1, max_points_per_centroid=64
    )
    means.train(vectors)
    lists = means.index.search(vectors, 1)[1][:, 0]
    order = np.argsort(lists, kind="stable")
    ends = np.searchsorted(lists[order], np.arange(num_lists + 1))
    vectors = vectors[order]

    def tasks():
        for start in range(0, len(vectors), _QUERIES):
            visited = means.index.search(vectors[start : start + _QUERIES], probes)[1]
            by_list = np.argsort(visited, axis=None, kind="stable")
            bounds = np.searchsorted(visited.ravel()[by_list], np.arange(num_lists + 1))
            for number in range(num_lists):
                members = slice(ends[number], ends[number + 1])
                queries = start + by_list[bounds[number] : bounds[number + 1]] // probes
                for part in range(0, len(queries), _ROWS):
                    yield queries[part : part + _ROWS], members

    return vectors, order, tasks()


def _in_threads(vectors, tasks: Iterable, threshold) -> Iterator[tuple]:
    """Pairs above the threshold, task by task, in their order."""
    num_threads = faiss.omp_get_max_threads()

    def above(task):
        rows, columns = task
        scores = vectors[rows] @ vectors[columns].T
        # most rows have nothing: looking for their maxima first halves the time
        some = np.flatnonzero(scores.max(axis=1, initial=-1) >= threshold)
        i, j = np.nonzero(scores[some] >= threshold)
        i = some[i]
        found = scores[i, j]
        i = i + rows.start if isinstance(rows, slice) else rows[i]
        return i, j + columns.start, found

    tasks = iter(tasks)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(num_threads) as threads:
        while some := list(islice(tasks, 64 * num_threads)):
            yield from threads.map(above, some)


def _with_gpu(vectors, threshold, k) -> Iterator[tuple]:
    for start in range(0, len(vectors), _QUERIES):
        scores, found = knn(vectors[start : start + _QUERIES], vectors, min(k + 1, len(vectors)))
        i, place = np.nonzero(scores >= threshold)
        yield start + i, found[i, place], scores[i, place]


# -- what is kept ------------------------------------------------------------------------------


def _collect(found: Iterable[tuple], num_voices: int, k: int):
    """Pairs once each, those that are among the k best of both; in rising order."""
    kept = (np.empty(0, np.int64), np.empty(0, np.float32))
    fresh, number = [], 0
    for i, j, scores in found:
        apart = i != j
        i, j = i[apart].astype(np.int64), j[apart].astype(np.int64)
        fresh.append((_keys(i, j, num_voices), scores[apart]))
        number += len(i)
        # what is among the k best of neither so far never will be: memory is bounded by n k
        if number > len(kept[0]) + _FRESH:
            kept, fresh, number = _nearest(kept, fresh, num_voices, k, of=1), [], 0
    keys, scores = _nearest(kept, fresh, num_voices, k, of=2)
    return keys // num_voices, keys % num_voices, scores


def _keys(first: np.ndarray, second: np.ndarray, num_voices: int) -> np.ndarray:
    """A number for each pair, whichever voice comes first."""
    return np.minimum(first, second) * num_voices + np.maximum(first, second)


def _nearest(kept, fresh, num_voices: int, k: int, of: int):
    """Pairs once each, that are among the k nearest of one or of both their voices."""
    keys = np.concatenate([kept[0], *(keys for keys, _ in fresh)])
    scores = np.concatenate([kept[1], *(scores for _, scores in fresh)])
    keys, once = np.unique(keys, return_index=True)
    scores = scores[once]
    first, second = np.divmod(keys, num_voices)
    degrees = np.bincount(first, minlength=num_voices) + np.bincount(second, minlength=num_voices)
    if degrees.max(initial=0) <= k:
        return keys, scores
    near = np.full(len(keys), 2)
    crowded = np.flatnonzero((degrees[first] > k) | (degrees[second] > k))
    rows = np.concatenate([first[crowded], second[crowded]])
    others = np.concatenate([second[crowded], first[crowded]])
    order = np.lexsort((others, -np.tile(scores[crowded], 2), rows))
    starts = np.searchsorted(rows[order], rows[order])
    too_far = (np.arange(len(order)) - starts >= k) & (degrees[rows[order]] > k)
    np.subtract.at(near, np.tile(crowded, 2)[order[too_far]], 1)
    return keys[near >= of], scores[near >= of]


def _recall(vectors, first, second, threshold, k) -> float:
    """Share of a sample's k nearest above the threshold that are among the pairs."""
    num_voices = len(vectors)
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(num_voices, min(_SAMPLE, num_voices), replace=False))
    scores, nearest = knn(vectors[sample], vectors, min(k + 1, num_voices))
    place, column = np.nonzero((scores >= threshold) & (nearest != sample[:, None]))
    i, j = sample[place], nearest[place, column]
    wanted = _keys(i, j, num_voices)
    return float(np.isin(wanted, _keys(first, second, num_voices)).mean()) if len(wanted) else 1.0
