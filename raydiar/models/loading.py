"""From a weight URI to a network in evaluation mode."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from raydiar import hub
from raydiar.errors import CheckpointError
from raydiar.models.campplus import CAMPPlus
from raydiar.models.checkpoint import Checkpoint, read_checkpoint
from raydiar.models.pyannet import PyanNet
from raydiar.models.resnet import (
    WeSpeakerResNet34,
    WeSpeakerResNet152,
    WeSpeakerResNet221,
    WeSpeakerResNet293,
)
from raydiar.models.specifications import SEGMENTATION
from raydiar.models.xvector import XVectorSincNet

_ARCHITECTURES: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        PyanNet,
        WeSpeakerResNet34,
        WeSpeakerResNet152,
        WeSpeakerResNet221,
        WeSpeakerResNet293,
        XVectorSincNet,
        CAMPPlus,
    )
}

# Left over from training: the margin layer of the loss.
_TRAINING_ONLY = ("loss_func.", "resnet.projection.", "projection.")


class Model:
    """Entry point with the name users know from pyannote.audio."""

    @staticmethod
    def from_pretrained(
        checkpoint: str | Path | BinaryIO,
        *,
        subfolder: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> nn.Module:
        """Load a segmentation or embedding network.

        Parameters
        ----------
        checkpoint : str, Path or binary file
            Anything `raydiar.hub.fetch` takes; a directory or Hub repository holds its weights
            in `pytorch_model.bin`.
        subfolder, revision, token, cache_dir
            As in `raydiar.hub.fetch`.

        Returns
        -------
        model : nn.Module
            On the CPU, in evaluation mode.

        Raises
        ------
        WeightsNotFound, CheckpointError
        """
        if hasattr(checkpoint, "read"):
            return build(read_checkpoint(checkpoint), "checkpoint")
        path = hub.fetch(
            checkpoint,
            filename="pytorch_model.bin",
            subfolder=subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
        )
        return build(read_checkpoint(path), str(path))


def build(checkpoint: Checkpoint, name: str) -> nn.Module:
    """Make the network that a checkpoint describes, and fill it strictly.

    Raises
    ------
    CheckpointError
        If no known network fits.
    """
    state_dict = {
        key: value
        for key, value in checkpoint.state_dict.items()
        if not key.startswith(_TRAINING_ONLY)
    }
    architecture = checkpoint.architecture or _recognise(state_dict)
    if architecture not in _ARCHITECTURES:
        raise CheckpointError(
            f"{name}: {architecture or 'its tensors'} is no network that raydiar knows "
            f"({', '.join(sorted(_ARCHITECTURES))})"
        )
    hyper_parameters = dict(checkpoint.hyper_parameters)
    if architecture == "PyanNet":
        hyper_parameters["specifications"] = checkpoint.specifications or SEGMENTATION
    if architecture.startswith("WeSpeaker"):
        state_dict = _with_prefix(state_dict, "resnet.")
        hyper_parameters["dimension"] = len(state_dict["resnet.seg_1.bias"])
    if architecture == "CAMPPlus":
        hyper_parameters["dimension"] = len(state_dict["xvector.dense.linear.weight"])
    try:
        model = _ARCHITECTURES[architecture](**hyper_parameters)
        model.load_state_dict(state_dict, strict=True)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{name}: not a {architecture} ({error})") from error
    return model.eval().requires_grad_(False)


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
