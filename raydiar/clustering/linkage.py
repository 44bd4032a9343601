"""Linkage: the dendrogram of embeddings, or of sub-clusters that weigh what they hold.

SciPy's linkage is used wherever it can be: it defines the reference's numbers. It cannot start
from points that already stand for several embeddings, so those are merged here, with the same
Lance-Williams updates (Lance and Williams, 1967) and the nearest-neighbour bookkeeping of the
"generic" algorithm (Müllner, arXiv 1109.2378), which holds for all seven linkages, inversions of
the centroid and median ones included. Both take O(n^2) memory: 0.5 GB for 8,000 points.
"""

import numpy as np
from scipy.cluster import hierarchy

from raydiar.clustering.vectors import pieces, unit_rows

EUCLIDEAN = ("centroid", "median", "ward")  # these work on squared distances of unit vectors
EXTREME = ("complete", "single")  # these look at members, not at means
SIZE_BLIND = ("median", "weighted")  # a merge counts as the midpoint of its two sides


def linkage(centers: np.ndarray, sizes: np.ndarray, method: str) -> np.ndarray:
    """Merge points pairwise, nearest first.

    Parameters
    ----------
    centers : (num_points, dimension) float64
        Unit vectors, or means of the unit vectors that a point stands for.
    sizes : (num_points,) int
        Embeddings that each point stands for.
    method : str
        One of the seven linkages.

    Returns
    -------
    dendrogram : (num_points - 1, 4) float64
        In SciPy's form, whose last column counts points, not embeddings.
    """
    if np.all(sizes == 1):
        return hierarchy.linkage(_condensed_distances(centers, method), method)
    return _merge(_square_distances(centers, sizes, method), sizes.astype(np.float64), method)


def cut(dendrogram: np.ndarray, height: float) -> np.ndarray:
    """Clusters, numbered from 0, of the points that merge at or below `height`."""
    return hierarchy.fcluster(dendrogram, height, criterion="distance") - 1


def cut_after(dendrogram: np.ndarray, num_merges: int) -> np.ndarray:
    """Clusters, numbered from 0, that the first `num_merges` merges make."""
    ordered = dendrogram.copy()
    ordered[:, 2] = np.arange(1, len(ordered) + 1)  # with inversions, heights are not in order
    return cut(ordered, num_merges)


