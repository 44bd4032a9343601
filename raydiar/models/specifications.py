"""What a network was trained to answer, as pyannote checkpoints carry it.

The classes here stand in for the pickled ones of a checkpoint, so that reading it needs neither
pyannote.audio nor trust: an unpickled `Specifications` is filled through its `__dict__`, and
fields that older files lack fall back to the defaults below.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import comb


class Problem(Enum):
    BINARY_CLASSIFICATION = 0
    MONO_LABEL_CLASSIFICATION = 1
    MULTI_LABEL_CLASSIFICATION = 2
    REPRESENTATION = 3
    REGRESSION = 4


class Resolution(Enum):
    FRAME = 1
    CHUNK = 2


@dataclass(frozen=True)
class Specifications:
    """Task of a network; `duration` in seconds."""

    problem: Problem = Problem.MONO_LABEL_CLASSIFICATION
    resolution: Resolution = Resolution.FRAME
    duration: float = 10.0
    min_duration: float | None = None
    warm_up: tuple[float, float] = (0.0, 0.0)
    classes: tuple[str, ...] | list[str] | None = None
    powerset_max_classes: int | None = None
    permutation_invariant: bool = False

    @property
    def powerset(self) -> bool:
        return self.powerset_max_classes is not None

    @property
    def num_powerset_classes(self) -> int:
        """Sets of at most `powerset_max_classes` simultaneous classes, the empty one included."""
        num_classes = len(self.classes or ())
        return sum(comb(num_classes, size) for size in range((self.powerset_max_classes or 0) + 1))

    @property
    def num_outputs(self) -> int:
        """Width of the classifier: one output a class, or one per set of classes."""
        return self.num_powerset_classes if self.powerset else len(self.classes or ())

    # One network may have several tasks in pyannote.audio: its users write `next(iter(…))`.
    def __len__(self) -> int:
        return 1

    def __iter__(self):
        yield self


SEGMENTATION = Specifications(
    classes=("speaker#1", "speaker#2", "speaker#3"),
    powerset_max_classes=2,
    permutation_invariant=True,
)
"""Task of segmentation-3.0: at most 3 speakers in 10 s, at most 2 at once."""

EMBEDDING = Specifications(Problem.REPRESENTATION, Resolution.CHUNK, duration=5.0)
"""Task of the speaker embeddings."""
