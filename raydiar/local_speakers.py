"""LocalSpeakers: all that local inference knows of a recording, in a tenth of its PCM.

It is the contract between the step that needs a GPU and the step that does not, so it knows
neither torch nor clustering. Hard decisions are kept as bits because counting and reconstruction
must be exact; posteriors only feed confidences, so a byte each is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from raydiar.windows import WindowGrid


@dataclass(frozen=True)
class LocalSpeakers:
    """Local speakers of consecutive windows of one recording.

    Attributes
    ----------
    num_samples : int
        Length of the whole recording at `grid.sample_rate`, also in a slice.
    activity : (num_windows, ceil(num_frames * num_speakers / 8)) uint8
        Bits of the (num_frames, num_speakers) hard decisions of each window (`numpy.packbits`).
    posteriors : (num_windows, num_frames, num_speakers) uint8
        Probability that each local speaker is active, times 255.
    embeddings : (num_embeddings, dimension) float32
        One row per *active* local speaker; NaN where it speaks too little to be embedded.
    owners : (num_embeddings, 2) int32
        Window (counted from the start of the recording) and local speaker of each embedding,
        in row-major order.
    num_speakers : int
        Local speakers per window.
    first_window : int
        Index of the first window of this slice.
    grid : WindowGrid
    """

    num_samples: int
    activity: np.ndarray = field(repr=False)
    posteriors: np.ndarray = field(repr=False)
    embeddings: np.ndarray = field(repr=False)
    owners: np.ndarray = field(repr=False)
    num_speakers: int = 3
    first_window: int = 0
    grid: WindowGrid = field(default_factory=WindowGrid)

    @property
    def num_windows(self) -> int:
        return len(self.activity)

    @property
    def dimension(self) -> int:
        return self.embeddings.shape[1]

    @property
    def duration(self) -> float:
        """Of the whole recording, in seconds."""
        return self.num_samples / self.grid.sample_rate

    @property
    def complete(self) -> bool:
        """Whether every window of the recording is here."""
        return self.first_window == 0 and self.num_windows == self.grid.num_windows(
            self.num_samples
        )

    @property
    def nbytes(self) -> int:
        return sum(
            array.nbytes for array in (self.activity, self.posteriors, self.embeddings, self.owners)
        )

    def active(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Hard decisions of windows `start` to `stop` of this slice.

        Returns
        -------
        active : (num_windows, num_frames, num_speakers) uint8, 0 or 1
        """
        packed = self.activity[start:stop]
        count = self.grid.num_frames * self.num_speakers
        bits = np.unpackbits(packed, axis=1, count=count)
        return bits.reshape(len(packed), self.grid.num_frames, self.num_speakers)

    @classmethod
    def concat(cls, parts: Sequence[LocalSpeakers]) -> LocalSpeakers:
        """Join consecutive slices of one recording, in any order, into one.

        Raises
        ------
        ValueError
            If the slices are of different recordings, overlap, or leave a gap.
        """
        parts = in_order(parts)
        first = parts[0]
        if len(parts) == 1:
            return first
        return replace(
            first,
            activity=np.concatenate([part.activity for part in parts]),
            posteriors=np.concatenate([part.posteriors for part in parts]),
            embeddings=np.concatenate([part.embeddings for part in parts]),
            owners=np.concatenate([part.owners for part in parts]),
        )


def in_order(parts: Sequence) -> list:
    """Slices of one recording, LocalSpeakers or the like, in the order of their windows.

    Raises
    ------
    ValueError
        If the slices are of different recordings, overlap, or leave a gap.
    """
    parts = sorted(parts, key=lambda part: part.first_window)
    if not parts:
        raise ValueError("nothing to concatenate")
    first = parts[0]
    expected = first.first_window
    for part in parts:
        if (part.num_samples, part.grid) != (first.num_samples, first.grid):
            raise ValueError("slices of different recordings cannot be joined")
        if part.first_window != expected:
            raise ValueError(
                f"a slice starts at window {part.first_window}, expected {expected}: "
                "slices must follow each other without gap or overlap"
            )
        expected += part.num_windows
    return parts


def pack_activity(active: np.ndarray) -> np.ndarray:
    """Pack hard decisions into the bits that `LocalSpeakers.activity` holds.

    Parameters
    ----------
    active : (num_windows, num_frames, num_speakers) array of 0 and 1

    Returns
    -------
    activity : (num_windows, ceil(num_frames * num_speakers / 8)) uint8
    """
    return np.packbits(active.reshape(len(active), -1).astype(bool), axis=1)
