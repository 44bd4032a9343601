"""Sums over many embeddings, a piece at a time.

A day of speech is 200,000 embeddings, 150 MB as they come in float32; everything here converts to
float64 only the piece in hand.
"""

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

PIECE = 16384


def pieces(length: int, size: int = PIECE) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover `length` rows."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, in float64."""
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def group_means(rows, groups: np.ndarray, num_groups: int, transform=None) -> np.ndarray:
    """Mean of the rows of each group, NaN for a group without rows.

    Parameters
    ----------
    rows : (num_rows, dimension) array
    groups : (num_rows,) int
        Group of each row, 0 to num_groups - 1.
    transform : callable, optional
        Applied to each piece of rows before it is summed; may change the dimension.

    Returns
    -------
    means : (num_groups, dimension) float64
    """
    transform = transform or np.asarray
    total = np.zeros((num_groups, transform(rows[:0]).shape[1]))
    for piece in pieces(len(rows)):
        values = transform(rows[piece]).astype(np.float64, copy=False)
        shape = (num_groups, len(values))
        entries = (np.ones(len(values)), (groups[piece], np.arange(len(values))))
        total += csr_array(entries, shape=shape) @ values
    sizes = np.bincount(groups, minlength=num_groups)
    with np.errstate(invalid="ignore"):
        return total / sizes[:, None]
