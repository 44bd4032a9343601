"""PyanNet: SincNet, bidirectional LSTM, linear layers; speaker activities frame by frame.

H. Bredin, A. Laurent, "End-to-end speaker segmentation for overlap-aware resegmentation",
Interspeech 2021; with the powerset output of A. Plaquet, H. Bredin, Interspeech 2023.
"""

from __future__ import annotations

import torch

from raydiar.models.convolutions import Convolution
from raydiar.models.recurrent import LINEAR, LSTM, RecurrentNetwork
from raydiar.models.sincnet import SincNet
from raydiar.models.specifications import Specifications


class PyanNet(RecurrentNetwork):
    """Segmentation network.

    Parameters
    ----------
    sincnet, lstm, linear : dict, optional
        Hyper-parameters as checkpoints carry them; missing ones take pyannote's defaults.
    sample_rate, num_channels, specifications, task
        See `RecurrentNetwork`.
    """

    def __init__(
        self,
        sincnet: dict | None = None,
        lstm: dict | None = None,
        linear: dict | None = None,
        sample_rate: int = 16000,
        num_channels: int = 1,
        specifications: Specifications | None = None,
        task=None,
    ):
        super().__init__(sample_rate, num_channels, specifications, task)
        sincnet = {"sample_rate": sample_rate, "stride": 10, **(sincnet or {})}
        lstm, linear = {**LSTM, **(lstm or {})}, {**LINEAR, **(linear or {})}
        self.save_hyperparameters("sincnet", "lstm", "linear")
        self.sincnet = SincNet(**sincnet)
        self.make_layers(self.sincnet.num_features, lstm, linear)

    @property
    def convolutions(self) -> list[Convolution]:
        return self.sincnet.convolutions

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """
        Parameters
        ----------
        waveforms : (batch, 1, num_samples) float32

        Returns
        -------
        scores : (batch, num_frames, num_outputs) float32
            Log-probabilities of the powerset classes, or probabilities of each class when the
            task is multi-label.
        """
        return self.scores(self.sincnet(waveforms).mT)
