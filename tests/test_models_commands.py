"""`raydiar models`: weights for machines without a network, or with little room."""

import collections
import enum
import os
import pickletools
import subprocess
import sys
import tarfile
import types
import zipfile
from dataclasses import replace

import pytest
import torch
from hub_server import HubServer, Repository
from safetensors.torch import save_file

from raydiar.clustering.parameters import VBxParameters
from raydiar.errors import CheckpointError, ConfigError, WeightsNotFound
from raydiar.models import Model
from raydiar.models.checkpoint import read_content
from raydiar.models.stripping import KEPT, strip_checkpoint
from raydiar.models.writing import write_checkpoint
from raydiar.pipelines.bundle import open_bundle, write_bundle
from raydiar.pipelines.config import DEFAULT, Weights
from raydiar.pipelines.config_file import load_config
from raydiar.pipelines.weights import bring

NO_NETWORK = """
import socket
def denied(*arguments, **options):
    raise OSError("no network here")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = denied
"""


def raydiar(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "raydiar", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def local():
    return DEFAULT.localize()


def test_from_the_hub_to_a_machine_without_a_network(local, talk, tmp_path):
    # A gated repository on a Hub ...
    clone = write_bundle(local, tmp_path / "clone")
    files = {
        str(path.relative_to(clone)): path.read_bytes()
        for path in clone.rglob("*")
        if path.is_file()
    }
    server = HubServer({"org/pipeline": Repository({"main": files}, gated=True)})
    connected = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}
    result = raydiar("models", "download", "org/pipeline", **connected)
    assert result.returncode == 2
    assert "`raydiar models download org/pipeline --token hf_…`" in result.stderr
    result = raydiar("models", "download", "org/pipeline", "--token", "hf_good", **connected)
    assert result.returncode == 0, result.stderr
    roles = [line.split("\t")[0] for line in result.stdout.splitlines()]
    assert roles == ["segmentation", "embedding"]
    # ... is listed, and becomes one file ...
    server.close()
    result = raydiar("models", "list", "--cache", tmp_path / "hf" / "hub", **connected)
    assert "\thf://org/pipeline/embedding/pytorch_model.bin\t" in result.stdout, result.stderr
    offline = {**connected, "HF_HUB_OFFLINE": "1"}
    bundle = tmp_path / "bundle.tar"
    result = raydiar("models", "bundle", "org/pipeline", "--into", bundle, **offline)
    assert result.returncode == 0, result.stderr
    # ... that is all another machine needs.
    (tmp_path / "denied").mkdir()
    (tmp_path / "denied" / "sitecustomize.py").write_text(NO_NETWORK)
    short = tmp_path / "talk.wav"
    short.write_bytes(talk)
    elsewhere = {
        "PYTHONPATH": f"{tmp_path / 'denied'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "RAYDIAR_CACHE": str(tmp_path / "empty"),
        "HF_HOME": str(tmp_path / "empty too"),
    }
    result = raydiar("diarize", short, "--pipeline", bundle, **elsewhere)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("SPEAKER talk 1 ")
    result = raydiar("diarize", short, "--pipeline", "org/pipeline", **elsewhere)
    assert result.returncode == 2, "the network is denied"
    assert "`raydiar models bundle org/pipeline --into bundle.tar`" in result.stderr


@pytest.mark.parametrize("name", ["bundle", "bundle.tar", "bundle.tgz"])
def test_a_bundle_is_the_same_pipeline(local, name, tmp_path):
    config = local.config.with_parameters(
        {"clustering": {"threshold": 0.6}, "segmentation": {"min_duration_off": 0.25}}
    )
    pipeline = local.with_config(config)
    bundle = write_bundle(pipeline, tmp_path / name)
    again = load_config(bundle, cache_dir=tmp_path / "cache").localize()
    assert again.describe() == pipeline.describe()
    with pytest.raises(ConfigError, match="exists"):
        write_bundle(pipeline, tmp_path / name)


