"""Who resembles whom among all voices: the graph that linking starts from.

Only pairs above a floor matter, so nothing of size n² is ever held: blocks of scores are matrix
products that stay in the processor's cache, and of each block a voice keeps its k best at most.
Beyond some 200,000 voices a CPU compares each with those in the lists nearest to it, list by
list, so that this is a matrix product too; a pair is found from either side.
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

PROBED = 0.03
"""Share of the lists that each voice is compared with, of about 2 √n lists."""

MIN_PROBES = 32

_ROWS = 2048  # of a block of scores: 16 MB with as many columns
_FRESH = 4_000_000  # pairs that may pile up before all but the best are dropped
_QUERIES = 65_536  # whose lists are known at a time
_SAMPLE = 1000  # voices whose neighbours are sought exactly to know the recall


@dataclass(frozen=True)
class Neighbors:
    """Pairs of voices of which one is among the k nearest of the other.

    Attributes
    ----------
    first, second : (num_pairs,) int64
        Rows; `first` < `second`, in rising order.
    scores : (num_pairs,) float32
        Cosines.
    recall : float or None
        Of a sample's pairs, as a comparison with everything finds them, the share that is here;
        None where everything was compared.
    """

    first: np.ndarray = field(repr=False)
    second: np.ndarray = field(repr=False)
    scores: np.ndarray = field(repr=False)
    recall: float | None = None

    def __len__(self) -> int:
        return len(self.first)

    def where(self, chosen: np.ndarray) -> Neighbors:
        """Some of the pairs, by (num_pairs,) bool."""
        return Neighbors(self.first[chosen], self.second[chosen], self.scores[chosen], self.recall)


def neighbors(
    vectors: np.ndarray,
    floor: float,
    k: int = 50,
    *,
    among: np.ndarray | None = None,
    exact: bool | None = None,
    probes: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Neighbors:
    """Pairs with a cosine of at least `floor`, one among the k nearest of the other.

    Parameters
    ----------
    vectors : (num_voices, dimension) float32
        Unit vectors.
    floor : float
    k : int
    among : (num_others,) int64, optional
        Rising rows: each voice is compared with these only, by default with all.
    exact : bool, optional
        Compare every pair. By default up to `EXACT_LIMIT` voices, and on a GPU.
    probes : int, optional
        Lists that each voice is compared with where not; by default `PROBED` of them, and
        `MIN_PROBES` at least.
    report : callable
        Told in lines what is done.
    """
    num_voices = len(vectors)
    others = vectors if among is None else vectors[among]
    if exact is None:
        exact = has_gpu() or num_voices * len(others) <= EXACT_LIMIT**2
    if exact and has_gpu():
        found = _with_gpu(vectors, others, floor, k)
        label = "all on the GPU"
    elif exact:
        tasks = _every_pair(num_voices) if among is None else _with_all(num_voices, len(others))
        found = _in_threads(vectors, others, tasks, floor, k)
        label = "all"
    else:
        lists = Lists.of(others, probes)
        tasks = (t for n in range(lists.num_blocks(vectors)) for t in lists.tasks(vectors, n))
        found = lists.rows(_in_threads(vectors, lists.vectors, tasks, floor, k))
        label = f"those in the {lists.probes} nearest of {lists.num_lists} lists"
    if among is not None:
        found = ((i, among[j], scores) for i, j, scores in found)
    report(f"comparing {num_voices:,} voices with {len(others):,}: {label}")
    first, second, scores = keep_nearest(found, num_voices, k, among is not None)
    recall = None if exact else _recall(vectors, among, first, second, floor, k)
    return Neighbors(first, second, scores, recall)


# -- what is compared with what ----------------------------------------------------------------


def _every_pair(num_voices: int) -> Iterator[tuple]:
    starts = range(0, num_voices, _ROWS)
    for a in starts:
        for b in range(a, num_voices, _ROWS):
            yield slice(a, min(a + _ROWS, num_voices)), slice(b, min(b + _ROWS, num_voices)), True


def _with_all(num_voices: int, num_others: int) -> Iterator[tuple]:
    for a in range(0, num_voices, _ROWS):
        for b in range(0, num_others, _ROWS):
            yield slice(a, min(a + _ROWS, num_voices)), slice(b, min(b + _ROWS, num_others)), False


@dataclass(frozen=True)
class Lists:
    """Voices in the order of the lists that k-means put them into.

    Attributes
    ----------
    vectors : (num_voices, dimension) float32
        In that order.
    order : (num_voices,) int64
        The row of each before.
    ends : (num_lists + 1,) int64
        Where each list begins and ends.
    centroids : (num_lists, dimension) float32
    probes : int
        Lists that a voice is compared with.
    """

    vectors: np.ndarray = field(repr=False)
    order: np.ndarray = field(repr=False)
    ends: np.ndarray = field(repr=False)
    centroids: np.ndarray = field(repr=False)
    probes: int

    @classmethod
    def of(cls, vectors: np.ndarray, probes: int | None = None) -> Lists:
        num_lists = max(1, 2 ** round(np.log2(2 * np.sqrt(len(vectors)))))
        if probes is None:
            probes = max(MIN_PROBES, round(PROBED * num_lists))
        means = faiss.Kmeans(
            vectors.shape[1], num_lists, niter=6, spherical=True, seed=1, max_points_per_centroid=64
        )
        means.train(vectors)
        lists = means.index.search(vectors, 1)[1][:, 0]
        order = np.argsort(lists, kind="stable")
        ends = np.searchsorted(lists[order], np.arange(num_lists + 1))
        return cls(vectors[order], order, ends, means.centroids, min(probes, num_lists))

    @property
    def num_lists(self) -> int:
        return len(self.ends) - 1

    def num_blocks(self, queries: np.ndarray) -> int:
        return -(-len(queries) // _QUERIES)

    def tasks(self, queries: np.ndarray, number: int) -> Iterator[tuple]:
        """(rows of `queries`, members of `vectors`) to compare, of one block of the queries."""
        start = number * _QUERIES
        visited = faiss.knn(
            queries[start : start + _QUERIES],
            self.centroids,
            self.probes,
            metric=faiss.METRIC_INNER_PRODUCT,
        )[1]
        by_list = np.argsort(visited, axis=None, kind="stable")
        bounds = np.searchsorted(visited.ravel()[by_list], np.arange(self.num_lists + 1))
        for one in range(self.num_lists):
            members = slice(int(self.ends[one]), int(self.ends[one + 1]))
            rows = start + by_list[bounds[one] : bounds[one + 1]] // self.probes
            for part in range(0, len(rows), _ROWS):
                yield rows[part : part + _ROWS], members, False

    def rows(self, found: Iterable[tuple]) -> Iterator[tuple]:
        """Pairs of a query and a place in `vectors`, by the row of before."""
        for i, j, scores in found:
            yield i, self.order[j], scores


def _in_threads(vectors, others, tasks: Iterable, floor: float, k: int) -> Iterator[tuple]:
    """Pairs above the floor, k of a row at most, task by task, in their order."""
    num_threads = faiss.omp_get_max_threads()
    # what a voice's k best of one block reach, the k best of all do: the less is passed on the
    # more has been seen, and what is kept in the end is the same in whichever order
    least = np.full(len(vectors), floor, np.float32)

    def above(task):
        rows, columns, both = task
        scores = vectors[rows] @ others[columns].T
        i, j = best_of_rows(scores, least, rows, k + 1)  # itself is one
        found = scores[i, j]
        if both and rows != columns:  # and k of a column
            b, a = best_of_rows(scores.T, least, columns, k + 1)
            i, j = np.concatenate([i, a]), np.concatenate([j, b])
            found = np.concatenate([found, scores[a, b]])
        i = i + rows.start if isinstance(rows, slice) else rows[i]
        return i, j + columns.start, found

    tasks = iter(tasks)
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(num_threads) as threads:
        while some := list(islice(tasks, 64 * num_threads)):
            yield from threads.map(above, some)


def best_of_rows(
    scores: np.ndarray, least: np.ndarray, rows: np.ndarray | slice, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the k best of each row of a block that reach what is asked of the row.

    One person's thousands of recordings all resemble each other: without a limit, such a block
    would give as many pairs as it has cells.

    Parameters
    ----------
    scores : (num_rows, num_columns) float32
    least : (num_voices,) float32
        Least score of each voice; raised where a row has k better.
    rows : array or slice
        Voices of the block's rows.
    k : int
    """
    asked = least[rows]
    # most rows have nothing: looking for their maxima first halves the time
    some = np.flatnonzero(scores.max(axis=1, initial=-1) >= asked)
    scores, asked = scores[some], asked[some]
    reach = scores >= asked[:, None]
    crowded = np.flatnonzero(reach.sum(axis=1) > k)
    if len(crowded):
        bound = np.partition(scores[crowded], -k, axis=1)[:, -k]
        voices = (np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)[some]
        least[voices[crowded]] = np.maximum(bound, asked[crowded])
        reach[crowded] = scores[crowded] >= bound[:, None]
    i, j = np.nonzero(reach)
    return some[i], j


