"""Pipelines from pyannote's own configuration files."""

import dataclasses
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from raydiar import Pipeline, hub
from raydiar.clustering import AgglomerativeParameters, CountingParameters, VBxParameters
from raydiar.errors import ConfigError, WeightsNotFound
from raydiar.models import WeSpeakerResNet34
from raydiar.pipelines.config import DEFAULT, EXACT, SOFT, Weights
from raydiar.pipelines.config_file import diarization_config, load_config, write_config
from raydiar.pipelines.document import Document

LEGACY = """
version: 3.1.0
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    clustering: AgglomerativeClustering
    embedding: {embedding}
    embedding_batch_size: 32
    embedding_exclude_overlap: true
    segmentation: {segmentation}
    segmentation_batch_size: 32
params:
  clustering:
    method: centroid
    min_cluster_size: 12
    threshold: 0.7045654963945799
  segmentation:
    min_duration_off: 0.0
"""

COMMUNITY = """
dependencies:
  pyannote.audio: 4.0.0
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    clustering: VBxClustering
    segmentation: $model/segmentation
    segmentation_batch_size: 32
    embedding: $model/embedding
    embedding_batch_size: 32
    embedding_exclude_overlap: true
    plda: $model/plda
params:
  clustering:
    threshold: 0.6
    Fa: 0.07
    Fb: 0.8
  segmentation:
    min_duration_off: 0.0
"""


def test_speaker_diarization_3_1(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        LEGACY.format(
            segmentation="pyannote/segmentation-3.0",
            embedding="pyannote/wespeaker-voxceleb-resnet34-LM",
        )
    )
    for checkpoint in (path, tmp_path):
        config = load_config(checkpoint)
        assert config.segmentation == Weights("pyannote/segmentation-3.0")
        assert config.clustering == AgglomerativeParameters()
        assert config.embedding_exclude_overlap


@pytest.fixture(scope="module")
def clone(tmp_path_factory, request):
    """A directory laid out as a clone of community-1, with networks that can be had freely."""
    shared = request.getfixturevalue("shared")
    home = tmp_path_factory.mktemp("community-1")
    (home / "config.yaml").write_text(COMMUNITY)
    (home / "segmentation").mkdir()
    segmentation = hub.fetch(DEFAULT.segmentation.uri).read_bytes()
    (home / "segmentation/pytorch_model.bin").write_bytes(segmentation)
    (home / "embedding").mkdir()
    torch.manual_seed(0)
    torch.save(WeSpeakerResNet34().state_dict(), home / "embedding/pytorch_model.bin")
    (home / "plda").mkdir()
    for name in ("plda.npz", "xvec_transform.npz"):
        (home / "plda" / name).write_bytes((shared / "models/plda" / name).read_bytes())
    return home


@pytest.mark.reference
def test_community_1_from_a_clone(clone: Path, tmp_path):
    config = load_config(clone)
    assert config.clustering == VBxParameters(threshold=0.6, Fa=0.07, Fb=0.8)
    local = config.localize()
    assert (local.dimension, local.embedding_mode) == (256, "masked")
    # As a job does: weights mirrored by hash, found again from elsewhere.
    mirrored = pickle.loads(pickle.dumps(local.mirror(str(tmp_path / "models"))))
    again = mirrored.config.localize(cache_dir=tmp_path / "cache")
    assert again.fingerprint == local.fingerprint
    assert str(again.segmentation).startswith(str(tmp_path))
    [damaged] = (tmp_path / "models").glob("*/plda.npz")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with pytest.raises(WeightsNotFound, match="expected SHA-256"):
        mirrored.config.localize(cache_dir=tmp_path / "another")
    damaged.write_bytes(b"half")  # as an interrupted copy leaves it: it is copied anew
    local.mirror(str(tmp_path / "models"))
    healed = mirrored.config.localize(cache_dir=tmp_path / "another")
    assert healed.fingerprint == local.fingerprint
    pipeline = Pipeline.from_pretrained(clone)
    noise = np.random.default_rng(0).normal(0, 0.05, (1, 32000)).astype(np.float32)
    assert pipeline({"waveform": noise, "sample_rate": 16000}).num_speakers <= 1


