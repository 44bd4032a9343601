"""Scores of a system on many recordings: each, in total, and against another system."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from raydiar.errors import EvaluationError
from raydiar.evaluation.diarization import DiarizationErrors, diarization_errors, total_errors
from raydiar.evaluation.recordings import Trial
from raydiar.evaluation.significance import Difference, Interval, bootstrap, difference
from raydiar.evaluation.tables import percent


def _number(value: float) -> str:
    return f"{value:.1f}"


SHOWN: dict[str, Callable] = {
    "recording": str,
    "seconds": _number,
    "speech": _number,
    "DER": percent,
    "missed": percent,
    "false alarm": percent,
    "confusion": percent,
    "JER": percent,
    "speech error": percent,
    "speech F": percent,
    "overlap error": percent,
    "overlap F": percent,
    "purity": percent,
    "coverage": percent,
    "count exact": percent,
    "count error": _number,
}
"""Columns of the table of an evaluation, and how their values are shown: shares in percent."""


@dataclass(frozen=True)
class Conditions:
    """What is scored; see `diarization_errors`."""

    collar: float = 0.0
    skip_overlap: bool = False

    def __str__(self) -> str:
        overlap = "overlap not scored" if self.skip_overlap else "overlap scored"
        return f"collar {self.collar:g} s, {overlap}"


NO_COLLAR = Conditions()


@dataclass(frozen=True)
class Evaluation:
    """Errors of one system.

    Attributes
    ----------
    errors : dict of DiarizationErrors
        By recording.
    conditions : Conditions
    """

    measure: ClassVar = "DER"
    unit: ClassVar = "s"

    errors: dict[str, DiarizationErrors]
    conditions: Conditions

    @cached_property
    def total(self) -> DiarizationErrors:
        return total_errors(self.errors.values())

    @cached_property
    def counts(self) -> Counter[tuple[int, int]]:
        """Recordings by true and found number of speakers."""
        return Counter((each.num_true, each.num_found) for each in self.errors.values())

    @cached_property
    def interval(self) -> Interval:
        """Of the diarization error rate."""
        return bootstrap(*self._sums())

    def _sums(self) -> tuple[np.ndarray, np.ndarray]:
        errors = np.array([each.errors for each in self.errors.values()])
        return errors, np.array([each.total for each in self.errors.values()])

    def compare(self, other: Evaluation) -> Difference:
        """The other system's diarization error rate minus this one's, on the same recordings."""
        if list(self.errors) != list(other.errors):
            raise ValueError("two systems are compared on the same recordings")
        (ours, totals), (theirs, _) = self._sums(), other._sums()
        return difference(ours, theirs, totals)

    def worst(self, number: int) -> list[str]:
        """Recordings with the most errors, in seconds: where work pays most."""
        return sorted(self.errors, key=lambda name: -self.errors[name].errors)[:number]

    def rows(self) -> list[dict]:
        """A row of `SHOWN` per recording, and one named TOTAL; rates are shares."""
        rows = [_row(name, errors) for name, errors in self.errors.items()]
        return [*rows, _row("TOTAL", self.total)]

    def to_json(self) -> str:
        interval = asdict(self.interval)
        document = {
            "conditions": asdict(self.conditions),
            "diarization_error_rate": interval,
            "total": asdict(self.total),
            "recordings": {name: asdict(errors) for name, errors in self.errors.items()},
            "num_speakers": [
                {"true": true, "found": found, "recordings": number}
                for (true, found), number in sorted(self.counts.items())
            ],
        }
        return json.dumps(document, indent=2)


def evaluate(trials: Iterable[Trial], conditions: Conditions = NO_COLLAR) -> Evaluation:
    """Score trials one after another; see `raydiar.evaluation.on_ray` for very many.

    Raises
    ------
    EvaluationError
        Without a trial, or with turns that are none.
    """
    return gather(score(trials, conditions), conditions)


Scored = tuple[str, DiarizationErrors]


def score(trials: Iterable[Trial], conditions: Conditions) -> list[Scored]:
    """Name and errors of each trial."""
    scored = []
    for trial in trials:
        try:
            errors = diarization_errors(
                trial.reference,
                trial.hypothesis,
                trial.regions,
                conditions.collar,
                conditions.skip_overlap,
            )
        except ValueError as error:
            raise EvaluationError(f"{trial.name}: {error}") from error
        scored.append((trial.name, errors))
    return scored


def gather(scored: Sequence[Scored], conditions: Conditions) -> Evaluation:
    if not scored:
        raise EvaluationError("there is nothing to score")
    return Evaluation(dict(scored), conditions)


def _row(name: str, errors: DiarizationErrors) -> dict:
    total = errors.total or 1.0
    return {
        "recording": name,
        "seconds": errors.evaluated,
        "speech": errors.total,
        "DER": errors.diarization_error_rate,
        "missed": errors.missed / total,
        "false alarm": errors.false_alarm / total,
        "confusion": errors.confusion / total,
        "JER": errors.jaccard_error_rate,
        "speech error": errors.detection_error_rate,
        "speech F": errors.detection_f,
        "overlap error": errors.overlap_error_rate,
        "overlap F": errors.overlap_f,
        "purity": errors.purity,
        "coverage": errors.coverage,
        "count exact": errors.count_exact / max(1, errors.num_recordings),
        "count error": errors.count_error / max(1, errors.num_recordings),
    }
