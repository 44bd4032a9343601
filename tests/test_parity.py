"""Snippets of pyannote.audio's pages, run as they stand but for imports and names of files."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from audio_files import write
from hub_server import HubServer, Repository
from pyannote.core import Annotation, Segment

from raydiar import Pipeline, audio, hub
from raydiar.errors import (
    AudioNotFound,
    CheckpointError,
    ConfigError,
    EmptyAudio,
    InvalidSamples,
)
from raydiar.models import Model
from raydiar.weights import CAMPPLUS_ZH_EN, SEGMENTATION_3_0

WHISPERX = "pypi://whisperx==3.8.6/whisperx/assets/pytorch_model.bin"


@pytest.fixture(scope="module")
def talk_wav(sample_wav, tmp_path_factory):
    """8 s of two people as a file."""
    path = tmp_path_factory.mktemp("talk") / "audio.wav"
    samples = audio.decode(sample_wav, start=8.0, duration=8.0)
    return write(path, samples / 32768.0, 16000, "pcm_s16le")


@pytest.fixture
def here(talk_wav, monkeypatch):
    monkeypatch.chdir(talk_wav.parent)


@pytest.fixture(scope="module")
def reference(sample_rttm) -> Annotation:
    from pyannote.database.util import load_rttm

    [whole] = load_rttm(sample_rttm).values()
    reference = Annotation(uri="audio")
    for segment, track, label in whole.crop(Segment(8, 16)).itertracks(yield_label=True):
        reference[Segment(segment.start - 8, segment.end - 8), track] = label
    return reference


def run(text: str, **names) -> dict:
    exec(textwrap.dedent(text).replace("pyannote.audio", "raydiar"), names)
    return names


# -- results -----------------------------------------------------------------------------------


def test_the_introduction(here, reference, pipeline):
    """Apply, look at turns, map the labels to those of a reference, and score."""
    found = run(
        """
        diarization = pipeline("audio.wav")
        from pyannote.metrics.diarization import DiarizationErrorRate
        metric = DiarizationErrorRate()
        der = metric(groundtruth, diarization)
        mapping = metric.optimal_mapping(groundtruth, diarization)
        diarization = diarization.rename_labels(mapping=mapping)
        for speech_turn, track, speaker in diarization.itertracks(yield_label=True):
            print(f"{speech_turn.start:4.1f} {speech_turn.end:4.1f} {speaker}")
        """,
        pipeline=pipeline,
        groundtruth=reference,
    )
    assert 0 < found["der"] < 0.5
    assert set(found["diarization"].labels()) & set(reference.labels())
    output = pipeline("audio.wav")
    assert output.label_duration("SPEAKER_00") > 0
    assert output.crop(Segment(0, 2)).get_timeline().extent().end <= 2
    kept = output.labels()
    output.rename_labels({kept[0]: "x"}, copy=False)
    assert output.labels() == output.speaker_diarization.labels() == kept
    with pytest.raises(AttributeError, match="no attribute 'speakerz'"):
        _ = output.speakerz


# -- adapting a pipeline -----------------------------------------------------------------------


def test_adapting_a_pretrained_pipeline(talk_wav, reference, tmp_path):
    from pyannote.core import Timeline

    dev = [{"audio": talk_wav, "uri": "audio", "annotation": reference}]
    dev[0]["annotated"] = Timeline([Segment(0, 8)])
    found = run(
        """
        from pyannote.audio.pipelines import SpeakerDiarization
        pipeline = SpeakerDiarization(
            segmentation=finetuned_model,
            clustering="AgglomerativeClustering",
        )
        pipeline.freeze({"segmentation": {"min_duration_off": 0.0}})
        from pyannote.pipeline import Optimizer
        optimizer = Optimizer(pipeline, seed=1)
        iterations = optimizer.tune_iter(dev_set, show_progress=False, warm_start={
            "segmentation": {"threshold": 0.5},
            "clustering": {"method": "centroid", "min_cluster_size": 12, "threshold": 0.7},
        })
        best = []
        for i, iteration in enumerate(iterations):
            best.append(iteration['params']['segmentation']['threshold'])
            if i > 0:
                break
        """,
        finetuned_model=Model.from_pretrained(WHISPERX),
        dev_set=dev,
    )
    assert found["best"][0] == 0.5, "the first trial is the one that was given"
    best = found["optimizer"].best_pipeline
    assert 0 <= found["optimizer"].best_loss < 1
    assert best.parameters(instantiated=True) == found["optimizer"].best_params
    assert best.parameters(frozen=True) == {"segmentation": {"min_duration_off": 0.0}}
    text = best.dump_params(tmp_path / "params.yml", loss=0.25)
    assert "loss: 0.25" in text
    best.load_params(tmp_path / "params.yml")
    best.training = False
    assert best(talk_wav).num_speakers >= 1, "a Diarization again"
    with pytest.raises(ConfigError, match="choose one"):
        best.parameters(trial=object(), instantiated=True)


def test_detection_is_optimized_too(talk_wav, reference):
    from pyannote.core import Timeline
    from pyannote.pipeline import Optimizer

    from raydiar.pipelines import OverlappedSpeechDetection, VoiceActivityDetection

    file = {"audio": talk_wav, "uri": "audio", "annotation": reference}
    file["annotated"] = Timeline([Segment(0, 8)])
    optimizer = Optimizer(VoiceActivityDetection(fast=True), seed=1)
    result = optimizer.tune([file], n_iterations=2, show_progress=False)
    assert set(result["params"]) == {"min_duration_on", "min_duration_off"}
    assert 0 <= result["loss"] < 1
    assert VoiceActivityDetection(fscore=True).get_direction() == "maximize"
    assert OverlappedSpeechDetection().get_direction() == "maximize"


# -- diarization on a network of pyannote.audio 2 ----------------------------------------------


def test_diarization_on_an_old_network(talk_wav, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(
        f"""
