"""From pairs that resemble each other to people: groups that merge as long as evidence says so.

Rounds, each a few array operations over all pairs of the corpus at once: every group looks for
the one that most speaks for; two that choose each other become one, and voices that choose a
group of some size join it. The mean of a group is then known better, and pairs that said too
little alone are scored anew. Chains break, because a pair is judged by the means of all that the
two groups hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raydiar.voiceprints.evidence import Evidence

_GATHER = 2**13  # pairs whose means are multiplied at a time: they stay in the cache
_SETTLED = 3  # recordings of a group that several others may join in one round
_HOPELESS = 30.0  # nats below what is asked: further recordings hardly make it up
_MOST_AGAINST = 1.5  # times the penalty: pieces of one person gather what was heard apart
_TAKEN_FOR_TWO = 0.05  # share of recordings in which diarization may take one person for two
_ROUNDS = 500


@dataclass
class Groups:
    """Voices that are one person so far.

    Attributes
    ----------
    sums : (num_groups, dimension) float32
        Weighted, of their unit vectors.
    knowledge : (num_groups,) float64
        What is known of each (see `Evidence`).
    sizes : (num_groups,) int64
        Voices.
    """

    sums: np.ndarray
    knowledge: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(
        cls, vectors: np.ndarray, labels: np.ndarray, weights: np.ndarray, knowledge: np.ndarray
    ) -> Groups:
        """
        Parameters
        ----------
        vectors : (num_voices, dimension) float32
            Unit vectors.
        labels : (num_voices,) int64
            Group of each, 0, 1, …; a voice of -1 is of none.
        weights, knowledge : (num_voices,) float
        """
        rows = np.flatnonzero(labels >= 0)
        rows = rows[np.argsort(labels[rows], kind="stable")]
        number = int(labels.max(initial=-1)) + 1
        starts = np.searchsorted(labels[rows], np.arange(number))
        sums = np.empty((number, vectors.shape[1]), np.float32)
        for first in range(0, number, _GATHER):  # parts, so that no second copy of all is made
            last = min(first + _GATHER, number)
            stop = starts[last] if last < number else len(rows)
            some = rows[starts[first] : stop]
            weighted = vectors[some] * weights[some, None].astype(np.float32)
            sums[first:last] = np.add.reduceat(weighted, starts[first:last] - starts[first])
        sizes = np.bincount(labels[rows], minlength=number)
        return cls(sums, np.bincount(labels[rows], knowledge[rows], number), sizes)

    def __len__(self) -> int:
        return len(self.sums)

    def means(self) -> np.ndarray:
        """Unit vectors, (num_groups, dimension) float32."""
        return self.sums / np.linalg.norm(self.sums, axis=1, keepdims=True)

    def cosines(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Of the means of pairs of groups, (num_pairs,) float32."""
        means = self.means()
        found = np.empty(len(first), np.float32)
        for start in range(0, len(first), _GATHER):
            part = slice(start, start + _GATHER)
            found[part] = np.einsum("pd,pd->p", means[first[part]], means[second[part]])
        return found

    def merged(self, targets: np.ndarray) -> Groups:
        """With each group added to its target, and targets numbered anew in their order."""
        order = np.argsort(targets, kind="stable")
        kept, starts = np.unique(targets[order], return_index=True)
        return Groups(
            np.add.reduceat(self.sums[order], starts),
            np.bincount(targets, self.knowledge)[kept],
            np.bincount(targets, self.sizes).astype(np.int64)[kept],
        )


