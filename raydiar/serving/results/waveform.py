"""How loud a recording is along its time: what the page draws without the recording."""

import base64

import numpy as np

MAX_PEAKS = 20_000
_MIN_SAMPLES = 160  # 10 ms: a screen shows no less


def peaks(samples: np.ndarray) -> str:
    """Loudness of equal stretches of a recording, as text.

    Parameters
    ----------
    samples : (num_samples,) int16

    Returns
    -------
    text : str
        base64 of a byte for each stretch, at most `MAX_PEAKS`: 0 for silence, 255 for full scale,
        by square roots, so that quiet voices are seen.
    """
    if not len(samples):
        return ""
    width = max(_MIN_SAMPLES, -(-len(samples) // MAX_PEAKS))
    starts = np.arange(0, len(samples), width)
    high = np.maximum.reduceat(samples, starts).astype(np.int32)
    low = np.minimum.reduceat(samples, starts).astype(np.int32)
    loudest = np.maximum(high, -low) / 32768.0
    return base64.b64encode(np.rint(255.0 * np.sqrt(loudest)).astype(np.uint8)).decode()