version: 2.1.1
pipeline:
  name: pyannote.audio.pipelines.SpeakerDiarization
  params:
    clustering: AgglomerativeClustering
    embedding: {CAMPPLUS_ZH_EN.uri}
    embedding_batch_size: 32
    embedding_exclude_overlap: true
    segmentation: {WHISPERX}
    segmentation_batch_size: 32
params:
  clustering: {{method: centroid, min_cluster_size: 15, threshold: 0.7153814381597874}}
  segmentation: {{min_duration_off: 0.5817029604921046, threshold: 0.4442333667381752}}
"""
    )
    pipeline = Pipeline.from_pretrained(tmp_path)
    threshold = pipeline.parameters(instantiated=True)["segmentation"]["threshold"]
    assert threshold == 0.4442333667381752
    output = pipeline(talk_wav)
    assert 1 <= output.num_speakers <= 3
    speech = sum(turn.duration for turn in output.turns)
    assert 4 < speech < 16
    pipeline.instantiate({"segmentation": {"threshold": 0.9}})
    assert sum(turn.duration for turn in pipeline(talk_wav).turns) < speech
    with pytest.raises(ConfigError, match="threshold"):
        Pipeline.from_pretrained().instantiate({"segmentation": {"threshold": 0.5}})(talk_wav)


# -- models ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lightning", ["lightning.pytorch", "pytorch_lightning"])
def test_a_summary_of_a_model(lightning):
    found = run(
        f"""
        from pyannote.audio import Model
        model = Model.from_pretrained({SEGMENTATION_3_0.uri!r})
        from {lightning}.utilities.model_summary import summarize
        summary = str(summarize(model))
        """
    )
    assert "SincNet" in found["summary"]
    assert "[1, 589, 7]" in found["summary"], "the shapes of an example"
    assert "1.5 M" in found["summary"]


def test_in_memory(here, pipeline):
    """torchaudio.load needs torchcodec now; Audio gives the same two."""
    found = run(
        """
        from pyannote.audio import Audio
        waveform, sample_rate = Audio()("audio.wav")
        output = pipeline({"waveform": waveform, "sample_rate": sample_rate})
        """,
        pipeline=pipeline,
    )
    assert found["output"].turns == pipeline("audio.wav").turns


# -- the Hub, with the names of the documentation ----------------------------------------------

CARDS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch

# pyannote/voice-activity-detection
from pyannote.audio import Pipeline
pipeline = Pipeline.from_pretrained("pyannote/voice-activity-detection",
                                    use_auth_token="hf_good")
output = pipeline("audio.wav")
speech = 0.0
for speech in output.get_timeline().support():
    print(speech.start, speech.end)
vad = {"class": type(pipeline).__name__, **pipeline.parameters(instantiated=True)}

# pyannote/overlapped-speech-detection
pipeline = Pipeline.from_pretrained("pyannote/overlapped-speech-detection",
                                    use_auth_token="hf_good")
output = pipeline("audio.wav")
for overlap in output.get_timeline().support():
    print(overlap.start, overlap.end)
osd = type(pipeline).__name__

# pyannote/segmentation
from pyannote.audio.pipelines import VoiceActivityDetection
from pyannote.audio import Model
model = Model.from_pretrained("pyannote/segmentation", use_auth_token="hf_good")
pipeline = VoiceActivityDetection(segmentation=model)
HYPER_PARAMETERS = {
  # onset/offset activation thresholds
  "onset": 0.5, "offset": 0.5,
  # remove speech regions shorter than that many seconds.
  "min_duration_on": 0.0,
  # fill non-speech regions shorter than that many seconds.
  "min_duration_off": 0.0
}
pipeline.instantiate(HYPER_PARAMETERS)
vad_old = pipeline("audio.wav")
from pyannote.audio import Inference
inference = Inference("pyannote/segmentation", use_auth_token="hf_good")
segmentation = inference("audio.wav")
scores = segmentation.data.shape

# pyannote/segmentation-3.0
model = Model.from_pretrained(
  "pyannote/segmentation-3.0",
  use_auth_token="hf_good")
duration, sample_rate, num_channels, batch_size = 10, 16000, 1, 2
waveform = torch.randn(batch_size, num_channels, duration * sample_rate)
powerset_encoding = model(waveform)
from pyannote.audio.utils.powerset import Powerset
max_speakers_per_chunk, max_speakers_per_frame = 3, 2
to_multilabel = Powerset(
    max_speakers_per_chunk,
    max_speakers_per_frame).to_multilabel
multilabel_encoding = to_multilabel(powerset_encoding)
from pyannote.audio.pipelines import OverlappedSpeechDetection
pipeline = OverlappedSpeechDetection(segmentation=model)
HYPER_PARAMETERS = {"min_duration_on": 0.0, "min_duration_off": 0.0}
pipeline.instantiate(HYPER_PARAMETERS)
osd_new = pipeline("audio.wav")

# pyannote/embedding, and wespeaker-voxceleb-resnet34-LM
distances = []
for name in ("pyannote/embedding", "pyannote/wespeaker-voxceleb-resnet34-LM"):
    model = Model.from_pretrained(name, use_auth_token="hf_good")
    inference = Inference(model, window="whole")
    embedding1 = inference("audio.wav")
    embedding2 = inference("audio.wav")
    from scipy.spatial.distance import cdist
    distances.append(float(cdist(embedding1[None], embedding2[None], metric="cosine")[0, 0]))
    from pyannote.core import Segment
    excerpt = Segment(1.3, 4.8)
    embedding = inference.crop("audio.wav", excerpt)
    sliding = Inference(model, window="sliding", duration=3.0, step=1.0)("audio.wav")
    distances.append(sliding.data.shape)
from pyannote.audio.pipelines.speaker_verification import PretrainedSpeakerEmbedding
get_embedding = PretrainedSpeakerEmbedding("pyannote/embedding", use_auth_token="hf_good")
print("RESULT", json.dumps([vad, osd, vad_old.labels(), list(scores),
      list(multilabel_encoding.shape), osd_new.labels(), distances, get_embedding.dimension]))
"""


