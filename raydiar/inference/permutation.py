"""Which speaker of one segmentation is which of another."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from raydiar.errors import InvalidSamples


def permutate(y1, y2, cost_func: Callable | None = None, return_cost: bool = False) -> tuple:
    """Put the columns of `y2` in the order in which they are most like those of `y1`.

    Parameters
    ----------
    y1 : (batch, num_frames, num_classes_1) array or tensor
    y2 : (batch, num_frames, num_classes_2) or (num_frames, num_classes_2) array or tensor
        One for all of a batch where there is no batch.
    cost_func : callable, optional
        Takes two (num_frames, num_classes) arrays and gives a cost, or one per class whose sum
        counts; by default the mean squared difference.
    return_cost : bool

    Returns
    -------
    permutated_y2 : (batch, num_frames, num_classes_1), of the kind of `y2`
        Zeros where `y2` has no column left.
    permutations : list of tuple
        `permutated_y2[b, :, i]` is `y2[b, :, permutations[b][i]]`; None where there is none.
    cost : (batch, num_classes_1, max(num_classes_1, num_classes_2)) array
        If `return_cost`.

    Raises
    ------
    InvalidSamples
        If the shapes do not fit.
    """
    first, second = _array(y1), _array(y2)
    if second.ndim == 2 and first.ndim == 3:
        second = np.broadcast_to(second, (len(first), *second.shape))
    if first.ndim != 3 or second.ndim != 3 or first.shape[:2] != second.shape[:2]:
        raise InvalidSamples(
            "permutate takes (batch, num_frames, num_classes) and the same, or (num_frames, "
            f"num_classes), not {first.shape} and {_array(y2).shape}"
        )
    batch, num_frames, num_first = first.shape
    num_second = second.shape[2]
    width = max(num_first, num_second)
    padded = np.zeros((batch, num_frames, width), second.dtype)
    padded[:, :, :num_second] = second
    costs = np.stack([_costs(a, b, cost_func) for a, b in zip(first, padded, strict=True)])
    permutations, out = [], np.zeros((batch, num_frames, num_first), second.dtype)
    for number in range(batch):
        chosen: list[int | None] = [None] * num_first
        for row, column in zip(*linear_sum_assignment(costs[number]), strict=True):
            if column < num_second:
                chosen[row] = int(column)
                out[number, :, row] = second[number, :, column]
        permutations.append(tuple(chosen))
    result = (_like(out, y2), permutations)
    return (*result, _like(costs, y2)) if return_cost else result


def _costs(a: np.ndarray, b: np.ndarray, cost_func: Callable | None) -> np.ndarray:
    """(num_classes_1, width) cost of each pair of columns."""
    if cost_func is None:
        return np.mean((a[:, :, None] - b[:, None, :]) ** 2, axis=0, dtype=np.float64)
    return np.array(
        [
            [float(np.sum(cost_func(a[:, [i]], b[:, [j]]))) for j in range(b.shape[1])]
            for i in range(a.shape[1])
        ]
    )


def _array(values) -> np.ndarray:
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _like(values: np.ndarray, other):
    if not hasattr(other, "detach"):
        return values
    import torch

    return torch.from_numpy(values).to(other.device)
