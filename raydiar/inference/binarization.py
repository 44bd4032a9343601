"""Scores to regions: two thresholds, and the shortest speech and silence that count."""

from __future__ import annotations

from functools import singledispatch
from itertools import pairwise

import numpy as np
from pyannote.core import Annotation, Segment, SlidingWindowFeature, Timeline
from scipy.signal import argrelmax

from raydiar.errors import ConfigError
from raydiar.keywords import check_number


def hysteresis(
    scores: np.ndarray,
    onset: float = 0.5,
    offset: float | None = None,
    initial_state: bool | np.ndarray | None = None,
) -> np.ndarray:
    """Active from above `onset` until below `offset`.

    Parameters
    ----------
    scores : (num_frames, num_classes) array
        NaN counts as 0.
    onset, offset : float
        `offset` is `onset` where not given.
    initial_state : bool or (num_classes,) array, optional
        Before the first frame that says either; by default whether the first score is above the
        middle of both thresholds.

    Returns
    -------
    active : (num_frames, num_classes) bool
    """
    offset = onset if offset is None else offset
    scores = np.nan_to_num(scores)
    on, off = scores > onset, scores < offset
    if len(scores) == 0:
        return on
    if initial_state is None:
        initial_state = scores[0] >= 0.5 * (onset + offset)
    decided = on | off
    # The last frame that has said either; 0 where there is none yet.
    last = np.where(decided, np.arange(len(scores))[:, None], 0)
    np.maximum.accumulate(last, axis=0, out=last)
    state = np.take_along_axis(on, last, axis=0)
    undecided = ~np.maximum.accumulate(decided, axis=0)
    return np.where(undecided, np.broadcast_to(initial_state, scores.shape), state)


@singledispatch
def binarize(scores, onset: float = 0.5, offset: float | None = None, initial_state=None):
    """`hysteresis` on (num_frames, num_classes) arrays, (num_windows, num_frames, num_classes)
    ones, or SlidingWindowFeatures of these; of features the result is one, of 0 and 1."""
    raise TypeError(f"cannot binarize a {type(scores).__name__}")


@binarize.register
def _(scores: np.ndarray, onset=0.5, offset=None, initial_state=None):
    if scores.ndim == 2:
        return hysteresis(scores, onset, offset, initial_state)
    if scores.ndim != 3:
        raise ConfigError(f"scores have two or three axes, not {scores.ndim}")
    return np.stack([hysteresis(window, onset, offset, initial_state) for window in scores])


@binarize.register
def _(scores: SlidingWindowFeature, onset=0.5, offset=None, initial_state=None):
    active = binarize(scores.data, onset, offset, initial_state)
    return SlidingWindowFeature(active.astype(np.float32), scores.sliding_window)


class Binarize:
    """Regions of each class.

    Parameters
    ----------
    onset, offset : float
        See `hysteresis`; regions begin and end at the middle of a frame.
    min_duration_on, min_duration_off : float, seconds
        Shorter regions are left out; before that, shorter gaps are filled.
    pad_onset, pad_offset : float, seconds
        Move the beginning earlier and the end later.
    """

    def __init__(
        self,
        onset: float = 0.5,
        offset: float | None = None,
        min_duration_on: float = 0.0,
        min_duration_off: float = 0.0,
        pad_onset: float = 0.0,
        pad_offset: float = 0.0,
    ):
        self.onset = onset
        self.offset = onset if offset is None else offset
        check_number("min_duration_on", min_duration_on)
        check_number("min_duration_off", min_duration_off)
        self.min_duration_on = min_duration_on
        self.min_duration_off = min_duration_off
        self.pad_onset = pad_onset
        self.pad_offset = pad_offset

    def __call__(self, scores: SlidingWindowFeature) -> Annotation:
        """
        Parameters
        ----------
        scores : (num_frames, num_classes) SlidingWindowFeature
            Its `labels` name the classes; numbers do without.
        """
        _check(scores)
        values, frames = scores.data, scores.sliding_window
        labels = scores.labels or list(range(values.shape[1]))
        regions = Annotation()
        if len(values) == 0:
            return regions
        first = values[0] > self.onset
        active = hysteresis(values, self.onset, self.offset, initial_state=first)
        middle = frames.start + 0.5 * frames.duration
        last = len(values) - 1
        for column, label in enumerate(labels):
            for begin, end in _runs(active[:, column]):
                start = middle + begin * frames.step - self.pad_onset
                stop = middle + min(end, last) * frames.step + self.pad_offset
                regions[Segment(start, stop), (label, begin)] = label
        if self.pad_onset > 0 or self.pad_offset > 0 or self.min_duration_off > 0:
            regions = regions.support(collar=self.min_duration_off)
        if self.min_duration_on > 0:
            for segment, track in list(regions.itertracks()):
                if segment.duration < self.min_duration_on:
                    del regions[segment, track]
        return regions.rename_tracks(generator="string")


class Peak:
    """Peaks of a score, and the segments between them.

    Parameters
    ----------
    alpha : float
        Least height: a share of what scores span (`percentile` and more of them), unless `scale`
        is "absolute".
    min_duration : float, seconds
        Least distance between peaks.
    scale : str
        "absolute", "relative" (between the lowest and the highest score), or "percentile".
    """

    def __init__(self, alpha: float = 0.5, min_duration: float = 1.0, scale: str = "absolute"):
        if scale not in ("absolute", "relative", "percentile"):
            raise ConfigError(
                f'scale must be "absolute", "relative" or "percentile", not {scale!r}'
            )
        check_number("min_duration", min_duration)
        self.alpha = alpha
        self.min_duration = min_duration
        self.scale = scale

    def peaks(self, scores: SlidingWindowFeature) -> list[float]:
        """Times of the peaks, in seconds."""
        _check(scores)
        if len(scores.data) < 3:
            return []
        values = np.nan_to_num(np.asarray(scores.data).reshape(len(scores.data), -1)[:, 0])
        low, high = float(values.min()), float(values.max())
        if self.scale == "percentile":
            low, high = (float(np.percentile(values, share)) for share in (1, 99))
        least = self.alpha if self.scale == "absolute" else low + self.alpha * (high - low)
        frames = scores.sliding_window
        order = max(1, int(np.rint(self.min_duration / frames.step)))
        # Of a plateau the middle frame is the peak.
        ranked = values + np.linspace(0, 1e-9, len(values))
        found = argrelmax(ranked, order=order)[0]
        middle = frames.start + 0.5 * frames.duration
        return [middle + int(frame) * frames.step for frame in found if values[frame] > least]

    def __call__(self, scores: SlidingWindowFeature) -> Timeline:
        """Segments from the start to the first peak, from there to the next, …, to the end."""
        _check(scores)
        if len(scores.data) == 0:
            return Timeline()
        extent = scores.extent
        borders = [extent.start, *self.peaks(scores), extent.end]
        return Timeline([Segment(start, end) for start, end in pairwise(borders)])


def _check(scores) -> None:
    if not isinstance(scores, SlidingWindowFeature):
        raise ConfigError(
            "scores are a SlidingWindowFeature, which knows its frames, not a "
            f"{type(scores).__name__}"
        )


def _runs(active: np.ndarray) -> list[tuple[int, int]]:
    """First frame of each run, and the first after it."""
    edges = np.diff(active.astype(np.int8), prepend=0, append=0)
    return list(
        zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True)
    )