def test_fingerprint_follows_the_numbers():
    local = DEFAULT.localize()
    same = dataclasses.replace(DEFAULT, segmentation_batch_size=8, device="cuda")
    assert local.with_config(same).fingerprint == local.fingerprint
    for change in (
        {"min_duration_off": 0.1},
        {"dtype": "bfloat16"},
        {"clustering": AgglomerativeParameters(threshold=0.6)},
        {"embedding_exclude_overlap": False},
        {"counting": CountingParameters()},
    ):
        other = dataclasses.replace(DEFAULT, **change)
        assert local.with_config(other).fingerprint != local.fingerprint


def test_configurations_with_a_name(tmp_path, monkeypatch):
    assert load_config(None) == load_config("default") == DEFAULT
    assert (load_config("exact"), load_config("soft")) == (EXACT, SOFT)
    exact = EXACT.localize()
    assert "counting" not in exact.parameters  # as in rows of before there was another way
    assert exact.fingerprint == "f6b35fe6a59241d7c8b856465d8cb150"
    soft = Pipeline.from_pretrained("soft")
    assert soft.describe()["fingerprint"] == exact.with_config(SOFT).fingerprint
    assert soft.describe()["fingerprint"] != exact.fingerprint
    assert soft.parameters(instantiated=True)["counting"] == {"speech": 0.4, "overlap": 0.4}
    # either becomes the other
    assert SOFT.with_parameters({"counting": None}) == EXACT
    assert EXACT.with_parameters({"counting": {}}) == SOFT
    # somebody's folder of that name is theirs
    (tmp_path / "exact").mkdir()
    (tmp_path / "exact/config.yaml").write_text(write_config(EXACT).replace("0.7045", "0.6045"))
    monkeypatch.chdir(tmp_path)
    assert load_config("./exact").clustering.threshold == pytest.approx(0.6045, abs=1e-4)


@pytest.mark.parametrize("wrong", [0, 1, -0.1, 1.5, True, "0.4", None, float("nan")])
def test_beliefs_lie_between_none_and_sure(wrong):
    with pytest.raises(ConfigError, match=r"counting\.speech"):
        DEFAULT.with_parameters({"counting": {"speech": wrong}})


