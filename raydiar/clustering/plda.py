"""PLDA: the space in which VBx compares voices.

A two-covariance probabilistic linear discriminant analysis. It maps embeddings so that within a
speaker they vary by the identity, and between speakers along the axes only, by `phi`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.linalg import LinAlgError, eigh

from raydiar.errors import CheckpointError

FILES = {"xvec_transform.npz": ("mean1", "mean2", "lda"), "plda.npz": ("mu", "tr", "psi")}


@dataclass(frozen=True)
class PLDA:
    """Centring, LDA and length normalisation, then the diagonalising PLDA transform.

    Attributes
    ----------
    mean1 : (dimension,) float64
        Of raw embeddings.
    mean2 : (lda_dimension,) float64
        Of embeddings after LDA.
    lda : (dimension, lda_dimension) float64
    mu : (lda_dimension,) float64
        Mean in the whitened space.
    transform : (lda_dimension, lda_dimension) float64
        Rows are axes, by falling between-speaker variance.
    phi : (lda_dimension,) float64
        Between-speaker variance along each axis.
    """

    mean1: np.ndarray = field(repr=False)
    mean2: np.ndarray = field(repr=False)
    lda: np.ndarray = field(repr=False)
    mu: np.ndarray = field(repr=False)
    transform: np.ndarray = field(repr=False)
    phi: np.ndarray = field(repr=False)

    @property
    def dimension(self) -> int:
        """Of the embeddings it was trained on."""
        return len(self.mean1)

    @classmethod
    def load(cls, directory: str | Path) -> "PLDA":
        """Read `plda.npz` and `xvec_transform.npz`, as published with community-1.

        Raises
        ------
        CheckpointError
            If a file is missing, holds anything but plain arrays, or shapes do not fit together.
        """
        arrays = {}
        for name, keys in FILES.items():
            arrays |= _read(Path(directory) / name, keys)
        dimension, lda_dimension = arrays["lda"].shape if arrays["lda"].ndim == 2 else (0, 0)
        expected = {
            "mean1": (dimension,),
            "mean2": (lda_dimension,),
            "mu": (lda_dimension,),
            "tr": (lda_dimension, lda_dimension),
            "psi": (lda_dimension,),
        }
        for key, shape in expected.items():
            if arrays[key].shape != shape or not dimension:
                raise CheckpointError(
                    f"the PLDA in {directory} does not fit together: {key} has shape "
                    f"{arrays[key].shape}, lda {arrays['lda'].shape}"
                )
        try:
            transform, phi = _diagonalised(arrays["tr"], arrays["psi"])
        except (LinAlgError, np.linalg.LinAlgError) as error:
            raise CheckpointError(f"the PLDA in {directory} is singular: {error}") from error
        kept = {key: arrays[key] for key in ("mean1", "mean2", "lda", "mu")}
        return cls(**kept, transform=transform, phi=phi)

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """Map raw embeddings into the PLDA space.

        Parameters
        ----------
        embeddings : (num_embeddings, dimension) float32

        Returns
        -------
        features : (num_embeddings, lda_dimension) float64
        """
        dimension, lda_dimension = self.lda.shape
        centered = _scaled(embeddings - self.mean1, np.sqrt(dimension))
        whitened = _scaled(centered @ self.lda - self.mean2, np.sqrt(lda_dimension))
        return (whitened - self.mu) @ self.transform.T


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key].astype(np.float64) for key in keys}
    except FileNotFoundError:
        raise CheckpointError(f"no PLDA here: {path} is missing") from None
    except Exception as error:  # zipfile, pickle, key, type errors: a damaged file has many faces
        raise CheckpointError(f"{path} is not a PLDA file: {error}") from error
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{path} holds NaN or infinity in {key}")
    return arrays


def _scaled(rows: np.ndarray, length: float) -> np.ndarray:
    return rows * (length / np.linalg.norm(rows, axis=1, keepdims=True))


def _diagonalised(tr: np.ndarray, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Simultaneous diagonalisation of the within- and between-speaker covariances."""
    within = np.linalg.inv(tr.T @ tr)
    between = np.linalg.inv((tr.T / psi) @ tr)
    variances, axes = eigh(between, within)
    return axes.T[::-1], variances[::-1]
