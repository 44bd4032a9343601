"""Clustering: from the local speakers of windows to the speakers of a recording (no torch)."""

from raydiar.clustering.parameters import (
    AgglomerativeParameters,
    CountingParameters,
    KMeansParameters,
    VBxParameters,
)
from raydiar.clustering.plda import PLDA
from raydiar.clustering.resolve import resolve

__all__ = [
    "PLDA",
    "AgglomerativeParameters",
    "CountingParameters",
    "KMeansParameters",
    "VBxParameters",
    "resolve",
]
