"""The stages of a job, one after another without Ray, on real audio and real weights."""

import os
import struct
import subprocess
import sys

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from raydiar import audio
from raydiar.corpus.inputs import packs
from raydiar.corpus.inputs.manifest import RECORDING_FIELDS
from raydiar.corpus.job import stages
from raydiar.corpus.job.graph import packs_per_write
from raydiar.corpus.job.placement import fit_actors
from raydiar.corpus.output import dataset
from raydiar.corpus.wire import (
    local_speakers_from_arrow,
    local_speakers_to_arrow,
    pcm_from_arrow,
    pcm_to_arrow,
)
from raydiar.errors import (
    AudioNotFound,
    ConfigError,
    DecoderStalled,
    OutputError,
    StorageDenied,
    StorageUnavailable,
    WeightsNotFound,
)
from raydiar.failures import MACHINE, MOMENT, RECORDING, describe, failure_cause, retrying
from raydiar.pipelines.config_file import load_config
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock


def pack_of(*recordings: dict) -> pa.Table:
    rows = [dict.fromkeys(RECORDING_FIELDS.names) | row for row in recordings]
    for row in rows:
        row["recording_id"] = row["recording_id"] or row["uri"]
    pack = {"pack": 0, "seconds": 0.0, "recordings": rows}
    return pa.Table.from_pylist([pack], packs.pack_schema(RECORDING_FIELDS))


def write_wav(path, samples: np.ndarray, sample_rate: int = 16000):
    """A wav file of int16 or float32 samples, (num_samples,) or (num_samples, num_channels)."""
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    width = samples.dtype.itemsize
    kind = 3 if samples.dtype == np.float32 else 1
    rate = sample_rate * channels * width
    header = struct.pack("<HHIIHH", kind, channels, sample_rate, rate, channels * width, 8 * width)
    data = samples.tobytes()
    path.write_bytes(
        b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt " + struct.pack("<I", 16) + header
        + b"data" + struct.pack("<I", len(data)) + data
    )  # fmt: skip
    return str(path)


def places(turns) -> list[tuple]:
    return [(turn.start, turn.end, turn.speaker) for turn in turns]


@pytest.fixture(scope="module")
def weights():
    return load_config().localize()


@pytest.fixture(scope="module")
def infer(weights, local_ray) -> stages.LocalInferenceStage:
    coordinator = ray.remote(stages.Coordinator).remote()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "_end_with", lambda coordinator: None)  # it is in no actor here
        return stages.LocalInferenceStage(weights, "cpu", 1, coordinator)


@pytest.fixture(scope="module")
def resolve(weights) -> stages.Resolve:
    pipeline = weights.describe()
    schema = dataset.dataset_schema(weights.dimension, None, pipeline)
    config = weights.config
    return stages.Resolve(config.clustering, None, config.min_duration_off, pipeline, schema)


def test_a_pack_becomes_the_rows_that_the_pipeline_gives(
    sample_wav, infer, resolve, pipeline, tmp_path
):
    samples = audio.decode(sample_wav)
    stereo = np.stack([samples[: 8 * 16000], np.zeros(8 * 16000, np.int16)], axis=1)
    telephone = write_wav(tmp_path / "telephone.wav", stereo)
    pack = pack_of(
        {"uri": str(sample_wav), "start": 12.0, "duration": 11.0},
        {"uri": "missing.wav"},
        {"uri": telephone, "channel": "0", "num_speakers": 1},
        {"uri": telephone, "channel": "1", "recording_id": "silence"},
    )
    folder = Folder(str(tmp_path / "output"))
    with OutputLock(folder, "run1"):
        write = stages.Write(folder, "run1", resolve.schema)
        [receipt] = write(resolve(infer(stages.Decode()(pack)))).to_pylist()
    assert (receipt["ok"], receipt["errors"]) == (3, ["AudioNotFound"])
    assert receipt["audio_seconds"] == 11.0 + 8.0 + 8.0

    rows = {row["recording_id"]: row for row in pq.read_table(folder.uri).to_pylist()}
    assert len(rows) == 4
    assert rows["missing.wav"]["error"]["type"] == "AudioNotFound"
    excerpt = {"waveform": samples[None, 12 * 16000 : 23 * 16000], "sample_rate": 16000}
    expected = pipeline(excerpt | {"uri": "x"}).shifted(12.0)
    [row] = (row for row in rows.values() if row["start"] == 12.0)
    found = dataset.to_diarization(row)
    assert places(found.turns) == places(expected.turns)
    assert places(found.exclusive_turns) == places(expected.exclusive_turns)
    assert len(found.turns) > 2
    confidences = [[turn.confidence for turn in output.turns] for output in (found, expected)]
    np.testing.assert_allclose(*confidences, atol=1e-6)
    voiceprints = [s.embedding for s in found.speakers if s.embedding is not None]
    same = [s.embedding for s in expected.speakers if s.embedding is not None]
    np.testing.assert_allclose(voiceprints, same, atol=1e-4)
    first_channel = rows[telephone]
    assert (first_channel["channel"], first_channel["num_speakers"]) == (0, 1)
    assert rows["silence"]["turns"] == []
    assert rows["silence"]["num_speakers"] == 0


