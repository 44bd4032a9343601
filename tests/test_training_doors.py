"""Training as pyannote.audio's users type it, and the networks that are made for it."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from training_files import TINY, people, simulator, write_conversations

from raydiar import tasks
from raydiar.errors import ConfigError, TrainingError
from raydiar.models import Model, SpeakerDiarization, self_supervised
from raydiar.models.self_supervised import CONFORMER
from raydiar.models.sseriouss import front_end
from raydiar.training import Recipe, SimulatedWindows, Trainer, TrainingConfig, export, train
from raydiar.training.exporting import load_trained, to_safetensors
from raydiar.training.folder import RunFolder
from raydiar.training.speakers import SpeakerEmbedding, verification_metrics

ROOT = Path(__file__).resolve().parents[1]
SMALL_FRONT_END = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 32,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 64,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}
WAVLM = {**SMALL_FRONT_END, "encoder_num_buckets": 32, "encoder_max_distance": 64}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def loader(num_frames: int, num_samples: int, num_speakers: int = 3):
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(1, 1, num_samples, generator=generator) * 0.1
    labels = torch.zeros(1, num_frames, num_speakers)
    labels[:, : num_frames // 2, 0] = 1
    return [{"X": waves, "y": labels}]


def snippets(shared) -> list[str]:
    """The training examples of the document that the project started from, imports changed."""
    text = (shared / "seed.txt").read_text()
    section = text[text.index("## Training Custom Models") : text.index("## API Reference")]
    found = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    changes = {
        "from pyannote.audio.models import SpeakerDiarization": (
            "from raydiar.models import SpeakerDiarization"
        ),
        "from pytorch_lightning import Trainer": "from raydiar.training import Trainer",
        "from pyannote.audio import Model": "from raydiar import Model",
    }
    for before, after in changes.items():
        found = [one.replace(before, after) for one in found]
    assert len(found) == 2
    assert not any("pyannote.audio" in one for one in found)
    return found


def test_the_training_examples_of_the_seed_document_run(shared, tmp_path, monkeypatch):
    """On the front end that its name stands for, found in the cache folder: a small one here."""
    monkeypatch.setenv("RAYDIAR_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # Lightning leaves its logs where it runs
    small = {"dimension": 32, "ffn_dim": 32, "num_layers": 1, "depthwise_conv_kernel_size": 7}
    monkeypatch.setattr(self_supervised, "CONFORMER", CONFORMER | small)
    (tmp_path / "encoders").mkdir()
    network = front_end(SMALL_FRONT_END)
    torch.save(
        {"config": SMALL_FRONT_END, "state_dict": network.state_dict()},
        tmp_path / "encoders/wav2vec2-large-xlsr-53-english.pt",
    )
    basic, fine = snippets(shared)
    model = SpeakerDiarization(encoder="wav2vec2-large-xlsr-53-english")
    loaders = loader(model.num_frames(8000), 8000)
    names = {"train_loader": loaders, "val_loader": loaders}
    exec(basic, names)
    assert names["trainer"].current_epoch == 100
    with torch.no_grad():
        found = names["model"](loaders[0]["X"]).argmax(-1)
    assert (found[0, :5] != found[0, -5:]).all(), "it did not learn its only window"

    from_pretrained = Model.from_pretrained
    named = []

    def ours(name, *args, **kwargs):
        named.append(name)
        path = tmp_path / "tiny.safetensors"
        path.write_bytes(to_safetensors(Model.custom("PyanNet", **TINY)))
        return from_pretrained(path)

    # the repository it names is gated: a tiny network stands in for its weights only
    monkeypatch.setattr(Model, "from_pretrained", ours)
    # the second example goes on where the first ended: it imports no trainer
    names |= {"train_loader": loader(26, 8000), "val_loader": loader(26, 8000)}
    exec(fine, names)
    assert named == ["pyannote/speaker-diarization-3.1"]
    assert names["trainer"].current_epoch == 50


def test_a_task_on_a_model_brings_its_own_data():
    source = SimulatedWindows(simulator(2.0), 2.0)
    model = Model.custom("PyanNet", **TINY)
    model.task = tasks.SpeakerDiarization(
        source, duration=2.0, max_speakers_per_chunk=2, batch_size=512
    )
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    before = model.lstm.weight_hh_l0.detach().clone()
    model.task.batch_size = 4
    trained = trainer.fit(model)
    assert trained is model
    assert not torch.equal(before, model.lstm.weight_hh_l0)
    assert model.specifications.classes == ["speaker#1", "speaker#2"]


def test_a_front_end_of_the_public_has_its_name():
    with pytest.raises(ConfigError, match="decoder"):
        SpeakerDiarization(encoder=SMALL_FRONT_END, decoder="transformer")
    with pytest.raises(ConfigError, match="neither a file"):
        SpeakerDiarization(encoder="no-such-front-end")
    assert type(SpeakerDiarization(SMALL_FRONT_END, "lstm")).__name__ == "SSeRiouSS"


@pytest.mark.parametrize("front", [WAVLM, SMALL_FRONT_END], ids=["wavlm", "wav2vec2"])
def test_the_conformer_network_learns_a_step_and_is_read_back(front, tmp_path):
    torch.manual_seed(0)
    conformer = {"dimension": 32, "ffn_dim": 64, "num_layers": 1, "depthwise_conv_kernel_size": 7}
    model = Model.custom("SSeRiouSSConformer", wav2vec=front, conformer=conformer)
    source = SimulatedWindows(simulator(2.0), 2.0)
    task = tasks.SpeakerDiarization(source, duration=2.0, max_speakers_per_chunk=3)
    before = model.wav2vec.encoder.feature_projection.projection.weight.detach().clone()
    weights = model.wav2vec_weights.detach().clone()
    config = TrainingConfig(
        max_steps=1,
        batch_size=2,
        learning_rate=1e-2,
        learning_rates={"wav2vec": 0.1},
        schedule="constant",
    )
    train(model, task, tmp_path, config, quiet=True)
    after = model.wav2vec.encoder.feature_projection.projection.weight.detach()
    assert 0 < (after - before).abs().max() <= 1.1e-3, "the front end has its own, lower rate"
    assert not torch.equal(weights, model.wav2vec_weights)
    again = load_trained(tmp_path)
    wave = torch.randn(1, 1, 32000)
    with torch.no_grad():
        assert torch.equal(model(wave), again(wave))
    assert again(wave).shape == (1, model.num_frames(32000), 7)


def test_the_recipe_of_the_real_architecture_builds_and_takes_a_step(tmp_path):
    """WavLM base under the Conformer of the recipe, with random weights for want of the real."""
    from torchaudio.pipelines import WAVLM_BASE_PLUS

    path = ROOT / "jobs/recipes/wavlm-conformer.yaml"
    content = yaml.safe_load(path.read_text())
    assert content["hyper_parameters"]["wav2vec"] == "WAVLM_BASE_PLUS"
    # half as deep, which is what a test can wait for
    front = dict(WAVLM_BASE_PLUS._params) | {"encoder_num_layers": 2}
    recipe = Recipe.read(
        str(path),
        manifest="of the command",
        hyper_parameters={**content["hyper_parameters"], "wav2vec": front},
        training={"max_steps": 1, "batch_size": 1, "accumulate": 1},
    )
    model = recipe.model()
    source = SimulatedWindows(simulator(2.0), 2.0)
    task = tasks.SpeakerDiarization(source, **{**recipe.task, "duration": 2.0})
    outcome = train(model, task, tmp_path, recipe.training, device="cpu", quiet=True)
    assert outcome.steps == 1
    assert np.isfinite(outcome.loss)


# -- speaker embedding -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("voices"), 8)


def test_an_embedding_learns_to_tell_voices_apart(voices, tmp_path):
    torch.manual_seed(0)
    model = Model.custom("XVectorSincNet", dimension=16)
    task = SpeakerEmbedding(
        str(voices),
        validation=str(voices),
        duration=1.0,
        margin=5.0,
        margin_steps=4,
        num_centres=2,
        batch_size=8,
    )
    config = TrainingConfig(
        max_steps=12, batch_size=8, learning_rate=3e-3, validate_every=12, log_every=3
    )
    outcome = train(model, task, tmp_path, config, device="cpu", quiet=True)
    rows = RunFolder(str(tmp_path)).rows("log")
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"val_eer", "val_min_dcf"} <= outcome.best.keys()
    assert outcome.best["val_eer"] < 0.4
    assert task._source.num_classes == len(people())
    folder = export(tmp_path, "raydiar", tmp_path / "pipeline")
    assert Model.from_pretrained(folder / "embedding/model.safetensors").dimension == 16


def test_verification_metrics_of_voices_that_are_apart():
    vectors = np.array([[1, 0.1], [1, 0], [0, 1], [0.1, 1]])
    found = verification_metrics(vectors, np.array([0, 0, 1, 1]))
    assert found["val_eer"] == 0
    assert found["val_min_dcf"] == 0
    mixed = verification_metrics(vectors, np.array([0, 1, 0, 1]))
    assert mixed["val_eer"] > 0.5
    with pytest.raises(TrainingError, match="several speakers"):
        verification_metrics(vectors, np.array([0, 0, 0, 0]))
