"""How wrong a segmentation is, frame by frame: counts that add up over windows and workers.

The definition is that of pyannote's torchmetrics: speakers of a window are matched by mean square,
false alarms and misses are the surplus and lack of speakers in a frame, confusion is what else is
wrong; all over the speech that there is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raydiar.training.losses import best_permutation, permuted

THRESHOLDS = torch.linspace(0.0, 1.0, 51)


@dataclass(frozen=True)
class SegmentationErrors:
    """Seconds or frames of each kind of error; add instances to sum them up."""

    false_alarm: float
    missed: float
    confusion: float
    speech: float

    @property
    def rate(self) -> float:
        """Diarization error rate over frames of windows."""
        return (self.false_alarm + self.missed + self.confusion) / max(self.speech, 1e-8)

    def __add__(self, other: SegmentationErrors) -> SegmentationErrors:
        return SegmentationErrors(
            self.false_alarm + other.false_alarm,
            self.missed + other.missed,
            self.confusion + other.confusion,
            self.speech + other.speech,
        )


def count_errors(
    scores: torch.Tensor,
    target: torch.Tensor,
    thresholds: torch.Tensor | None = None,
    *,
    permutation_invariant: bool = True,
) -> torch.Tensor:
    """Errors of a batch at some thresholds.

    Parameters
    ----------
    scores : (batch, num_frames, num_speakers) float
        Decisions, 0 or 1, or probabilities.
    target : (batch, num_frames, num_speakers) float, 0 or 1; -1 where nothing is known
    thresholds : (num_thresholds,) float, optional
        0.5 by default.

    Returns
    -------
    counts : (num_thresholds, 4) float64
        Frames of false alarm, missed speech, confusion, and speech.
    """
    target = target.float()
    thresholds = torch.tensor([0.5]) if thresholds is None else thresholds
    if permutation_invariant:
        target = permuted(target, best_permutation(scores, target))
    known = target >= 0
    target = target.clamp(min=0)
    spoken = target.sum(-1)
    counts = []
    for threshold in thresholds.tolist():
        active = ((scores > threshold) & known).float()
        surplus = active.sum(-1) - spoken
        false_alarm = surplus.clamp(min=0)
        missed = (-surplus).clamp(min=0)
        confusion = ((active != target).float() * active).sum(-1) - false_alarm
        counts.append(
            torch.stack(
                [part.sum(dtype=torch.float64) for part in (false_alarm, missed, confusion, spoken)]
            )
        )
    return torch.stack(counts)


def best_threshold(counts: torch.Tensor, thresholds: torch.Tensor) -> tuple[float, float]:
    """Threshold with the lowest error rate, and that rate, of (num_thresholds, 4) counts."""
    rates = counts[:, :3].sum(1) / counts[:, 3].clamp(min=1e-8)
    best = int(rates.argmin())
    return float(thresholds[best]), float(rates[best])
