"""Are words given to those who said them? cpWER, and what of it is the diarization's.

cpWER (Watanabe et al., "CHiME-6 challenge", 2020): what each speaker said is put in a row, the
speakers of both sides are paired as is best, and errors are counted as in a word error rate; who is
left without a partner is all deleted or inserted. Where the hypothesis has turns but no words, the
words of the reference are given to whoever speaks then: that is what would remain of cpWER with a
perfect recogniser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

import numpy as np
from rapidfuzz.distance import Levenshtein
from scipy.optimize import linear_sum_assignment

from raydiar.diarization import Turn
from raydiar.errors import EvaluationError
from raydiar.evaluation.recordings import name_of
from raydiar.evaluation.significance import Difference, Interval, bootstrap, difference
from raydiar.evaluation.tables import percent
from raydiar.evaluation.words import Word

NEAR = 0.5
"""Seconds from the nearest turn within which a word still belongs to its speaker."""

SHOWN = {
    "recording": str,
    "words": str,
    "cpWER": percent,
    "substituted": percent,
    "deleted": percent,
    "inserted": percent,
    "speakers": str,
    "found": str,
}


@dataclass(frozen=True)
class WordErrors:
    """Errors of one recording, or of several: they are added with `+`.

    Attributes
    ----------
    words : int
        Of the reference.
    substituted, deleted, inserted : int
    num_true, num_found : int
        Speakers with words.
    """

    words: int = 0
    substituted: int = 0
    deleted: int = 0
    inserted: int = 0
    num_true: int = 0
    num_found: int = 0

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def errors(self) -> int:
        return self.substituted + self.deleted + self.inserted

    @property
    def word_error_rate(self) -> float:
        return self.errors / self.words if self.words else float(self.errors > 0)


def word_errors(reference: Iterable[Word], hypothesis: Iterable[Word]) -> WordErrors:
    """cpWER of one recording, in counts.

    Examples
    --------
    >>> said = [Word(0, 1, "Ann", "good"), Word(1, 2, "Ann", "morning"), Word(2, 3, "Bob", "hello")]
    >>> heard = [Word(0, 1, "1", "good"), Word(1, 2, "2", "morning"), Word(2, 3, "2", "hello")]
    >>> word_errors(said, heard)
    WordErrors(words=3, substituted=0, deleted=1, inserted=1, num_true=2, num_found=2)
    """
    ours, theirs = _by_speaker(reference), _by_speaker(hypothesis)
    size = max(len(ours), len(theirs))
    padded = [*ours, *[[]] * (size - len(ours))], [*theirs, *[[]] * (size - len(theirs))]
    costs = np.array(
        [[Levenshtein.distance(one, other) for other in padded[1]] for one in padded[0]]
    ).reshape(size, size)
    counts = dict.fromkeys(("replace", "delete", "insert"), 0)
    for row, column in zip(*linear_sum_assignment(costs), strict=True):
        for edit in Levenshtein.editops(padded[0][row], padded[1][column]):
            counts[edit.tag] += 1
    return WordErrors(
        words=sum(map(len, ours)),
        substituted=counts["replace"],
        deleted=counts["delete"],
        inserted=counts["insert"],
        num_true=len(ours),
        num_found=len(theirs),
    )


def _by_speaker(words: Iterable[Word]) -> list[list[str]]:
    said: dict[str, list[str]] = {}
    for word in sorted(words, key=lambda word: (word.start, word.end)):
        said.setdefault(word.speaker, []).append(word.text)
    return [said[speaker] for speaker in sorted(said)]


def attribute(words: Sequence[Word], turns: Sequence[Turn]) -> list[Word]:
    """Words by who speaks when they are said, whoever said them.

    A word goes to the speaker with the most time in it, or, where nobody speaks, to the nearest
    within `NEAR`; words farther away are left out. Where several speak throughout, of two words at
    one time the second goes to another speaker than the first.
    """
    if not turns:
        return []
    starts = np.array([turn.start for turn in turns])
    ends = np.array([turn.end for turn in turns])
    names, of_turn = np.unique([turn.speaker for turn in turns], return_inverse=True)
    given: list[Word] = []
    for word in sorted(words, key=lambda word: (word.start, word.end)):
        shared = np.minimum(ends, word.end) - np.maximum(starts, word.start)
        time = np.bincount(of_turn, np.maximum(shared, 0), len(names))
        if not time.any():
            nearest = int(shared.argmax())
            if shared[nearest] < -NEAR:
                continue
            time[of_turn[nearest]] = 1.0
        # who is busy with a word of somebody else at that time is taken last
        candidates = np.flatnonzero(time >= 0.99 * time.max())
        if len(candidates) > 1:
            busy = [_busy(given, str(names[one]), word) for one in candidates]
            candidates = candidates[np.argsort(busy, kind="stable")]
        given.append(Word(word.start, word.end, str(names[candidates[0]]), word.text))
    return given


def _busy(given: list[Word], speaker: str, word: Word) -> float:
    """Seconds of a word that are taken by the latest words of a speaker."""
    return sum(
        max(0.0, min(other.end, word.end) - max(other.start, word.start))
        for other in given[-8:]
        if other.speaker == speaker
    )


@dataclass(frozen=True)
class Attribution:
    """Word errors of one system, by recording."""

    measure: ClassVar = "cpWER"
    unit: ClassVar = "words"

    errors: dict[str, WordErrors]

    @cached_property
    def total(self) -> WordErrors:
        return sum(self.errors.values(), WordErrors())

    @cached_property
    def interval(self) -> Interval:
        """Of cpWER, in 95 % of samples of recordings."""
        return bootstrap(*self._sums())

    def compare(self, other: Attribution) -> Difference:
        """The other system's cpWER minus this one's."""
        (ours, totals), (theirs, _) = self._sums(), other._sums()
        return difference(ours, theirs, totals)

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        errors = np.array([each.errors for each in self.errors.values()], float)
        return errors, np.array([each.words for each in self.errors.values()], float)

    def rows(self) -> list[dict]:
        """A row of `SHOWN` per recording, and one named TOTAL."""
        return [
            *(_row(name, each) for name, each in self.errors.items()),
            _row("TOTAL", self.total),
        ]


def _row(name: str, errors: WordErrors) -> dict:
    words = errors.words or 1
    return {
        "recording": name,
        "words": errors.words,
        "cpWER": errors.word_error_rate,
        "substituted": errors.substituted / words,
        "deleted": errors.deleted / words,
        "inserted": errors.inserted / words,
        "speakers": errors.num_true,
        "found": errors.num_found,
    }


def score_words(
    reference: Mapping[str, Sequence[Word]],
    hypothesis: Mapping[str, Sequence[Word]] | Mapping[str, Sequence[Turn]],
) -> tuple[Attribution, list[str], list[str]]:
    """Score words, or turns that are to say whose the words of the reference are.

    Returns
    -------
    attribution : Attribution
    missing : list of str
        Recordings of the reference that have no hypothesis: all their words are deleted.
    extra : list of str
        Recordings that have no reference, and are left out.

    Raises
    ------
    EvaluationError
        If no recording is in both, or a name could be each of several.
    """
    by_stem: dict[str, list[str]] = {}
    for name in hypothesis:
        by_stem.setdefault(name_of(name), []).append(name)
    errors, missing, used = {}, [], set()
    for name in sorted(reference):
        candidates = [name] if name in hypothesis else by_stem.get(name_of(name), [])
        if len(candidates) > 1:
            raise EvaluationError(f"{name} could be each of {', '.join(sorted(candidates)[:5])}")
        said = reference[name]
        found = hypothesis[candidates[0]] if candidates else ()
        missing += [] if candidates else [name]
        used.update(candidates)
        if found and isinstance(found[0], Turn):
            found = attribute(said, found)
        errors[name] = word_errors(said, found)
    if not used:
        ours, theirs = next(iter(sorted(reference)), "none"), next(iter(sorted(hypothesis)), "none")
        raise EvaluationError(
            "no recording has a name that is in both: the reference has e.g. "
            f"{ours!r}, the hypothesis {theirs!r}"
        )
    return Attribution(errors), missing, sorted(set(hypothesis) - used)
