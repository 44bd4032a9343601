"""`Model` as its users know it: loaded from anywhere, described, trained, frozen, made anew."""

import io
import warnings

import pytest
import torch

from raydiar import hub
from raydiar.errors import CheckpointError, ConfigError, WeightsNotFound
from raydiar.models import (
    CAMPPlus,
    Model,
    PyanNet,
    SSeRiouSS,
    WeSpeakerResNet34,
    XVectorMFCC,
    XVectorSincNet,
)
from raydiar.models.specifications import Problem, Specifications
from raydiar.weights import CAMPPLUS_ZH_EN, SEGMENTATION_3_0

WHISPERX = (
    "pypi://whisperx==3.8.6/whisperx/assets/pytorch_model.bin"
    "#sha256=0b5b3216d60a2d32fc086b47ea8c67589aaeb26b7e07fcbe620d6d0b83e209ea"
)

# A WavLM in all but size.
WAVLM = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32, 2, 2)] * 2,
    "extractor_conv_bias": False,
    "encoder_embed_dim": 24,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 3,
    "encoder_num_heads": 4,
    "encoder_num_buckets": 32,
    "encoder_max_distance": 80,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 32,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": None,
}


@pytest.fixture(scope="module")
def weights():
    return hub.fetch(SEGMENTATION_3_0.uri)


@pytest.fixture
def model(weights) -> Model:
    return Model.from_pretrained(weights)


def test_what_it_says_of_itself(model):
    assert isinstance(model, PyanNet)
    assert isinstance(model, Model)
    assert model.hparams.lstm["num_layers"] == model.hparams["lstm"]["num_layers"] == 4
    assert model.specifications.classes == ["speaker#1", "speaker#2", "speaker#3"]
    assert next(iter(model.specifications)).num_powerset_classes == model.dimension == 7
    assert model.example_input_array.shape == (1, 1, 160000)
    field = model.receptive_field
    assert (field.start, field.duration, field.step) == (0.0, 991 / 16000, 270 / 16000)
    assert model(torch.zeros(1, 1, 16000)).shape == (1, model.num_frames(16000), 7)


def test_from_a_directory_a_file_and_memory(model, weights, tmp_path):
    folder = tmp_path / "clone" / "segmentation"
    folder.mkdir(parents=True)
    (folder / "pytorch_model.bin").symlink_to(weights)
    sources = [
        Model.from_pretrained(tmp_path / "clone", subfolder="segmentation", map_location="cpu"),
        Model.from_pretrained(str(weights), use_auth_token="hf_old_name"),
        Model.from_pretrained(io.BytesIO(weights.read_bytes())),
    ]
    for other in sources:
        torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)
    with pytest.raises(ConfigError, match="local"):
        Model.from_pretrained(weights, revision="main")
    with pytest.raises(ConfigError, match="WeSpeakerResNet34"):
        WeSpeakerResNet34.from_pretrained(weights)


def test_a_pipeline_where_a_network_is_asked_for(weights, tmp_path):
    folder = tmp_path / "segmentation"
    folder.mkdir()
    (folder / "pytorch_model.bin").symlink_to(weights)
    (tmp_path / "config.yaml").write_text(
        "pipeline:\n  name: pyannote.audio.pipelines.SpeakerDiarization\n"
        "  params: {segmentation: $model/segmentation, embedding: $model/embedding}\n"
    )
    with pytest.warns(UserWarning, match="is a pipeline, not a network.*/segmentation"):
        assert isinstance(Model.from_pretrained(tmp_path), PyanNet)
    (tmp_path / "config.yaml").write_text("pipeline: {name: VoiceActivityDetection}")
    with pytest.raises(WeightsNotFound, match=r"pytorch_model\.bin"):
        Model.from_pretrained(tmp_path)


def test_hyper_parameters_and_strictness(weights):
    with pytest.raises(ConfigError, match="has no lstms; it has sincnet, lstm"):
        Model.from_pretrained(weights, lstms={})
    with pytest.raises(CheckpointError, match="not a PyanNet"):
        Model.from_pretrained(weights, lstm={"num_layers": 2})
    with pytest.warns(UserWarning, match="lstm.bias_hh_l2.* left over"):
        smaller = Model.from_pretrained(weights, strict=False, lstm={"num_layers": 2})
    assert smaller.lstm.num_layers == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.from_pretrained(weights, strict=False)
    with pytest.raises(ConfigError, match="map_location"):
        Model.from_pretrained(weights, map_location="abacus")


def test_gradients_reach_every_parameter(model):
    networks = [model, SSeRiouSS(WAVLM), WeSpeakerResNet34(), XVectorSincNet(), XVectorMFCC()]
    for network in [*networks, Model.from_pretrained(CAMPPLUS_ZH_EN.uri)]:
        for training in (True, False):
            network.train(training).zero_grad()
            network(torch.randn(2, 1, 16000)).square().sum().backward()
            without = [name for name, p in network.named_parameters() if p.grad is None]
            # The mask embedding of WavLM is for its own pretraining.
            assert without in ([], ["wav2vec.encoder.transformer.layers.0.mask"]), without


def test_filters_follow_what_an_optimizer_does(model):
    # In evaluation filters are computed once: not longer than their parameters stay the same.
    waveforms = torch.randn(1, 1, 16000)
    with torch.inference_mode():
        before = model(waveforms)
    edges = model.sincnet.conv1d[0].filterbank.low_hz_
    with torch.no_grad():
        edges.add_(20.0)
    with torch.inference_mode():
        assert not torch.allclose(model(waveforms), before)
    with torch.no_grad():
        edges.sub_(20.0)
        torch.testing.assert_close(model(waveforms), before, rtol=0, atol=1e-3)


