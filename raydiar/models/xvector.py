"""x-vector speaker embedding on SincNet features, as in `pyannote/embedding`.

D. Snyder et al., "X-vectors: robust DNN embeddings for speaker recognition", ICASSP 2018.
"""

from __future__ import annotations

import torch
from torch import nn

from raydiar.models.embedding import EmbeddingNetwork
from raydiar.models.sincnet import SincNet


class XVectorSincNet(EmbeddingNetwork):
    """Speaker embedding network, 512 dimensions in the public checkpoint."""

    fbank = None

    def __init__(
        self,
        sample_rate: int = 16000,
        num_channels: int = 1,
        sincnet: dict | None = None,
        dimension: int = 512,
    ):
        super().__init__()
        if sample_rate != 16000 or num_channels != 1:
            raise ValueError("XVectorSincNet takes 16 kHz mono")
        self.sample_rate = sample_rate
        self.dimension = dimension
        self.sincnet = SincNet(**{"sample_rate": sample_rate, "stride": 10, **(sincnet or {})})
        layers = []
        inputs = self.sincnet.num_features
        for outputs, kernel, dilation in (
            (512, 5, 1), (512, 3, 2), (512, 3, 3), (512, 1, 1), (1500, 1, 1)
        ):  # fmt: skip
            layers += [
                nn.Conv1d(inputs, outputs, kernel, dilation=dilation),
                nn.LeakyReLU(),
                nn.BatchNorm1d(outputs),
            ]
            inputs = outputs
        self.tdnns = nn.ModuleList(layers)
        self.embedding = nn.Linear(2 * inputs, dimension)

    @property
    def min_num_samples(self) -> int:
        # Kernels 5, 3 (dilated 2) and 3 (dilated 3) see 15 frames of SincNet; two give a deviation.
        return self.sincnet.frame_duration + 15 * self.sincnet.frame_step

    def frames(self, features: torch.Tensor) -> torch.Tensor:
        frames = self.sincnet(features[:, None])
        for layer in self.tdnns:
            frames = layer(frames)
        return frames

    def project(self, statistics: torch.Tensor) -> torch.Tensor:
        return self.embedding(statistics)
