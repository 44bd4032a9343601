"""Scores of overlapping windows to one score per frame of the recording, as pyannote.audio does.

Two forms of one rule: `aggregate` takes all windows at once and gives pyannote.core's types;
`OverlapAdd` takes them as they come, so that a day of audio needs no more than its result.
"""

from __future__ import annotations

import numpy as np
from pyannote.core import SlidingWindow, SlidingWindowFeature

from raydiar.window_scores import WindowScores
from raydiar.windows import WindowGrid


def frame_weights(
    num_frames: int, hamming: bool, warm_up: tuple[float, float] = (0.0, 0.0), epsilon=1e-12
) -> np.ndarray:
    """Weight of each frame of a window.

    Parameters
    ----------
    num_frames : int
    hamming : bool
        Trust the middle of a window more than its ends.
    warm_up : (float, float)
        Shares of the window, at its start and end, that count only where there is nothing else.

    Returns
    -------
    weights : (num_frames,) float64
    """
    weights = np.hamming(num_frames) if hamming else np.ones(num_frames)
    left, right = (round(num_frames * share) for share in warm_up)
    weights[:left] *= epsilon
    weights[num_frames - right :] *= epsilon
    return weights


def aggregate(
    scores: SlidingWindowFeature,
    frames: SlidingWindow,
    warm_up: tuple[float, float] = (0.0, 0.0),
    epsilon: float = 1e-12,
    hamming: bool = False,
    missing: float = np.nan,
    skip_average: bool = False,
) -> SlidingWindowFeature:
    """Join the scores of overlapping windows.

    Parameters
    ----------
    scores : (num_windows, num_frames, num_classes) SlidingWindowFeature
        NaN where a window says nothing.
    frames : SlidingWindow
        Of the output: `model.receptive_field`.
    warm_up : (float, float)
        See `frame_weights`.
    epsilon : float
        Least sum of weights to divide by.
    hamming : bool
        See `frame_weights`.
    missing : float
        Score of frames of which no window says anything.
    skip_average : bool
        Sum instead of averaging.

    Returns
    -------
    joined : (total_frames, num_classes) SlidingWindowFeature
    """
    num_windows, num_frames, num_classes = scores.data.shape
    windows = scores.sliding_window
    frames = SlidingWindow(start=windows.start, duration=frames.duration, step=frames.step)
    half = 0.5 * frames.duration
    end = windows.start + windows.duration + (num_windows - 1) * windows.step
    shape = (frames.closest_frame(end + half) + 1, num_classes)
    total, weight, said = (np.zeros(shape, np.float32) for _ in range(3))
    weights = frame_weights(num_frames, hamming, warm_up, epsilon)[:, None]
    for window, values in zip(windows, scores.data, strict=False):
        start = frames.closest_frame(window.start + half)
        part = slice(start, start + num_frames)
        known = ~np.isnan(values)
        total[part] += np.where(known, values, 0.0) * weights
        weight[part] += known * weights
        said[part] = np.maximum(said[part], known)
    joined = total if skip_average else total / np.maximum(weight, epsilon)
    joined[said == 0] = missing
    return SlidingWindowFeature(joined, frames)


def trim(
    scores: SlidingWindowFeature, warm_up: tuple[float, float] = (0.1, 0.1)
) -> SlidingWindowFeature:
    """Leave out the ends of every window.

    Parameters
    ----------
    scores : (num_windows, num_frames, num_classes) SlidingWindowFeature
    warm_up : (float, float)
        Shares of the window to leave out at its start and end.
    """
    num_frames = scores.data.shape[1]
    windows = scores.sliding_window
    left, right = warm_up
    kept = scores.data[:, round(num_frames * left) : num_frames - round(num_frames * right)]
    window = SlidingWindow(
        start=windows.start + left * windows.duration,
        duration=(1 - left - right) * windows.duration,
        step=windows.step,
    )
    return SlidingWindowFeature(kept, window)


class OverlapAdd:
    """Averages windows onto the frames of a recording, as they come.

    Parameters
    ----------
    grid : WindowGrid
    num_windows : int
    num_classes : int
    hamming : bool
    warm_up : (float, float)
    """

    def __init__(
        self,
        grid: WindowGrid,
        num_windows: int,
        num_classes: int,
        hamming: bool = True,
        warm_up: tuple[float, float] = (0.0, 0.0),
    ):
        total = grid.total_frames(num_windows)
        self._sum = np.zeros((total, num_classes), np.float32)
        self._weight = np.zeros(total, np.float32)
        self._weights = frame_weights(grid.num_frames, hamming, warm_up).astype(np.float32)
        self._offsets = grid.frame_offsets(num_windows).tolist()

    def add(self, first_window: int, scores: np.ndarray) -> None:
        """Take (num_windows, num_frames, num_classes) scores of consecutive windows."""
        for number, values in enumerate(scores):
            start = self._offsets[first_window + number]
            part = slice(start, start + len(values))
            self._sum[part] += values * self._weights[:, None]
            self._weight[part] += self._weights

    def average(self) -> np.ndarray:
        """(total_frames, num_classes) float32; 0 where there is no window."""
        return self._sum / np.maximum(self._weight, 1e-12)[:, None]


def within(average: np.ndarray, grid: WindowGrid, num_samples: int) -> SlidingWindowFeature:
    """Averaged scores as pyannote.core has them, up to the end of the recording.

    Parameters
    ----------
    average : (total_frames, num_classes) array
        Of all windows, the last of which may reach past the end, into zeros.
    grid : WindowGrid
    num_samples : int
        Of the recording.
    """
    last = (grid.num_windows(num_samples) - 1) * grid.step_samples
    if grid.window_samples + last > num_samples:
        # the frames that begin past the end are no part of it
        average = average[: num_samples // grid.frame_step + 1]
    rate = grid.sample_rate
    frames = SlidingWindow(duration=grid.frame_duration / rate, step=grid.frame_step / rate)
    return SlidingWindowFeature(average, frames)


def joined(scores: WindowScores) -> SlidingWindowFeature:
    """Scores on the frames of a recording of which all windows are here."""
    grid, num_columns = scores.grid, scores.scores.shape[-1]
    over = OverlapAdd(grid, scores.num_windows, num_columns, warm_up=scores.warm_up)
    over.add(0, scores.scores)
    return within(over.average(), grid, scores.num_samples)
