"""What training makes small.

Powerset cross-entropy: A. Plaquet, H. Bredin, Interspeech 2023. Additive angular margin: J. Deng et
al., "ArcFace", CVPR 2019; sub-centres: J. Deng et al., "Sub-center ArcFace", ECCV 2020.

Losses come as a sum and what it is to be divided by, so that workers with unequal shares of a
batch, or unequal weights, can agree on the mean over all of it.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

_MAX_ENUMERATED = 6  # 720 permutations; beyond, an assignment is solved for each window


def best_permutation(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The order of the target's speakers that is nearest to the prediction, by mean square.

    Parameters
    ----------
    prediction, target : (batch, num_frames, num_speakers) float

    Returns
    -------
    permutation : (batch, num_speakers) int64
        `target[b][:, permutation[b]]` is nearest to `prediction[b]`; of equals the first in
        lexicographic order.
    """
    prediction, target = prediction.float(), target.float()
    # |p - t|² summed over frames, without an array of frames by speakers by speakers
    cost = (
        prediction.square().sum(1)[:, :, None]
        + target.square().sum(1)[:, None, :]
        - 2 * prediction.mT @ target
    )
    num_speakers = cost.shape[1]
    if num_speakers > _MAX_ENUMERATED:
        from scipy.optimize import linear_sum_assignment

        found = [linear_sum_assignment(matrix)[1] for matrix in cost.cpu().numpy()]
        return torch.from_numpy(np.stack(found)).to(cost.device)
    orders = _orders(num_speakers).to(cost.device)
    rows = torch.arange(num_speakers, device=cost.device)
    totals = cost[:, rows, orders].sum(-1)  # (batch, num_permutations)
    # costs are whole numbers for hard decisions: rounding must not choose between equals
    return orders[totals.mul(64).round().argmin(dim=1)]


@lru_cache(maxsize=16)
def _orders(num_speakers: int) -> torch.Tensor:
    return torch.tensor(list(permutations(range(num_speakers))))


def permuted(target: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """(batch, num_frames, num_speakers) target in another order of speakers for each window"""
    return target.gather(2, permutation[:, None].expand(-1, target.shape[1], -1))


def to_powerset(active: torch.Tensor, mapping: torch.Tensor) -> torch.Tensor:
    """Class of each frame: the largest set of speakers that are all active, the first of equals.

    Parameters
    ----------
    active : (..., num_speakers) float, 0 or 1
    mapping : (num_classes, num_speakers) float
        Of `raydiar.inference.powerset.powerset_mapping`.

    Returns
    -------
    classes : (...,) int64
    """
    return (active @ mapping.T).argmax(dim=-1)


def powerset_loss(
    log_probabilities: torch.Tensor,
    target: torch.Tensor,
    mapping: torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of powerset classes, whichever speaker is called first.

    Parameters
    ----------
    log_probabilities : (batch, num_frames, num_classes) float
    target : (batch, num_frames, num_speakers) float, 0 or 1
    mapping : (num_classes, num_speakers) float
    weight : (batch, num_frames) float, optional

    Returns
    -------
    total, count : () float
        Sum of weighted losses, and of weights.
    """
    with torch.no_grad():
        prediction = mapping[log_probabilities.argmax(dim=-1)]
        target = target.to(mapping.dtype)
        classes = to_powerset(permuted(target, best_permutation(prediction, target)), mapping)
    losses = F.nll_loss(
        log_probabilities.float().flatten(0, 1), classes.flatten(), reduction="none"
    )
    return _weighted(losses.view(classes.shape), weight)


def multilabel_loss(
    probabilities: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    *,
    permutation_invariant: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross-entropy of every class; where the target is -1 nothing is known.

    Parameters
    ----------
    probabilities, target : (batch, num_frames, num_classes) float
    weight : (batch, num_frames) float, optional
    permutation_invariant : bool
        Whichever class is called first.

    Returns
    -------
    total, count : () float
    """
    target = target.to(probabilities.dtype)
    if permutation_invariant:
        with torch.no_grad():
            target = permuted(target, best_permutation(probabilities, target))
    known = target >= 0
    with torch.autocast(probabilities.device.type, enabled=False):
        losses = F.binary_cross_entropy(
            probabilities.float(), target.clamp(min=0).float(), reduction="none"
        )
    weights = known.float()
    if weight is not None:
        weights = weights * weight[..., None]
    return (losses * weights).sum(), weights.sum()


def _weighted(losses: torch.Tensor, weight: torch.Tensor | None):
    if weight is None:
        return losses.sum(), losses.new_tensor(float(losses.numel()))
    return (losses * weight).sum(), weight.sum()


class AngularMargin(nn.Module):
    """Additive angular margin softmax over speakers, with sub-centres.

    Parameters
    ----------
    dimension, num_classes : int
    margin : float, degrees
        Added to the angle between an embedding and its own speaker's centre.
    scale : float
    num_centres : int
        Of each speaker; the nearest counts, so that mislabelled speech may gather elsewhere.
    """

    def __init__(
        self,
        dimension: int,
        num_classes: int,
        margin: float = 11.5,
        scale: float = 32.0,
        num_centres: int = 1,
    ):
        super().__init__()
        self.num_classes, self.num_centres = num_classes, num_centres
        self.scale = scale
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(num_centres, num_classes, dimension))
        nn.init.xavier_uniform_(self.weight)

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(batch, dimension) to (batch, num_classes): with the nearest centre of each speaker"""
        with torch.autocast(embeddings.device.type, enabled=False):
            directions = F.normalize(embeddings.float(), dim=-1)
            centres = F.normalize(self.weight.float(), dim=-1)
            return torch.einsum("bd,kcd->bkc", directions, centres).amax(dim=1)

    def forward(self, embeddings: torch.Tensor, speakers: torch.Tensor):
        """
        Parameters
        ----------
        embeddings : (batch, dimension) float
        speakers : (batch,) int64

        Returns
        -------
        total, count : () float
        """
        cosines = self.cosines(embeddings).clamp(-1, 1)
        margin = math.radians(self.margin)
        own = cosines.gather(1, speakers[:, None]).squeeze(1)
        sines = (1 - own.square()).clamp(min=1e-9).sqrt()
        moved = own * math.cos(margin) - sines * math.sin(margin)
        # past 180° the cosine would rise again: a line goes on falling
        beyond = own <= math.cos(math.pi - margin)
        moved = torch.where(beyond, own - math.sin(margin) * margin, moved)
        logits = cosines.scatter(1, speakers[:, None], moved[:, None]) * self.scale
        losses = F.cross_entropy(logits, speakers, reduction="none")
        return losses.sum(), losses.new_tensor(float(len(losses)))