@dataclass(frozen=True)
class Apart:
    """Pairs of voices that were heard apart: two speakers of one recording.

    Attributes
    ----------
    first, second : (num_pairs,) int64
    penalty : float, nats
        What each such pair says against two groups being one person, beyond as many as
        diarization's errors explain.
    """

    first: np.ndarray
    second: np.ndarray
    penalty: float

    @classmethod
    def of(cls, recordings: np.ndarray, penalty: float) -> Apart:
        """
        Parameters
        ----------
        recordings : (num_voices,) int64
            Number of each voice's recording; -1 for a voice that counts for none.
        """
        order = np.argsort(recordings, kind="stable")
        ordered = recordings[order]
        first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for step in range(1, len(order)):
            near = np.flatnonzero((ordered[step:] == ordered[:-step]) & (ordered[step:] >= 0))
            if not len(near):
                break
            first.append(order[near])
            second.append(order[near + step])
        return cls(np.concatenate(first), np.concatenate(second), penalty)

    def counted(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keys of the pairs of groups that were heard apart, rising, and how often."""
        a, b = labels[self.first], labels[self.second]
        differ = (a != b) & (a >= 0) & (b >= 0)
        return np.unique(_keys(a[differ], b[differ]), return_counts=True)


def agglomerate(
    groups: Groups,
    first: np.ndarray,
    second: np.ndarray,
    evidence: Evidence,
    wanted: float | np.ndarray,
    apart: tuple[np.ndarray, np.ndarray, float] | None = None,
    mates: float = 3.0,
    report: Callable[[str], None] = lambda line: None,
) -> np.ndarray:
    """Merge groups as long as there is evidence.

    Parameters
    ----------
    groups : Groups
    first, second : (num_pairs,) int64
        Groups that are looked at.
    evidence : Evidence
    wanted : float or (num_pairs,) float, nats
        Evidence from which on two groups are one person; of several pairs that become one the
        least counts.
    apart : (keys, counts, penalty), optional
        From `Apart.counted`, of these groups.
    mates : float
        Other recordings that a voice has on average, as `wanted` takes it; a group of more is
        asked for less.
    report : callable
        Told in a line how it went.

    Returns
    -------
    labels : (num_groups,) int64
        New groups 0, 1, …, in the order of their first member.
    """
    labels = np.arange(len(groups))
    wanted = np.broadcast_to(np.asarray(wanted, np.float64), first.shape)
    pairs = _Pairs.of(first, second, wanted)
    keys, counts, penalty = apart or (np.empty(0, np.int64), np.empty(0, np.int64), 0.0)
    apart_first, apart_second = keys >> 32, keys & 0xFFFFFFFF
    pairs.score(groups, evidence, mates)
    for rounds in range(_ROUNDS):  # noqa: B007
        pairs.drop(pairs.excess < -_HOPELESS)
        scores = pairs.excess
        if len(keys):
            times = _looked_up(pairs.keys(), keys, counts)
            smaller = np.minimum(groups.sizes[pairs.first], groups.sizes[pairs.second])
            against = penalty * np.maximum(times - _TAKEN_FOR_TWO * smaller, 0)
            few = times <= smaller / 2
            scores = scores - np.where(few, np.minimum(against, _MOST_AGAINST * penalty), against)
        targets = _chosen(len(groups), pairs, scores, groups.sizes, keys)
        moved = targets != np.arange(len(groups))
        if not moved.any():
            break
        kept, renumbered = np.unique(targets, return_inverse=True)
        changed = np.zeros(len(kept), bool)
        changed[renumbered[moved]] = True
        groups = groups.merged(targets)
        labels = renumbered[labels]
        pairs.relabel(renumbered, changed)
        pairs.score(groups, evidence, mates)
        if len(keys):
            a, b = renumbered[apart_first], renumbered[apart_second]
            differ = a != b
            merged = _keys(a[differ], b[differ])
            keys, inverse = np.unique(merged, return_inverse=True)
            counts = np.bincount(inverse.ravel(), counts[differ], len(keys))
            apart_first, apart_second = keys >> 32, keys & 0xFFFFFFFF
    report(f"{len(labels):,} groups are {len(groups):,} after {rounds + 1} rounds")
    return in_order(labels)


@dataclass
class _Pairs:
    """Pairs of groups; `excess` is their evidence less what is wanted, NaN until scored."""

    first: np.ndarray
    second: np.ndarray
    wanted: np.ndarray
    excess: np.ndarray

    @classmethod
    def of(cls, first, second, wanted) -> _Pairs:
        pairs = cls(first, second, wanted, np.full(len(first), np.nan))
        pairs._once()
        return pairs

    def keys(self) -> np.ndarray:
        return _keys(self.first, self.second)

    def score(self, groups: Groups, evidence: Evidence, mates: float) -> None:
        new = np.flatnonzero(np.isnan(self.excess))
        a, b = self.first[new], self.second[new]
        ratios = evidence.log_ratio(groups.cosines(a, b), groups.knowledge[a], groups.knowledge[b])
        # who is heard in many recordings is the likelier in another
        larger = np.maximum(groups.sizes[a], groups.sizes[b])
        self.excess[new] = ratios + np.log((mates + larger - 1) / mates) - self.wanted[new]

    def relabel(self, renumbered: np.ndarray, changed: np.ndarray) -> None:
        self.first, self.second = renumbered[self.first], renumbered[self.second]
        self.excess[changed[self.first] | changed[self.second]] = np.nan
        self.drop(self.first == self.second)
        self._once()

    def drop(self, which: np.ndarray) -> None:
        if which.any():
            self._take(np.flatnonzero(~which))

    def _once(self) -> None:
        order = np.lexsort((self.wanted, self.keys()))
        keys = self.keys()[order]
        self._take(order[np.append(True, keys[1:] != keys[:-1])[: len(keys)]])

    def _take(self, rows: np.ndarray) -> None:
        self.first, self.second = self.first[rows], self.second[rows]
        self.wanted, self.excess = self.wanted[rows], self.excess[rows]


def _chosen(number: int, pairs: _Pairs, scores, sizes, apart: np.ndarray) -> np.ndarray:
    """What each group becomes part of in a round; itself where there is no reason."""
    targets = np.arange(number)
    enough = np.flatnonzero(scores >= 0)
    if not len(enough):
        return targets
    first, second = pairs.first[enough], pairs.second[enough]
    # of equal scores the pair that comes first: results do not depend on chance
    ranks = np.empty(len(enough), np.int64)
    ranks[np.argsort(-scores[enough], kind="stable")] = np.arange(len(enough))
    best = np.full(number, len(enough))
    np.minimum.at(best, first, ranks)
    np.minimum.at(best, second, ranks)
    of_first, of_second = best[first] == ranks, best[second] == ranks
    mutual = of_first & of_second
    targets[np.maximum(first, second)[mutual]] = np.minimum(first, second)[mutual]
    free = np.ones(number, bool)
    free[first[mutual]] = free[second[mutual]] = False
    # those who choose a group that is settled already need not wait for their turn
    joining = np.concatenate([first[of_first & ~mutual], second[of_second & ~mutual]])
    joined = np.concatenate([second[of_first & ~mutual], first[of_second & ~mutual]])
    rank = np.concatenate([ranks[of_first & ~mutual], ranks[of_second & ~mutual]])
    good = free[joining] & (sizes[joined] >= _SETTLED) & (sizes[joined] > sizes[joining])
    # a group that joins another itself cannot be joined in the same round
    moves = np.zeros(number, bool)
    moves[joining[good]] = True
    good &= ~moves[joined]
    joining, joined = joining[good], targets[joined[good]]
    order = np.argsort(rank[good])
    joining, joined = joining[order], joined[order]
    targets[joining] = joined
    if len(apart):  # nor may two that were heard apart come in together
        a, b = apart >> 32, apart & 0xFFFFFFFF
        place = np.full(number, -1)
        place[joining] = np.arange(len(joining))
        clash = (targets[a] == targets[b]) & (place[a] >= 0) & (place[b] >= 0)
        later = np.where(place[a[clash]] > place[b[clash]], a[clash], b[clash])
        targets[later] = later
    return targets


def _keys(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """A number for each pair of groups, whichever comes first."""
    return (np.minimum(first, second) << 32) | np.maximum(first, second)


def _looked_up(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


def in_order(labels: np.ndarray) -> np.ndarray:
    """The same partition with labels 0, 1, … in order of their first member."""
    _, firsts, inverse = np.unique(labels, return_index=True, return_inverse=True)
    ranks = np.empty(len(firsts), np.int64)
    ranks[np.argsort(firsts)] = np.arange(len(firsts))
    return ranks[inverse]
