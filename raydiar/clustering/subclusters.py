"""Sub-clusters: what is clustered instead of embeddings when there are too many of them.

Agglomeration takes memory and time with the square of the number of points. A long recording is
therefore cut into contiguous blocks; within each the embeddings that are near beyond doubt (most
come from neighbouring windows that share nine tenths of their audio) are joined, by the same
linkage at half the threshold, and the sub-clusters go on with the weight of what they hold.
"""

from dataclasses import dataclass

import numpy as np

from raydiar.clustering.linkage import cluster_centers, cut, cut_after, linkage
from raydiar.clustering.vectors import unit_rows


@dataclass(frozen=True)
class SubClusters:
    """Points that each stand for one or more embeddings.

    Attributes
    ----------
    centers : (num_points, dimension) float64
        Mean of the unit embeddings of each (midpoints for linkages blind to size).
    sizes : (num_points,) int64
        Embeddings in each.
    members : (num_embeddings,) int64
        Sub-cluster of each embedding.
    """

    centers: np.ndarray
    sizes: np.ndarray
    members: np.ndarray

    @property
    def trivial(self) -> bool:
        """Whether every embedding is a point of its own: clustering is then exact."""
        return len(self.sizes) == len(self.members)


def sub_clusters(
    embeddings: np.ndarray, method: str, threshold: float, exact_limit: int
) -> SubClusters:
    """At most `exact_limit` points that stand for all embeddings; all of them if they fit.

    Each round joins within contiguous blocks of a quarter of the limit: what merges at or below
    half the threshold, and at least half of the points, so that rounds come to an end whatever
    the voices are. Blocks of the next round span more of the recording.

    Parameters
    ----------
    embeddings : (num_embeddings, dimension) float32
        In the order of the recording.
    method : str
        Linkage.
    threshold : float
        Distance at which the dendrogram of the points will be cut.
    """
    count = len(embeddings)
    members = np.arange(count)
    if count <= exact_limit:
        return SubClusters(unit_rows(embeddings), np.ones(count, np.int64), members)
    block = max(2, exact_limit // 4)
    centers, sizes = embeddings, np.ones(count, np.int64)
    while len(centers) > exact_limit:
        num_blocks = -(-len(centers) // block)
        joined, offset = [], 0
        for part, weights in zip(
            np.array_split(centers, num_blocks), np.array_split(sizes, num_blocks), strict=True
        ):
            points = unit_rows(part) if centers is embeddings else part
            labels, middles = _join(points, weights, method, threshold / 2)
            joined.append((labels + offset, middles))
            offset += len(middles)
        labels = np.concatenate([labels for labels, _ in joined])
        centers = np.concatenate([middles for _, middles in joined])
        sizes = np.bincount(labels, weights=sizes).astype(np.int64)
        members = labels[members]
    return SubClusters(centers, sizes, members)


def _join(
    points: np.ndarray, sizes: np.ndarray, method: str, height: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster one block; labels in order of first appearance, and the centre of each."""
    count = len(points)
    if count == 1:
        return np.zeros(1, np.int64), points
    dendrogram = linkage(points, sizes, method)
    labels = cut(dendrogram, height)
    if labels.max() >= count // 2:
        labels = cut_after(dendrogram, count - count // 2)
    middles = cluster_centers(dendrogram, points, sizes, labels, method)
    _, first = np.unique(labels, return_index=True)
    order = np.argsort(first)  # the next round's blocks are contiguous in time, too
    return np.argsort(order)[labels], middles[order]
