"""The pipeline as people call it, on real conversations."""

import io
import json
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pyannote.core import Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate

from raydiar import Diarization, Pipeline, audio
from raydiar.diarization import read_rttm
from raydiar.errors import AudioDecodeError, AudioNotFound, ConfigError, InvalidSamples
from raydiar.pipelines import SpeakerDiarization
from raydiar.pipelines.config import EXACT, Weights
from raydiar.pipelines.speaker_diarization import local_inference


@pytest.fixture(scope="module")
def output(pipeline, sample_wav) -> Diarization:
    return pipeline(sample_wav)


def error_rate(metric, reference: Diarization, output: Diarization) -> float:
    uem = Timeline([Segment(0, output.duration)])
    return metric(reference.speaker_diarization, output.speaker_diarization, uem=uem)


def test_who_spoke_when(output, sample_rttm):
    [reference] = read_rttm(sample_rttm).values()
    assert output.num_speakers == 2
    assert error_rate(DiarizationErrorRate(), reference, output) < 0.06
    assert all(0 <= turn.confidence <= 1 for turn in output.turns)
    # Turns of a frame or two are doubtful; turns that one hears are not.
    assert all(turn.confidence > 0.5 for turn in output.turns if turn.duration > 0.25)
    assert all(0 <= turn.start < turn.end <= 30 for turn in output.turns)
    embeddings = output.speaker_embeddings
    assert embeddings.shape == (2, 192)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert unit[0] @ unit[1] < 0.5, "two people, two voices"


def test_result_in_every_format(output, tmp_path):
    listed = [(turn.start, turn.end, speaker) for turn, speaker in output.speaker_diarization]
    assert len(listed) == len(output.turns)
    rttm = tmp_path / "sample.rttm"
    with open(rttm, "w") as file:
        output.write_rttm(file)
    [again] = read_rttm(rttm).values()
    assert [turn.speaker for turn in again.turns] == [turn.speaker for turn in output.turns]
    frame = output.to_dataframe()
    assert list(frame.columns[:2]) == ["uri", "start"]
    assert len(frame) == len(output.turns)
    document = json.loads(json.dumps(output.serialize()))
    assert document["diarization"][0].keys() == {"start", "end", "speaker"}
    restored = Diarization.from_json(output.to_json())
    assert restored.turns == output.turns
    np.testing.assert_array_equal(restored.speaker_embeddings, output.speaker_embeddings)
    exclusive = output.exclusive_turns
    assert all(one.end <= next_.start + 1e-9 for one, next_ in zip(exclusive, exclusive[1:]))  # noqa: B905, RUF007
    assert "2 speakers" in str(output)


@pytest.mark.reference
def test_error_rate_equals_pyannotes(shared: Path):
    clips = shared / "audio/ami-clips"
    metric, expected, softly = (DiarizationErrorRate() for _ in range(3))
    paths = [*sorted(clips.glob("trn*.flac")), clips / "sample.flac"]
    exact, soft = map(Pipeline.from_pretrained, ("exact", "soft"))
    inference = local_inference(EXACT.localize())
    for path, local in zip(paths, inference(map(audio.decode, paths)), strict=True):
        ours = exact.resolve(local, path.stem)
        reference = read_rttm(path.with_suffix(".rttm"))[path.stem]
        theirs = read_rttm(shared / f"reference/default-pipeline/{path.stem}.rttm")
        error_rate(softly, reference, soft.resolve(local, path.stem))
        if path.stem == "sample":
            assert error_rate(DiarizationErrorRate(), reference, ours) == pytest.approx(
                0.0520, abs=0.003
            )
            continue
        error_rate(metric, reference, ours)
        if path.stem in theirs:  # it hears nobody in one clip
            uem = Timeline([Segment(0, ours.duration)])
            expected(reference.speaker_diarization, theirs[path.stem].speaker_diarization, uem=uem)
    assert abs(metric) == pytest.approx(0.2813, abs=0.003)
    assert abs(softly) == pytest.approx(0.2476, abs=0.003)  # of all eleven: exact has 0.2607


@pytest.mark.reference
def test_turns_equal_pyannotes_with_resnet34(shared: Path):
    # The 3.1 pipeline around a ResNet34 with random weights: the same lines, to the millisecond.
    reference = shared / "reference/resnet34"
    checkpoint = Weights(str(reference / "resnet34_random_seed1234.ckpt"))
    pipeline = SpeakerDiarization(replace(EXACT, embedding=checkpoint).localize())
    output = pipeline(shared / "audio/ami-clips/sample.flac")
    assert output.to_rttm() == (reference / "sample.rttm").read_text()