def bad_recordings(folder) -> dict[str, str]:
    """Files that cannot be diarized, by the error that says so."""
    noise = np.random.default_rng(0).integers(-3000, 3000, 160000).astype(np.int16)
    write_wav(folder / "nan.wav", np.full(16000, np.nan, np.float32))
    write_wav(folder / "no-samples.wav", noise[:0])
    write_wav(folder / "whole.wav", noise)
    (folder / "truncated.wav").write_bytes((folder / "whole.wav").read_bytes()[:100000])
    (folder / "text.mp3").write_text("this was a recording once " * 100)
    (folder / "empty.flac").write_bytes(b"")
    with av.open(str(folder / "whole.flac"), "w") as container:
        stream = container.add_stream("flac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(noise[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    (folder / "truncated.flac").write_bytes((folder / "whole.flac").read_bytes()[:100000])
    long = folder / "30h.wav"
    write_wav(long, noise[:0])
    content = bytearray(long.read_bytes())
    num_bytes = 30 * 3600 * 16000 * 2
    content[4:8], content[40:44] = (struct.pack("<I", n) for n in (36 + num_bytes, num_bytes))
    long.write_bytes(content)
    os.truncate(long, 44 + num_bytes)  # sparse: takes no space
    return {
        "absent.wav": "AudioNotFound",
        "empty.flac": "EmptyAudio",
        "truncated.wav": "AudioDecodeError",
        "truncated.flac": "AudioDecodeError",
        "text.mp3": "AudioDecodeError",
        "no-samples.wav": "EmptyAudio",
        "nan.wav": "InvalidSamples",
        "30h.wav": "RecordingTooLong",
    }


def test_every_bad_recording_is_an_error_row_that_says_why(tmp_path, infer, resolve):
    expected = bad_recordings(tmp_path)
    pack = pack_of(*({"uri": f"{tmp_path}/{name}", "recording_id": name} for name in expected))
    [rows] = resolve(infer(stages.Decode()(pack))).column("rows").to_pylist()
    assert {row["recording_id"]: row["error"]["type"] for row in rows} == expected
    for row in rows:
        assert row["status"] == "error"
        assert row["recording_id"] in row["error"]["message"]
        assert not row["error"]["retryable"]
        assert row["turns"] is None


def test_a_recording_to_split_that_could_not_be_probed_says_why(tmp_path):
    pack = stages.Decode()(pack_of({"uri": f"{tmp_path}/absent.wav", "channel": "split"}))
    assert pack.column("errors").to_pylist()[0][0]["type"] == "AudioNotFound"


def test_a_run_that_lost_its_output_writes_nothing(tmp_path, infer, resolve):
    folder = Folder(str(tmp_path))
    resolved = resolve(infer(stages.Decode()(pack_of({"uri": "missing.wav"}))))
    with OutputLock(folder, "run2"), pytest.raises(OutputError, match="no longer holds"):
        stages.Write(folder, "run1", resolve.schema)(resolved)
    assert not folder.list()


def test_pcm_travels_without_a_copy(sample_wav):
    samples = audio.decode(sample_wav)
    [view] = pcm_from_arrow(pcm_to_arrow([samples]), [len(samples)])
    assert np.shares_memory(view, samples)
    several = [samples[:5], samples[:0], samples[5:9]]
    views = pcm_from_arrow(pcm_to_arrow(several), [5, 0, 4])
    assert [view.tolist() for view in views] == [part.tolist() for part in several]
    assert pcm_from_arrow(pcm_to_arrow([]), []) == []


def test_local_speakers_travel_unchanged(infer, sample_wav):
    samples = audio.decode(sample_wav, duration=11.0)
    local = infer._run([samples])[0]
    silent = infer._run([np.zeros(16000, np.int16)])[0]
    sent = local_speakers_to_arrow([silent, local, None, silent])[1:]
    received = local_speakers_from_arrow(sent)
    assert received[1] is None
    for before, after in ((local, received[0]), (silent, received[2])):
        assert (after.num_samples, after.grid) == (before.num_samples, before.grid)
        assert after.complete
        for name in ("activity", "posteriors", "embeddings", "owners"):
            np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
            assert getattr(after, name).dtype == getattr(before, name).dtype


@pytest.mark.parametrize(
    ("error", "whose"),
    [
        (AudioNotFound("x"), RECORDING),
        (DecoderStalled("x"), RECORDING),
        (IndexError("a bug that one recording meets"), RECORDING),
        (StorageUnavailable("503"), MOMENT),
        (ConnectionResetError(), MOMENT),
        (TimeoutError(), MOMENT),
        (StorageDenied("403"), MACHINE),
        (PermissionError(13, "denied"), MACHINE),
        (OSError(28, "No space left on device"), MACHINE),
        (MemoryError(), MACHINE),
        (WeightsNotFound("x"), MACHINE),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), MACHINE),
    ],
)
def test_whose_failure_it_is(error, whose):
    assert failure_cause(error) == whose
    assert describe(error)["retryable"] == (whose == MOMENT)


