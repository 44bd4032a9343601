"""Long recordings in parts, while they are decoded: memory of a few hours in place of a day's.

What is kept of a recording is handed on, a part at a time, once there is more than a recording may
have that stays whole. A part holds the beginning of the next one as well, so that windows which
begin in it are whole.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raydiar.audio.pcm import PcmBuffer
from raydiar.audio.resampling import SAMPLE_RATE

_SPARE = 60 * SAMPLE_RATE  # samples: blocks are whole seconds, or a few


@dataclass(frozen=True)
class Cut:
    """Where recordings are cut, in samples.

    Attributes
    ----------
    most : int
        A recording of no more stays whole.
    part : int
        From one part to the next.
    overlap : int
        Of the next part, that a part holds as well. The last part is at least as long.
    """

    most: int
    part: int
    overlap: int


class PartedPcm:
    """Samples that leave in parts; takes the place of a `PcmBuffer`.

    Parameters
    ----------
    kept : PcmBuffer
        Holds what has not left; in the end, the whole recording or its last part.
    cut : Cut
    give : callable
        Takes the samples of a part, which are valid during the call only, and its place.

    Attributes
    ----------
    num_samples : int
        Of the recording so far. Another thread may look at it at any time, and takes one that
        falls back for a decoder that has stalled.
    given : int
        Place in the recording of the first sample that is kept.
    """

    def __init__(self, kept: PcmBuffer, cut: Cut, give: Callable[[np.ndarray, int], None]):
        self.kept, self.given, self.num_samples = kept, 0, 0
        self._cut, self._give = cut, give
        self._whole = False

    def keep_whole(self) -> None:
        """Hand on nothing before the end: what is there may be changed, or dropped, until then."""
        self._whole = True

    def reserve(self, num_samples: int) -> None:
        most = max(self._cut.most, self._cut.part + self._cut.overlap) + _SPARE
        self.kept.reserve(num_samples if self._whole else min(num_samples, most))

    def append(self, block: np.ndarray) -> None:
        self.kept.append(block)
        self._count()
        if not self._whole:
            self._hand_on()

    def part(self, place: int, length: int) -> np.ndarray:
        return self.kept.part(place, length)

    def put(self, place: int, block: np.ndarray) -> None:
        self.kept.put(place, block)
        self._count()

    def clear(self) -> None:
        self.kept.clear()
        self._count()

    def end(self) -> None:
        """Hand on all parts but the last."""
        self._whole = False
        self._hand_on()

    def _count(self) -> None:
        self.num_samples = self.given + self.kept.num_samples

    def _hand_on(self) -> None:
        cut, kept = self._cut, self.kept
        if not self.given and kept.num_samples <= cut.most:
            return
        while kept.num_samples >= cut.part + cut.overlap:
            samples = kept.samples()
            self._give(samples[: cut.part + cut.overlap], self.given)
            rest = samples[cut.part :].copy()
            kept.clear()
            kept.append(rest)
            self.given += cut.part
