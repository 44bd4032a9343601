"""Frame scores of whole recordings from a segmentation network, window by window.

What `Inference` does with a hook, in the memory of its result: windows are read from PCM batch by
batch, and joined as they come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from pyannote.core import SlidingWindowFeature

from raydiar.errors import ConfigError, ScoresNotFinite
from raydiar.inference.aggregation import OverlapAdd, within
from raydiar.inference.batches import Job, Slice, Stretch, WindowBatch, cut, fill_batches
from raydiar.inference.memory import in_parts
from raydiar.inference.numerics import float32_numerics
from raydiar.inference.powerset import Powerset
from raydiar.keywords import check_number
from raydiar.models import Model
from raydiar.models.specifications import Resolution
from raydiar.window_scores import WindowScores
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
        duration = specifications.duration if duration is None else duration
        check_number("duration", duration, above=True)
        step = (specifications.warm_up[0] or 0.1 * duration) if step is None else step
        check_number("step", step, above=True)
        check_number("batch_size", batch_size, 1)
        if not 0 < step <= duration:
            raise ConfigError(
                f"step must be above 0 s and at most the {duration:g} s of a window, not {step}"
            )
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
        total = self.grid.num_windows(len(samples))
        joined, done = None, 0
        if progress is not None:
            progress(0, total)
        for _, stretches, scores in self._scored([Job(samples, self.grid)]):
            if joined is None:
                joined = OverlapAdd(self.grid, total, scores.shape[-1], warm_up=self.warm_up)
            joined.add(done, scores)
            done += sum(stretch.num_windows for stretch in stretches)
            if progress is not None:
                progress(done, total)
        return within(joined.average(), self.grid, len(samples))

    def windows(self, recordings: Iterable[np.ndarray | Slice]) -> Iterator[WindowScores]:
        """Scores of each window of any number of recordings, whose windows share batches.

        Parameters
        ----------
        recordings : iterable of (num_samples,) int16, or float32 in [-1, 1]; or of Slice

        Yields
        ------
        scores : WindowScores
            One per recording or slice, in order.
        """
        pending: deque[Job] = deque()
        jobs = (Job(recording, self.grid) for recording in recordings)
        for started, stretches, scores in self._scored(jobs):
            pending.extend(started)
            start = 0
            for stretch in stretches:
                stop = start + stretch.num_windows
                stretch.job.results.append(scores[start:stop])
                start = stop
            while pending and sum(map(len, pending[0].results)) == pending[0].num_windows:
                job = pending.popleft()
                yield WindowScores(
                    num_samples=job.num_samples,
                    scores=np.concatenate(job.results),
                    first_window=job.first_window,
                    warm_up=self.warm_up,
                    grid=self.grid,
                )

    def probe(self, window: np.ndarray) -> np.ndarray:
        """Scores of one window, (num_frames, columns) float32, of (window_samples,) int16."""
        [scores] = self.windows([window])
        return scores.scores[0]

    def _scored(self, jobs: Iterable[Job]) -> Iterator[tuple[list[Job], list[Stretch], np.ndarray]]:
        """What begins in each batch, what is in it, and the scores of its windows."""
        size = self._batch_size
        if self.model.device.type == "cpu":
            size = min(size, _CPU_BATCH)
        for started, stretches in fill_batches(jobs, self.grid, size):
            windows = range(sum(stretch.num_windows for stretch in stretches))
            parts = in_parts(lambda part, all=stretches: self._score(cut(all, part)), windows)
            scores = np.concatenate(parts)
            if not np.isfinite(scores).all():  # NaN would look like silence
                raise ScoresNotFinite("the segmentation network gave NaN or infinity")
            yield started, stretches, scores

    def _score(self, stretches: list[Stretch]) -> np.ndarray:
        with torch.inference_mode(), float32_numerics():
            windows = WindowBatch(stretches, self.grid, self.model.device).windows()
            scores = self._reduce(self._classes(self.model(windows[:, None])))
            return scores.float().cpu().numpy()

    def _classes(self, scores: torch.Tensor) -> torch.Tensor:
        if self._powerset is None:
            return scores
        return self._powerset.to(scores.device).to_multilabel(scores, soft=self._soft)