def test_every_kind_of_input_gives_one_answer(pipeline, sample_wav):
    samples = audio.decode(sample_wav)[: 12 * 16000]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16000, len(samples), "NONE", ""))
        file.writeframes(samples.tobytes())
    buffer.seek(0)
    waveform = torch.from_numpy(samples).float()[None] / 32768
    seen = []
    results = pipeline(
        [
            {"audio": buffer, "uri": "file object"},
            {"waveform": waveform, "sample_rate": 16000, "uri": "tensor"},
            {"waveform": waveform.repeat(2, 1), "sample_rate": 16000, "channel": 1, "uri": "two"},
        ],
        hook=lambda step, artifact, **progress: seen.append((step, progress)),
    )
    first, *others = [output for _, output in results]
    assert first.uri == "file object"
    for other in others:
        assert other.turns == first.turns
    steps = [step for step, _ in seen]
    assert steps.count("discrete_diarization") == 3
    finished = [p for step, p in seen if step == "segmentation" and p.get("total")]
    assert sum(p["completed"] == p["total"] == 3 for p in finished) == 3


def test_an_excerpt_has_its_times_on_the_timeline_of_the_file(pipeline, sample_wav):
    excerpt = {"start": 4.0, "duration": 12.0}
    samples = audio.decode(sample_wav).astype(np.float32) / 32768
    files = [
        {"audio": sample_wav, "uri": "file", **excerpt},
        {"waveform": samples, "sample_rate": 16000, "uri": "waveform", **excerpt},
        {"waveform": samples[64000:256000], "sample_rate": 16000, "uri": "cut"},
    ]
    of_file, of_waveform, cut = [output for _, output in pipeline(files)]
    assert cut.turns[0].start < cut.turns[-1].end <= 12.0
    for output in (of_file, of_waveform):
        assert output.duration == 12.0
        assert output.turns == cut.shifted(4.0).turns
        assert output.exclusive_turns == cut.shifted(4.0).exclusive_turns


def test_speaker_bounds(pipeline, sample_wav):
    waveform = audio.decode(sample_wav)[None, : 16 * 16000].astype(np.float32) / 32768
    file = {"waveform": waveform, "sample_rate": 16000}
    assert pipeline(file, num_speakers=1).num_speakers == 1
    assert pipeline(file, max_speakers=1).num_speakers == 1
    many = pipeline(file, min_speakers=50)
    assert many.num_speakers < 50
    assert many.warnings
    with pytest.raises(ConfigError, match="min_speakers"):
        pipeline(file, min_speakers=3, max_speakers=2)


def test_silence_and_a_blink(pipeline):
    for num_samples in (16000, 1, 400):
        silence = np.zeros((1, num_samples), np.float32)
        output = pipeline({"waveform": silence, "sample_rate": 16000})
        assert output.num_speakers == 0
        assert output.speaker_embeddings.shape[0] == 0
        assert output.to_rttm() == ""


def test_what_cannot_be_diarized(pipeline, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are not sounds\n" * 100)
    with pytest.raises(AudioDecodeError, match=r"notes\.txt"):
        pipeline(text)
    with pytest.raises(AudioNotFound, match="nowhere"):
        pipeline(tmp_path / "nowhere.wav")
    with pytest.raises(InvalidSamples):
        pipeline({"waveform": np.full((1, 16000), np.nan, np.float32), "sample_rate": 16000})
    with pytest.raises(InvalidSamples, match="sample_rate"):
        pipeline({"waveform": np.zeros((1, 16000), np.float32)})
    with pytest.raises(TypeError, match="cannot diarize a int"):
        pipeline(42)
    with pytest.raises(ConfigError, match="two recordings are named 'notes'"):
        pipeline([text, text])
    with pytest.raises(ConfigError, match="CUDA") if not torch.cuda.is_available() else _nothing():
        Pipeline.from_pretrained().to("cuda")


class _nothing:
    def __enter__(self):
        pass

    def __exit__(self, *_):
        pass


def test_command_line(sample_wav, tmp_path):
    short = tmp_path / "my talk.wav"
    with wave.open(str(sample_wav)) as source, wave.open(str(short), "wb") as target:
        target.setparams(source.getparams())
        target.writeframes(source.readframes(12 * 16000))
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"\x00" * 1000)

    def raydiar(*arguments):
        command = [sys.executable, "-m", "raydiar", "diarize", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    result = raydiar(short, broken, "--max-speakers", 2)
    assert result.returncode == 1
    assert "broken.mp3" in result.stderr
    assert "1 of 2 files failed" in result.stderr
    assert "Traceback" not in result.stderr
    lines = result.stdout.splitlines()
    assert lines
    assert all(line.startswith("SPEAKER my_talk 1 ") for line in lines)
    result = raydiar(short, "--format", "json", "--min-speakers", 3, "--max-speakers", 2)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("raydiar: ")
