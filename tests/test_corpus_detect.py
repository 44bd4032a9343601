"""Jobs that detect speech, overlap and changes: the rows of the pipelines, exactly one each."""

import csv
import json
import os
import signal
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_files import driver, excerpts, files, seen, wait_until, write_manifest
from typer.testing import CliRunner

from raydiar import audio
from raydiar.cli import app
from raydiar.corpus import dataset, detections
from raydiar.corpus.inputs.manifest import RECORDING_FIELDS
from raydiar.corpus.job import decoding
from raydiar.corpus.job.detecting import Detect
from raydiar.corpus.job.pack import Outcome, Pack
from raydiar.corpus.job.run import detect_corpus, diarize_corpus
from raydiar.errors import ConfigError, ManifestError, OutputError
from raydiar.inference.batches import Slice
from raydiar.local_speakers import in_order
from raydiar.pipelines.detector import Detector
from raydiar.weights import CAMPPLUS_ZH_EN, Weights
from raydiar.window_scores import WindowScores

WHISPERX = "pypi://whisperx==3.8.6/whisperx/assets/pytorch_model.bin"


@pytest.fixture(scope="module")
def vad():
    from raydiar.pipelines import VoiceActivityDetection

    return VoiceActivityDetection()


def regions(annotation) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in annotation.itersegments()]


def of_row(row) -> list[tuple[float, float]]:
    return [(region["start"], region["end"]) for region in row["regions"]]


