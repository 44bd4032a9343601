"""PyanNet: SincNet, bidirectional LSTM, linear layers; speaker activities frame by frame.

H. Bredin, A. Laurent, "End-to-end speaker segmentation for overlap-aware resegmentation",
Interspeech 2021; with the powerset output of A. Plaquet, H. Bredin, Interspeech 2023.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from raydiar.models.sincnet import SincNet
from raydiar.models.specifications import SEGMENTATION, Problem, Specifications


class PyanNet(nn.Module):
    """Segmentation network.

    Parameters
    ----------
    sincnet, lstm, linear : dict, optional
        Hyper-parameters as checkpoints carry them; missing ones take pyannote's defaults.
    specifications : Specifications
        Decides the width of the classifier and the last activation.
    """

    def __init__(
        self,
        sincnet: dict | None = None,
        lstm: dict | None = None,
        linear: dict | None = None,
        sample_rate: int = 16000,
        num_channels: int = 1,
        specifications: Specifications = SEGMENTATION,
    ):
        super().__init__()
        if sample_rate != 16000 or num_channels != 1:
            raise ValueError("PyanNet takes 16 kHz mono")
        self.sample_rate = sample_rate
        self.specifications = specifications
        self.sincnet = SincNet(**{"sample_rate": sample_rate, "stride": 10, **(sincnet or {})})
        lstm = {
            "hidden_size": 128,
            "num_layers": 2,
            "bidirectional": True,
            "monolithic": True,
            "dropout": 0.0,
            **(lstm or {}),
        }
        lstm.pop("batch_first", None)
        monolithic, num_layers = lstm.pop("monolithic"), lstm.pop("num_layers")
        width = lstm["hidden_size"] * (2 if lstm["bidirectional"] else 1)
        if monolithic:
            self.lstm = nn.LSTM(
                self.sincnet.num_features, num_layers=num_layers, batch_first=True, **lstm
            )
        else:
            dropout = lstm.pop("dropout")
            self.dropout = nn.Dropout(dropout)
            inputs = [self.sincnet.num_features] + [width] * (num_layers - 1)
            self.lstm = nn.ModuleList(
                nn.LSTM(size, num_layers=1, batch_first=True, **lstm) for size in inputs
            )
        linear = {"hidden_size": 128, "num_layers": 2, **(linear or {})}
        widths = [width] + [linear["hidden_size"]] * linear["num_layers"]
        self.linear = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.classifier = nn.Linear(widths[-1], specifications.num_outputs)

    def num_frames(self, num_samples: int) -> int:
        return self.sincnet.num_frames(num_samples)

    @property
    def frame_step(self) -> int:
        """Samples between frames."""
        return self.sincnet.frame_step

    @property
    def frame_duration(self) -> int:
        """Samples that one frame of the trunk sees."""
        return self.sincnet.frame_duration

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
        frames = self.sincnet(waveforms).mT
        if isinstance(self.lstm, nn.ModuleList):
            for index, layer in enumerate(self.lstm):
                frames, _ = layer(frames)
                if index + 1 < len(self.lstm):
                    frames = self.dropout(frames)
        else:
            frames, _ = self.lstm(frames)
        for layer in self.linear:
            frames = F.leaky_relu(layer(frames))
        scores = self.classifier(frames)
        if self.specifications.problem is Problem.MONO_LABEL_CLASSIFICATION:
            return F.log_softmax(scores, dim=-1)
        return scores.sigmoid()
