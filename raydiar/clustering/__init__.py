"""Clustering: from the local speakers of windows to the speakers of a recording (no torch)."""

from raydiar.clustering.parameters import (
    AgglomerativeParameters,
    KMeansParameters,
    VBxParameters,
)
from raydiar.clustering.plda import PLDA
from raydiar.clustering.resolve import resolve

__all__ = [
    "PLDA",
    "AgglomerativeParameters",
    "KMeansParameters",
    "VBxParameters",
    "resolve",
]