def test_a_job_finds_the_speech_that_the_pipeline_finds(
    local_ray, sample_wav, tmp_path, vad, monkeypatch
):
    monkeypatch.setattr(decoding, "MOST_SECONDS", 20.0)  # the whole recording goes in parts
    monkeypatch.setattr(decoding, "PART_SECONDS", 11.0)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(sample_wav, "talk.wav")
    part = {"uri": str(sample_wav), "start": 12.0, "duration": 11.0, "take": 7}
    rows = [{"uri": str(sample_wav)}, part, {"uri": "absent.wav"}, {"uri": "shard.tar"}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    output = str(tmp_path / "output")
    summary = detect_corpus("speech", manifest, output, parameters={"min_duration_off": 0.2})
    assert (summary.num_ok, summary.errors) == (3, {"AudioNotFound": 1})
    assert sorted(seen(output).values()) == ["error", "ok", "ok", "ok"]

    table = {row["recording_id"]: row for row in detections.open(output).to_table().to_pylist()}
    vad.instantiate({"min_duration_off": 0.2})
    expected = regions(vad(sample_wav))
    assert len(expected) > 2
    whole = table[str(sample_wav)]
    assert of_row(whole) == of_row(table[f"{tmp_path}/shard.tar#talk.wav"]) == expected
    assert whole["region_seconds"] == pytest.approx(sum(end - start for start, end in expected))
    assert whole["duration"] == 30.0
    [excerpt] = (row for row in table.values() if row["take"] == 7)
    of_excerpt = vad({"audio": sample_wav, "start": 12.0, "duration": 11.0})
    assert of_row(excerpt) == regions(of_excerpt), "on the timeline of the file"
    assert 'min_duration_off": 0.2' in excerpt["pipeline"]["parameters"]
    [failed] = (row for row in table.values() if row["status"] == "error")
    assert failed["regions"] is None
    assert failed["error"]["type"] == "AudioNotFound"

    before = files(output)
    command = ["corpus", "detect", "speech", "--manifest", manifest, "--output", output]
    again = CliRunner().invoke(app, [*command, "--set", "min_duration_off=0.2"])
    assert again.exit_code == 0, again.output
    assert "0 recordings processed: 0 ok, 0 errors; 4 of 4 were done before" in again.output
    assert files(output) == before
    other = CliRunner().invoke(app, command)
    assert other.exit_code == 1
    assert "made by another pipeline" in other.output
    assert "different: parameters" in other.output
    shown = CliRunner().invoke(app, ["corpus", "status", output])
    assert "3 ok, 1 errors" in shown.output

    # what is no diarization is not taken for one
    with pytest.raises(OutputError, match="holds rows of 'speech', where diarizations are needed"):
        dataset.open(output)
    for wrong in ({"task": "overlap"}, {"reprocess": True, "task": "changes"}):
        with pytest.raises(OutputError, match="holds rows of 'speech'"):
            detect_corpus(manifest=manifest, output=output, **wrong)
    with pytest.raises(OutputError, match="'speech', and this job makes those of 'diarization'"):
        diarize_corpus(manifest, output, reprocess=True)
    assert files(output) == before

    exported = CliRunner().invoke(app, ["corpus", "export", output, "--csv", f"{tmp_path}/out.csv"])
    assert exported.exit_code == 0, exported.output
    lines = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert {line["speaker"] for line in lines} == {"SPEECH"}
    found = [(line["start"], line["end"]) for line in lines if line["uri"] == str(sample_wav)]
    assert found == [(f"{start:.3f}", f"{end:.3f}") for start, end in expected]
    CliRunner().invoke(app, ["corpus", "export", output, "--turns", f"{tmp_path}/out.parquet"])
    assert pq.read_table(tmp_path / "out.parquet").num_rows == len(lines)


def test_a_killed_job_of_detections_is_gone_on_with(local_ray, sample_wav, tmp_path):
    rows = [*excerpts(sample_wav, 14, seconds=2.0), {"uri": "absent.wav"}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    output = tmp_path / "output"
    script = f"""
from raydiar.corpus.job import decoding
decoding.PACK_SECONDS = 2.0
from raydiar.corpus.job.run import detect_corpus
detect_corpus("overlap", {manifest!r}, {str(output)!r}, num_actors=1)
"""
    with driver(script, local_ray, tmp_path / "log") as job:
        wait_until(lambda: len(files(output)) >= 3 or job.poll() is not None, 300)
        job.send_signal(signal.SIGKILL)
        job.wait()
    # it may have been done by then, on a machine that is quick; it must not have failed
    assert job.returncode in (0, -signal.SIGKILL), (tmp_path / "log").read_text()
    begun, before = seen(output), files(output)
    assert len(begun) >= 3
    summary = detect_corpus("overlap", manifest, str(output))
    assert summary.num_done_before >= len(begun)
    assert summary.num_processed == 15 - summary.num_done_before
    assert sorted(seen(output).values()) == ["error"] + ["ok"] * 14
    assert files(output).items() >= before.items()


def rows_of(task, samples, *parts, segmentation=None, **parameters) -> list[dict]:
    """Rows that a job makes of one recording, or of slices of it, without Ray."""
    weights = {} if segmentation is None else {"segmentation": Weights(segmentation)}
    local = Detector(task, parameters=parameters, **weights).localize()
    scorer = local.load("cpu").scorer
    sources = [Slice(samples, *part) for part in parts] or [samples]
    scores = WindowScores.concat(list(scorer.windows(sources))[::-1])
    recording = dict.fromkeys(RECORDING_FIELDS.names)
    recording |= {"recording_id": "talk", "uri": "talk.wav", "start": 2.0, "seconds": 9.0}
    outcome = Outcome(recording, samples=samples)
    kind = pa.struct(list(RECORDING_FIELDS))
    pack = Pack.of(0, [outcome], kind, 0.0).with_scores([scores], [None], 0.0)
    schema = detections.detection_schema(pa.schema([]), local.describe())
    detect = Detect(task, local.values, local.describe(), schema)
    return detect(pack.table).column("rows")[0].as_py()


def test_overlap_changes_and_old_networks(sample_wav):
    from raydiar.pipelines import (
        OverlappedSpeechDetection,
        SpeakerChangeDetection,
        VoiceActivityDetection,
    )

    samples = audio.decode(sample_wav, start=8.0, duration=13.5)
    talk = {"waveform": samples[None].astype(np.float32) / 32768, "sample_rate": 16000}
    overlap, changes = OverlappedSpeechDetection(), SpeakerChangeDetection()
    halves = [(0, 2), (2, 3)]
    [row] = rows_of("overlap", samples, *halves)
    expected = [(start + 2, end + 2) for start, end in regions(overlap(talk))]
    np.testing.assert_allclose(of_row(row), expected)
    assert row["region_seconds"] > 0.1
    [row] = rows_of("changes", samples, alpha=0.2)
    expected = np.array(changes.instantiate({"alpha": 0.2}).changes(talk)) + 2
    np.testing.assert_allclose(row["changes"], expected)
    assert len(expected) > 3
    assert "regions" not in row
    # probabilities, and not decisions, are joined and come to two thresholds
    old = VoiceActivityDetection(WHISPERX)
    assert old.parameters(instantiated=True)["onset"] == 0.767
    [row] = rows_of("speech", samples, segmentation=WHISPERX)
    expected = [(start + 2, end + 2) for start, end in regions(old(talk))]
    np.testing.assert_allclose(of_row(row), expected)


def test_batches_are_shared_and_parts_joined(sample_wav, vad):
    samples = audio.decode(sample_wav)
    clips = [samples[:32000], samples, samples[16000:80000]]
    together = list(vad.scorer.windows(clips))
    assert [one.num_windows for one in together] == [1, 21, 1]
    for clip, one in zip(clips, together, strict=True):
        [alone] = vad.scorer.windows([clip])
        np.testing.assert_array_equal(alone.scores, one.scores)
    with pytest.raises(ValueError, match="gap"):
        in_order(list(vad.scorer.windows([Slice(samples, 0, 2), Slice(samples, 3, 2)])))


def test_what_cannot_be_detected_is_told_before_any_work(sample_wav, tmp_path):
    manifest = write_manifest(tmp_path / "m.jsonl", excerpts(sample_wav, 1))
    output = str(tmp_path / "output")
    with pytest.raises(ConfigError, match="'music' cannot be detected: speech, overlap, changes"):
        detect_corpus("music", manifest, output)
    with pytest.raises(ConfigError, match="no parameter onset: there are min_duration_on"):
        detect_corpus("speech", manifest, output, parameters={"onset": 0.5})
    with pytest.raises(ConfigError, match="gives one vector a window"):
        detect_corpus("speech", manifest, output, CAMPPLUS_ZH_EN)
    write_manifest(tmp_path / "m.jsonl", [{"uri": "a.wav", "regions": 3}])
    with pytest.raises(ManifestError, match="'regions' of the manifest collides"):
        detect_corpus("speech", manifest, output)
    for arguments, message in (
        (["--set", "min_duration_off"], "--set takes name=value"),
        ([], "either a manifest"),
        ([str(tmp_path / "nothing")], "no audio in"),
        ([str(sample_wav), "--manifest", manifest], "either a manifest"),
    ):
        result = CliRunner().invoke(
            app, ["corpus", "detect", "speech", "--output", output, *arguments]
        )
        assert result.exit_code == 1, result.output
        assert message in result.output
    assert not os.path.exists(output) or not files(output)


def test_fingerprints_tell_what_decides_the_rows():
    default = Detector("speech").localize()
    assert default.fingerprint == Detector("speech").localize().fingerprint
    others = [
        Detector("overlap"),
        Detector("speech", fast=True),
        Detector("speech", parameters={"min_duration_on": 0.1}),
        Detector("speech", Weights(WHISPERX)),
    ]
    prints = {one.localize().fingerprint for one in others} | {default.fingerprint}
    assert len(prints) == 5
    assert json.loads(default.describe()["parameters"])["segmentation_step"] == 0.1
