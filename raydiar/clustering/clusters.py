"""Clusters: what every clustering method makes of the kept embeddings of a recording."""

from dataclasses import dataclass

import numpy as np

from raydiar.clustering.vectors import group_means


@dataclass(frozen=True)
class Clusters:
    """Voices found among the kept embeddings.

    Attributes
    ----------
    labels : (num_embeddings,) int64
        Cluster of each kept embedding, numbered from 0.
    centroids : (num_clusters, dimension) float64
        Voiceprints: means of raw embeddings. A single row of NaN when nothing was kept.
    constrained : bool
        Whether two local speakers of one window must be given different clusters.
    two_level : bool
        Whether sub-clusters were clustered instead of embeddings.
    warnings : tuple of str
    """

    labels: np.ndarray
    centroids: np.ndarray
    constrained: bool = False
    two_level: bool = False
    warnings: tuple[str, ...] = ()

    @classmethod
    def from_labels(cls, embeddings: np.ndarray, labels: np.ndarray, **attributes) -> "Clusters":
        """Clusters whose voiceprints are the plain means of their embeddings."""
        centroids = group_means(embeddings, labels, labels.max(initial=0) + 1)
        return cls(labels, centroids, **attributes)

    @classmethod
    def single(cls, embeddings: np.ndarray) -> "Clusters":
        """All embeddings, even none, as one voice."""
        return cls.from_labels(embeddings, np.zeros(len(embeddings), np.int64))