def test_a_bundle_with_vbx_and_safetensors(local, shared, tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_file(read_content(local.embedding), weights)
    config = replace(
        DEFAULT,
        embedding=Weights(str(weights)),
        clustering=VBxParameters(Fa=0.1),
        plda=Weights(str(shared / "models/plda")),
    )
    pipeline = config.localize()
    bundle = write_bundle(pipeline, tmp_path / "bundle.tar")
    again = load_config(bundle, cache_dir=tmp_path / "cache").localize()
    assert again.fingerprint == pipeline.fingerprint


def test_what_is_no_bundle(local, tmp_path):
    text = tmp_path / "text.tar"
    text.write_text("no tar")
    with pytest.raises(WeightsNotFound, match="not a bundle"):
        open_bundle(text, tmp_path / "cache")
    with pytest.raises(WeightsNotFound, match="no such file"):
        load_config(tmp_path / "nowhere.tar")
    folder = write_bundle(local, tmp_path / "bundle")
    (folder / "segmentation" / "pytorch_model.bin").write_bytes(b"other bytes")
    damaged, escaping = tmp_path / "damaged.tar", tmp_path / "escaping.tar"
    with tarfile.open(damaged, "w") as archive:
        archive.add(folder, arcname="packed with its folder")
    with pytest.raises(WeightsNotFound, match=r"pytorch_model\.bin is damaged"):
        open_bundle(damaged, tmp_path / "cache")
    with tarfile.open(escaping, "w") as archive:
        archive.add(folder / "config.yaml", arcname="../config.yaml")
    with pytest.raises(WeightsNotFound, match="not a bundle"):
        open_bundle(escaping, tmp_path / "cache")
    assert not (tmp_path / "cache" / "config.yaml").exists()
    fast = local.with_config(replace(local.config, dtype="bfloat16"))
    with pytest.raises(ConfigError, match="dtype"):
        write_bundle(fast, tmp_path / "new.tar")


def test_stripping_leaves_what_inference_needs(local, tmp_path):
    content = read_content(local.segmentation)
    trained = {
        **content,
        "epoch": 3,
        "global_step": 1000,
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [
            {"state": {0: {"exp_avg": torch.zeros(2_000_000)}}, "param_groups": [{"lr": 1e-3}]}
        ],
        "lr_schedulers": [],
    }
    source = write_checkpoint(trained, tmp_path / "epoch=3.ckpt")
    into = strip_checkpoint(source, tmp_path / "stripped")
    assert into == tmp_path / "stripped" / "pytorch_model.bin"
    assert into.stat().st_size < source.stat().st_size / 2
    assert set(read_content(into)) == set(KEPT) & set(content)
    before, after = Model.from_pretrained(local.segmentation), Model.from_pretrained(into)
    assert after.specifications == before.specifications
    waveform = torch.randn(1, 1, 160000)
    torch.testing.assert_close(after(waveform), before(waveform))
    # pyannote.audio would find its own classes in it, and nothing of ours.
    with zipfile.ZipFile(into) as archive:
        [name] = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
        names = {
            argument
            for opcode, argument, _ in pickletools.genops(archive.read(name))
            if opcode.name == "GLOBAL"
        }
    assert not [name for name in names if "raydiar" in name]
    assert "pyannote.audio.core.task Specifications" in names


def test_pyannotes_classes_read_what_we_write(local, tmp_path, monkeypatch):
    class Specifications:
        pass

    problems = enum.Enum("Problem", {"A": 0, "MONO_LABEL_CLASSIFICATION": 1})
    resolutions = enum.Enum("Resolution", {"FRAME": 1})
    for name in ("pyannote.audio", "pyannote.audio.core", "pyannote.audio.core.task"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    task = sys.modules["pyannote.audio.core.task"]
    task.Specifications, task.Problem, task.Resolution = Specifications, problems, resolutions
    path = write_checkpoint(read_content(local.segmentation), tmp_path / "model.bin")
    found = torch.load(path, weights_only=False)["pyannote.audio"]["specifications"]
    assert isinstance(found, Specifications)
    assert found.problem is problems.MONO_LABEL_CLASSIFICATION
    assert found.powerset_max_classes == 2


def test_what_cannot_be_stripped(local, tmp_path):
    (tmp_path / "model.bin").write_bytes(local.segmentation.read_bytes())
    with pytest.raises(CheckpointError, match="another file"):
        strip_checkpoint(tmp_path / "model.bin", tmp_path / "model.bin")
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="no network that raydiar knows"):
        strip_checkpoint(tmp_path / "other.ckpt", tmp_path / "new.bin")
    trained = {**read_content(local.segmentation), "callbacks": collections.UserDict()}
    write_checkpoint(trained, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="UserDict"):
        strip_checkpoint(tmp_path / "odd.ckpt", tmp_path / "new.bin")
    assert not list(tmp_path.glob("*new.bin*"))


def test_weights_of_every_kind_of_name(local, tmp_path):
    uri = DEFAULT.segmentation.uri
    assert bring(uri) == {"model": local.segmentation}
    assert bring()["embedding"] == local.embedding
    detection = tmp_path / "config.yaml"
    detection.write_text(
        "pipeline:\n  name: pyannote.audio.pipelines.VoiceActivityDetection\n"
        f"  params:\n    segmentation: {uri.partition('#')[0]}\n"
    )
    assert bring(str(detection)) == {"segmentation": local.segmentation}
    folder = tmp_path / "network"
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    (folder / "config.yaml").write_text("task: {}\n")
    assert bring(str(folder)) == {"model": folder / "pytorch_model.bin"}
    detection.write_text("task: {}\n")
    with pytest.raises(ConfigError, match="pipeline"):
        bring(str(detection))
