"""The time grid: sliding windows over samples, and output frames inside windows.

Everything downstream of the networks counts frames on one grid shared by all windows. The rules
that place a window on that grid, and that turn a frame into seconds, decide whether turns agree
with pyannote.audio to the frame, so they live here and nowhere else.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class WindowGrid:
    """Windows of `window_samples` every `step_samples`, each giving `num_frames` output frames.

    The defaults are those of segmentation-3.0: 10 s windows every 1 s, 589 frames of 16.875 ms.

    Attributes
    ----------
    sample_rate : int, Hz
    window_samples, step_samples : int, samples
    num_frames : int
        Frames of one window.
    frame_step, frame_duration : int, samples
        Step and extent of the receptive field of one frame.
    """

    sample_rate: int = 16000
    window_samples: int = 160000
    step_samples: int = 16000
    num_frames: int = 589
    frame_step: int = 270
    frame_duration: int = 991

    def num_windows(self, num_samples: int) -> int:
        """Windows of a recording; the last one is zero-padded when it runs past the end."""
        if num_samples <= self.window_samples:
            return 1
        return -(-(num_samples - self.window_samples) // self.step_samples) + 1

    def total_frames(self, num_windows: int) -> int:
        """Frames of the shared grid that `num_windows` windows span.

        The last few are covered by no window (589 frames are shorter than 10 s): they stay silent.
        """
        samples = self.window_samples + (num_windows - 1) * self.step_samples
        return int(np.rint(samples / self.frame_step)) + 1

    def frame_offsets(self, num_windows: int, first_window: int = 0) -> np.ndarray:
        """Grid frame at which each window starts.

        Returns
        -------
        offsets : (num_windows,) int64
        """
        windows = np.arange(first_window, first_window + num_windows, dtype=np.int64)
        return np.rint(windows * self.step_samples / self.frame_step).astype(np.int64)

    def frame_time(self, frame):
        """Middle of a grid frame, in seconds: where a turn that starts or ends there is cut."""
        step = self.frame_step / self.sample_rate
        return np.asarray(frame) * step + 0.5 * self.frame_duration / self.sample_rate


def overlap_sum(values: np.ndarray, grid: WindowGrid, dtype=None) -> np.ndarray:
    """Add the frames of all windows onto the shared grid.

    Parameters
    ----------
    values : (num_windows, num_frames, ...) array
    dtype : numpy dtype, optional
        Of the sum; defaults to that of `values`.

    Returns
    -------
    total : (total_frames, ...) array
    """
    num_windows = len(values)
    shape = (grid.total_frames(num_windows), *values.shape[2:])
    total = np.zeros(shape, dtype=dtype or values.dtype)
    for window, offset in zip(values, grid.frame_offsets(num_windows), strict=True):
        total[offset : offset + grid.num_frames] += window
    return total


def coverage(num_windows: int, grid: WindowGrid) -> np.ndarray:
    """Windows that cover each grid frame.

    Returns
    -------
    covered : (total_frames,) int32
    """
    total = grid.total_frames(num_windows)
    edges = np.zeros(total + 1, dtype=np.int32)
    offsets = grid.frame_offsets(num_windows)
    np.add.at(edges, offsets, 1)
    np.add.at(edges, offsets + grid.num_frames, -1)
    return np.cumsum(edges[:-1], dtype=np.int32)
