"""Powerset classes: one class per set of simultaneous speakers.

A. Plaquet, H. Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization",
Interspeech 2023. Classes are ordered by size of the set, then lexicographically.
"""

from __future__ import annotations

from itertools import combinations

import torch


def powerset_mapping(num_speakers: int, max_active: int) -> torch.Tensor:
    """Which speakers are active in each class.

    Returns
    -------
    mapping : (num_classes, num_speakers) float32, 0 or 1
    """
    sets = [
        members
        for size in range(max_active + 1)
        for members in combinations(range(num_speakers), size)
    ]
    mapping = torch.zeros(len(sets), num_speakers)
    for row, members in enumerate(sets):
        mapping[row, list(members)] = 1
    return mapping


def to_multilabel(
    log_probabilities: torch.Tensor, mapping: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decide, and say how sure.

    Parameters
    ----------
    log_probabilities : (..., num_classes) tensor
    mapping : (num_classes, num_speakers) tensor

    Returns
    -------
    active : (..., num_speakers) float32, 0 or 1
        Speakers of the most likely class.
    posteriors : (..., num_speakers) float32
        Probability of each speaker, summed over the classes that hold it.
    """
    active = mapping[log_probabilities.argmax(dim=-1)]
    posteriors = log_probabilities.float().exp() @ mapping
    return active, posteriors