def _with_gpu(vectors, others, floor, k) -> Iterator[tuple]:
    for start in range(0, len(vectors), _QUERIES):
        scores, found = knn(vectors[start : start + _QUERIES], others, min(k + 1, len(others)))
        i, place = np.nonzero(scores >= floor)
        yield start + i, found[i, place], scores[i, place]


# -- what is kept ------------------------------------------------------------------------------


def keep_nearest(found: Iterable[tuple], num_voices: int, k: int, one_side: bool = False):
    """Pairs once each, those that are among the k best of one of the two; in rising order.

    Parameters
    ----------
    found : iterable of (first, second, scores)
    num_voices, k : int
    one_side : bool
        Only those among the k best of the first.
    """
    key = _directed if one_side else _keys
    kept = (np.empty(0, np.int64), np.empty(0, np.float32))
    fresh, number = [], 0
    for i, j, scores in found:
        apart = i != j
        i, j = i[apart].astype(np.int64), j[apart].astype(np.int64)
        fresh.append((key(i, j, num_voices), scores[apart]))
        number += len(i)
        # what is among the k best of neither so far never will be: memory is bounded by n k
        if number > len(kept[0]) + _FRESH:
            kept, fresh, number = _nearest(kept, fresh, num_voices, k, one_side), [], 0
    keys, scores = _nearest(kept, fresh, num_voices, k, one_side)
    if one_side:
        keys, once = np.unique(_keys(*np.divmod(keys, num_voices), num_voices), return_index=True)
        scores = scores[once]
    return keys // num_voices, keys % num_voices, scores


