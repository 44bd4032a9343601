"""What every speaker embedding network has in common."""

from __future__ import annotations

import torch

from raydiar.models.base import Model
from raydiar.models.fbank import Fbank
from raydiar.models.pooling import statistics_pooling
from raydiar.models.specifications import EMBEDDING


class EmbeddingNetwork(Model):
    """Features, trunk, statistics pooling, projection.

    Masks enter at the pooling only, so one pass of the trunk serves every speaker of a window.
    That is exact where `embedding_mode` is "masked"; a network whose trunk sees its whole input
    ("cut") is given the frames of one speaker at a time instead.

    Attributes
    ----------
    sample_rate : int, Hz
    dimension : int
    fbank : Fbank or None
        None where the waveform itself is the feature.
    """

    embedding_mode = "masked"
    dimension: int = 0
    fbank: Fbank | None

    def __init__(self, sample_rate: int = 16000, num_channels: int = 1, task=None):
        super().__init__(sample_rate, num_channels, task)
        if num_channels != 1:
            raise ValueError("speaker embeddings take mono")
        self.specifications = EMBEDDING

    @property
    def min_num_samples(self) -> int:
        """Shortest input that gives an embedding, in samples."""
        raise NotImplementedError

    def normalize(self, features: torch.Tensor) -> torch.Tensor:
        """Subtract from (batch, num_frames, num_mel_bins) the mean over the time of each input."""
        return features - features.mean(dim=-2, keepdim=True)

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        """The trunk.

        Parameters
        ----------
        features : (batch, num_frames, num_mel_bins) float32
            Normalised; or (batch, num_samples) where there is no `fbank`.

        Returns
        -------
        frames : (batch, channels, num_pooled_frames) float32
        """
        raise NotImplementedError

    def project(self, statistics: torch.Tensor) -> torch.Tensor:
        """(..., 2 * channels) statistics to (..., dimension) embeddings"""
        raise NotImplementedError

    def pool(self, frames: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """
        Parameters
        ----------
        frames : (batch, channels, num_pooled_frames) float32
        masks : (batch, num_speakers, num_mask_frames) float32, optional

        Returns
        -------
        embeddings : (batch, dimension) or (batch, num_speakers, dimension) float32
        """
        return self.project(statistics_pooling(frames, masks))

    def forward(self, waveforms: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """
        Parameters
        ----------
        waveforms : (batch, 1, num_samples) float32
        weights : (batch, num_mask_frames) or (batch, num_speakers, num_mask_frames), optional
            Weight of each frame, for each speaker.

        Returns
        -------
        embeddings : (batch, dimension) or (batch, num_speakers, dimension) float32
        """
        masks = weights[:, None] if weights is not None and weights.ndim == 2 else weights
        features = waveforms.squeeze(1)
        if self.fbank is not None:
            features = self.normalize(self.fbank(features))
        embeddings = self.pool(self.frames(features), masks)
        return embeddings if masks is weights else embeddings.squeeze(1)