def test_counting_has_no_other_parameter():
    with pytest.raises(ConfigError, match="counting has no such parameter"):
        DEFAULT.with_parameters({"counting": {"onset": 0.4}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipeline: [", "not readable YAML"),
        ("a: b", "no `pipeline` section"),
        (LEGACY.replace("3.1.0", "5.0"), "up to 4.x"),
        (LEGACY.replace("SpeakerDiarization", "SDK"), "one's own machine"),
        (LEGACY.replace("method: centroid", "threshhold: 1"), "no such parameter"),
        (LEGACY.replace("method: centroid", "method: best"), "unknown linkage"),
        (LEGACY.replace("AgglomerativeClustering", "OracleClustering"), "must be one of"),
        (LEGACY.replace("AgglomerativeClustering", "VBxClustering"), "needs a PLDA"),
        (LEGACY.replace("embedding_batch_size: 32", "unknown: 1"), "unknown pipeline parameters"),
        (LEGACY.replace("embedding_batch_size: 32", "embedding_batch_size: 0"), "at least 1"),
        (LEGACY + "preprocessors: {audio: x}", "unsupported sections"),
    ],
)
def test_bad_configurations(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("{segmentation}", "org/seg").replace("{embedding}", "org/emb"))
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.fixture
def relative(tmp_path) -> Path:
    """A folder with a configuration whose weights lie beside it."""
    home = tmp_path / "pipeline"
    (home / "models/seg").mkdir(parents=True)
    for uri, place in (
        (DEFAULT.segmentation.uri, "models/seg/pytorch_model.bin"),
        (DEFAULT.embedding.uri, "models/emb.pt"),
    ):
        (home / place).write_bytes(hub.fetch(uri).read_bytes())
    text = LEGACY.format(segmentation="models/seg", embedding="./models/emb.pt")
    (home / "config.yaml").write_text(text)
    return home


def test_paths_are_relative_to_the_configuration(relative, tmp_path, monkeypatch, talk):
    monkeypatch.chdir(tmp_path)
    for checkpoint in ("pipeline", "pipeline/config.yaml", "./pipeline", relative.as_uri()):
        config = load_config(checkpoint)
        assert config.segmentation == Weights(str(relative / "models/seg"))
    pipeline = Pipeline.from_pretrained("pipeline/config.yaml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # before the networks are first needed
    assert config.localize().fingerprint == pipeline.describe()["fingerprint"]
    assert pipeline(io.BytesIO(talk)).turns
    monkeypatch.chdir(relative)
    parsed = yaml.safe_load((relative / "config.yaml").read_text())
    assert load_config(parsed).embedding == Weights(str(relative / "models/emb.pt"))


def test_missing_files_of_a_configuration_are_named(shared, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # not to be asked
    odd = shared / "audio/odd-files/relative-weights.yaml"
    missing = odd.parent / "models/pyannote/segmentation-3.0/pytorch_model.bin"
    with pytest.raises(WeightsNotFound, match=f"^{missing}: no such file"):
        Pipeline.from_pretrained(odd)
    (tmp_path / "models").mkdir()
    for mistyped in (
        "models/pipelin",
        "./models",
        "models/nope/config.yaml",
        "nope/config.yaml",
        "../models/x",
        "~/nope/pipeline",
        "models/../x/y",
    ):
        with pytest.raises(WeightsNotFound, match=r"no such file|does not exist"):
            Pipeline.from_pretrained(mistyped)


def test_relative_paths_in_a_repository_and_a_bucket():
    text = LEGACY.format(segmentation="./seg/pytorch_model.bin", embedding="org/emb")
    document = yaml.safe_load(text)
    for base, revision, expected in (
        ("org/repo", None, "hf://org/repo/seg/pytorch_model.bin"),
        ("org/repo", "v1", "hf://org/repo@v1/seg/pytorch_model.bin"),
        ("s3://bucket/pipe", None, "s3://bucket/pipe/seg/pytorch_model.bin"),
    ):
        config = diarization_config(Document(document, base, None, revision, "x"))
        assert config.segmentation == Weights(expected)
        assert config.embedding == Weights("org/emb")


def test_what_is_not_there(tmp_path):
    with pytest.raises(WeightsNotFound, match=r"config\.yaml does not exist"):
        Pipeline.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="revision="):
        Pipeline.from_pretrained("pyannote/speaker-diarization-3.1@main")


def test_parameters_can_be_set(pipeline, tmp_path):
    before = pipeline.parameters(instantiated=True)
    tuned = Pipeline.from_pretrained().instantiate({"clustering": {"threshold": 0.5}})
    assert tuned.parameters(instantiated=True)["clustering"]["threshold"] == 0.5
    assert pipeline.parameters(instantiated=True) == before
    with pytest.raises(ConfigError, match="there are segmentation, clustering"):
        tuned.instantiate({"clusterin": {}})
    path = tmp_path / "tuned.yaml"
    path.write_text("params: {clustering: {threshold: 0.4}, segmentation: {min_duration_off: 0.5}}")
    tuned = Pipeline.from_pretrained(hparams_file=path)
    assert tuned.parameters(instantiated=True)["clustering"]["threshold"] == 0.4
    assert tuned.parameters(instantiated=True)["segmentation"]["min_duration_off"] == 0.5


@pytest.mark.parametrize("wrong", ["soon", -0.1, float("nan"), float("inf")])
def test_a_pause_that_is_no_duration_is_refused(wrong):
    with pytest.raises(ConfigError, match="min_duration_off must be zero or positive seconds"):
        DEFAULT.with_parameters({"segmentation": {"min_duration_off": wrong}})
