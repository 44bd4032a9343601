"""What a network is to learn: its labels, its loss, and how wrong it is on a validation set.

Names and arguments are pyannote.audio's. A task is plain data and tensors; the loop around it
(`raydiar.training.module`) is Lightning's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from raydiar.audio import SAMPLE_RATE
from raydiar.errors import TrainingError
from raydiar.inference.powerset import powerset_mapping, to_multilabel
from raydiar.models.specifications import Problem, Resolution, Specifications
from raydiar.training.example import Example, as_float
from raydiar.training.index import TrainingIndex, build_index
from raydiar.training.labels import FrameGrid, frame_labels
from raydiar.training.losses import multilabel_loss, powerset_loss
from raydiar.training.manifest import read_any
from raydiar.training.metrics import THRESHOLDS, best_threshold, count_errors
from raydiar.training.sources import AllWindows, RecordedWindows


class Task:
    """Base of the tasks.

    Parameters
    ----------
    data : TrainingIndex, Source, manifest or protocol, optional
        What to learn from; a manifest or protocol is indexed into a temporary folder. Not needed
        where the caller brings loaders.
    validation : the same, optional
        What to be measured on; a protocol's `development` is taken by itself.
    duration : float, seconds
        Of a window.
    batch_size : int
        Windows a step, of all workers together.
    num_workers : int
        Threads that read windows.
    balance : sequence of str, optional
        Columns of the manifest whose combinations of values are drawn equally often.
    weight : str, optional
        Column of the manifest that weighs its windows in the loss.
    augmentation : callable, optional
        `Augmentation`, applied to waveforms on the device.
    seed : int
    max_validation : int
        Windows at most.
    """

    monitor = "val_loss"
    mode = "min"
    scope = "file"
    gathers = False  # whether counts are put after one another rather than added up

    def __init__(
        self,
        data=None,
        *,
        validation=None,
        duration: float = 10.0,
        batch_size: int = 32,
        num_workers: int = 2,
        balance: Sequence[str] | None = None,
        weight: str | None = None,
        augmentation=None,
        seed: int = 0,
        max_validation: int = 2000,
        **ignored: Any,
    ):
        unknown = set(ignored) - {"cache", "pin_memory", "metric", "min_duration", "warm_up"}
        if unknown:
            raise TypeError(f"{type(self).__name__} has no parameter {sorted(unknown)[0]!r}")
        self.data, self.validation = data, validation
        self.duration, self.batch_size, self.num_workers = float(duration), batch_size, num_workers
        self.balance, self.weight = tuple(balance or ()), weight
        self.augmentation, self.seed, self.max_validation = augmentation, seed, max_validation
        self._source = self._validation_source = None
        self._folders: list[tempfile.TemporaryDirectory] = []
        self.grid: FrameGrid | None = None

    # -- data ----------------------------------------------------------------------------------

    def setup(self) -> None:
        """Index what is not yet indexed; called once in each process."""
        if self._source is None and self.data is not None:
            self._source = self._as_source(self.data, "train")
        if self._validation_source is None:
            data = self.validation
            if data is None and hasattr(self.data, "development"):
                data = self.data
            if data is not None:
                self._validation_source = self._as_validation(data)

    def _index(self, data, subset: str) -> TrainingIndex:
        if isinstance(data, TrainingIndex):
            return data
        folder = tempfile.TemporaryDirectory(prefix="raydiar-index-")
        self._folders.append(folder)  # which lives as long as the task
        return build_index(read_any(data, subset), folder.name, scope=self.scope)

    def _as_source(self, data, subset: str):
        if hasattr(data, "example"):
            return data
        index = self._index(data, subset)
        return RecordedWindows(index, self.duration, self.seed, self.balance, self.weight)

    def _as_validation(self, data):
        if hasattr(data, "example"):
            return data
        return AllWindows(self._index(data, "development"), self.duration, self.max_validation)

    @property
    def source(self):
        if self._source is None:
            raise TrainingError("this task has no data to learn from: give it a manifest or index")
        return self._source

    @property
    def validation_source(self):
        return self._validation_source

    # -- for subclasses ------------------------------------------------------------------------

    @property
    def specifications(self) -> Specifications:
        raise NotImplementedError

    def attach(self, model: nn.Module) -> nn.Module | None:
        """Get to know the network; gives a loss with parameters of its own, if it has one."""
        num_samples = round(self.duration * SAMPLE_RATE)
        self.grid = FrameGrid(
            model.num_frames(num_samples),
            model.frame_step / SAMPLE_RATE,
            model.frame_duration / SAMPLE_RATE,
        )
        return None

    def collate(self, examples: list[Example]) -> dict[str, Any]:
        """Waveforms (batch, 1, num_samples), labels, weights, and what the windows are called."""
        return {
            "X": torch.from_numpy(np.stack([as_float(one.samples) for one in examples]))[:, None],
            "y": torch.from_numpy(np.stack([self.labels(one) for one in examples])),
            "weight": torch.tensor([one.weight for one in examples], dtype=torch.float32),
            "index": [one.index for one in examples],
            "names": [one.name for one in examples],
        }

    def labels(self, example: Example) -> np.ndarray:
        raise NotImplementedError

    def loss(self, output: torch.Tensor, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of losses, and what to divide it by."""
        raise NotImplementedError

    def at_step(self, step: int) -> None:
        """Called before each step: for what changes in the course of training."""

    def count(self, output: torch.Tensor, batch: dict) -> torch.Tensor:
        """Counts that add up over batches and workers, for `metrics`."""
        raise NotImplementedError

    def metrics(self, counts: torch.Tensor) -> dict[str, float]:
        raise NotImplementedError