def node_sizes(dendrogram: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Embeddings in every point and, after the points, in every merge.

    Returns
    -------
    sizes : (2 * num_points - 1,) int64
    """
    sizes = sizes.tolist()
    for left, right in dendrogram[:, :2].astype(np.int64).tolist():
        sizes.append(sizes[left] + sizes[right])
    return np.array(sizes)


def cluster_centers(
    dendrogram: np.ndarray, centers: np.ndarray, sizes: np.ndarray, labels: np.ndarray, method: str
) -> np.ndarray:
    """Where the clusters of a cut lie for later merges.

    It is the mean of their unit vectors, or, for linkages blind to size, the midpoint of
    midpoints: from it follow the exact distances between clusters under the centroid, median,
    ward, average and weighted linkages.

    Returns
    -------
    cluster_centers : (num_clusters, dimension) float64
    """
    count = len(centers)
    nodes = np.concatenate([centers, np.empty((len(dendrogram), centers.shape[1]))])
    weights = node_sizes(dendrogram, sizes)
    for node, (left, right) in enumerate(dendrogram[:, :2].astype(np.int64), start=count):
        share = 0.5 if method in SIZE_BLIND else weights[left] / (weights[left] + weights[right])
        nodes[node] = share * nodes[left] + (1.0 - share) * nodes[right]
    roots, clusters = hierarchy.leaders(dendrogram, (labels + 1).astype(np.int32))
    return nodes[roots[np.argsort(clusters)]]


def _condensed_distances(vectors: np.ndarray, method: str) -> np.ndarray:
    """Distances between unit vectors in SciPy's condensed form, by matrix products.

    `pdist` takes twice as long; the difference is rounding, below 1e-7 for all but equal vectors.
    """
    count = len(vectors)
    condensed = np.empty(count * (count - 1) // 2)
    filled = 0
    for piece in pieces(count, 512):
        products = vectors[piece] @ vectors[piece.start :].T
        for row in range(len(products)):
            cosines = products[row, row + 1 :]
            condensed[filled : filled + len(cosines)] = cosines
            filled += len(cosines)
    if method in EUCLIDEAN:
        condensed *= -2.0
        condensed += 2.0
        np.maximum(condensed, 0.0, out=condensed)
        return np.sqrt(condensed, out=condensed)
    np.subtract(1.0, condensed, out=condensed)
    return np.maximum(condensed, 0.0, out=condensed)


def _square_distances(centers: np.ndarray, sizes: np.ndarray, method: str) -> np.ndarray:
    """(num_points, num_points) distances, squared for the linkages that work on squares.

    Under the single and complete linkages a point stands for its members as if all lay in its
    direction: the farthest and nearest members are not known any more. For these two, clustering
    in two levels is no more than an approximation.
    """
    if method in EXTREME:
        centers = unit_rows(centers)
    square = centers @ centers.T
    if method not in EUCLIDEAN:
        np.subtract(1.0, square, out=square)
        return np.maximum(square, 0.0, out=square)
    norms = np.einsum("ij,ij->i", centers, centers)
    square *= -2.0
    square += norms[:, None]
    square += norms
    np.maximum(square, 0.0, out=square)
    if method == "ward":
        for row, size in zip(square, sizes, strict=True):
            row *= 2.0 * size * sizes / (size + sizes)
    return square


def _merge(square: np.ndarray, sizes: np.ndarray, method: str) -> np.ndarray:
    """Merge the nearest two points until one is left; `square` is used up.

    `closest[k]` never exceeds the distance from k to its nearest neighbour. A row whose neighbour
    was merged away keeps its old value, a lower bound still, and is looked up again only when that
    bound comes first: most rows never are.
    """
    count = len(square)
    dendrogram = np.empty((count - 1, 4))
    np.fill_diagonal(square, np.inf)
    nearest = square.argmin(axis=1)
    closest = square[np.arange(count), nearest]
    stale = np.zeros(count, bool)
    node, held = np.arange(count), np.ones(count, np.int64)
    for step in range(count - 1):
        while stale[i := closest.argmin()]:
            nearest[i] = square[i].argmin()
            closest[i] = square[i, nearest[i]]
            stale[i] = False
        j, height = nearest[i], closest[i]
        merged = _updated(method, square[i], square[j], height, sizes[i], sizes[j], sizes)
        merged[[i, j]] = np.inf
        sizes[j] += sizes[i]
        held[j] += held[i]
        dendrogram[step] = (*sorted((node[i], node[j])), height, held[j])
        node[j] = count + step

        # point i is gone, point j is the merged one
        square[i] = square[:, i] = np.inf
        square[j] = square[:, j] = merged
        stale |= (nearest == i) | (nearest == j)
        closest[i] = np.inf
        nearer = merged <= closest
        nearest[nearer], closest[nearer], stale[nearer] = j, merged[nearer], False
        nearest[j] = merged.argmin()
        closest[j], stale[j] = merged[nearest[j]], False
    if method in EUCLIDEAN:
        np.sqrt(dendrogram[:, 2], out=dendrogram[:, 2])
    return dendrogram


def _updated(method, from_i, from_j, height, size_i, size_j, sizes) -> np.ndarray:
    """Distances from the union of i and j to every point (Lance-Williams)."""
    both = size_i + size_j
    if method == "single":
        return np.minimum(from_i, from_j)
    if method == "complete":
        return np.maximum(from_i, from_j)
    if method == "weighted":
        return (from_i + from_j) / 2
    if method == "median":
        return (from_i + from_j) / 2 - height / 4
    if method == "ward":
        sums = (sizes + size_i) * from_i + (sizes + size_j) * from_j
        return (sums - sizes * height) / (sizes + both)
    means = (size_i * from_i + size_j * from_j) / both
    if method == "average":
        return means
    return means - size_i * size_j / both**2 * height  # centroid
