"""Linker: from voices to people, in the steps that docs/voiceprints.md tells of.

It takes arrays, whatever they are from. All that is asked follows from one number, the evidence
that links two groups (see `evidence`), which is measured anew after each step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from raydiar.voiceprints.agglomeration import Apart, Groups, agglomerate, in_order
from raydiar.voiceprints.evidence import LONG, Evidence
from raydiar.voiceprints.hubs import doubled_people, hub_voices
from raydiar.voiceprints.linking_parameters import LinkingParameters
from raydiar.voiceprints.neighbors import Neighbors, neighbors
from raydiar.voiceprints.reposts import reposts

_PASSES = 4  # comparisons of means, each after the merging of the last
_CENTERED = 500  # people from whom on their mean is taken off
_SHOWN = 10  # recordings of a person that a search shows
_DRAWN = 100_000  # pairs that strangers are measured from
_HEARD_APART = 8.0  # nats that speak against it if both were heard in one recording
_SLACK = 0.1  # in cosine, below what links two voices: their means may come closer


class Linker:
    """Links voices, whatever holds them.

    Parameters
    ----------
    vectors : (num_voices, dimension) float32
        Unit vectors.
    recordings : (num_voices,) int64
        Number of each voice's recording, 0, 1, ….
    seconds : (num_voices,) float
        Of speech behind each.
    short : (num_voices,) bool
        Too little speech to found an identity.
    parameters : LinkingParameters
    threshold : callable, optional
        Gives the cosine that links two of so many voices, or None for what evidence and prior
        ask for; by default what the parameters say.
    within : (num_voices,) int64, optional
        Number of each voice's channel, feed or show; -1 for none.
    report : callable

    Attributes
    ----------
    evidence : Evidence
    originals : (num_voices,) int64
        See `reposts`.
    hubs : (num_voices,) bool
    num_links : int
    recall : float or None
    """

    def __init__(
        self,
        vectors: np.ndarray,
        recordings: np.ndarray,
        seconds: np.ndarray,
        short: np.ndarray,
        parameters: LinkingParameters,
        threshold: Callable[[int], float | None] | None = None,
        *,
        within: np.ndarray | None = None,
        evidence: Evidence | None = None,
        report: Callable[[str], None] = lambda line: None,
    ):
        self._vectors, self._recordings = vectors, recordings
        self._seconds, self._short = seconds, short
        self._parameters = parameters
        self._threshold_of = threshold or (lambda num_voices: parameters.threshold)
        self._within, self._report = within, report
        self.evidence = evidence or Evidence()
        self.originals = np.arange(len(vectors))
        self.hubs = np.zeros(len(vectors), bool)
        self.num_links, self.recall = 0, None

    # -- what is asked -------------------------------------------------------------------------

    def _wanted(self, num_voices: int | None = None) -> float:
        """Nats of evidence that link two of so many voices; of the corpus' by default."""
        num_voices = self._num_founding if num_voices is None else num_voices
        given = self._threshold_of(num_voices)
        if given is not None:
            known = self.evidence.knowledge(LONG)
            return float(self.evidence.log_ratio(given, known, known))
        prior, probability = self._parameters.prior_of(num_voices), self._parameters.probability
        return float(np.log(probability / (1 - probability)) - np.log(prior / (1 - prior)))

    @property
    def threshold(self) -> float:
        """Cosine that links two voices of long speech."""
        given = self._threshold_of(self._num_founding)
        return self._cosine_for(self._wanted()) if given is None else given

    def _cosine_for(self, wanted: float) -> float:
        known = float(self.evidence.knowledge(LONG))
        return self.evidence.cosine_for(wanted, known, known)

    # -- linking -------------------------------------------------------------------------------

    def people(self) -> np.ndarray:
        """Label of each voice's person, (num_voices,) int64, in order of their first voice."""
        self._founding = ~self._short
        self._num_founding = int(self._founding.sum())
        labels = np.full(len(self._vectors), -1)
        labels[self._founding] = np.arange(self._founding.sum())
        self._measure_strangers(labels)
        found = self._neighbors(self._vectors, np.flatnonzero(self._founding))
        self.num_links, self.recall = len(found), found.recall
        if found.recall is not None:
            self._report(f"{found.recall:.1%} of the neighbours were found")
        self.originals = reposts(found, self._recordings, self._seconds)
        copies = self.originals != np.arange(len(labels))
        if copies.any():
            self._report(f"{copies.sum():,} voices are of copies of other recordings")
        self._founding &= ~copies
        self._num_founding = int(self._founding.sum())
        self._set_hubs(found)
        labels = np.full(len(self._vectors), -1)
        labels[self._founding] = np.arange(self._founding.sum())
        if self._within is not None:
            labels = self._merge_within(labels)
        # copies pass on what they resemble
        pairs = labels[self.originals[found.first]], labels[self.originals[found.second]]
        labels = self._merge(labels, *pairs, "the corpus")
        del found, pairs
        for _ in range(_PASSES):
            before = labels.max(initial=-1)
            labels = self._again(labels)
            if labels.max(initial=-1) == before:
                break
        labels = self._without_doubled(labels)
        self._measure_mates(labels)
        labels = self._without_little(labels)
        labels = self._join_short(labels)
        return self._for_all(labels)

    def _neighbors(self, vectors, rows: np.ndarray) -> Neighbors:
        """Pairs of some rows that may be worth a look, by all rows' numbers."""
        parameters = self._parameters
        every = len(rows) == len(vectors)
        found = neighbors(
            vectors if every else vectors[rows],
            self.threshold - _SLACK,
            parameters.neighbors,
            exact=parameters.exact,
            probes=parameters.probes,
            report=self._report,
        )
        if every:
            return found
        return Neighbors(rows[found.first], rows[found.second], found.scores, found.recall)

    def _groups(self, labels: np.ndarray) -> Groups:
        return Groups.of(
            self._vectors,
            labels,
            self.evidence.weights(self._seconds),
            self.evidence.knowledge(self._seconds),
        )

    def _apart(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, float] | None:
        if not self._parameters.one_recording:
            return None
        if not hasattr(self, "_heard_apart"):
            self._heard_apart = Apart.of(self._recordings, _HEARD_APART)
        return *self._heard_apart.counted(labels), self._heard_apart.penalty

    def _merge(self, labels, first, second, label: str, wanted=None) -> np.ndarray:
        """New labels after merging what pairs of labels join; -1 stays."""
        if not (labels >= 0).any():
            return labels
        chosen = (first >= 0) & (second >= 0) & (first != second)
        wanted = self._wanted() if wanted is None else wanted[chosen]
        merged = agglomerate(
            self._groups(labels),
            first[chosen],
            second[chosen],
            self.evidence,
            wanted,
            self._apart(labels),
            self._parameters.recordings_per_person - 1,
            lambda line: self._report(f"{label}: {line}"),
        )
        return np.where(labels >= 0, merged[labels], -1)

    def _merge_within(self, labels: np.ndarray) -> np.ndarray:
        """Merge in each value of the column `within`, where odds are better."""
        order = np.argsort(self._within, kind="stable")
        order = order[(self._within[order] >= 0) & self._founding[order]]
        bounds = np.flatnonzero(np.diff(self._within[order], prepend=-2, append=-2))
        first, second, wanted = [], [], []
        for start, stop in pairwise(bounds):
            rows = order[start:stop]
            if len(rows) < 2:
                continue
            asked = self._wanted(len(rows))
            floor = self._cosine_for(asked) - _SLACK
            found = neighbors(
                self._vectors[rows], floor, self._parameters.neighbors, exact=self._parameters.exact
            )
            first.append(rows[found.first])
            second.append(rows[found.second])
            wanted.append(np.full(len(found), asked))
        if not first:
            return labels
        first, second = labels[np.concatenate(first)], labels[np.concatenate(second)]
        merged = self._merge(labels, first, second, "within", np.concatenate(wanted))
        self._measure_one(merged)
        return merged

    def _again(self, labels: np.ndarray) -> np.ndarray:
        """Compare the means of what has merged with everything, and merge again."""
        self._measure_one(labels)
        self._center(labels)
        self._measure_strangers(labels)
        groups = self._groups(labels)
        several = np.flatnonzero(groups.sizes > 1)
        if not len(several):
            return labels
        known = groups.knowledge
        single = float(np.quantile(known, 0.1))
        large = float(known.max())
        floor = min(
            self.evidence.cosine_for(self._wanted(), a, b)
            for a, b in ((single, 2 * single), (single, large), (large, large))
        )
        found = neighbors(
            groups.means(),
            floor - 0.02,
            self._parameters.neighbors,
            among=several,
            exact=self._parameters.exact,
            probes=self._parameters.probes,
            report=self._report,
        )
        return self._merge(labels, found.first, found.second, "means")

    def _for_all(self, labels: np.ndarray) -> np.ndarray:
        """Copies get their originals' person; who has none is a person alone."""
        labels = labels[self.originals]
        alone = labels < 0
        # copies of a voice that is alone stay with it
        labels[alone] = labels.max(initial=-1) + 1 + self.originals[alone]
        return in_order(labels)

    # -- what is measured ----------------------------------------------------------------------

    def _measure_strangers(self, labels: np.ndarray) -> None:
        groups = self._groups(labels)
        if len(groups) < 300:
            return
        rng = np.random.default_rng(0)
        first, second = rng.integers(len(groups), size=(2, _DRAWN))
        several = np.flatnonzero(groups.sizes > 4)
        if len(several) > 100:  # people known well, who are few
            chosen = rng.integers(len(several), size=(2, _DRAWN // 2))
            first = np.concatenate([first, several[chosen[0]]])
            second = np.concatenate([second, several[chosen[1]]])
        differ = first != second
        first, second = first[differ], second[differ]
        known = groups.knowledge
        self.evidence = self.evidence.of_strangers(
            groups.cosines(first, second), known[first], known[second]
        )

    def _measure_one(self, labels: np.ndarray) -> None:
        """From voices of people of five recordings or more: few of these are wrong or missing."""
        sizes = np.bincount(labels[labels >= 0])
        rows = np.flatnonzero(labels >= 0)
        rows = rows[sizes[labels[rows]] >= 5]
        if not len(rows):
            return
        rng = np.random.default_rng(0)
        # each person counts alike, up to five voices
        rows = rng.permutation(rows)
        rows = rows[np.argsort(labels[rows], kind="stable")]
        rank = np.arange(len(rows)) - np.searchsorted(labels[rows], labels[rows])
        rows = rows[rank < 5]
        weights = self.evidence.weights(self._seconds)
        groups = self._groups(labels)
        own = self._vectors[rows] * weights[rows, None].astype(np.float32)
        others = groups.sums[labels[rows]] - own
        cosines = np.einsum("vd,vd->v", self._vectors[rows], others)
        cosines /= np.linalg.norm(others, axis=1)
        known = self.evidence.knowledge(self._seconds)
        counts = (groups.knowledge[labels[rows]] - known[rows]) / known[rows]
        self.evidence = self.evidence.of_one(cosines, counts, known[rows])
        self._report(
            f"one person's recordings have a cosine of {self.evidence.cohesion:.2f} on average"
        )

    def _measure_mates(self, labels: np.ndarray) -> None:
        if (labels >= 0).sum() >= 300:
            sizes = np.bincount(labels[labels >= 0])
            # of more, a list of hits shows the best
            mates = float(np.average(np.minimum(sizes - 1, _SHOWN), weights=sizes))
            self.evidence = replace(self.evidence, mates=max(mates, 0.01))

    def _center(self, labels: np.ndarray) -> None:
        """Take off what all people have in common."""
        means = self._groups(labels).means()
        if len(means) < _CENTERED or hasattr(self, "_centered"):
            return
        self._centered = True
        vectors = self._vectors - means.mean(axis=0)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._vectors = vectors / np.maximum(lengths, 1e-6)

    # -- who is no person ----------------------------------------------------------------------

    def _set_hubs(self, found: Neighbors) -> None:
        own = ~(self._short[found.first] | self._short[found.second])
        own &= (self.originals[found.first] == found.first) & (
            self.originals[found.second] == found.second
        )
        close = found.where(own & (found.scores >= self.threshold))
        self.hubs |= hub_voices(self._vectors, close)
        if self.hubs.any():
            self._report(f"{self.hubs.sum():,} voices resemble many who do not resemble each other")
        self._founding &= ~self.hubs

    def _without_doubled(self, labels: np.ndarray) -> np.ndarray:
        if not self._parameters.one_recording or not (labels >= 0).any():
            return labels
        doubled = doubled_people(labels, self._recordings)
        no_person = (labels >= 0) & doubled[labels]
        if no_person.any():
            self._report(
                f"{doubled.sum():,} groups of {no_person.sum():,} voices are heard as several "
                "speakers of one recording too often to be people"
            )
        self.hubs |= no_person
        return np.where(no_person, -1, labels)

    def _without_little(self, labels: np.ndarray) -> np.ndarray:
        """Voices of people of too little speech in all stay alone."""
        kept = labels >= 0
        if not kept.any():
            return labels
        speech = np.bincount(labels[kept], self._seconds[kept])
        return np.where(kept & (speech[labels] < self._parameters.min_seconds), -1, labels)

    def _join_short(self, labels: np.ndarray) -> np.ndarray:
        """Let voices of too little speech join the person they resemble most, best first."""
        brief = np.flatnonzero(
            (labels < 0) & ~self.hubs & (self.originals == np.arange(len(labels)))
        )
        if not len(brief) or labels.max(initial=-1) < 0:
            return labels
        _, labels_in_use = np.unique(labels, return_inverse=True)
        labels = labels_in_use.ravel() - int((labels < 0).any())
        groups = self._groups(labels)
        means = groups.means()
        known = self.evidence.knowledge(self._seconds[brief])
        floor = min(
            self.evidence.cosine_for(self._wanted(), float(known.max()), k)
            for k in (float(groups.knowledge.min()), float(groups.knowledge.max()))
        )
        together = np.concatenate([means, self._vectors[brief]])
        found = neighbors(
            together,
            floor - 0.02,
            5,
            among=np.arange(len(means)),
            exact=self._parameters.exact,
            probes=self._parameters.probes,
        )
        mixed = (found.first < len(means)) & (found.second >= len(means))
        group, voice = found.first[mixed], found.second[mixed] - len(means)
        excess = (
            self.evidence.log_ratio(found.scores[mixed], known[voice], groups.knowledge[group])
            - self._wanted()
        )
        taken = set()
        if self._parameters.one_recording:
            kept = labels >= 0
            taken = set(zip(labels[kept].tolist(), self._recordings[kept].tolist(), strict=True))
        labels = labels.copy()
        for number in np.lexsort((group, voice, -excess)):
            row = brief[voice[number]]
            place = int(group[number]), int(self._recordings[row])
            if excess[number] < 0 or labels[row] >= 0 or place in taken:
                continue
            if self._parameters.one_recording:
                taken.add(place)
            labels[row] = group[number]
        return labels

    # -- how sure ------------------------------------------------------------------------------

    def probabilities(self, people: np.ndarray) -> np.ndarray:
        """That each voice is its person's, by the others' mean; NaN for those alone."""
        rows = np.where((self.originals == np.arange(len(people))) & ~self.hubs, people, -1)
        sizes = np.bincount(people)
        _, compact = np.unique(rows, return_inverse=True)
        compact = compact.ravel() - int((rows < 0).any())
        groups = self._groups(compact)
        own = compact >= 0
        weights = self.evidence.weights(self._seconds).astype(np.float32)
        known = self.evidence.knowledge(self._seconds)
        result = np.full(len(people), np.nan)
        several = np.flatnonzero(own & (sizes[people] > 1))
        several = several[groups.sizes[compact[several]] > 1]
        for start in range(0, len(several), 2**18):
            part = several[start : start + 2**18]
            others = groups.sums[compact[part]] - self._vectors[part] * weights[part, None]
            cosines = np.einsum("vd,vd->v", self._vectors[part], others)
            cosines /= np.maximum(np.linalg.norm(others, axis=1), 1e-9)
            rest = groups.knowledge[compact[part]] - known[part]
            probability = self._parameters.probability
            logits = self.evidence.log_ratio(cosines, known[part], rest) - self._wanted()
            logits += np.log(probability / (1 - probability))
            result[part] = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
        return np.where(np.isnan(result), result[self.originals], result)
