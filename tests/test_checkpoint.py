"""Checkpoints give tensors and run nothing."""

import io
import os
import pickle
from pathlib import Path

import pytest
import torch

from raydiar.errors import CheckpointError
from raydiar.models import Model, WeSpeakerResNet34, WeSpeakerResNet152
from raydiar.models.checkpoint import read_checkpoint
from raydiar.models.specifications import Problem, Resolution


class _Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_hostile_pickle_runs_nothing(tmp_path, zipped):
    marker = tmp_path / "was-run"
    path = tmp_path / "hostile.bin"
    content = {"state_dict": {"w": torch.zeros(1)}, "extra": _Hostile(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"posix\.system") as caught:
        read_checkpoint(path)
    assert str(path) in str(caught.value)
    assert not marker.exists()


def test_getattr_is_for_enums_only(tmp_path):
    class Sneaky:
        def __reduce__(self):
            return getattr, (torch.Size, "__new__")

    path = tmp_path / "sneaky.bin"
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Sneaky()}, path)
    with pytest.raises(CheckpointError, match="getattr"):
        read_checkpoint(path)


def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "program.pt"
    torch.jit.script(torch.nn.ReLU()).save(path)
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a checkpoint at all", pickle.dumps({"a": 1}), b"PK\x03\x04 half a zip"],
    ids=["empty", "text", "pickle", "torn-zip"],
)
def test_garbage_is_an_error_of_its_own(tmp_path, content):
    path = tmp_path / "garbage.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"garbage\.bin"):
        Model.from_pretrained(path)


def test_state_dict_alone_is_recognised(tmp_path):
    for network in (WeSpeakerResNet34, WeSpeakerResNet152):
        model = network(dimension=16)
        path = tmp_path / "weights.bin"
        torch.save({**model.state_dict(), "resnet.projection.weight": torch.zeros(2)}, path)
        assert type(Model.from_pretrained(path)) is network


def test_unknown_network_is_named(tmp_path):
    path = tmp_path / "other.bin"
    torch.save({"layer.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match="no network that raydiar knows"):
        Model.from_pretrained(path)


@pytest.mark.reference
def test_pickled_specifications(shared: Path):
    path = shared / "reference/resnet34/resnet34_random_seed1234.ckpt"
    for source in (path, io.BytesIO(path.read_bytes())):
        checkpoint = read_checkpoint(source)
        assert checkpoint.architecture == "WeSpeakerResNet34"
        assert checkpoint.specifications.problem is Problem.REPRESENTATION
        assert checkpoint.specifications.resolution is Resolution.CHUNK
        assert not checkpoint.specifications.powerset
        assert len(checkpoint.state_dict) == 218
