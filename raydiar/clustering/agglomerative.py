"""Agglomerative clustering (AHC) of embeddings, with a minimum size and speaker bounds.

This is the clustering of speaker-diarization-3.1. A dendrogram cut at the threshold leaves voices
and debris: only clusters of a minimum size count as speakers, and the debris joins them.
"""

import numpy as np
from scipy.spatial.distance import cdist

from raydiar.clustering.clusters import Clusters
from raydiar.clustering.linkage import EUCLIDEAN, cut, cut_after, linkage, node_sizes
from raydiar.clustering.parameters import AgglomerativeParameters, SpeakerBounds
from raydiar.clustering.subclusters import sub_clusters
from raydiar.clustering.vectors import group_means, unit_rows


def agglomerate(
    embeddings: np.ndarray,
    parameters: AgglomerativeParameters,
    bounds: SpeakerBounds,
    exact_limit: int,
) -> Clusters:
    """Cluster embeddings; sizes and bounds count embeddings, also in two levels.

    Parameters
    ----------
    embeddings : (num_embeddings, dimension) float32
        Finite, in the order of the recording.
    bounds : SpeakerBounds
        No more than there are embeddings.
    exact_limit : int
        With more embeddings than this, sub-clusters are clustered.
    """
    count = len(embeddings)
    if count < 2 or bounds.maximum == 1:
        return Clusters.single(embeddings)
    method = parameters.method
    points = sub_clusters(embeddings, method, parameters.threshold, exact_limit)
    dendrogram = linkage(points.centers, points.sizes, method)

    min_size = min(parameters.min_cluster_size, max(1, round(0.1 * count)))
    labels = cut(dendrogram, parameters.threshold)
    num_large = np.count_nonzero(np.bincount(labels, weights=points.sizes) >= min_size)
    warnings = ()
    target = bounds.nearest(num_large)
    if num_large != target:
        num_merges, num_large = _cut_for(
            target, dendrogram, points.sizes, parameters.threshold, min_size
        )
        labels = cut_after(dendrogram, num_merges)
        if num_large != target:
            warnings = (
                f"no cut of the dendrogram leaves {target} clusters of at least {min_size} "
                f"embeddings, the nearest leaves {num_large}: a smaller min_cluster_size may help",
            )
    labels = _join_small(embeddings, labels[points.members], min_size, method)
    return Clusters.from_labels(embeddings, labels, two_level=not points.trivial, warnings=warnings)


def _cut_for(
    target: int, dendrogram: np.ndarray, sizes: np.ndarray, threshold: float, min_size: int
) -> tuple[int, int]:
    """The cut nearest to the threshold that leaves `target` large clusters, or nearly so many.

    Only cuts right after a merge that makes a large cluster are looked at. When none is nearer to
    the target than one cluster of everything, that is the answer.

    Returns
    -------
    num_merges, num_large : int
    """
    count = len(sizes)
    large = node_sizes(dendrogram, sizes) >= min_size
    left, right = dendrogram[:, :2].astype(np.int64).T
    change = large[count:].astype(int) - large[left] - large[right]
    num_large = np.count_nonzero(large[:count]) + np.cumsum(change)

    order = np.argsort(np.abs(dendrogram[:, 2] - threshold), kind="stable")
    order = order[large[count:][order]]
    misses = np.abs(num_large[order] - target)
    if not len(order) or misses.min() >= abs(1 - target):
        return len(dendrogram), 1
    best = order[misses.argmin()]
    return best + 1, num_large[best]


def _join_small(
    embeddings: np.ndarray, labels: np.ndarray, min_size: int, method: str
) -> np.ndarray:
    """Let small clusters join the nearest large one, and number what is left from 0."""
    sizes = np.bincount(labels)
    large = sizes >= min_size
    if not large.any():
        return np.zeros_like(labels)
    joins = np.arange(len(sizes))
    if not large.all():
        rows = unit_rows if method in EUCLIDEAN else None
        means = group_means(embeddings, labels, len(sizes), transform=rows)
        distances = cdist(means[~large], means[large], metric="cosine")
        joins[~large] = np.flatnonzero(large)[distances.argmin(axis=1)]
    return np.unique(joins[labels], return_inverse=True)[1]
