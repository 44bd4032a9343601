"""What a hook hears of a diarization: pyannote.audio's events, with pyannote.core's types.

Recordings share batches, and embedding follows segmentation window by window, so the progress of
both is told as it comes: "segmentation" and "embeddings" in windows. Then come the artifacts of
"segmentation", "speaker_counting" and "embeddings", the beginning and end of "clustering", which
pyannote.audio is silent about, and "discrete_diarization".
"""

from __future__ import annotations

from collections import ChainMap, deque
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING

import numpy as np

from raydiar.clustering.parameters import CountingParameters
from raydiar.clustering.reconstruction import count_speakers
from raydiar.diarization import Diarization
from raydiar.local_speakers import LocalSpeakers
from raydiar.pipelines.files import AudioFile

if TYPE_CHECKING:
    from pyannote.core import SlidingWindow, SlidingWindowFeature


class Reporter:
    """Tells a hook which recording it hears of.

    Parameters
    ----------
    hook : callable or None
        See `raydiar.pipelines.hooks`.
    """

    def __init__(self, hook: Callable | None):
        self._hook = hook
        self._artifacts = hook is not None and getattr(hook, "needs_artifacts", True)
        self._mappings: dict[int, MutableMapping] = {}
        self._open: dict[str, deque[list]] = {"segmentation": deque(), "embeddings": deque()}

    def start(self, file: AudioFile, num_windows: int) -> None:
        """A recording is decoded; its windows follow those of the recordings before it."""
        if self._hook is None:
            return
        self._mappings[id(file)] = as_mapping(file)
        for step, entries in self._open.items():
            entries.append([file, 0, num_windows])
            self._tell(step, file, total=num_windows, completed=0)

    def segmented(self, num_windows: int) -> None:
        self._advance("segmentation", num_windows)

    def embedded(self, num_windows: int) -> None:
        self._advance("embeddings", num_windows)

    def heard(
        self, file: AudioFile, local: LocalSpeakers, counting: CountingParameters | None = None
    ) -> None:
        """Local inference is done with a recording, and clustering begins."""
        if self._hook is None:
            return
        if self._artifacts:
            self._tell("segmentation", file, segmentation_artifact(local))
            self._tell("speaker_counting", file, counting_artifact(local, counting))
            self._tell("embeddings", file, embeddings_artifact(local))
        else:
            for step in ("segmentation", "speaker_counting", "embeddings"):
                self._tell(step, file)
        self._tell("clustering", file, total=1, completed=0)

    def resolved(self, file: AudioFile, local: LocalSpeakers, output: Diarization) -> None:
        """A recording is done; `output` is on the timeline of what was processed."""
        if self._hook is None:
            return
        self._tell("clustering", file, total=1, completed=1)
        artifact = discrete_artifact(local, output) if self._artifacts else None
        self._tell("discrete_diarization", file, artifact)
        del self._mappings[id(file)]

    def _advance(self, step: str, num_windows: int) -> None:
        entries = self._open[step]
        while self._hook is not None and num_windows and entries:
            entry = entries[0]
            advanced = min(num_windows, entry[2] - entry[1])
            entry[1] += advanced
            num_windows -= advanced
            self._tell(step, entry[0], total=entry[2], completed=entry[1])
            if entry[1] == entry[2]:
                entries.popleft()

    def _tell(self, step: str, file: AudioFile, artifact=None, **counts) -> None:
        self._hook(step, artifact, file=self._mappings[id(file)], **counts)


def as_mapping(file: AudioFile) -> MutableMapping:
    """A recording as hooks see it; what they write goes to the mapping that the caller gave."""
    given = file.original if isinstance(file.original, MutableMapping) else {}
    read = getattr(file, "mapping", None) or {}
    return ChainMap(given, read, {"uri": file.uri})


def segmentation_artifact(local: LocalSpeakers) -> SlidingWindowFeature:
    """(num_windows, num_frames, num_speakers) float32, 0 or 1, over the windows."""
    from pyannote.core import SlidingWindow, SlidingWindowFeature

    grid = local.grid
    windows = SlidingWindow(
        duration=grid.window_samples / grid.sample_rate,
        step=grid.step_samples / grid.sample_rate,
        start=0.0,
    )
    return SlidingWindowFeature(local.active().astype(np.float32), windows)


def counting_artifact(
    local: LocalSpeakers, counting: CountingParameters | None = None
) -> SlidingWindowFeature:
    """(total_frames, 1) uint8: how many speak at once."""
    from pyannote.core import SlidingWindowFeature

    return SlidingWindowFeature(count_speakers(local, counting)[:, None], _frames(local))


def embeddings_artifact(local: LocalSpeakers) -> np.ndarray:
    """(num_windows, num_speakers, dimension) float32, NaN where nobody is embedded."""
    shape = (local.num_windows, local.num_speakers, local.dimension)
    embeddings = np.full(shape, np.nan, np.float32)
    windows, speakers = local.owners.T
    embeddings[windows - local.first_window, speakers] = local.embeddings
    return embeddings


def discrete_artifact(local: LocalSpeakers, output: Diarization) -> SlidingWindowFeature:
    """(total_frames, num_speakers) float32, 0 or 1, in the order of the labels."""
    from pyannote.core import SlidingWindowFeature

    grid = local.grid
    labels = output.labels()
    total = grid.total_frames(local.num_windows)
    times = grid.frame_time(np.arange(total))
    activity = np.zeros((total, len(labels)), np.float32)
    for turn in output.turns:
        # turns begin and end in the middle of frames: half a sample parts them from rounding
        first, last = np.searchsorted(times + 0.5 / grid.sample_rate, (turn.start, turn.end))
        activity[first:last, labels.index(turn.speaker)] = 1.0
    return SlidingWindowFeature(activity, _frames(local), labels=labels)


def _frames(local: LocalSpeakers) -> SlidingWindow:
    from pyannote.core import SlidingWindow

    rate = local.grid.sample_rate
    step, duration = local.grid.frame_step / rate, local.grid.frame_duration / rate
    return SlidingWindow(duration=duration, step=step, start=0.0)