class _Segmentation(Task):
    permutation_invariant = False

    def _weights(self, batch: dict, num_frames: int) -> torch.Tensor | None:
        weight = batch.get("weight")
        if weight is None:
            return None
        if weight.dim() == 1:
            weight = weight[:, None].expand(-1, num_frames)
        elif weight.shape[1] != num_frames:  # frames of another resolution
            weight = nn.functional.interpolate(
                weight[:, None], size=num_frames, mode="linear", align_corners=False
            )[:, 0]
        return weight

    def _matched(self, output: torch.Tensor, batch: dict) -> torch.Tensor:
        target = batch["y"]
        if target.shape[1] != output.shape[1]:
            raise TrainingError(
                f"the labels have {target.shape[1]} frames, the network's answer "
                f"{output.shape[1]}: the task was attached to another network or duration"
            )
        return target

    def loss(self, output, batch):
        target = self._matched(output, batch)
        weight = self._weights(batch, output.shape[1])
        return multilabel_loss(
            output, target, weight, permutation_invariant=self.permutation_invariant
        )

    def count(self, output, batch):
        return count_errors(
            output.float(),
            self._matched(output, batch),
            THRESHOLDS,
            permutation_invariant=self.permutation_invariant,
        )

    def metrics(self, counts):
        middle = len(counts) // 2
        threshold, rate = best_threshold(counts, THRESHOLDS)
        return {
            **_parts(counts[middle]),
            "val_best_rate": rate,
            "val_best_threshold": threshold,
        }


def _parts(counts: torch.Tensor) -> dict[str, float]:
    false_alarm, missed, confusion, speech = counts.tolist()
    speech = max(speech, 1e-8)
    return {
        "val_der": (false_alarm + missed + confusion) / speech,
        "val_false_alarm": false_alarm / speech,
        "val_missed": missed / speech,
        "val_confusion": confusion / speech,
    }


