"""From pairs that resemble each other to people: components, and what to merge within them.

Links form chains: A resembles B, B resembles C, but A does not resemble C. Within each component
voices are therefore merged by average linkage, the best pair first, as long as the mean cosine
between two groups is above the threshold; and two speakers of one recording are two people,
because diarization heard them apart.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raydiar.voiceprints.mutual import Mutual

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
    labels: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Split components into people.

    Parameters
    ----------
    vectors : (num_voices, dimension) float32
        Unit vectors.
    recordings : (num_voices,) int64 or None
        Whose voices are different people where they are equal; None: no such rule.
    links : Mutual
        Within the components.
    labels : (num_voices,) int64
        Components.
    threshold : float
        Mean cosine between two groups down to which they are one person.

    Returns
    -------
    people : (num_voices,) int64
        Labels in order of their first voice.
    """
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
        people[rows] = rows[average_linkage(vectors[rows], own, first, second, threshold)]
    return _in_order(people)


def average_linkage(
    vectors: np.ndarray,
    recordings: np.ndarray | None,
    first: np.ndarray,
    second: np.ndarray,
    threshold: float,
) -> np.ndarray:
    """Merge the two groups with the highest mean cosine until it falls below the threshold.

    The mean over all pairs of two groups is the product of their sums, so that nothing of size
    n² is needed. Groups that no pair links are not merged; average linkage never brings two
    groups closer than their parts were, so that a pair once dropped stays so.

    Parameters
    ----------
    vectors : (num_voices, dimension) float32
    recordings : (num_voices,) int64 or None
    first, second : (num_pairs,) int64
        Pairs that may be merged at first.

    Returns
    -------
    groups : (num_voices,) int64
        The first voice of each voice's group.
    """
    sums = vectors.astype(np.float64)
    sizes = np.ones(len(vectors))
    groups = np.arange(len(vectors))
    ages = [0] * len(vectors)
    near: list[set[int]] = [set() for _ in range(len(vectors))]
    heard = [set() if recordings is None else {recordings[n]} for n in range(len(vectors))]
    heap: list[tuple[float, int, int, int, int]] = []

    def link(a: int, others: list[int]) -> None:
        others = sorted(b for b in others if heard[a].isdisjoint(heard[b]))
        scores = sums[others] @ sums[a] / (sizes[others] * sizes[a])
        near[a] = set()
        for b, score in zip(others, scores.tolist(), strict=True):
            if score >= threshold:
                near[a].add(b)
                near[b].add(a)
                low, high = min(a, b), max(a, b)
                heapq.heappush(heap, (-score, low, high, ages[low], ages[high]))

    for a, others in _by_first(first, second):
        before = near[a]
        link(a, others)
        near[a] |= before
    while heap:
        _, a, b, age_a, age_b = heapq.heappop(heap)
        if (age_a, age_b) != (ages[a], ages[b]):
            continue
        sums[a] += sums[b]
        sizes[a] += sizes[b]
        heard[a] |= heard[b]
        groups[b] = a
        ages[a] += 1
        ages[b] = -1
        around = (near[a] | near[b]) - {a, b}
        for other in around:
            near[other] -= {a, b}
        link(a, list(around))
    for n in range(len(groups)):  # a group's number is its smallest voice, so it is resolved
        groups[n] = groups[groups[n]]
    return groups


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
