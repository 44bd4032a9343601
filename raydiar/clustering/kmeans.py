"""K-means on unit embeddings: for a known number of speakers.

Its cost grows only linearly with the embeddings, so it never needs sub-clusters.
"""

import warnings

import numpy as np

from raydiar.clustering.clusters import Clusters


def kmeans(embeddings: np.ndarray, num_speakers: int) -> Clusters:
    """Cluster embeddings into as many voices as asked for.

    Parameters
    ----------
    embeddings : (num_embeddings, dimension) float32
        Finite.
    num_speakers : int
        No more than there are embeddings.
    """
    if len(embeddings) < 2:
        return Clusters.single(embeddings)
    return Clusters.from_labels(embeddings, kmeans_labels(embeddings, num_speakers))


def kmeans_labels(embeddings: np.ndarray, num_clusters: int) -> np.ndarray:
    """Cluster of each embedding; fewer clusters only where embeddings are equal.

    Computed in the precision of the embeddings, as the reference does.

    Returns
    -------
    labels : (num_embeddings,) int64
    """
    from sklearn.cluster import KMeans  # a second or more to import, and most jobs never need it
    from sklearn.exceptions import ConvergenceWarning

    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    model = KMeans(n_clusters=num_clusters, n_init=3, random_state=42, copy_x=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        labels = model.fit_predict(unit)
    return np.unique(labels, return_inverse=True)[1]
