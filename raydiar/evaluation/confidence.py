"""Whether confidences of turns mean what they say: right time as expected, and as seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from raydiar.evaluation.diarization import optimal_mapping
from raydiar.evaluation.recordings import Trial

NUM_BINS = 10


@dataclass(frozen=True)
class Reliability:
    """
    Attributes
    ----------
    expected : (num_bins,) float64
        Mean confidence in each bin of [0, 1]; NaN where there is nothing.
    seen : (num_bins,) float64
        Share of the time of its turns in which their speaker really speaks.
    seconds : (num_bins,) float64
        Of turns.
    """

    expected: np.ndarray
    seen: np.ndarray
    seconds: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean difference between expected and seen, weighted by time (ECE; Naeini et al. 2015)."""
        filled = self.seconds > 0
        gaps = np.abs(self.expected[filled] - self.seen[filled])
        return float(np.average(gaps, weights=self.seconds[filled])) if filled.any() else 0.0


def reliability(trials: Iterable[Trial], num_bins: int = NUM_BINS) -> Reliability | None:
    """How often turns of each confidence are right; None if no turn has a confidence.

    A turn is right where the reference speaker that its speaker is mapped to speaks. Confidences
    are of speech of a local speaker, so that confusion between speakers shows as overconfidence.
    """
    expected, right, seconds = (np.zeros(num_bins) for _ in range(3))
    for trial in trials:
        turns = [turn for turn in trial.hypothesis if turn.confidence is not None]
        if not turns:
            continue
        mapping = optimal_mapping(trial.reference, trial.hypothesis, trial.regions)
        spoken: dict[str, list[tuple[float, float]]] = {}
        for turn in trial.reference:
            spoken.setdefault(turn.speaker, []).append((turn.start, turn.end))
        merged = {speaker: _disjoint(times) for speaker, times in spoken.items()}
        for turn in turns:
            index = min(int(turn.confidence * num_bins), num_bins - 1)
            seconds[index] += turn.duration
            expected[index] += turn.confidence * turn.duration
            if turn.speaker in mapping:
                starts, ends = merged[mapping[turn.speaker]].T
                shared = np.minimum(ends, turn.end) - np.maximum(starts, turn.start)
                right[index] += shared.clip(min=0).sum()
    if not seconds.any():
        return None
    with np.errstate(invalid="ignore"):
        return Reliability(expected / seconds, right / seconds, seconds)


def _disjoint(times: list[tuple[float, float]]) -> np.ndarray:
    merged: list[list[float]] = []
    for start, end in sorted(times):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return np.array(merged)