def detection_config(kind: str) -> bytes:
    return f"""
pipeline:
  name: pyannote.audio.pipelines.{kind}
  params:
    segmentation: pyannote/segmentation@Interspeech2021
params:
  min_duration_off: 0.09791355693027545
  min_duration_on: 0.05537587440407595
  offset: 0.4806866463041527
  onset: 0.8104268538848918
""".encode()


@pytest.fixture
def cards_hub(tmp_path):
    """The repositories of the documentation, gated; random weights where there are no real ones."""
    torch.manual_seed(0)

    def weights(name: str, **options) -> bytes:
        path = tmp_path / f"{name}.bin"
        torch.save(Model.custom(name, **options).state_dict(), path)
        return path.read_bytes()

    old = hub.fetch(WHISPERX).read_bytes()
    new = hub.fetch(SEGMENTATION_3_0.uri).read_bytes()
    model = "pytorch_model.bin"
    embedding = weights("XVectorSincNet")
    files = {
        "voice-activity-detection": {"config.yaml": detection_config("VoiceActivityDetection")},
        "overlapped-speech-detection": {
            "config.yaml": detection_config("OverlappedSpeechDetection")
        },
        "segmentation-3.0": {model: new},
        "embedding": {model: embedding},
        "wespeaker-voxceleb-resnet34-LM": {model: weights("WeSpeakerResNet34")},
    }
    server = HubServer(
        {f"pyannote/{n}": Repository({"main": f}, gated=True) for n, f in files.items()}
        | {
            "pyannote/segmentation": Repository(
                {"main": {model: old}, "Interspeech2021": {model: old}}, gated=True
            )
        }
    )
    yield server
    server.close()


