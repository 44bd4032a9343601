"""Frame scores of whole recordings from a segmentation network, window by window.

What `Inference` does with a hook, in the memory of its result: windows are read from PCM batch by
batch, and joined as they come.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pyannote.core import SlidingWindow, SlidingWindowFeature

from raydiar.errors import ConfigError
from raydiar.inference.aggregation import OverlapAdd
from raydiar.inference.batches import Job, Stretch, WindowBatch
from raydiar.inference.powerset import Powerset
from raydiar.models import Model
from raydiar.models.specifications import Resolution
from raydiar.windows import WindowGrid

_CPU_BATCH = 16  # windows that the caches of a CPU hold


class FrameScorer:
    """Scores on the frames of a recording, made of what the network says of each window.

    Parameters
    ----------
    model : Model
        Of frames, not of whole windows.
    reduce : callable
        (batch, num_frames, num_classes) scores of each class, in [0, 1], to those to be joined:
        (batch, frames, columns). Classes of a powerset network are 0 or 1 where `soft` is False.
    soft : bool
        Probabilities instead of decisions, of a powerset network.
    duration, step : float, optional
        Of windows, in seconds; by default those of training, and a tenth of that.
    batch_size : int
        Windows.

    Raises
    ------
    ConfigError
        A network of another kind, or a step that leaves gaps.
    """

    def __init__(
        self,
        model: Model,
        reduce: Callable[[torch.Tensor], torch.Tensor],
        *,
        soft: bool = False,
        duration: float | None = None,
        step: float | None = None,
        batch_size: int = 32,
    ):
        specifications = model.specifications
        if specifications.resolution is not Resolution.FRAME:
            raise ConfigError(
                f"a segmentation network is needed, which scores frames; {type(model).__name__} "
                "gives one vector a window"
            )
        duration = duration or specifications.duration
        step = step or specifications.warm_up[0] or 0.1 * duration
        if not 0 < step <= duration:
            raise ConfigError(
                f"step must be above 0 s and at most the {duration:g} s of a window, not {step}"
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        self.model = model.eval()
        self.warm_up = specifications.warm_up
        self._reduce = reduce
        self._soft = soft
        self._batch_size = batch_size
        window = round(duration * model.sample_rate)
        self.grid = WindowGrid(
            sample_rate=model.sample_rate,
            window_samples=window,
            step_samples=round(step * model.sample_rate),
            num_frames=model.num_frames(window),
            frame_step=model.frame_step,
            frame_duration=model.frame_duration,
        )
        if self.grid.num_frames < 1:
            raise ConfigError(f"windows of {duration:g} s are too short for this network")
        self._powerset = None
        if specifications.powerset:
            self._powerset = Powerset(
                len(specifications.classes), specifications.powerset_max_classes
            )

    def __call__(
        self, samples: np.ndarray, progress: Callable[[int, int], None] | None = None
    ) -> SlidingWindowFeature:
        """
        Parameters
        ----------
        samples : (num_samples,) int16, or float32 in [-1, 1]
            At the sample rate of the network.
        progress : callable, optional
            Called with (completed, total) windows.

        Returns
        -------
        scores : (num_frames, columns) SlidingWindowFeature
            Up to the end of the recording.
        """
        grid, device = self.grid, self.model.device
        job = Job(samples, grid)
        total = grid.num_windows(len(samples))
        batch_size = min(self._batch_size, _CPU_BATCH) if device.type == "cpu" else self._batch_size
        joined = None
        for first in range(0, total, batch_size):
            if progress is not None:
                progress(first, total)
            count = min(batch_size, total - first)
            stretch = Stretch(job, samples, first, count)
            with torch.inference_mode():
                windows = WindowBatch([stretch], grid, device).windows()
                scores = self._reduce(self._classes(self.model(windows[:, None])))
            scores = scores.float().cpu().numpy()
            if joined is None:
                joined = OverlapAdd(grid, total, scores.shape[-1], warm_up=self.warm_up)
            joined.add(first, scores)
        if progress is not None:
            progress(total, total)
        frames = SlidingWindow(
            duration=grid.frame_duration / grid.sample_rate, step=grid.frame_step / grid.sample_rate
        )
        average = joined.average()
        if grid.window_samples + (total - 1) * grid.step_samples > len(samples):
            # Windows reach past the end into zeros; the frames that begin there are no part of it.
            average = average[: len(samples) // grid.frame_step + 1]
        return SlidingWindowFeature(average, frames)

    def _classes(self, scores: torch.Tensor) -> torch.Tensor:
        if self._powerset is None:
            return scores
        return self._powerset.to(scores.device).to_multilabel(scores, soft=self._soft)
