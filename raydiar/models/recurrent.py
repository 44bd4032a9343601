"""What segmentation networks have in common behind their front end: LSTM, linear layers, task."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from raydiar.models.base import Model
from raydiar.models.specifications import SEGMENTATION, Specifications

LSTM = {
    "hidden_size": 128,
    "num_layers": 2,
    "bidirectional": True,
    "monolithic": True,
    "dropout": 0.0,
}
LINEAR = {"hidden_size": 128, "num_layers": 2}


class RecurrentNetwork(Model):
    """Segmentation network; names of its layers are those of pyannote's checkpoints.

    Subclasses make their front end, then call `make_layers`.

    Parameters
    ----------
    sample_rate, num_channels : int
        16000 and 1.
    specifications : Specifications, optional
        Decide the width of the classifier and the last activation; those of `task` win.
    task : object, optional
        See `Model`; where it does not know its specifications yet, call `setup` once it does.
    """

    task_dependent = ("classifier", "activation")

    def __init__(
        self,
        sample_rate: int = 16000,
        num_channels: int = 1,
        specifications: Specifications | None = None,
        task=None,
    ):
        super().__init__(sample_rate, num_channels, task)
        if sample_rate != 16000 or num_channels != 1:
            raise ValueError(f"{type(self).__name__} takes 16 kHz mono")
        if specifications is not None or task is None:
            self.specifications = specifications or SEGMENTATION

    def make_layers(self, num_features: int, lstm: dict, linear: dict) -> None:
        """Everything between (batch, num_frames, num_features) and the scores."""
        options = {name: value for name, value in lstm.items() if name != "batch_first"}
        monolithic, num_layers = options.pop("monolithic"), options.pop("num_layers")
        width = options["hidden_size"] * (2 if options["bidirectional"] else 1)
        if monolithic:
            self.lstm = nn.LSTM(num_features, num_layers=num_layers, batch_first=True, **options)
        else:
            self.dropout = nn.Dropout(options.pop("dropout"))
            inputs = [num_features] + [width] * (num_layers - 1)
            self.lstm = nn.ModuleList(
                nn.LSTM(size, num_layers=1, batch_first=True, **options) for size in inputs
            )
        widths = [width] + [linear["hidden_size"]] * linear["num_layers"]
        self.linear = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self._width = widths[-1]
        if self.task is None or getattr(self.task, "specifications", None) is not None:
            self.build()

    def build(self) -> None:
        self.classifier = nn.Linear(self._width, self.dimension)
        self.activation = self.default_activation()

    def scores(self, frames: torch.Tensor) -> torch.Tensor:
        """(batch, num_frames, num_features) to (batch, num_frames, num_outputs)"""
        if isinstance(self.lstm, nn.ModuleList):
            for index, layer in enumerate(self.lstm):
                frames, _ = layer(frames)
                if index + 1 < len(self.lstm):
                    frames = self.dropout(frames)
        else:
            frames, _ = self.lstm(frames)
        for layer in self.linear:
            frames = F.leaky_relu(layer(frames))
        return self.activation(self.classifier(frames))