def test_the_cards_of_the_hub(cards_hub, talk_wav, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": cards_hub.url, "HF_HOME": str(tmp_path / "hf")}
    environment["RAYDIAR_CACHE"] = str(tmp_path / "cache")
    command = [sys.executable, "-c", CARDS.replace("pyannote.audio", "raydiar")]
    done = subprocess.run(
        command, cwd=talk_wav.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    vad, osd, labels, scores, multilabel, overlap, distances, dimension = json.loads(line[7:])
    assert vad == {
        "class": "VoiceActivityDetection",
        "onset": 0.8104268538848918,
        "offset": 0.4806866463041527,
        "min_duration_on": 0.05537587440407595,
        "min_duration_off": 0.09791355693027545,
    }
    assert osd == "OverlappedSpeechDetection"
    assert labels == ["SPEECH"]
    assert scores[-1] == 3
    assert multilabel == [2, 589, 3]
    assert overlap in ([], ["OVERLAP"])
    assert distances[0] == distances[2] == pytest.approx(0.0, abs=1e-6)
    assert distances[1] == [6, 512]
    assert distances[3] == [6, 256]
    assert dimension == 512
    asked = {path for _, path, _ in cards_hub.seen if "/Interspeech2021/" in path}
    assert asked, "the revision that the configuration names"


# -- bundles of detection pipelines ------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle", "bundle.tar"])
def test_a_bundle_of_a_detection_pipeline(tmp_path, talk_wav, name):
    from typer.testing import CliRunner

    from raydiar.cli import app

    source = tmp_path / "vad.yaml"
    source.write_text(
        detection_config("VoiceActivityDetection")
        .decode()
        .replace("pyannote/segmentation@Interspeech2021", WHISPERX)
    )
    runner, bundle = CliRunner(), str(tmp_path / name)
    result = runner.invoke(app, ["models", "bundle", str(source), "--into", bundle])
    assert result.exit_code == 0, result.output
    pipeline = Pipeline.from_pretrained(bundle, cache_dir=tmp_path / "cache")
    original = Pipeline.from_pretrained(source)
    assert type(pipeline) is type(original)
    assert pipeline.parameters(instantiated=True) == original.parameters(instantiated=True)
    again = runner.invoke(app, ["models", "bundle", str(source), "--into", bundle])
    assert "exists" in str(again.exception)
    shown = runner.invoke(app, ["detect", "speech", str(talk_wav), "--pipeline", bundle])
    assert shown.exit_code == 0, shown.output
    speech = original(talk_wav)
    assert len(shown.stdout.splitlines()) == len(speech)
    wrong = runner.invoke(app, ["detect", "overlap", str(talk_wav), "--pipeline", bundle])
    assert "is a VoiceActivityDetection, not a OverlappedSpeechDetection" in str(wrong.exception)
    both = ["detect", "speech", str(talk_wav), "--pipeline", bundle, "--fast"]
    assert "leave them out" in str(runner.invoke(app, both).exception)


# -- numerics and devices ----------------------------------------------------------------------


def test_reduced_precision_of_the_program_around_is_left_outside(talk_wav, monkeypatch):
    """As a host program allows it, by either of torch's interfaces; it finds it so afterwards."""
    from raydiar import Inference
    from raydiar.inference.numerics import float32_numerics
    from raydiar.pipelines import SpeakerDiarization, VoiceActivityDetection

    conv, matmul = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    inside = []

    def look(*_):
        kinds = (conv, torch.backends.cudnn.rnn, matmul, torch.backends.mkldnn.matmul)
        inside.append([kind.fp32_precision for kind in kinds])

    network = Model.from_pretrained(SEGMENTATION_3_0.uri)
    network.register_forward_pre_hook(look)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        Inference(network)(talk_wav)
        VoiceActivityDetection(network)(talk_wav)
        assert (torch.get_float32_matmul_precision(), matmul.allow_tf32) == ("medium", True)
        with float32_numerics(), float32_numerics():
            look()
        assert matmul.fp32_precision == "tf32"
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(inside) >= 3
    assert all(kinds == ["ieee"] * 4 for kinds in inside)
    del inside[:]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    seen = SpeakerDiarization(device="cpu")
    seen(talk_wav)
    seen._inference._segmenter.model.register_forward_pre_hook(look)
    seen(talk_wav)
    assert inside
    assert all(kinds == ["ieee"] * 4 for kinds in inside)


def test_apple_gpus_are_refused_with_a_reason(pipeline, talk_wav):
    from raydiar import Inference
    from raydiar.pipelines import PretrainedSpeakerEmbedding, VoiceActivityDetection

    uri = SEGMENTATION_3_0.uri
    doors = (
        lambda: pipeline.to("mps"),
        lambda: pipeline.to(torch.device("mps")),
        lambda: VoiceActivityDetection(device="mps"),
        lambda: Inference(uri, device="mps"),
        lambda: PretrainedSpeakerEmbedding(device=torch.device("mps")),
        lambda: Model.from_pretrained(uri, map_location="mps"),
    )
    for door in doors:
        with pytest.raises(ConfigError, match="Apple GPUs are left out"):
            door()
    assert pipeline.device == torch.device("cpu")


# -- what cannot be ----------------------------------------------------------------------------


def test_separation_and_servers(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "pipeline: {name: pyannote.audio.pipelines.SpeechSeparation, params: {}}"
    )
    with pytest.raises(ConfigError, match="separates voices with weights that"):
        Pipeline.from_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="base_url is of a server"):
        Pipeline.from_pretrained(base_url="https://example.org")
    with pytest.raises(ConfigError, match="runs elsewhere: it has no revision"):
        Pipeline.from_pretrained("pyannote/speaker-diarization-precision-2", revision="main")


def test_bad_input_of_every_pipeline(tmp_path, pipeline):
    """Names, shapes, emptiness, shortness, NaN, networks of another task: an error of ours each."""
    from raydiar import Inference, SpeakerVerification
    from raydiar.pipelines import (
        MultiLabelSegmentation,
        OverlappedSpeechDetection,
        PretrainedSpeakerEmbedding,
        SpeakerChangeDetection,
        SpeakerEmbedding,
        VoiceActivityDetection,
    )

    segmentation = Model.from_pretrained(SEGMENTATION_3_0.uri)
    made = [
        pipeline,
        VoiceActivityDetection(segmentation),
        OverlappedSpeechDetection(segmentation),
        SpeakerChangeDetection(segmentation),
        SpeakerEmbedding(),
        Inference(segmentation),
    ]
    rate = {"sample_rate": 16000}
    second = np.zeros((1, 16000), np.float32)
    wrong = (second[:, :0], second + np.nan, second[None], "zeros", second > 0)
    for one in made:
        for waveform in wrong:
            with pytest.raises((InvalidSamples, EmptyAudio)):
                one({"waveform": waveform, **rate})
        for hertz in (0, "16 kHz", None, float("nan")):
            with pytest.raises(ConfigError, match=r"(?i)sample.rate"):
                one({"waveform": second, "sample_rate": hertz})
        with pytest.raises(ConfigError, match="no channel 3"):
            one({"waveform": second, **rate, "channel": 3})
        with pytest.raises(AudioNotFound):
            one(str(tmp_path / "nothing.wav"))
    with pytest.raises(ConfigError, match="crop"):
        made[-1]({"waveform": second, **rate, "start": 0.5})
    short = {"waveform": np.zeros((1, 200), np.float32), **rate}
    for one in made[:4]:
        assert not list(one(short).get_timeline() if one is pipeline else one(short))[1:]
    with pytest.raises(InvalidSamples):
        made[4](short)
    for kind in (VoiceActivityDetection, OverlappedSpeechDetection, SpeakerChangeDetection):
        with pytest.raises(ConfigError, match="gives one vector a window"):
            kind(CAMPPLUS_ZH_EN.uri)
        with pytest.raises(ConfigError, match="has no option typo"):
            kind(segmentation, typo=1)
        with pytest.raises(ConfigError):
            kind(segmentation).instantiate({"typo": 1})
    with pytest.raises(ConfigError, match="local speakers"):
        MultiLabelSegmentation(segmentation)
    with pytest.raises(ConfigError, match="not speaker embeddings"):
        PretrainedSpeakerEmbedding(segmentation)
    with pytest.raises(ConfigError):
        SpeakerVerification(embedding=segmentation)
    (tmp_path / "text.bin").write_text("no checkpoint")
    for door in (Model.from_pretrained, VoiceActivityDetection, Inference):
        with pytest.raises(CheckpointError):
            door(str(tmp_path / "text.bin"))


def test_bad_arguments_are_told_by_name(tmp_path, talk_wav, pipeline):
    from pyannote.core import SlidingWindow, SlidingWindowFeature
    from raydiar.utils.powerset import Powerset
    from raydiar.utils.signal import Binarize, Peak, binarize

    from raydiar import Audio, Inference, SpeakerVerification
    from raydiar.pipelines import PretrainedSpeakerEmbedding, SpeakerDiarization, hooks

    network = Model.from_pretrained(SEGMENTATION_3_0.uri)
    frames = SlidingWindow(duration=0.1, step=0.1)
    nothing = SlidingWindowFeature(np.zeros((0, 2)), frames)
    embed, verify = PretrainedSpeakerEmbedding(), SpeakerVerification()
    told = {
        "from_pretrained has no typo: it takes checkpoint": lambda: Pipeline.from_pretrained(
            typo=1
        ),
        "named by a path": lambda: Pipeline.from_pretrained(3),
        "Inference has no typo: it takes model, window": lambda: Inference(network, typo=1),
        "Audio has no typo: it takes sample_rate, mono": lambda: Audio(typo=1),
        "SpeakerDiarization has no typo": lambda: SpeakerDiarization(typo=1),
        "SpeakerVerification has no typo": lambda: SpeakerVerification(typo=1),
        "step must be a number above 0, not 0": lambda: Inference(network, step=0),
        "duration must be a number above 0, not 'x'": lambda: Inference(network, duration="x"),
        "batch_size must be a number from 1 on": lambda: Inference(network, batch_size="8"),
        "a hook is called": lambda: pipeline(talk_wav, hook=3),
        "3 cannot be called": lambda: hooks.Hooks(3),
        "windows and frames must stay": lambda: Inference(
            network, pre_aggregation_hook=lambda scores: scores[0]
        )(talk_wav),
        "sets of 0 classes": lambda: Powerset(3, 0),
        "cannot be made of 3.5": lambda: Powerset(3.5, 2),
        "scores are a tensor": lambda: Powerset(3, 2).to_multilabel(np.zeros((2, 7))),
        "min_duration_on must be": lambda: Binarize(min_duration_on=-1.0),
        "min_duration must be": lambda: Peak(min_duration=-1.0),
        "scores are a SlidingWindowFeature": lambda: Binarize()(np.zeros((3, 2))),
        "an excerpt is a Segment": lambda: Audio().crop(talk_wav, (0, 1)),
        "sample_rate must be": lambda: Audio(sample_rate="16k"),
        "a framework of its own": lambda: PretrainedSpeakerEmbedding("speechbrain/spkrec-ecapa"),
        "not speaker embeddings": lambda: SpeakerDiarization(embedding=SEGMENTATION_3_0.uri),
    }
    for message, act in told.items():
        with pytest.raises(ConfigError, match=message):
            act()
    for wrong in (torch.zeros(1, 1, 10), torch.zeros(1, 2, 16000), torch.zeros(1, 1, 1, 16000)):
        with pytest.raises(InvalidSamples):
            network(wrong)
    with pytest.raises(InvalidSamples, match="NaN"):
        embed(torch.full((1, 1, 16000), float("nan")))
    assert embed(np.zeros((1, 1, 16000), np.float32)).shape == (1, 192)
    for voice in (np.zeros(5), np.full(192, np.nan)):
        with pytest.raises(InvalidSamples):
            verify(voice, talk_wav)
    with open(talk_wav) as text, pytest.raises(InvalidSamples, match="rb"):
        pipeline(text)
    with pytest.raises(InvalidSamples, match="closed"):
        Audio()(text)
    assert len(Binarize()(nothing)) == len(binarize(nothing.data)) == len(Peak()(nothing)) == 0
    with pytest.raises(ImportError, match="SpeechSeparation is left out of raydiar"):
        exec("from raydiar.pipelines import SpeechSeparation", {})