def test_only_the_moments_failures_are_tried_again():
    calls = []

    def fails(error, times):
        calls.append(error)
        if len(calls) <= times:
            raise error
        return "done"

    assert retrying(lambda: fails(StorageUnavailable("503"), 2), 5, first_wait=0.01) == "done"
    assert len(calls) == 3
    calls.clear()
    with pytest.raises(StorageUnavailable) as caught:
        retrying(lambda: fails(StorageUnavailable("503"), 9), 3, first_wait=0.01)
    assert len(calls) == 3
    assert describe(caught.value)["attempt"] == 3
    calls.clear()
    with pytest.raises(StorageDenied):
        retrying(lambda: fails(StorageDenied("403"), 9), 5, first_wait=0.01)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("cpus", "num_actors", "fitting"),
    [
        ([3], None, (1, 2)),  # as started here on two cores
        ([9], None, (2, 4)),
        ([8] * 4, None, (8, 3)),
        ([0, 2, 2], None, (2, 1)),
        ([2], None, (1, 1)),
        ([3], 2, (2, 1)),
    ],
)
def test_actors_fill_the_cpus_and_leave_one_a_node_to_feed_them(cpus, num_actors, fitting):
    assert fit_actors(cpus, num_actors) == fitting


def test_actors_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"4 inference actors .* do not fit into 3 CPUs"):
        fit_actors([3], 4)


def test_packs_hold_half_an_hour_and_long_recordings_stand_alone(tmp_path):
    def row(seconds=None, size=None, uri="s3://b/a.mp3"):
        return {"uri": uri, "duration": seconds, "size": size}

    minutes = [10, 15, 4, 90, 2, 29, 1, 31]
    formed = list(packs.form_packs(iter([row(60.0 * m) for m in minutes])))
    in_minutes = [[int(r["duration"] / 60) for r in pack] for _, pack in formed]
    assert in_minutes == [[90], [10, 15, 4], [2], [31], [29, 1]]
    clips = list(packs.form_packs(iter([row(1.0)] * 1000)))
    assert max(len(pack) for _, pack in clips) == packs.PACK_RECORDINGS

    assert packs.estimate_seconds(row(size=4_000_000)) == 1000  # mp3 at 32 kbit/s
    assert packs.estimate_seconds(row()) == packs.UNKNOWN_SECONDS
    (tmp_path / "a.wav").write_bytes(bytes(160_000))
    assert packs.estimate_seconds(row(uri=str(tmp_path / "a.wav"))) == 10


def test_the_driver_packs_many_clips_in_little_memory(tmp_path):
    """400,000 rows grow it by 70 MB; as dictionaries, all at a time, they would take 180 more."""
    uris = [f"s3://bucket/some/longer/prefix/{n:09d}.mp3" for n in range(400_000)]
    pq.write_table(pa.table({"uri": uris, "size": [20_000] * len(uris)}), tmp_path / "m.parquet")
    script = """
import resource, sys
import numpy as np
from raydiar.storage.folder import Folder
from raydiar.corpus.inputs.manifest import read_manifest
from raydiar.corpus.inputs.packs import write_packs
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
manifest, output = read_manifest(sys.argv[1] + "/m.parquet"), Folder(sys.argv[1] + "/output")
before = peak()
plan = write_packs(manifest, np.empty(0, "S16"), output, "run1")
print(plan.num_recordings, peak() - before)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    number, grown = done.stdout.split()
    assert int(number) == len(uris)
    assert float(grown) < 120  # MB


def test_a_run_leaves_at_most_ten_thousand_files():
    for num_packs in (1, 100, 4999, 5001, 2_000_000):
        per_write = packs_per_write(num_packs)
        assert 2 * -(-num_packs // per_write) <= 10_000
    assert packs_per_write(100) == 1
