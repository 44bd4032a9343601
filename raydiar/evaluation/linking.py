"""How well voices were linked: each voice's people against who they really are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LinkingScores:
    """
    Attributes
    ----------
    b_cubed_precision, b_cubed_recall, b_cubed_f : float
        Bagga and Baldwin, "Algorithms for scoring coreference chains", 1998: of a voice's
        identity the share that is its person, of its person the share in its identity; the mean
        over voices, and the harmonic mean of both.
    pairwise_precision, pairwise_recall : float
        Of the pairs put together the share of one person, and the reverse; 1 without any pair.
    num_found, num_true : int
        People.
    """

    b_cubed_precision: float
    b_cubed_recall: float
    b_cubed_f: float
    pairwise_precision: float
    pairwise_recall: float
    num_found: int
    num_true: int


def linking_scores(
    identities: np.ndarray, people: np.ndarray, weights: np.ndarray | None = None
) -> LinkingScores:
    """Compare identities with the truth.

    Parameters
    ----------
    identities, people : (num_voices,) array
        What was found and what is true, as labels of any kind.
    weights : (num_voices,) float, optional
        Of voices in B-cubed, e.g. their seconds of speech; pairs are counted without.
    """
    if not len(identities) or len(identities) != len(people):
        raise ValueError("linking is scored on labels of the same voices, at least one")
    found = np.unique(identities, return_inverse=True)[1].ravel()
    true = np.unique(people, return_inverse=True)[1].ravel()
    num_found, num_true = found.max() + 1, true.max() + 1
    _, cell = np.unique(found * num_true + true, return_inverse=True)
    cell = cell.ravel()
    weights = np.ones(len(found)) if weights is None else np.asarray(weights, float)
    of_cell, of_found, of_true = (np.bincount(x, weights) for x in (cell, found, true))
    precision = np.average(of_cell[cell] / of_found[found], weights=weights)
    recall = np.average(of_cell[cell] / of_true[true], weights=weights)
    together, put, are = (_pairs(np.bincount(x)) for x in (cell, found, true))
    return LinkingScores(
        b_cubed_precision=float(precision),
        b_cubed_recall=float(recall),
        b_cubed_f=float(2 * precision * recall / (precision + recall)),
        pairwise_precision=together / put if put else 1.0,
        pairwise_recall=together / are if are else 1.0,
        num_found=int(num_found),
        num_true=int(num_true),
    )


def _pairs(sizes: np.ndarray) -> int:
    return int((sizes * (sizes - 1) // 2).sum())
