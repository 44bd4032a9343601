"""WindowScores: what a detector's network says of a recording, window by window.

Like LocalSpeakers, it is the contract between the step that wants a GPU and the one that does not,
so it knows no torch. Windows are not joined yet: parts of a long recording can be put together
again, and give what the whole would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from raydiar.local_speakers import in_order
from raydiar.windows import WindowGrid


@dataclass(frozen=True)
class WindowScores:
    """Scores of consecutive windows of one recording.

    Attributes
    ----------
    num_samples : int
        Length of the whole recording at `grid.sample_rate`, also in a slice.
    scores : (num_windows, num_frames, num_columns) float32
    first_window : int
        Index of the first window of this slice.
    warm_up : (float, float)
        Shares of a window, at its ends, that count only where there is nothing else.
    grid : WindowGrid
    """

    num_samples: int
    scores: np.ndarray = field(repr=False)
    first_window: int = 0
    warm_up: tuple[float, float] = (0.0, 0.0)
    grid: WindowGrid = field(default_factory=WindowGrid)

    @property
    def num_windows(self) -> int:
        return len(self.scores)

    @property
    def duration(self) -> float:
        """Of the whole recording, in seconds."""
        return self.num_samples / self.grid.sample_rate

    @classmethod
    def concat(cls, parts: Sequence[WindowScores]) -> WindowScores:
        """Join consecutive slices of one recording, in any order, into one.

        Raises
        ------
        ValueError
            If the slices are of different recordings, overlap, or leave a gap.
        """
        parts = in_order(parts)
        return replace(parts[0], scores=np.concatenate([part.scores for part in parts]))
