"""From pairs that resemble each other to people: components, and what to merge within them.

Links form chains: A resembles B, B resembles C, but A does not resemble C. Within each component
voices are therefore merged by average linkage, the best pair first, as long as the mean cosine
between two groups is above the threshold; and two speakers of one recording are two people,
because diarization heard them apart.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raydiar.voiceprints.mutual import Mutual

_CLOSER = 0.1  # in mean cosine, than any group that a voice may join: then it joins none
_DENSE = 256  # voices of a component up to which all pairs are looked at, linked or not


def components(num_voices: int, links: Mutual) -> np.ndarray:
    """Label of the component of each voice, (num_voices,) int64, in order of their first voice."""
    graph = coo_array(
        (np.ones(len(links), bool), (links.first, links.second)), shape=(num_voices, num_voices)
    )
    return _in_order(connected_components(graph, directed=False)[1])


def cut_large(
    num_voices: int, links: Mutual, max_size: int, report: Callable[[str], None]
) -> tuple[np.ndarray, Mutual]:
    """Components of at most `max_size` voices, and the links that are left within them.

    A component that is too large loses its weakest links, half of them each time, until its
    parts are small enough: a guard against chains through a whole corpus.
    """
    labels = components(num_voices, links)
    while True:
        sizes = np.bincount(labels)
        inside = sizes[labels[links.first]] > max_size
        if not inside.any():
            return labels, links
        owner = labels[links.first]
        keep = ~inside
        for label in np.unique(owner[inside]):
            own = np.flatnonzero(owner == label)
            strongest = own[np.argsort(-links.scores[own], kind="stable")[: len(own) // 2]]
            keep[strongest] = True
            weakest = links.scores[strongest].min(initial=1)
            report(f"{sizes[label]:,} voices hang together: cut at a score of {weakest:.3f}")
        links = Mutual(links.first[keep], links.second[keep], links.scores[keep], links.recall)
        labels = components(num_voices, links)


def refine(
    vectors: np.ndarray,
    recordings: np.ndarray | None,
    links: Mutual,
    threshold: float,
    max_size: int = 100_000,
    report: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Split what hangs together into people.

    Parameters
    ----------
    vectors : (num_voices, dimension) float32
        Unit vectors.
    recordings : (num_voices,) int64 or None
        Whose voices are different people where they are equal; None: no such rule.
    links : Mutual
    threshold : float
        Mean cosine between two groups down to which they are one person.
    max_size : int
        Voices of a component that are merged at once. Parts of a larger one are merged first,
        and their people then, which are fewer.
    report : callable
        Told in lines which components are cut.

    Returns
    -------
    people : (num_voices,) int64
        Labels in order of their first voice.
    """
    labels, inner = cut_large(len(vectors), links, max_size, report)
    people = _within(vectors, recordings, inner, labels, threshold)
    if len(inner) < len(links):
        people = _across(vectors, recordings, links, people, threshold)
    return _in_order(people)


def _within(vectors, recordings, links: Mutual, labels, threshold) -> np.ndarray:
    """The first voice of each voice's person, component by component."""
    people = np.arange(len(vectors))
    by_label = np.argsort(labels, kind="stable")
    bounds = np.append(0, np.cumsum(np.bincount(labels)))
    owner = labels[links.first]
    by_owner = np.argsort(owner, kind="stable")
    edges = np.searchsorted(owner[by_owner], np.arange(len(bounds)))
    for label in np.flatnonzero(np.diff(bounds) > 1):
        rows = by_label[bounds[label] : bounds[label + 1]]
        own = None if recordings is None else recordings[rows]
        if len(rows) <= _DENSE:
            scores = vectors[rows] @ vectors[rows].T
            if scores.min() >= threshold and (own is None or len(np.unique(own)) == len(own)):
                people[rows] = rows[0]  # merging in any order ends in one person
                continue
            first, second = np.nonzero(np.triu(scores >= threshold, 1))
        else:
            some = by_owner[edges[label] : edges[label + 1]]
            first = np.searchsorted(rows, links.first[some])
            second = np.searchsorted(rows, links.second[some])
        heard = None if own is None else [{recording} for recording in own.tolist()]
        groups = Groups(vectors[rows].astype(np.float64), np.ones(len(rows)), heard)
        people[rows] = rows[average_linkage(groups, first, second, threshold)]
    return people