class SpeakerDiarization(_Segmentation):
    """Who of a window's speakers is active in each frame.

    Parameters
    ----------
    data, validation, ...
        As `Task`.
    max_speakers_per_chunk : int, optional
        Estimated from the data by default: the 97th percentile of windows.
    max_speakers_per_frame : int or None
        At once, which makes classes of sets of speakers (powerset); None for one output a
        speaker, as networks before segmentation-3.0 have.
    """

    monitor = "val_der"
    permutation_invariant = True

    def __init__(
        self,
        data=None,
        *,
        max_speakers_per_chunk: int | None = None,
        max_speakers_per_frame: int | None = 2,
        **options,
    ):
        super().__init__(data, **options)
        self.max_speakers_per_chunk = max_speakers_per_chunk
        self.max_speakers_per_frame = max_speakers_per_frame
        self._mapping: torch.Tensor | None = None

    @property
    def specifications(self) -> Specifications:
        count = self.num_speakers
        powerset = self.max_speakers_per_frame is not None
        return Specifications(
            problem=Problem.MONO_LABEL_CLASSIFICATION
            if powerset
            else Problem.MULTI_LABEL_CLASSIFICATION,
            resolution=Resolution.FRAME,
            duration=self.duration,
            classes=[f"speaker#{number + 1}" for number in range(count)],
            powerset_max_classes=min(self.max_speakers_per_frame, count) if powerset else None,
            permutation_invariant=True,
        )

    @property
    def num_speakers(self) -> int:
        if self.max_speakers_per_chunk is None:
            self.setup()
            index = getattr(self._source, "index", None)
            if index is None:
                raise TrainingError(
                    "max_speakers_per_chunk can only be estimated from recordings: state it"
                )
            self.max_speakers_per_chunk = index.max_speakers(self.duration)
        return self.max_speakers_per_chunk

    def labels(self, example: Example) -> np.ndarray:
        return frame_labels(
            example.starts,
            example.ends,
            example.speakers,
            0.0,
            self.duration,
            self.grid,
            self.num_speakers,
        )

    def mapping(self, like: torch.Tensor) -> torch.Tensor:
        if self._mapping is None or self._mapping.device != like.device:
            most = min(self.max_speakers_per_frame, self.num_speakers)
            self._mapping = powerset_mapping(self.num_speakers, most).to(like.device)
        return self._mapping

    def loss(self, output, batch):
        if self.max_speakers_per_frame is None:
            return super().loss(output, batch)
        target = self._matched(output, batch)
        weight = self._weights(batch, output.shape[1])
        return powerset_loss(output, target, self.mapping(output), weight)

    def count(self, output, batch):
        if self.max_speakers_per_frame is None:
            return super().count(output, batch)
        active, _ = to_multilabel(output, self.mapping(output))
        return count_errors(active, self._matched(output, batch))

    def metrics(self, counts):
        return super().metrics(counts) if len(counts) > 1 else _parts(counts[0])


class VoiceActivityDetection(_Segmentation):
    """Whether anybody speaks, in each frame."""

    monitor = "val_best_rate"

    def __init__(self, data=None, *, duration: float = 2.0, **options):
        super().__init__(data, duration=duration, **options)

    @property
    def specifications(self) -> Specifications:
        return Specifications(
            Problem.BINARY_CLASSIFICATION, Resolution.FRAME, self.duration, classes=["speech"]
        )

    _least = 1

    def labels(self, example: Example) -> np.ndarray:
        labels = frame_labels(
            example.starts, example.ends, example.speakers, 0.0, self.duration, self.grid
        )
        return (labels.sum(axis=1, keepdims=True) >= self._least).astype(np.uint8)


class OverlappedSpeechDetection(VoiceActivityDetection):
    """Whether two or more speak at once, in each frame."""

    _least = 2

    @property
    def specifications(self) -> Specifications:
        return Specifications(
            Problem.BINARY_CLASSIFICATION, Resolution.FRAME, self.duration, classes=["overlap"]
        )


class MultiLabelSegmentation(_Segmentation):
    """Which of some named classes are active in each frame.

    Parameters
    ----------
    classes : sequence of str, optional
        Labels to learn; those of the data by default.
    """

    monitor = "val_best_rate"
    scope = "global"

    def __init__(self, data=None, *, classes: Sequence[str] | None = None, duration=2.0, **options):
        super().__init__(data, duration=duration, **options)
        self._classes = list(classes) if classes is not None else None

    @property
    def classes(self) -> list[str]:
        if self._classes is None:
            self.setup()
            self._classes = sorted(self._source.index.labels)
        return self._classes

    @property
    def specifications(self) -> Specifications:
        return Specifications(
            Problem.MULTI_LABEL_CLASSIFICATION,
            Resolution.FRAME,
            self.duration,
            classes=self.classes,
        )

    def labels(self, example: Example) -> np.ndarray:
        names = self._source.index.labels
        labels = np.zeros((self.grid.num_frames, len(self.classes)), np.uint8)
        for column, name in enumerate(self.classes):
            if name in names:
                mine = example.speakers == names.index(name)
                found = frame_labels(
                    example.starts[mine],
                    example.ends[mine],
                    example.speakers[mine],
                    0.0,
                    self.duration,
                    self.grid,
                    1,
                )
                labels[:, column] = found[:, 0]
        return labels
