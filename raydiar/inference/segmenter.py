"""Segmenter: which local speakers are active in each frame of each window."""

from __future__ import annotations

import torch

from raydiar.errors import ConfigError
from raydiar.inference.powerset import powerset_mapping, to_multilabel
from raydiar.models import Model
from raydiar.windows import WindowGrid

DEFAULT_THRESHOLD = 0.5


class Segmenter:
    """A segmentation network over batches of windows.

    Parameters
    ----------
    model : Model
        Of local speakers, on the device it is to run on.
    step : float
        Step between windows as a fraction of their duration.
    threshold : float, optional
        Probability above which a local speaker is active, of a network without powerset output;
        0.5 by default. One with powerset output decides for itself.

    Attributes
    ----------
    grid : WindowGrid
    num_speakers : int
        Local speakers per window.
    """

    def __init__(self, model: Model, step: float = 0.1, threshold: float | None = None):
        specifications = model.specifications
        if not specifications.permutation_invariant or not specifications.classes:
            raise ConfigError(
                "diarization needs a segmentation network of local speakers, such as "
                f"segmentation-3.0; the classes of this one are {specifications.classes}"
            )
        if specifications.powerset and threshold is not None:
            raise ConfigError(
                "segmentation.threshold is for networks without powerset output: this one decides "
                "for itself"
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
        self._threshold = DEFAULT_THRESHOLD if threshold is None else threshold
        self._mapping = None
        if specifications.powerset:
            mapping = powerset_mapping(self.num_speakers, specifications.powerset_max_classes)
            self._mapping = mapping.to(next(model.parameters()).device)

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
        scores = self.model(windows[:, None])
        if self._mapping is None:
            return (scores > self._threshold).float(), scores.float()
        return to_multilabel(scores, self._mapping)