def _across(vectors, recordings, links: Mutual, people, threshold) -> np.ndarray:
    """Merge people of different parts of a component, whom links between the parts join."""
    people = _in_order(people)
    pairs = np.stack([people[links.first], people[links.second]], axis=1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    groups = Groups.of(vectors, recordings, people)
    means = groups.sums / groups.sizes[:, None]
    close = np.einsum("pd,pd->p", means[pairs[:, 0]], means[pairs[:, 1]]) >= threshold
    return average_linkage(groups, *pairs[close].T, threshold)[people]


@dataclass(frozen=True)
class Groups:
    """Voices that are one person so far; changed in place by merging.

    Attributes
    ----------
    sums : (num_groups, dimension) float64
        Of their unit vectors.
    sizes : (num_groups,) float64
        Voices.
    heard : list of set, or None
        Recordings; None where one person may be two speakers of a recording.
    """

    sums: np.ndarray
    sizes: np.ndarray
    heard: list[set[int]] | None

    @classmethod
    def of(cls, vectors: np.ndarray, recordings: np.ndarray | None, people: np.ndarray) -> Groups:
        """Groups of voices by their labels 0, 1, …."""
        order = np.argsort(people, kind="stable")
        sizes = np.bincount(people)
        starts = np.append(0, np.cumsum(sizes))
        sums = np.empty((len(sizes), vectors.shape[1]))
        for person, (start, stop) in enumerate(pairwise(starts)):
            sums[person] = vectors[order[start:stop]].sum(axis=0, dtype=np.float64)
        heard = None
        if recordings is not None:
            ordered = recordings[order].tolist()
            heard = [set(ordered[start:stop]) for start, stop in pairwise(starts)]
        return cls(sums, sizes.astype(float), heard)


def average_linkage(
    groups: Groups, first: np.ndarray, second: np.ndarray, threshold: float
) -> np.ndarray:
    """Merge the two groups with the highest mean cosine until it falls below the threshold.

    The mean over all pairs of two groups is the product of their sums, so that nothing of size
    n² is needed. Groups that no pair links are not merged; average linkage never brings two
    groups closer than their parts were, so that a pair once dropped stays so.

    A group that may not join the one it is by far closest to, because of a recording that both
    are heard in, joins no other: it is most often a voice that diarization took for two.

    Parameters
    ----------
    groups : Groups
        Changed.
    first, second : (num_pairs,) int64
        Pairs of groups that may be merged at first.
    threshold : float

    Returns
    -------
    merged : (num_groups,) int64
        The smallest group that each has become one with.
    """
    sums, sizes, heard = groups.sums, groups.sizes, groups.heard
    merged = np.arange(len(sizes))
    ages = [0] * len(sizes)
    near: list[set[int]] = [set() for _ in range(len(sizes))]
    barred: list[dict[int, float]] = [{} for _ in range(len(sizes))]
    heap: list[tuple[float, int, int, int, int]] = []

    def link(a: int, others: Iterable[int]) -> None:
        others = sorted(others)
        scores = sums[others] @ sums[a] / (sizes[others] * sizes[a])
        for b, score in zip(others, scores.tolist(), strict=True):
            if score >= threshold:
                near[a].add(b)
                near[b].add(a)
                if heard is None or heard[a].isdisjoint(heard[b]):
                    low, high = min(a, b), max(a, b)
                    heapq.heappush(heap, (-score, low, high, ages[low], ages[high]))
                else:
                    barred[a][b] = barred[b][a] = score

    for a, others in _by_first(first, second):
        link(a, others)
    while heap:
        score, a, b, age_a, age_b = heapq.heappop(heap)
        if (age_a, age_b) != (ages[a], ages[b]):
            continue
        if -score < max([*barred[a].values(), *barred[b].values()], default=-1) - _CLOSER:
            continue
        sums[a] += sums[b]
        sizes[a] += sizes[b]
        if heard is not None:
            heard[a] |= heard[b]
        merged[b] = a
        ages[a] += 1
        ages[b] = -1
        around = (near[a] | near[b]) - {a, b}
        near[a] = set()
        for other in around:
            near[other] -= {a, b}
            barred[other].pop(a, None)
            barred[other].pop(b, None)
        barred[a].clear()
        link(a, around)
    for n in range(len(merged)):  # what a group became one with is smaller: resolved before it
        merged[n] = merged[merged[n]]
    return merged


def _by_first(first: np.ndarray, second: np.ndarray):
    order = np.argsort(first, kind="stable")
    first, second = first[order], second[order]
    starts = np.flatnonzero(np.append(True, first[1:] != first[:-1]))[: len(first)]
    for start, stop in zip(starts, np.append(starts[1:], len(first)), strict=True):
        yield int(first[start]), second[start:stop].tolist()


def _in_order(labels: np.ndarray) -> np.ndarray:
    """The same partition with labels 0, 1, … in order of their first member."""
    _, firsts, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    return ranks[inverse]