def _keys(first: np.ndarray, second: np.ndarray, num_voices: int) -> np.ndarray:
    """A number for each pair, whichever voice comes first."""
    return np.minimum(first, second) * num_voices + np.maximum(first, second)


def _directed(first: np.ndarray, second: np.ndarray, num_voices: int) -> np.ndarray:
    return first * num_voices + second


def _nearest(kept, fresh, num_voices: int, k: int, one_side: bool):
    """Pairs once each, that are among the k nearest of one of their voices."""
    keys = np.concatenate([kept[0], *(keys for keys, _ in fresh)])
    scores = np.concatenate([kept[1], *(scores for _, scores in fresh)])
    keys, once = np.unique(keys, return_index=True)
    scores = scores[once]
    first, second = np.divmod(keys, num_voices)
    sides = [(first, second)] if one_side else [(first, second), (second, first)]
    degrees = sum(np.bincount(own, minlength=num_voices) for own, _ in sides)
    if degrees.max(initial=0) <= k:
        return keys, scores
    near = np.zeros(len(keys), np.int8)
    for own, _ in sides:
        near += degrees[own] <= k
    crowded = [np.flatnonzero(degrees[own] > k) for own, _ in sides]
    which = np.concatenate(crowded)
    rows = np.concatenate([side[0][some] for side, some in zip(sides, crowded, strict=True)])
    others = np.concatenate([side[1][some] for side, some in zip(sides, crowded, strict=True)])
    order = np.lexsort((others, -scores[which], rows))
    starts = np.searchsorted(rows[order], rows[order])
    np.add.at(near, which[order], np.arange(len(order)) - starts < k)
    return keys[near > 0], scores[near > 0]


def _recall(vectors, among, first, second, floor, k: int) -> float:
    """Of the pairs that a comparison with everything finds for a sample, the share found."""
    number = len(vectors)
    rng = np.random.default_rng(0)
    sample = np.sort(rng.choice(number, min(_SAMPLE, number), replace=False))
    others = vectors if among is None else vectors[among]
    scores, nearest = knn(vectors[sample], others, min(k + 1, len(others)))
    place, column = np.nonzero(scores >= floor)
    i, j = sample[place], nearest[place, column]
    j = j if among is None else among[j]
    wanted = _keys(i[i != j], j[i != j], number)
    return float(np.isin(wanted, _keys(first, second, number)).mean()) if len(wanted) else 1.0
