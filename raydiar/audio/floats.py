"""Floats that are integers: converted from 16, 24 or 32 bits, but never divided.

Full scale of floats is 1. Recordings are hotter than that at times, eight times at most and for
moments; where more samples than a few are beyond, the division was forgotten, and is made up for.
"""

import numpy as np

FULL_SCALES = (1.0, 2.0**15, 2.0**23, 2.0**31)
"""What samples may have to be divided by."""

LARGEST = 2.0**31
"""Samples beyond this are no samples."""

_LOUD = 8.0
_SHARE = 0.01


class UnscaledFloats(Exception):
    """Samples of a file have to be divided by more than was thought."""


def stores_floats(codec: str) -> bool:
    """Whether a codec may hold samples beyond full scale, or NaN."""
    return codec.startswith("pcm_f") or codec == "wavpack"


def count_unscaled(magnitudes: np.ndarray, full_scale: float) -> int:
    """How many samples are beyond what recordings hold."""
    return np.count_nonzero(magnitudes > _LOUD * full_scale)


def is_unscaled(num_unscaled: int, num_samples: int) -> bool:
    return num_unscaled > _SHARE * num_samples


def full_scale_of(magnitudes: np.ndarray) -> float | None:
    """What samples have to be divided by, None if nothing would do."""
    for full_scale in FULL_SCALES:
        if not is_unscaled(count_unscaled(magnitudes, full_scale), magnitudes.size):
            return full_scale
    return None
