"""Is it the recording, or what infers? A window whose scores are known tells."""

from __future__ import annotations

import numpy as np

from raydiar.inference.local import LocalInference
from raydiar.inference.regions import FrameScorer

# of posteriors, and of the cosine between voiceprints: kernels may be chosen anew, so that the
# same numbers are not the same bits; what a broken device gives is further off
_NEAR, _SAME_VOICE = 0.05, 0.99


class HealthCheck:
    """Infers one made-up window now, and again whenever it is asked.

    Both networks run in any case, whatever they make of it: no weights are needed that find
    speech in it.

    Parameters
    ----------
    inference : LocalInference
        Freshly loaded. The first inference doubles as its warm-up.

    Raises
    ------
    Exception
        Whatever a device raises that does not even do this.
    """

    def __init__(self, inference: LocalInference):
        self._inference = inference
        self._posteriors, self._embedding = self._infer()

    def failure(self) -> Exception | None:
        """What is wrong with the device; None if it infers as it did."""
        try:
            posteriors, embedding = self._infer()
        except Exception as error:
            return error
        finite = np.isfinite(posteriors).all() and np.isfinite(embedding).all()
        if finite and np.abs(posteriors - self._posteriors).max() < _NEAR:
            norms = np.linalg.norm(embedding) * np.linalg.norm(self._embedding)
            if embedding @ self._embedding > _SAME_VOICE * norms:
                return None
        return _changed()

    def _infer(self) -> tuple[np.ndarray, np.ndarray]:
        return self._inference.probe(_made_up_window(self._inference.grid.window_samples))


class ScoresCheck:
    """The same of a network that only scores frames.

    Parameters
    ----------
    scorer : FrameScorer
        Freshly loaded.
    """

    def __init__(self, scorer: FrameScorer):
        self._scorer = scorer
        self._scores = self._score()

    def failure(self) -> Exception | None:
        """What is wrong with the device; None if it scores as it did."""
        try:
            scores = self._score()
        except Exception as error:
            return error
        # decisions of 0 and 1 may tip in a frame or two
        return None if np.abs(scores - self._scores).mean() < _NEAR else _changed()

    def _score(self) -> np.ndarray:
        return self._scorer.probe(_made_up_window(self._scorer.grid.window_samples))


def _changed() -> RuntimeError:
    return RuntimeError("a window with known scores gives other ones")


def _made_up_window(num_samples: int) -> np.ndarray:
    """(num_samples,) int16: a buzz of 120 Hz under noise, swelling four times a second."""
    time = np.arange(num_samples) / 16000
    buzz = sum(np.sin(2 * np.pi * 120 * n * time) / n for n in range(1, 20))
    noise = np.random.default_rng(0).normal(0, 0.3, num_samples)
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * time)
    return (4000 * swell * (buzz + noise)).clip(-32768, 32767).astype(np.int16)
