"""Powerset classes: one class per set of simultaneous speakers.

A. Plaquet, H. Bredin, "Powerset multi-class cross entropy loss for neural speaker diarization",
Interspeech 2023. Classes are ordered by size of the set, then lexicographically.
"""

from __future__ import annotations

from functools import cached_property
from itertools import combinations, permutations

import torch
from torch import nn

from raydiar.errors import ConfigError


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


class Powerset(nn.Module):
    """Powerset classes to single ones, and back.

    Parameters
    ----------
    num_classes : int
        Single classes, e.g. local speakers.
    max_set_size : int
        Most of them at once.

    Attributes
    ----------
    mapping : (num_powerset_classes, num_classes) float32
        See `powerset_mapping`; no part of a checkpoint.
    cardinality : (num_powerset_classes,) float32
        Size of each set.
    """

    def __init__(self, num_classes: int, max_set_size: int):
        super().__init__()
        whole = all(type(number) is int for number in (num_classes, max_set_size))
        if not whole or not 1 <= max_set_size <= num_classes:
            raise ConfigError(f"sets of {max_set_size} classes cannot be made of {num_classes}")
        self.num_classes = num_classes
        self.max_set_size = max_set_size
        mapping = powerset_mapping(num_classes, max_set_size)
        self.register_buffer("mapping", mapping, persistent=False)
        self.register_buffer("cardinality", mapping.sum(dim=1), persistent=False)

    @property
    def num_powerset_classes(self) -> int:
        return len(self.mapping)

    def to_multilabel(self, powerset: torch.Tensor, soft: bool = False) -> torch.Tensor:
        """
        Parameters
        ----------
        powerset : (..., num_powerset_classes) tensor
            Log-probabilities, or scores whose largest decides.
        soft : bool
            Probability of each class (of log-probabilities only) instead of a decision.

        Returns
        -------
        multilabel : (..., num_classes) tensor
            0 or 1, or in [0, 1].
        """
        self._check(powerset, self.num_powerset_classes)
        active, posteriors = to_multilabel(powerset, self.mapping)
        return (posteriors if soft else active).to(powerset.dtype)

    def forward(self, powerset: torch.Tensor, soft: bool = False) -> torch.Tensor:
        return self.to_multilabel(powerset, soft=soft)

    def to_powerset(self, multilabel: torch.Tensor) -> torch.Tensor:
        """
        Parameters
        ----------
        multilabel : (..., num_classes) tensor
            0 or 1, or how active each class is.

        Returns
        -------
        powerset : (..., num_powerset_classes) tensor
            1 for the set that is most like it, which of equals is the first, else 0.
        """
        self._check(multilabel, self.num_classes)
        best = (multilabel.to(self.mapping.dtype) @ self.mapping.T).argmax(dim=-1)
        return nn.functional.one_hot(best, self.num_powerset_classes).to(multilabel.dtype)

    @cached_property
    def permutation_mapping(self) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Where each permutation of the classes moves the sets.

        If class i moves to place p[i] then the set at place k of the result is the one that was
        at `permutation_mapping[p][k]`.
        """
        sets = [frozenset(row.nonzero().squeeze(1).tolist()) for row in self.mapping.cpu()]
        place = {members: number for number, members in enumerate(sets)}
        return {
            order: tuple(place[frozenset(order[one] for one in members)] for members in sets)
            for order in permutations(range(self.num_classes))
        }

    def _check(self, scores: torch.Tensor, width: int) -> None:
        if not isinstance(scores, torch.Tensor):
            raise ConfigError(f"scores are a tensor, not a {type(scores).__name__}")
        if scores.shape[-1:] != (width,):
            raise ConfigError(f"expected (..., {width}) scores, not {tuple(scores.shape)}")
