"""Errors of a diarization against a reference: DER with its parts, JER, detection, changes, counts.

Equal to pyannote.metrics 4 to rounding, some 50 times as fast: a recording is cut once at every
boundary of reference, hypothesis and evaluated regions into *cells*, within which nothing changes.
Every measure is then a sum over cells, done by NumPy. pyannote.metrics walks the same cells in
Python, with an assignment problem in each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add

import numpy as np
from scipy.optimize import linear_sum_assignment

from raydiar.diarization import Turn

Regions = Sequence[tuple[float, float]]

_SHORTEST = 1e-6  # s; pyannote.core takes shorter segments for empty


@dataclass(frozen=True)
class DiarizationErrors:
    """What `diarization_errors` sums up; errors of several recordings are added with `+`.

    Attributes
    ----------
    num_recordings : int
    total, correct, false_alarm, missed, confusion : float, s
        Of speech of speakers; two who speak together for 1 s are 2 s.
    jaccard_sum : float
        Of the Jaccard error rates of `num_jaccard` reference speakers.
    num_jaccard : int
    speech, speech_false_alarm, speech_missed : float, s
        Of regions where anyone speaks.
    overlap, overlap_false_alarm, overlap_missed : float, s
        Of regions where two or more speak.
    partition, purity_sum, coverage_sum : float, s
        Of the parts between changes, inside speech of the reference.
    num_true, num_found : int
        Speakers heard in the scored regions.
    count_exact, count_error : int
        Recordings with the right number of speakers; sum of absolute differences.
    evaluated : float, s
        Of the regions that were scored.
    """

    num_recordings: int = 0
    total: float = 0.0
    correct: float = 0.0
    false_alarm: float = 0.0
    missed: float = 0.0
    confusion: float = 0.0
    jaccard_sum: float = 0.0
    num_jaccard: int = 0
    speech: float = 0.0
    speech_false_alarm: float = 0.0
    speech_missed: float = 0.0
    overlap: float = 0.0
    overlap_false_alarm: float = 0.0
    overlap_missed: float = 0.0
    partition: float = 0.0
    purity_sum: float = 0.0
    coverage_sum: float = 0.0
    num_true: int = 0
    num_found: int = 0
    count_exact: int = 0
    count_error: int = 0
    evaluated: float = 0.0

    def __add__(self, other: DiarizationErrors) -> DiarizationErrors:
        if not isinstance(other, DiarizationErrors):
            return NotImplemented
        return DiarizationErrors(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    @property
    def errors(self) -> float:
        """False alarm, missed speech and confusion, s."""
        return self.false_alarm + self.missed + self.confusion

    @property
    def diarization_error_rate(self) -> float:
        return _rate(self.errors, self.total)

    @property
    def jaccard_error_rate(self) -> float:
        return self.jaccard_sum / self.num_jaccard if self.num_jaccard else 1.0

    @property
    def detection_error_rate(self) -> float:
        return _rate(self.speech_false_alarm + self.speech_missed, self.speech)

    @property
    def detection_f(self) -> float:
        return _f(self.speech, self.speech_false_alarm, self.speech_missed)

    @property
    def overlap_error_rate(self) -> float:
        return _rate(self.overlap_false_alarm + self.overlap_missed, self.overlap)

    @property
    def overlap_f(self) -> float:
        return _f(self.overlap, self.overlap_false_alarm, self.overlap_missed)

    @property
    def purity(self) -> float:
        """Of the parts between two changes of the hypothesis, the share of one reference part."""
        return self.purity_sum / self.partition if self.partition else 1.0

    @property
    def coverage(self) -> float:
        """Of the parts between two changes of the reference, the share in one hypothesis part."""
        return self.coverage_sum / self.partition if self.partition else 1.0


def total_errors(errors: Iterable[DiarizationErrors]) -> DiarizationErrors:
    """Sum over recordings: rates are then weighted by the seconds of speech."""
    return reduce(add, errors, DiarizationErrors())


def _rate(errors: float, total: float) -> float:
    """As pyannote.metrics has it where there is nothing to find: 0 without errors, else 1."""
    if total == 0:
        return 0.0 if errors == 0 else 1.0
    return errors / total


def _f(total: float, false_alarm: float, missed: float) -> float:
    hit = total - missed
    return 2 * hit / (2 * hit + false_alarm + missed) if hit + false_alarm + missed else 1.0


def diarization_errors(
    reference: Sequence[Turn],
    hypothesis: Sequence[Turn],
    uem: Regions | None = None,
    collar: float = 0.0,
    skip_overlap: bool = False,
    change_tolerance: float = 0.5,
) -> DiarizationErrors:
    """Compare the turns of one recording with the reference.

    Parameters
    ----------
    reference, hypothesis : sequence of Turn
        In any order; turns of one speaker that overlap count twice, as in pyannote.metrics.
    uem : sequence of (start, end), s, optional
        Regions that are scored; by default from the first start to the last end of either.
    collar : float, s
        Not scored around each boundary of the reference, half of it on either side (pyannote's
        convention; NIST's md-eval names the half).
    skip_overlap : bool
        Leave out where two or more turns of the reference overlap.
    change_tolerance : float, s
        Pauses of a speaker shorter than this are no changes (purity and coverage, which are
        measured on whole recordings, without `uem`, collar or overlap).

    Returns
    -------
    errors : DiarizationErrors
        Of this recording.

    Raises
    ------
    ValueError
        If a turn or region ends before it starts, or a time is not a number.

    Notes
    -----
    NIST, "The 2009 (RT-09) Rich Transcription Meeting Recognition Evaluation Plan" (DER); Ryant et
    al., "The Second DIHARD Diarization Challenge", 2019 (JER); Bredin, "pyannote.metrics", 2017.
    """
    ref, hyp = _Side.of(reference, "reference"), _Side.of(hypothesis, "hypothesis")
    regions = _union(_regions(uem)) if uem is not None else _extent(ref, hyp)
    cells = _Cells.of(regions, _not_scored(ref, collar, skip_overlap), ref, hyp)
    ref_counts, hyp_counts = cells.spoken(ref)[1], cells.spoken(hyp)[1]
    together = (ref_counts * cells.seconds) @ hyp_counts.T
    compared = _compare(ref_counts, hyp_counts, together)
    errors = {name: (row * cells.seconds).sum() for name, row in compared.items()}
    num_ref, num_hyp = ref_counts.sum(0), hyp_counts.sum(0)
    for name, least in (("speech", 1), ("overlap", 2)):
        true, found = num_ref >= least, num_hyp >= least
        errors[name] = cells.seconds[true].sum()
        errors[f"{name}_false_alarm"] = cells.seconds[found & ~true].sum()
        errors[f"{name}_missed"] = cells.seconds[true & ~found].sum()
    partition, purity, coverage = _changes(ref, hyp, change_tolerance)
    return DiarizationErrors(
        num_recordings=1,
        **{name: float(value) for name, value in errors.items()},
        jaccard_sum=_jaccard(ref_counts, hyp_counts, *_assign(together), cells.seconds),
        num_jaccard=len(ref_counts),
        partition=partition,
        purity_sum=purity,
        coverage_sum=coverage,
        num_true=len(ref_counts),
        num_found=len(hyp_counts),
        count_exact=int(len(ref_counts) == len(hyp_counts)),
        count_error=abs(len(ref_counts) - len(hyp_counts)),
        evaluated=float(cells.seconds.sum()),
    )


@dataclass(frozen=True)
class ErrorTimeline:
    """Errors of one recording where they happen.

    Attributes
    ----------
    starts, ends : (num_cells,) float64, s
        Of the scored stretches within which nothing changes, in order.
    total, correct, missed, false_alarm, confusion : (num_cells,) float64
        Number of speakers in each.
    mapping : dict
        See `optimal_mapping`.
    """

    starts: np.ndarray
    ends: np.ndarray
    total: np.ndarray
    correct: np.ndarray
    missed: np.ndarray
    false_alarm: np.ndarray
    confusion: np.ndarray
    mapping: dict[str, str]


def error_timeline(
    reference: Sequence[Turn],
    hypothesis: Sequence[Turn],
    uem: Regions | None = None,
    collar: float = 0.0,
    skip_overlap: bool = False,
) -> ErrorTimeline:
    """Where the errors are that `diarization_errors` sums up; parameters and errors as there."""
    ref, hyp = _Side.of(reference, "reference"), _Side.of(hypothesis, "hypothesis")
    regions = _union(_regions(uem)) if uem is not None else _extent(ref, hyp)
    cells = _Cells.of(regions, _not_scored(ref, collar, skip_overlap), ref, hyp)
    (ref_labels, ref_counts), (hyp_labels, hyp_counts) = cells.spoken(ref), cells.spoken(hyp)
    together = (ref_counts * cells.seconds) @ hyp_counts.T
    starts = cells.edges[cells.scored]
    return ErrorTimeline(
        starts=starts,
        ends=starts + cells.seconds,
        mapping={hyp_labels[h]: ref_labels[r] for h, r in zip(*_assign(together.T), strict=True)},
        **_compare(ref_counts, hyp_counts, together),
    )


def _compare(
    ref_counts: np.ndarray, hyp_counts: np.ndarray, together: np.ndarray
) -> dict[str, np.ndarray]:
    """Number of speakers in each cell: all, correct, missed, falsely found and confused."""
    columns, rows = _assign(together.T)
    num_ref, num_hyp = ref_counts.sum(0), hyp_counts.sum(0)
    correct = np.minimum(ref_counts[rows], hyp_counts[columns]).sum(0)
    both = np.minimum(num_ref, num_hyp)
    return {
        "total": num_ref,
        "correct": correct,
        "missed": num_ref - both,
        "false_alarm": num_hyp - both,
        "confusion": both - correct,
    }


def optimal_mapping(
    reference: Sequence[Turn], hypothesis: Sequence[Turn], uem: Regions | None = None
) -> dict[str, str]:
    """The reference speaker of each hypothesis speaker, one to one, so that they share most time.

    Returns
    -------
    mapping : dict
        From labels of the hypothesis; speakers that share no time with any are left out.
    """
    return error_timeline(reference, hypothesis, uem).mapping


def _assign(together: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns paired so that they share the most time; none that share nothing.

    Which of equally good pairings is found depends on what is a row: as in pyannote.metrics, it is
    the hypothesis for DER, the reference for JER.
    """
    rows, columns = linear_sum_assignment(together, maximize=True)
    paired = together[rows, columns] > 0
    return rows[paired], columns[paired]


@dataclass(frozen=True)
class _Side:
    """Turns as arrays.

    Attributes
    ----------
    times : (num_turns, 2) float64
        Start and end, s.
    speakers : (num_turns,) int
        Index into `labels`.
    labels : list of str
        Sorted.
    """

    times: np.ndarray
    speakers: np.ndarray
    labels: list[str]

    @classmethod
    def of(cls, turns: Sequence[Turn], name: str) -> _Side:
        times = np.array([(turn.start, turn.end) for turn in turns], np.float64).reshape(-1, 2)
        if not np.isfinite(times).all():
            raise ValueError(f"a turn of the {name} has a time that is not a number")
        backwards = np.flatnonzero(times[:, 1] < times[:, 0])
        if len(backwards):
            turn = turns[backwards[0]]
            raise ValueError(f"a turn of the {name} ends before it starts: {turn}")
        labels = sorted({turn.speaker for turn in turns})
        number = {label: index for index, label in enumerate(labels)}
        speakers = np.array([number[turn.speaker] for turn in turns], np.int64)
        kept = times[:, 1] - times[:, 0] > _SHORTEST
        return cls(times[kept], speakers[kept], labels)


@dataclass(frozen=True)
class _Cells:
    """Stretches of the scored regions within which nothing changes.

    Attributes
    ----------
    edges : (num_edges,) float64
        All boundaries, rising; a cell lies between two of them.
    scored : (num_cells,) int
        Of all stretches between edges, those that are scored.
    seconds : (num_cells,) float64
    """

    edges: np.ndarray
    scored: np.ndarray
    seconds: np.ndarray

    @classmethod
    def of(cls, regions: np.ndarray, removed: np.ndarray, *sides: _Side) -> _Cells:
        edges = np.unique(
            np.concatenate([x.ravel() for x in (regions, removed, *(s.times for s in sides))])
        )
        if len(edges) < 2:
            return cls(edges, np.empty(0, np.int64), np.empty(0))
        inside = _cover(edges, regions) > 0
        if len(removed):
            inside &= _cover(edges, removed) == 0
        scored = np.flatnonzero(inside)
        return cls(edges, scored, np.diff(edges)[scored])

    def spoken(self, side: _Side) -> tuple[list[str], np.ndarray]:
        """Who is heard in these cells.

        Returns
        -------
        labels : list of str
        counts : (num_labels, num_cells) float64
            Turns of each that are open in each cell.
        """
        num_speakers, num_edges = len(side.labels), len(self.edges)
        if not num_edges:
            return [], np.zeros((0, 0))
        delta = np.zeros((num_speakers, num_edges))
        first, last = np.searchsorted(self.edges, side.times).T
        np.add.at(delta, (side.speakers, first), 1.0)
        np.add.at(delta, (side.speakers, last), -1.0)
        counts = delta.cumsum(1)[:, self.scored]
        heard = counts.any(1)
        return [x for x, is_heard in zip(side.labels, heard, strict=True) if is_heard], counts[
            heard
        ]


def _cover(edges: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """(num_edges - 1,) int: regions open between each two edges, which hold all their ends."""
    delta = np.zeros(len(edges), np.int64)
    first, last = np.searchsorted(edges, regions).T
    np.add.at(delta, first, 1)
    np.add.at(delta, last, -1)
    return delta.cumsum()[:-1]


def _regions(uem: Regions) -> np.ndarray:
    regions = np.array([tuple(region) for region in uem], np.float64).reshape(-1, 2)
    if not np.isfinite(regions).all() or (regions[:, 1] < regions[:, 0]).any():
        raise ValueError("a scored region (UEM) ends before it starts, or is not a number")
    return regions


def _extent(*sides: _Side) -> np.ndarray:
    times = np.concatenate([side.times for side in sides])
    return np.array([[times.min(), times.max()]]) if len(times) else np.empty((0, 2))


def _union(regions: np.ndarray) -> np.ndarray:
    """Regions without overlaps and gaps of (almost) zero length, in order."""
    if not len(regions):
        return regions
    regions = regions[np.lexsort(regions.T[::-1])]
    reach = np.maximum.accumulate(regions[:, 1])
    opens = np.concatenate([[True], regions[1:, 0] - reach[:-1] > _SHORTEST])
    last = np.concatenate([np.flatnonzero(opens)[1:] - 1, [len(regions) - 1]])
    return np.stack([regions[opens, 0], reach[last]], 1)


def _not_scored(reference: _Side, collar: float, skip_overlap: bool) -> np.ndarray:
    removed = [np.empty((0, 2))]
    if collar > 0:
        removed.append(reference.times.reshape(-1, 1) + np.array([-collar / 2, collar / 2]))
    if skip_overlap and len(reference.times):
        edges = np.unique(reference.times)
        overlapped = np.flatnonzero(_cover(edges, reference.times) >= 2)
        removed.append(np.stack([edges[overlapped], edges[overlapped + 1]], 1))
    return _union(np.concatenate(removed))


def _jaccard(
    ref_counts: np.ndarray,
    hyp_counts: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    seconds: np.ndarray,
) -> float:
    """Sum of the Jaccard error rates of reference speakers; 1 for those who are not paired."""
    true, found = ref_counts[rows] > 0, hyp_counts[columns] > 0
    both, either = (true & found) @ seconds, (true | found) @ seconds
    return float(len(ref_counts) - (both / either).sum())


def _changes(ref: _Side, hyp: _Side, tolerance: float) -> tuple[float, float, float]:
    """Seconds compared, and of them those of the best match of each part: purity, coverage."""
    filled = [np.empty((0, 2))]
    for speaker in range(len(ref.labels)):
        spoken = _union(ref.times[ref.speakers == speaker])
        opens = np.ones(len(spoken), bool)
        opens[1:] = spoken[1:, 0] - spoken[:-1, 1] >= tolerance
        last = np.concatenate([np.flatnonzero(opens)[1:] - 1, [len(spoken) - 1]])
        if len(spoken):
            filled.append(np.stack([spoken[opens, 0], spoken[last, 1]], 1))
    true = np.concatenate(filled)
    if not len(true) or not len(hyp.times):
        return 0.0, 0.0, 0.0
    spoken = _union(true)
    changes = [np.unique(true), np.unique(hyp.times)]
    edges = np.unique(np.concatenate([*changes, spoken.ravel()]))
    seconds, starts = np.diff(edges), edges[:-1]
    # a part reaches to the next change, or to where speech of the reference pauses
    speech = np.searchsorted(spoken[:, 0], starts, side="right") - 1
    compared = (_cover(edges, spoken) > 0) & (starts >= hyp.times.min())
    compared &= starts < hyp.times.max()
    parts = []
    for change in changes:
        number = np.searchsorted(change, starts, side="right") * len(spoken) + speech
        parts.append(np.unique(number[compared], return_inverse=True)[1].ravel())
    seconds = seconds[compared]
    total = float(seconds.sum())
    if not total:
        return 0.0, 0.0, 0.0
    width = parts[1].max() + 1
    pairs, cell = np.unique(parts[0] * width + parts[1], return_inverse=True)
    shared = np.bincount(cell.ravel(), seconds)
    best = []
    for part in (pairs % width, pairs // width):  # of the hypothesis, of the reference
        most = np.zeros(part.max() + 1)
        np.maximum.at(most, part, shared)
        best.append(float(most.sum()))
    return total, best[0], best[1]
