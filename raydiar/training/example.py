"""One window of audio with its labels, and many of them as a batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Example:
    """What a source gives for one index.

    Attributes
    ----------
    index : int
        Place in the endless sequence of samples that the seed defines.
    name : str
        Recording and start, for messages.
    samples : (num_samples,) int16 or float32, 16 kHz
    starts, ends : (num_turns,) float64, seconds from the window's start
    speakers : (num_turns,) int64
        Equal for the same speaker.
    weight : float
        Of this window in the loss.
    """

    index: int
    name: str
    samples: np.ndarray = field(repr=False)
    starts: np.ndarray = field(repr=False)
    ends: np.ndarray = field(repr=False)
    speakers: np.ndarray = field(repr=False)
    weight: float = 1.0


def as_float(samples: np.ndarray) -> np.ndarray:
    """int16 or float samples as float32 in [-1, 1]"""
    if samples.dtype == np.int16:
        return samples.astype(np.float32) / 32768
    return samples.astype(np.float32, copy=False)
