"""What a segmentation network without faults would say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature

from raydiar.audio import probe
from raydiar.errors import ConfigError


def oracle_segmentation(
    file: Mapping,
    window: SlidingWindow,
    frames: SlidingWindow | float,
    num_speakers: int | None = None,
) -> SlidingWindowFeature:
    """Segmentation of a recording by its reference.

    Parameters
    ----------
    file : mapping
        With "annotation", and "duration" (s), "waveform" with "sample_rate", or "audio".
    window : SlidingWindow
        Windows to cut.
    frames : SlidingWindow or float
        Frames of a window, or the seconds from one to the next.
    num_speakers : int, optional
        Columns; by default as many as the reference has speakers.

    Returns
    -------
    segmentation : (num_windows, num_frames, num_speakers) float32, 0 or 1
        Columns in the order of the reference's labels, zeros beyond them.

    Raises
    ------
    ConfigError
        No reference or length, or one with more speakers than columns.
    """
    reference = file.get("annotation")
    if not isinstance(reference, Annotation):
        raise ConfigError('oracle_segmentation needs the reference in "annotation"')
    labels = reference.labels()
    columns = len(labels) if num_speakers is None else num_speakers
    if columns < len(labels):
        raise ConfigError(f"the reference has {len(labels)} speakers, more than {columns}")
    if not isinstance(frames, SlidingWindow):
        frames = SlidingWindow(start=0.0, step=float(frames), duration=float(frames))
    windows = []
    for chunk in window(Segment(0.0, _seconds(file))):
        discrete = reference.discretize(
            chunk, resolution=frames, labels=labels, duration=window.duration
        ).data
        padded = np.zeros((len(discrete), columns), np.float32)
        padded[:, : len(labels)] = discrete > 0
        windows.append(padded)
    if not windows:
        raise ConfigError(f"the recording is shorter than a window of {window.duration:g} s")
    return SlidingWindowFeature(np.stack(windows), window, labels=labels or None)


def _seconds(file: Mapping) -> float:
    if file.get("duration"):
        return float(file["duration"])
    if "waveform" in file and file.get("sample_rate"):
        return np.shape(file["waveform"])[-1] / file["sample_rate"]
    if "audio" in file:
        return float(probe(file["audio"]).duration)
    raise ConfigError('oracle_segmentation needs the "duration", or the "audio" to measure')
