"""Model: what every network has in common, whoever uses it.

A network is a plain `nn.Module`: inference takes it into evaluation and rewrites a copy of it
(`raydiar.models.optimize`), training computes its gradients. It describes itself: its
hyper-parameters, the task it was trained for, and how its frames lie in time.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import nn

from raydiar import telemetry
from raydiar.errors import ConfigError, InvalidSamples
from raydiar.models.convolutions import (
    Convolution,
    num_frames,
    receptive_center,
    receptive_size,
)
from raydiar.models.specifications import Problem, Specifications

if TYPE_CHECKING:
    from pyannote.core import SlidingWindow


class HyperParameters(dict):
    """Constructor arguments by name, also as attributes: `hparams.lstm` is `hparams["lstm"]`."""

    def __getattr__(self, name: str):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no hyper-parameter {name!r} among {sorted(self)}") from None

    def __setattr__(self, name: str, value) -> None:
        self[name] = value


class Model(nn.Module):
    """Base class of networks, and the door to pretrained ones.

    Subclasses state their hyper-parameters with `save_hyperparameters`, their layers in the
    constructor, those layers that depend on the task in `build`, and how frames lie in time in
    `convolutions` (or `num_frames`, `receptive_field_size` and `receptive_field_center`).

    Parameters
    ----------
    sample_rate : int, Hz
    num_channels : int
    task : object, optional
        What it is trained for: has `specifications`.

    Attributes
    ----------
    hparams : HyperParameters
    sample_rate, num_channels : int
    task : object or None
    """

    task_dependent: tuple[str, ...] = ()
    """Layers that `build` makes, whose shape depends on the task."""

    def __init__(self, sample_rate: int = 16000, num_channels: int = 1, task=None):
        super().__init__()
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.hparams = HyperParameters(sample_rate=sample_rate, num_channels=num_channels)
        self.task = task
        self._specifications: Specifications | None = None

    # -- pretrained ------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str | Path | BinaryIO,
        map_location=None,
        strict: bool = True,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        use_auth_token: str | None = None,
        **hyper_parameters,
    ) -> Model:
        """Load a segmentation or embedding network.

        Parameters
        ----------
        checkpoint : str, Path or binary file
            Anything `raydiar.hub.fetch` takes; a directory or Hub repository holds its weights
            in `pytorch_model.bin`. Where that is a pipeline, its segmentation network is meant.
        map_location : str or torch.device, optional
            Device to load onto; by default the CPU.
        strict : bool
            Whether the tensors of the checkpoint must be exactly those of the network; without,
            a warning names those that are missing, left over, or of another shape.
        subfolder, revision, token, cache_dir
            As in `raydiar.hub.fetch`; `use_auth_token` is the former name of `token`.
        **hyper_parameters
            Replace those of the checkpoint.

        Returns
        -------
        model : Model
            In evaluation mode; its parameters require gradients, so that `model.train()` is all
            that training it takes.

        Raises
        ------
        WeightsNotFound, CheckpointError
        ConfigError
            A hyper-parameter that the network does not have.
        """
        from raydiar.models.loading import load

        model = load(
            checkpoint,
            map_location=map_location,
            strict=strict,
            subfolder=subfolder,
            revision=revision,
            token=token or use_auth_token,
            cache_dir=cache_dir,
            hyper_parameters=hyper_parameters,
        )
        if not isinstance(model, cls):
            raise ConfigError(f"{checkpoint} holds a {type(model).__name__}, not a {cls.__name__}")
        telemetry.model_loaded(model)
        return model

    @staticmethod
    def custom(
        architecture: str | type[Model], pretrained: bool | str | Path = False, **hyper_parameters
    ) -> Model:
        """Make a network by the name of its architecture.

        Parameters
        ----------
        architecture : str or subclass of Model
            E.g. "PyanNet"; `raydiar.models.loading.ARCHITECTURES` lists the names.
        pretrained : bool, str or Path
            Weights to start from: False for random ones, True for those of the embedded default
            (PyanNet and CAMPPlus have some), else what `from_pretrained` takes.
        **hyper_parameters
            Of its constructor.

        Raises
        ------
        ConfigError
            An unknown architecture or hyper-parameter, or no weights to start from.
        WeightsNotFound, CheckpointError
        """
        from raydiar.models.loading import make

        return make(architecture, pretrained, hyper_parameters)

    # -- hyper-parameters and task ---------------------------------------------------------

    def save_hyperparameters(self, *names: str) -> None:
        """Note arguments of the constructor that calls this, so that a checkpoint holds them.

        Parameters
        ----------
        *names : str
            Of arguments; by default all but `self` and `task`.
        """
        values = inspect.currentframe().f_back.f_locals
        parameters = inspect.signature(type(self).__init__).parameters
        for name in names or [name for name in parameters if name not in ("self", "task")]:
            if name not in values:
                raise ConfigError(f"{name!r} is no argument of {type(self).__name__}")
            if name in parameters and parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                self.hparams.update(values[name])
            else:
                self.hparams[name] = values[name]

    def __setattr__(self, name: str, value) -> None:
        if name == "task":
            # Past nn.Module, which would take a task that is a module for a layer of this network.
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def specifications(self) -> Specifications:
        """What the network answers: its own task's, else those it was loaded with.

        Raises
        ------
        ConfigError
            For a network that was given neither a task nor specifications.
        """
        own = getattr(self.task, "specifications", None) or self._specifications
        if own is None:
            raise ConfigError(
                f"this {type(self).__name__} has no task yet: set `model.task`, or "
                "`model.specifications`"
            )
        return own

    @specifications.setter
    def specifications(self, specifications: Specifications) -> None:
        self._specifications = specifications

    def build(self) -> None:
        """Make the layers that depend on the task; those of an unchanged shape keep their weights.

        Subclasses override this and are called by `setup`.
        """

    def setup(self, stage: str | None = None) -> None:
        """Make the layers that depend on the task anew, after its specifications have changed."""
        before = {name: getattr(self, name, None) for name in self.task_dependent}
        self.build()
        for name, old in before.items():
            new = getattr(self, name, None)
            if not isinstance(old, nn.Module) or not isinstance(new, nn.Module):
                continue
            was, now = old.state_dict(), new.state_dict()
            if {k: v.shape for k, v in was.items()} == {k: v.shape for k, v in now.items()}:
                new.load_state_dict(was)
        self.to(self.device)

    def default_activation(self) -> nn.Module:
        """The last activation that the problem of the task asks for."""
        problem = self.specifications.problem
        if problem is Problem.MONO_LABEL_CLASSIFICATION:
            return nn.LogSoftmax(dim=-1)
        if problem in (Problem.BINARY_CLASSIFICATION, Problem.MULTI_LABEL_CLASSIFICATION):
            return nn.Sigmoid()
        return nn.Identity()

    @property
    def device(self) -> torch.device:
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def dimension(self) -> int:
        """Width of the output."""
        return self.specifications.num_outputs

    @property
    def example_input_array(self) -> torch.Tensor:
        """(1, num_channels, num_samples) noise as long as the training windows."""
        num_samples = round(self.specifications.duration * self.sample_rate)
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(1, self.num_channels, num_samples, generator=generator)
        return noise.to(self.device)

    def __call__(self, *arguments, **keywords):
        """
        Raises
        ------
        InvalidSamples
            Waveforms of another shape, or too short for a single frame.
        """
        try:
            return super().__call__(*arguments, **keywords)
        except (RuntimeError, ValueError, IndexError):
            self._check_waveforms(arguments[0] if arguments else None)
            raise

    def _check_waveforms(self, waveforms) -> None:
        shape = tuple(getattr(waveforms, "shape", ()))
        if len(shape) != 3 or shape[1] != self.num_channels:
            raise InvalidSamples(
                f"{type(self).__name__} takes (batch, {self.num_channels}, num_samples) waveforms, "
                f"not {shape or type(waveforms).__name__}"
            )
        if self.num_frames(shape[2]) < 1:
            raise InvalidSamples(
                f"{shape[2]} samples are too few for {type(self).__name__}, whose frames see "
                f"{self.frame_duration}"
            )

    # What Lightning's `summarize(model)` asks for beside `example_input_array`: no trainer, and a
    # batch that needs no moving.
    _trainer = None

    def _on_before_batch_transfer(self, batch, dataloader_idx: int = 0):
        return batch

    _apply_batch_transfer_handler = _on_before_batch_transfer

    # -- frames ----------------------------------------------------------------------------

    @property
    def convolutions(self) -> Sequence[Convolution]:
        """Everything that changes the time axis, from the waveform up."""
        raise NotImplementedError(
            f"{type(self).__name__} states neither its convolutions nor its frames"
        )

    def num_frames(self, num_samples: int) -> int:
        """Frames of an input of so many samples; 0 if it is too short for one."""
        return num_frames(self.convolutions, num_samples)

    def receptive_field_size(self, num_frames: int = 1) -> int:
        """Samples that so many frames see."""
        return receptive_size(self.convolutions, num_frames)

    def receptive_field_center(self, frame: int = 0) -> int:
        """Sample in the middle of what a frame sees."""
        return receptive_center(self.convolutions, frame)

    @property
    def frame_duration(self) -> int:
        """Samples that one frame sees."""
        return self.receptive_field_size(1)

    @property
    def frame_step(self) -> int:
        """Samples between frames."""
        return self.receptive_field_size(2) - self.receptive_field_size(1)

    @property
    def receptive_field(self) -> SlidingWindow:
        """Place of the frames, in seconds."""
        from pyannote.core import SlidingWindow

        start = self.receptive_field_center(0) - (self.frame_duration - 1) / 2
        return SlidingWindow(
            start=start / self.sample_rate,
            duration=self.frame_duration / self.sample_rate,
            step=self.frame_step / self.sample_rate,
        )

    # -- which parameters are trained ------------------------------------------------------

    def freeze(self) -> None:
        """Train nothing of it."""
        self.requires_grad_(False)

    def unfreeze(self) -> None:
        """Train all of it."""
        self.requires_grad_(True)

    def freeze_by_name(self, modules: str | Iterable[str], recurse: bool = True) -> list[str]:
        """Do not train some layers.

        Parameters
        ----------
        modules : str or iterable of str
            Names as in `named_modules`, e.g. "sincnet" or "lstm".
        recurse : bool
            Also the layers inside them.

        Returns
        -------
        names : list of str
            Of the layers that are frozen now.

        Raises
        ------
        ConfigError
            No layer of that name.
        """
        return self._set_trainable(modules, recurse, False)

    def unfreeze_by_name(self, modules: str | Iterable[str], recurse: bool = True) -> list[str]:
        """Train some layers again; as `freeze_by_name`."""
        return self._set_trainable(modules, recurse, True)

    def freeze_up_to(self, module_name: str) -> list[str]:
        """Do not train the layers from the waveform up to this one, itself included.

        Layers count in the order in which the constructor makes them. Returns their names.
        """
        return self.freeze_by_name(self._up_to(module_name))

    def unfreeze_up_to(self, module_name: str) -> list[str]:
        """Train the layers from the waveform up to this one, itself included; gives their names."""
        return self.unfreeze_by_name(self._up_to(module_name))

    def _set_trainable(self, names, recurse: bool, trainable: bool) -> list[str]:
        names = [names] if isinstance(names, str) else list(names)
        known = dict(self.named_modules())
        for name in names:
            if name not in known or not name:
                raise self._no_layer(name)
            for parameter in known[name].parameters(recurse=recurse):
                parameter.requires_grad_(trainable)
            # What is not trained has no dropout, and keeps its running means.
            known[name].train(trainable and self.training)
        return names

    def _up_to(self, module_name: str) -> list[str]:
        """Layers at the depth of `module_name`, in their order, it the last."""
        depth = module_name.count(".")
        names = []
        for name, module in self.named_modules():
            leaf = not any(True for _ in module.children())
            if name and (name.count(".") == depth or (leaf and name.count(".") < depth)):
                names.append(name)
                if name == module_name:
                    return names
        raise self._no_layer(module_name)

    def _no_layer(self, name: str) -> ConfigError:
        layers = [layer for layer, _ in self.named_children()]
        return ConfigError(f"no layer {name!r}: there are {layers}, and those inside them")
