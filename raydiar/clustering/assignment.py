"""Assignment: which voice each local speaker is, once the voices are known.

Every local speaker takes part here, also those whose speech was too short or too overlapped to
shape a voice. One without an embedding (NaN) has no voice to compare and is given none: it
abstains from the vote over its frames. pyannote.audio gives such speakers to cluster 0, or to
whatever cluster their window left over.
"""

from itertools import pairwise

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from raydiar.clustering.vectors import pieces

UNASSIGNED = -1


def assign(
    embeddings: np.ndarray, windows: np.ndarray, centroids: np.ndarray, constrained: bool
) -> np.ndarray:
    """Give each local speaker the voice with the highest cosine similarity.

    Parameters
    ----------
    embeddings : (num_embeddings, dimension) float32
        NaN rows are left unassigned, unless there is but one voice.
    windows : (num_embeddings,) int
        Window of each, in rising order.
    centroids : (num_clusters, dimension) float64
    constrained : bool
        Local speakers of one window get different voices, at the highest total similarity; those
        for whom no voice is left are unassigned.

    Returns
    -------
    labels : (num_embeddings,) int64
        Cluster, or UNASSIGNED.
    """
    count = len(embeddings)
    if len(centroids) == 1 and not constrained:
        return np.zeros(count, np.int64)
    labels = np.full(count, UNASSIGNED, np.int64)
    usable = np.flatnonzero(usable_rows(embeddings))
    first = np.flatnonzero(np.diff(windows[usable], prepend=-1))
    edges = np.append(first, len(usable))
    for piece in pieces(len(first), 4096):
        start, *_, stop = edges[piece.start : piece.stop + 1]
        rows = usable[start:stop]
        scores = similarities(embeddings[rows], centroids)
        labels[rows] = scores.argmax(axis=1)
        if constrained:
            _resolve_conflicts(labels, rows, scores, edges[piece.start : piece.stop + 1] - start)
    return labels


def _resolve_conflicts(labels, rows, scores, edges) -> None:
    """Where local speakers of one window chose the same voice, assign them jointly instead."""
    for start, stop in pairwise(edges):
        chosen = labels[rows[start:stop]]
        if len(set(chosen.tolist())) < len(chosen):
            labels[rows[start:stop]] = UNASSIGNED
            assigned, chosen = linear_sum_assignment(scores[start:stop], maximize=True)
            labels[rows[start:stop][assigned]] = chosen


def similarities(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(num_embeddings, num_clusters) cosine similarities plus 1, from 0 to 2."""
    return 2.0 - cdist(embeddings, centroids, metric="cosine")


def usable_rows(embeddings: np.ndarray) -> np.ndarray:
    """(num_embeddings,) bool: neither NaN nor zero, so that a direction exists."""
    return np.isfinite(embeddings).all(axis=1) & embeddings.any(axis=1)
