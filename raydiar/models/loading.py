"""From a weight URI, or the name of an architecture, to a network."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from raydiar.devices import parse_device
from raydiar.errors import CheckpointError, ConfigError, WeightsNotFound
from raydiar.models.base import Model
from raydiar.models.campplus import CAMPPlus
from raydiar.models.checkpoint import Checkpoint, read_checkpoint
from raydiar.models.pyannet import PyanNet
from raydiar.models.resnet import (
    WeSpeakerResNet34,
    WeSpeakerResNet152,
    WeSpeakerResNet221,
    WeSpeakerResNet293,
)
from raydiar.models.self_supervised import SSeRiouSSConformer
from raydiar.models.specifications import SEGMENTATION
from raydiar.models.sseriouss import SSeRiouSS
from raydiar.models.xvector import XVectorMFCC, XVectorSincNet
from raydiar.weights import EMBEDDED, Weights, segmentation_of_pipeline

ARCHITECTURES: dict[str, type[Model]] = {
    cls.__name__: cls
    for cls in (
        PyanNet,
        SSeRiouSS,
        SSeRiouSSConformer,
        WeSpeakerResNet34,
        WeSpeakerResNet152,
        WeSpeakerResNet221,
        WeSpeakerResNet293,
        XVectorSincNet,
        XVectorMFCC,
        CAMPPlus,
    )
}
"""Every network that raydiar knows, by the name that checkpoints call it."""

WEIGHTS_FILE = "pytorch_model.bin"

# Left over from training: the margin layer of the loss.
_TRAINING_ONLY = ("loss_func.", "resnet.projection.", "projection.")


def load(
    checkpoint: str | Path | BinaryIO,
    *,
    map_location=None,
    strict: bool = True,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    hyper_parameters: Mapping[str, Any] | None = None,
) -> Model:
    """What `Model.from_pretrained` does."""
    if hasattr(checkpoint, "read"):
        if subfolder or revision:
            raise ConfigError("an open file has neither a subfolder nor a revision")
        name, content = "checkpoint", read_checkpoint(checkpoint)
    else:
        weights = Weights(str(checkpoint), subfolder, revision)
        if revision and Path(checkpoint).exists():
            raise ConfigError(f"{checkpoint} is local: it has no revision {revision!r}")
        path = fetch_network(weights, token, cache_dir)
        name, content = str(path), read_checkpoint(path)
    model = build(content, name, strict=strict, hyper_parameters=hyper_parameters)
    return model if map_location is None else model.to(_device(map_location))


def fetch_network(weights: Weights, token: str | None, cache_dir: str | Path | None) -> Path:
    """The file of a network; where a pipeline lies in its place, of its segmentation network."""
    try:
        return weights.fetch(WEIGHTS_FILE, token, cache_dir)
    except WeightsNotFound as error:
        segmentation = segmentation_of_pipeline(weights, token, cache_dir)
        if segmentation is None:
            raise error from error.__cause__
    warnings.warn(
        f"{weights.uri} is a pipeline, not a network: loading its segmentation network, "
        f"{segmentation}",
        stacklevel=4,
    )
    return segmentation.fetch(WEIGHTS_FILE, token, cache_dir)


def _device(map_location) -> torch.device:
    try:
        device = torch.device(map_location)
    except (TypeError, RuntimeError):
        raise ConfigError(
            f"map_location must be the name of a device, not {map_location!r}"
        ) from None
    parse_device(device)  # those that torch has, and raydiar does not
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"no CUDA device here: cannot load a network onto {device}")
    return device


def make(
    architecture: str | type[Model],
    pretrained: bool | str | Path = False,
    hyper_parameters: Mapping[str, Any] | None = None,
) -> Model:
    """What `Model.custom` does."""
    name = architecture if isinstance(architecture, str) else architecture.__name__
    cls = ARCHITECTURES.get(name) if isinstance(architecture, str) else architecture
    if cls is None or not issubclass(cls, Model):
        known = ", ".join(sorted(ARCHITECTURES))
        raise ConfigError(f"{architecture!r} is no network that raydiar knows ({known})")
    hyper_parameters = dict(hyper_parameters or {})
    if pretrained is False or pretrained is None:
        _check_hyper_parameters(cls, hyper_parameters)
        return cls(**hyper_parameters)
    if pretrained is True:
        if name not in EMBEDDED:
            raise ConfigError(
                f"no {name} can be had without an account: name its weights, pretrained='org/repo'"
            )
        pretrained = EMBEDDED[name].uri
    model = load(pretrained, hyper_parameters=hyper_parameters)
    if not isinstance(model, cls):
        raise ConfigError(f"{pretrained} holds a {type(model).__name__}, not a {name}")
    return model


def build(
    checkpoint: Checkpoint,
    name: str,
    *,
    strict: bool = True,
    hyper_parameters: Mapping[str, Any] | None = None,
) -> Model:
    """Make the network that a checkpoint describes, and fill it.

    Parameters
    ----------
    checkpoint : Checkpoint
    name : str
        Of the checkpoint, in messages.
    strict : bool
        Refuse tensors that are missing, left over, or of another shape; else warn of them.
    hyper_parameters : mapping, optional
        Replace those of the checkpoint.

    Raises
    ------
    CheckpointError
        If no known network fits.
    ConfigError
        A hyper-parameter that the network does not have.
    """
    state_dict = {
        key: value
        for key, value in checkpoint.state_dict.items()
        if not key.startswith(_TRAINING_ONLY)
    }
    architecture = checkpoint.architecture or _recognise(state_dict)
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"{name}: {architecture or 'its tensors'} is no network that raydiar knows "
            f"({', '.join(sorted(ARCHITECTURES))})"
        )
    cls = ARCHITECTURES[architecture]
    arguments = dict(checkpoint.hyper_parameters)
    if architecture.startswith("WeSpeaker"):
        state_dict = _with_prefix(state_dict, "resnet.")
        arguments["dimension"] = len(state_dict.get("resnet.seg_1.bias", ()))
    if architecture == "CAMPPlus":
        arguments["dimension"] = len(state_dict.get("xvector.dense.linear.weight", ()))
    if "specifications" in inspect.signature(cls).parameters:
        arguments["specifications"] = checkpoint.specifications or SEGMENTATION
    if hyper_parameters:
        _check_hyper_parameters(cls, hyper_parameters)
        arguments.update(hyper_parameters)
    try:
        model = cls(**arguments)
        if strict:
            model.load_state_dict(state_dict, strict=True)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{name}: not a {architecture} ({error})") from error
    if not strict:
        _fill(model, state_dict, name)
    if checkpoint.specifications is not None:
        model.specifications = checkpoint.specifications
    return model.eval()


def _fill(model: Model, state_dict: dict[str, torch.Tensor], name: str) -> None:
    """Take the tensors that fit, and say which did not."""
    wanted = model.state_dict()
    fitting = {
        key: value
        for key, value in state_dict.items()
        if key in wanted and wanted[key].shape == value.shape
    }
    model.load_state_dict(fitting, strict=False)
    left = {
        "missing": wanted.keys() - state_dict.keys(),
        "left over": state_dict.keys() - wanted.keys(),
        "of another shape": (state_dict.keys() & wanted.keys()) - fitting.keys(),
    }
    said = [f"{', '.join(sorted(keys))} {what}" for what, keys in left.items() if keys]
    if said:
        warnings.warn(f"{name}: {'; '.join(said)}", stacklevel=5)


def _check_hyper_parameters(cls: type[Model], given: Mapping[str, Any]) -> None:
    parameters = inspect.signature(cls).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    known = [name for name in parameters if name != "self"]
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(known)}")


def _with_prefix(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    if all(key.startswith(prefix) for key in state_dict):
        return state_dict
    return {prefix + key: value for key, value in state_dict.items()}


def _recognise(state_dict: dict[str, torch.Tensor]) -> str | None:
    """Name of the network whose tensors these are, for files that do not say."""
    keys = state_dict.keys()
    if "xvector.dense.linear.weight" in keys:
        return "CAMPPlus"
    if "sincnet.wav_norm1d.weight" in keys:
        return "PyanNet" if "classifier.weight" in keys else "XVectorSincNet"
    # Depths differ in the number of blocks of their third layer.
    blocks = {key.split("layer3.")[1].split(".")[0] for key in keys if "layer3." in key}
    depths = {6: "34", 36: "152", 48: "221", 64: "293"}
    depth = depths.get(len(blocks))
    return f"WeSpeakerResNet{depth}" if depth else None
