"""From turns in seconds to the frames that a network answers in (NumPy only).

The rule is pyannote.audio's: a frame is counted by the middle of what it sees, rounded half to
even, and the frame in which a turn ends still belongs to it. Theirs fills nearly the whole window
when a turn ends within the first 1.5 frames of it (an index of -2 wraps around); here it does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FrameGrid:
    """Frames of one window.

    Attributes
    ----------
    num_frames : int
    step, duration : float, seconds
        Between frames, and what one frame sees.
    """

    num_frames: int
    step: float
    duration: float

    def frames_of(self, times: np.ndarray) -> np.ndarray:
        """Frame (may lie outside the window) of times in seconds from the window's start."""
        return np.round((times - 0.5 * self.duration) / self.step).astype(np.int64)


def frame_labels(
    starts: np.ndarray,
    ends: np.ndarray,
    speakers: np.ndarray,
    window_start: float,
    window_duration: float,
    grid: FrameGrid,
    num_speakers: int | None = None,
) -> np.ndarray:
    """Who speaks in each frame of a window.

    Parameters
    ----------
    starts, ends : (num_turns,) float64, seconds
    speakers : (num_turns,) int
        Any numbers; equal for the same speaker.
    window_start, window_duration : float, seconds
    grid : FrameGrid
    num_speakers : int, optional
        Columns of the answer; by default as many as there are speakers. With more speakers the
        most talkative are kept, with fewer the last columns are silent.

    Returns
    -------
    labels : (num_frames, num_speakers) uint8, 0 or 1
        Columns in the order of the speakers' numbers.
    """
    window_end = window_start + window_duration
    inside = (starts < window_end) & (ends > window_start)
    found, columns = np.unique(speakers[inside], return_inverse=True)
    labels = np.zeros((grid.num_frames, len(found)), np.uint8)
    first = grid.frames_of(np.maximum(starts[inside], window_start) - window_start).clip(0)
    last = grid.frames_of(np.minimum(ends[inside], window_end) - window_start)
    for begin, end, column in zip(first, last, columns, strict=True):
        labels[begin : max(0, end + 1), column] = 1
    if num_speakers is None:
        return labels
    if labels.shape[1] > num_speakers:
        talkative = np.argsort(-labels.sum(axis=0), kind="stable")[:num_speakers]
        return labels[:, np.sort(talkative)]
    return np.pad(labels, ((0, 0), (0, num_speakers - labels.shape[1])))
