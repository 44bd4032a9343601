"""x-vector speaker embeddings, on SincNet features as in `pyannote/embedding`, or on MFCC.

D. Snyder et al., "X-vectors: robust DNN embeddings for speaker recognition", ICASSP 2018.
"""

from __future__ import annotations

import torch
from torch import nn

from raydiar.models.convolutions import Convolution
from raydiar.models.embedding_network import EmbeddingNetwork
from raydiar.models.sincnet import SincNet

# (channels, kernel, dilation) of the layers that see frames one after the other
_TDNN = ((512, 5, 1), (512, 3, 2), (512, 3, 3), (512, 1, 1), (1500, 1, 1))


class _XVector(EmbeddingNetwork):
    """Time-delay layers over frames of `num_features`, pooled and projected."""

    fbank = None

    def _make_layers(self, num_features: int, dimension: int) -> None:
        layers = []
        for outputs, kernel, dilation in _TDNN:
            layers += [
                nn.Conv1d(num_features, outputs, kernel, dilation=dilation),
                nn.LeakyReLU(),
                nn.BatchNorm1d(outputs),
            ]
            num_features = outputs
        self.tdnns = nn.ModuleList(layers)
        self.embedding = nn.Linear(2 * num_features, dimension)
        self.dimension = dimension

    @property
    def _front(self) -> list[Convolution]:
        """Convolutions up to the first time-delay layer."""
        raise NotImplementedError

    @property
    def convolutions(self) -> list[Convolution]:
        return [*self._front, *(Convolution(kernel, 1, 0, dil) for _, kernel, dil in _TDNN)]

    @property
    def min_num_samples(self) -> int:
        # Two frames have a deviation. Paddings lend a front end samples that are not there.
        num_samples = self.frame_duration
        while self.num_frames(num_samples) < 2:
            num_samples += self.frame_step
        while self.num_frames(num_samples - 1) >= 2:
            num_samples -= 1
        return num_samples

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        frames = self._features(features)
        for layer in self.tdnns:
            frames = layer(frames)
        return frames

    def _features(self, samples: torch.Tensor) -> torch.Tensor:
        """(batch, num_samples) to (batch, num_features, num_frames)"""
        raise NotImplementedError

    def project(self, statistics: torch.Tensor) -> torch.Tensor:
        return self.embedding(statistics)


class XVectorSincNet(_XVector):
    """Speaker embedding network, 512 dimensions in the public checkpoint."""

    def __init__(
        self,
        sample_rate: int = 16000,
        num_channels: int = 1,
        sincnet: dict | None = None,
        dimension: int = 512,
        task=None,
    ):
        super().__init__(sample_rate, num_channels, task)
        if sample_rate != 16000:
            raise ValueError("XVectorSincNet takes 16 kHz mono")
        sincnet = {"sample_rate": sample_rate, "stride": 10, **(sincnet or {})}
        self.save_hyperparameters()
        self.sincnet = SincNet(**sincnet)
        self._make_layers(self.sincnet.num_features, dimension)

    @property
    def _front(self) -> list[Convolution]:
        return self.sincnet.convolutions

    def _features(self, samples: torch.Tensor) -> torch.Tensor:
        return self.sincnet(samples[:, None])


class XVectorMFCC(_XVector):
    """The same on 40 MFCC of torchaudio, not one of them learnt.

    Parameters
    ----------
    mfcc : dict, optional
        Arguments of `torchaudio.transforms.MFCC`; missing ones take pyannote's defaults.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        num_channels: int = 1,
        mfcc: dict | None = None,
        dimension: int = 512,
        task=None,
    ):
        super().__init__(sample_rate, num_channels, task)
        self.save_hyperparameters()
        from torchaudio.transforms import MFCC

        defaults = {"n_mfcc": 40, "dct_type": 2, "norm": "ortho", "log_mels": False}
        mfcc = {**defaults, "sample_rate": sample_rate, **(mfcc or {})}
        self.save_hyperparameters("mfcc")
        self.mfcc = MFCC(**mfcc)
        self._make_layers(mfcc["n_mfcc"], dimension)

    @property
    def _front(self) -> list[Convolution]:
        spectrogram = self.mfcc.MelSpectrogram.spectrogram
        padding = spectrogram.n_fft // 2 if spectrogram.center else 0
        return [Convolution(spectrogram.n_fft, spectrogram.hop_length, padding)]

    def receptive_field_size(self, num_frames: int = 1) -> int:
        # The samples that the spectrogram pads with are mirrored ones: they are looked at.
        return super().receptive_field_size(num_frames) + 2 * self._front[0].padding

    def _features(self, samples: torch.Tensor) -> torch.Tensor:
        return self.mfcc(samples)
