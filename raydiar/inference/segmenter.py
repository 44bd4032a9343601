"""Segmenter: which local speakers are active in each frame of each window."""

from __future__ import annotations

import torch
from torch import nn

from raydiar.errors import ConfigError
from raydiar.inference.powerset import powerset_mapping, to_multilabel
from raydiar.windows import WindowGrid


class Segmenter:
    """A segmentation network over batches of windows.

    Parameters
    ----------
    model : nn.Module
        With powerset output, on the device it is to run on.
    step : float
        Step between windows as a fraction of their duration.

    Attributes
    ----------
    grid : WindowGrid
    num_speakers : int
        Local speakers per window.
    """

    def __init__(self, model: nn.Module, step: float = 0.1):
        specifications = model.specifications
        if not specifications.powerset:
            raise ConfigError(
                "diarization needs a segmentation network with powerset output, such as "
                "segmentation-3.0; this one has none"
            )
        if not 0 < step <= 1:
            raise ConfigError(f"segmentation_step must be in (0, 1], not {step}")
        self.model = model
        self.num_speakers = len(specifications.classes)
        window_samples = round(specifications.duration * model.sample_rate)
        self.grid = WindowGrid(
            sample_rate=model.sample_rate,
            window_samples=window_samples,
            step_samples=round(step * specifications.duration * model.sample_rate),
            num_frames=model.num_frames(window_samples),
            frame_step=model.frame_step,
            frame_duration=model.frame_duration,
        )
        device = next(model.parameters()).device
        self._mapping = powerset_mapping(self.num_speakers, specifications.powerset_max_classes).to(
            device
        )

    def __call__(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Parameters
        ----------
        windows : (batch, window_samples) float32

        Returns
        -------
        active : (batch, num_frames, num_speakers) float32, 0 or 1
        posteriors : (batch, num_frames, num_speakers) float32
        """
        return to_multilabel(self.model(windows[:, None]), self._mapping)
