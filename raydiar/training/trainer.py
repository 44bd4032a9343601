"""Lightning's trainer for those who bring a network and loaders, as with pyannote.audio.

trainer = Trainer(max_epochs=10)
trainer.fit(model, train_loader, validation_loader)   # or with model.task = task, without loaders
trainer.finetune(model, train_loader, validation_loader)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from raydiar.errors import TrainingError
from raydiar.models.specifications import Problem, Resolution
from raydiar.training.config import TrainingConfig
from raydiar.training.module import TrainingModule
from raydiar.training.tasks import (
    MultiLabelSegmentation,
    SpeakerDiarization,
    Task,
    VoiceActivityDetection,
)

_GENTLE = 1e-4


class Trainer(L.Trainer):
    """As Lightning's, for networks of raydiar.

    Parameters
    ----------
    gpus : int, optional
        Former way to ask for GPUs. Where there are none it trains on the CPU, with a warning.
    **options
        Lightning's.
    """

    def __init__(self, *, gpus: int | None = None, **options: Any):
        if gpus is not None:
            if gpus and torch.cuda.is_available():
                options = {"accelerator": "gpu", "devices": gpus} | options
            else:
                if gpus:
                    warnings.warn("there is no GPU here: training on the CPU", stacklevel=2)
                options = {"accelerator": "cpu", "devices": 1} | options
        super().__init__(**options)

    def fit(
        self,
        model: nn.Module,
        train_dataloaders: Iterable | None = None,
        val_dataloaders: Iterable | None = None,
        *,
        config: TrainingConfig | None = None,
        **options: Any,
    ) -> nn.Module:
        """Train a network.

        Parameters
        ----------
        model : nn.Module
            A network of raydiar, whose `task` says what it learns; or a LightningModule.
        train_dataloaders, val_dataloaders : iterable, optional
            Give {"X": (batch, 1, num_samples), "y": (batch, num_frames, num_speakers)} or pairs
            of these; by default windows of the task's data.
        config : TrainingConfig, optional
            Of which the optimizer's parts are used: this trainer's own arguments say how long.

        Returns
        -------
        model : nn.Module
            The same, in evaluation mode.

        Raises
        ------
        TrainingError
            If there is nothing to learn from.
        """
        if isinstance(model, L.LightningModule):
            super().fit(model, train_dataloaders, val_dataloaders, **options)
            return model
        task = getattr(model, "task", None)
        if task is None:
            task = task_of(model)
        elif not isinstance(task, Task):
            raise TrainingError(f"a {type(task).__name__} is no task of raydiar.tasks")
        task.setup()
        if train_dataloaders is None:
            train_dataloaders = _epochs(task)
            if val_dataloaders is None and task.validation_source is not None:
                val_dataloaders = _Once(task.validation_source).loader(task)
        config = replace(config or TrainingConfig(), schedule="constant")
        module = TrainingModule(model, task, config)
        loaders = [_one_loader(one) for one in (train_dataloaders, val_dataloaders)]
        super().fit(module, *loaders, **options)
        return model.cpu().eval()

    def finetune(
        self,
        model: nn.Module,
        train_dataloaders: Iterable | None = None,
        val_dataloaders: Iterable | None = None,
        *,
        config: TrainingConfig | None = None,
        **options: Any,
    ) -> nn.Module:
        """`fit` with a tenth of the usual learning rate: what has learnt already changes slowly."""
        config = config or TrainingConfig(learning_rate=_GENTLE)
        return self.fit(model, train_dataloaders, val_dataloaders, config=config, **options)


def _one_loader(batches: Iterable | None) -> Iterable | None:
    """A list of batches as one loader: Lightning takes a list for several."""
    return DataLoader(batches, batch_size=None) if isinstance(batches, list) else batches


def task_of(model: nn.Module) -> Task:
    """The task that a network was made for, without data.

    Raises
    ------
    TrainingError
        If its labels cannot be known from the network alone.
    """
    specifications = model.specifications
    if specifications.resolution is not Resolution.FRAME:
        raise TrainingError(
            "an embedding learns from labelled people: set model.task = SpeakerEmbedding(manifest)"
        )
    options = {"duration": specifications.duration}
    if specifications.permutation_invariant or specifications.powerset:
        return SpeakerDiarization(
            max_speakers_per_chunk=len(specifications.classes),
            max_speakers_per_frame=specifications.powerset_max_classes,
            **options,
        )
    if specifications.problem is Problem.BINARY_CLASSIFICATION:
        return VoiceActivityDetection(**options)
    return MultiLabelSegmentation(classes=specifications.classes, **options)


class _Once(Dataset):
    """Windows of a source by their numbers."""

    def __init__(self, source, length: int | None = None):
        self.source, self.length = source, length if length is not None else len(source)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        return self.source.example(index)

    def loader(self, task: Task) -> DataLoader:
        return DataLoader(self, batch_size=task.batch_size, collate_fn=task.collate)


class _Epoch(_Once):
    """As much as the data holds, drawn anew in each epoch."""

    def __init__(self, source, length: int):
        super().__init__(source, length)
        self.epoch = -1

    def __getitem__(self, index: int):
        return self.source.example(self.epoch * self.length + index)


class _Begins(torch.utils.data.SequentialSampler):
    def __iter__(self):
        self.data_source.epoch += 1
        return super().__iter__()


def _epochs(task: Task) -> DataLoader:
    seconds = getattr(task.source, "seconds", None)
    windows = math.ceil((seconds or 3600.0) / task.duration)
    dataset = _Epoch(task.source, max(windows, task.batch_size))
    return DataLoader(
        dataset, batch_size=task.batch_size, collate_fn=task.collate, sampler=_Begins(dataset)
    )