def test_freezing_by_layer(model):
    def trained():
        return {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}

    model.train()
    assert model.freeze_up_to("lstm") == ["sincnet", "lstm"]
    assert trained() == {"linear", "classifier"}
    assert model.linear.training
    assert not model.lstm.training, "a frozen layer has no dropout"
    model.unfreeze_by_name("lstm")
    assert trained() == {"lstm", "linear", "classifier"}
    model.freeze()
    model.unfreeze_by_name(["linear.1", "classifier"])
    assert next(n for n, p in model.named_parameters() if p.requires_grad) == "linear.1.weight"
    model.unfreeze()
    for wrong in ("nothing", "lstm.nothing", ""):
        with pytest.raises(ConfigError, match="no layer"):
            model.freeze_up_to(wrong)


def test_another_task_keeps_layers_that_fit(model):
    trunk = model.lstm.weight_ih_l0.clone()
    classifier = model.classifier.weight.clone()
    model.specifications = Specifications(classes=list("abc"), powerset_max_classes=2)
    model.setup()
    assert torch.equal(model.classifier.weight, classifier), "seven outputs as before"
    model.specifications = Specifications(Problem.BINARY_CLASSIFICATION, classes=["speech"])
    model.setup()
    assert torch.equal(model.lstm.weight_ih_l0, trunk)
    scores = model(torch.randn(1, 1, 16000))
    assert scores.shape[-1] == 1
    assert (scores.min() >= 0, scores.max() <= 1) == (True, True)


def test_a_task_that_is_known_later():
    class Task(torch.nn.Module):
        specifications = None

    network = PyanNet(task=Task())
    assert "task" not in dict(network.named_children())
    with pytest.raises(ConfigError, match="no task yet"):
        _ = network.specifications
    network.task.specifications = Specifications(
        Problem.MULTI_LABEL_CLASSIFICATION, classes=["dog", "cat"]
    )
    network.setup()
    assert network(torch.zeros(1, 1, 16000)).shape[-1] == 2


def test_a_network_of_ones_own():
    class Own(Model):
        def __init__(self, sample_rate=16000, num_channels=1, task=None, width: int = 4):
            super().__init__(sample_rate, num_channels, task)
            self.save_hyperparameters("width")
            self.layer = torch.nn.Conv1d(1, width, 400, stride=160)

    assert Own(width=8).hparams == {"sample_rate": 16000, "num_channels": 1, "width": 8}
    with pytest.raises(NotImplementedError, match="Own"):
        Own().num_frames(16000)


def test_custom():
    assert isinstance(Model.custom("XVectorSincNet", dimension=64), XVectorSincNet)
    assert Model.custom(PyanNet, lstm={"hidden_size": 16}).hparams.lstm["hidden_size"] == 16
    ours = Model.custom("CAMPPlus", pretrained=True)
    assert isinstance(ours, CAMPPlus)
    theirs = Model.from_pretrained(CAMPPLUS_ZH_EN.uri)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    with pytest.raises(ConfigError, match=r"no network that raydiar knows .*PyanNet"):
        Model.custom("PyaNnet")
    with pytest.raises(ConfigError, match="it has sample_rate"):
        Model.custom("XVectorSincNet", dimensions=64)
    with pytest.raises(ConfigError, match="without an account"):
        Model.custom("WeSpeakerResNet34", pretrained=True)
    with pytest.raises(ConfigError, match="holds a CAMPPlus"):
        Model.custom("PyanNet", pretrained=CAMPPLUS_ZH_EN.uri)


def test_an_old_checkpoint():
    # pyannote.audio 2: sigmoid outputs, labels in omegaconf's containers.
    model = Model.from_pretrained(WHISPERX)
    assert model.specifications.problem is Problem.MULTI_LABEL_CLASSIFICATION
    assert model.specifications.classes == ["speaker#1", "speaker#2", "speaker#3"]
    assert model.specifications.duration == 5.0
    assert model(torch.zeros(1, 1, 80000)).shape == (1, 293, 3)


def test_self_supervised_front_ends(tmp_path):
    torch.manual_seed(0)
    network = SSeRiouSS(WAVLM, wav2vec_frozen=True).eval()
    waveforms = torch.randn(1, 1, 16000)
    assert network.num_frames(160000) == 499
    assert not any(p.requires_grad for p in network.wav2vec.parameters())
    # The front end as a local checkpoint of its own, and the whole as one of pyannote's kind.
    path = tmp_path / "wavlm.pt"
    torch.save({"config": WAVLM, "state_dict": network.wav2vec.state_dict()}, path)
    assert torch.equal(
        SSeRiouSS(path).wav2vec.state_dict()["encoder.feature_projection.projection.weight"],
        network.wav2vec.encoder.feature_projection.projection.weight,
    )
    whole = tmp_path / "pytorch_model.bin"
    content = {
        "state_dict": network.state_dict(),
        "hyper_parameters": dict(network.hparams),
        "pyannote.audio": {
            "architecture": {"module": "any", "class": "SSeRiouSS"},
            "specifications": network.specifications,
        },
    }
    torch.save(content, whole)
    torch.testing.assert_close(Model.from_pretrained(whole)(waveforms), network(waveforms))
    one_layer = SSeRiouSS(WAVLM, wav2vec_layer=2)
    assert one_layer(waveforms).shape == (1, 49, 7)
    with pytest.raises(ConfigError, match=r"neither a file nor one of torchaudio.s.*WAVLM_BASE"):
        SSeRiouSS("WAVLM_TINY")
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="a front end is a file of"):
        SSeRiouSS(path)
