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
from audio_files import sparse_wav
from web_storage import serving

from raydiar import audio
from raydiar.corpus.inputs.manifest import RECORDING_FIELDS, read_manifest
from raydiar.corpus.inputs.plan import TASK_RECORDINGS, TASK_UNKNOWN, write_plan
from raydiar.corpus.job import attempts, prefetch, stages
from raydiar.corpus.job.decoding import PACK_RECORDINGS, Decode, DecodePortion, form_packs
from raydiar.corpus.job.graph import packs_per_write
from raydiar.corpus.job.joining import Join
from raydiar.corpus.job.pack import Outcome, Pack
from raydiar.corpus.job.placement import fit_actors
from raydiar.corpus.job.portions import ReadPlan, portion_load
from raydiar.corpus.job.prefetch import prefetched
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
    DecoderKilled,
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


def portion_of(*recordings: dict) -> pa.Table:
    rows = [dict.fromkeys(RECORDING_FIELDS.names) | row for row in recordings]
    for row in rows:
        row["recording_id"] = row["recording_id"] or row["uri"]
    kind = pa.list_(pa.struct(list(RECORDING_FIELDS)))
    return pa.table({"portion": [0], "recordings": pa.array([rows], kind)})


def decoded(*recordings: dict) -> pa.Table:
    """The one pack that recordings become."""
    [pack] = DecodePortion(Decode())(portion_of(*recordings))
    return pack


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
    coordinator = ray.remote(attempts.Coordinator).remote()
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
    pack = decoded(
        {"uri": str(sample_wav), "start": 12.0, "duration": 11.0},
        {"uri": "missing.wav"},
        {"uri": telephone, "channel": "0", "num_speakers": 1},
        {"uri": telephone, "channel": "1", "recording_id": "silence"},
    )
    folder = Folder(str(tmp_path / "output"))
    with OutputLock(folder, "run1"):
        write = stages.Write(folder, "run1", resolve.schema)
        [receipt] = write(resolve(infer(pack))).to_pylist()
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
    pack = decoded(*({"uri": f"{tmp_path}/{name}", "recording_id": name} for name in expected))
    [rows] = resolve(infer(pack)).column("rows").to_pylist()
    assert {row["recording_id"]: row["error"]["type"] for row in rows} == expected
    for row in rows:
        assert row["status"] == "error"
        assert row["recording_id"] in row["error"]["message"]
        assert not row["error"]["retryable"]
        assert row["turns"] is None


def test_a_recording_to_split_that_could_not_be_probed_says_why(tmp_path):
    pack = decoded({"uri": f"{tmp_path}/absent.wav", "channel": "split"})
    assert Pack(pack).errors()[0]["type"] == "AudioNotFound"


def test_a_run_that_lost_its_output_writes_nothing(tmp_path, infer, resolve):
    folder = Folder(str(tmp_path))
    resolved = resolve(infer(decoded({"uri": "missing.wav"})))
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
    refused = isinstance(error, StorageDenied)
    assert describe(error)["retryable"] == (whose == MOMENT or refused)


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
    assert retrying(lambda: fails(DecoderKilled("x"), 2), 5, first_wait=0.01) == "done"
    calls.clear()
    with pytest.raises(DecoderKilled):  # no row: the machine's failure, after all
        retrying(lambda: fails(DecoderKilled("x"), 9), 3, first_wait=0.01)
    assert failure_cause(DecoderKilled("x")) == MACHINE
    calls.clear()
    with pytest.raises(StorageDenied):
        retrying(lambda: fails(StorageDenied("403"), 9), 5, first_wait=0.01)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("cpus", "num_actors", "fitting"),
    [
        ([3], None, (2, 1)),  # as started here on two cores
        ([9], None, (8, 1)),
        ([8] * 4, None, (28, 1)),
        ([0, 2, 2], None, (2, 1)),
        ([2], None, (1, 1)),
        ([0, 1, 1, 1], None, (2, 1)),  # which feed each other
        ([64], None, (60, 1)),  # 60 actors eat what four CPUs decode
        ([3], 2, (2, 1)),
        ([9], 2, (2, 4)),
        ([9], 3, (3, 2)),
    ],
)
def test_actors_fill_the_cpus_and_leave_one_a_node_to_feed_them(cpus, num_actors, fitting):
    assert fit_actors(cpus, num_actors) == fitting


def test_actors_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"4 inference actors .* do not fit into 3 CPUs"):
        fit_actors([3], 4)


def piece(minutes: float) -> tuple[Outcome, None]:
    return Outcome({"recording_id": "x"}, samples=np.zeros(int(960_000 * minutes), np.int16)), None


def minutes_of(group: list[Outcome]) -> list[int]:
    return [round(len(one.samples) / 960_000) for one in group]


def test_packs_hold_half_an_hour_to_two_of_what_was_decoded():
    durations = [10, 15, 4, 90, 2, 29, 100, 1, 119]
    packs = [minutes_of(group) for group, _ in form_packs(map(piece, durations), Decode())]
    assert packs == [[10, 15, 4, 90], [2, 29], [100], [1, 119]]
    packs = [minutes_of(group) for group, _ in form_packs(map(piece, [29, 119, 5]), Decode())]
    assert packs == [[29], [119], [5]]  # no more than two hours in one
    clips = ((Outcome({}, error={}), None) for _ in range(1000))
    assert max(len(group) for group, _ in form_packs(clips, Decode())) == PACK_RECORDINGS


def test_a_recording_longer_than_a_pack_goes_in_parts_of_an_hour(tmp_path):
    hours = sparse_wav(tmp_path / "hours.wav", 2 + 1 / 3600)
    row = dict.fromkeys(RECORDING_FIELDS.names) | {"uri": str(hours), "recording_id": "x"}
    places = [place for _, place in Decode()(row, str(hours))]
    hour, end = 3600 * 16000, 7201 * 16000
    assert places == [
        {"index": 0, "start": 0, "stop": hour},
        {"index": 1, "start": hour, "num_parts": 2, "stop": end, "num_samples": end},
    ]
    assert Decode().cut.overlap >= 10 * 16000  # or the last windows of a part were not whole


def test_a_recording_in_parts_has_the_row_of_the_whole(sample_wav, infer, resolve, tmp_path):
    """Parts of 10 s of 30 s of conversation, one of which is inferred twice."""
    recording = {"uri": str(sample_wav), "recording_id": "long"}
    [whole] = DecodePortion(Decode())(portion_of(recording))
    small = Decode(most_seconds=20.0, part_seconds=7.0, overlap_seconds=10.0)
    parts = list(DecodePortion(small)(portion_of(recording, {"uri": "missing.wav"})))
    assert [Pack(part).num_recordings for part in parts] == [1] * 4
    join = Join(Folder(str(tmp_path)), "plan/run1")
    inferred = [infer(part) for part in parts]
    order = [2, 0, 0, 1, 3]
    packs = [Pack(join(inferred[number])) for number in order]
    assert [pack.num_recordings for pack in packs] == [0, 0, 0, 1, 1]
    # the one that joined, run again, gives the recording again, and no other does
    again = {number: Pack(join(inferred[number])).num_recordings for number in range(3)}
    assert again == {0: 0, 1: 1, 2: 0}

    [[expected]] = resolve(infer(whole)).column("rows").to_pylist()
    [[row]] = resolve(packs[3].table).column("rows").to_pylist()
    assert (row["error"], row["duration"]) == (None, expected["duration"])
    assert places(dataset.to_diarization(row).turns) == places(
        dataset.to_diarization(expected).turns
    )
    [one, other] = ([s["embedding"] for s in r["speakers"]] for r in (row, expected))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_part_that_fails_fails_its_recording(sample_wav, infer, tmp_path):
    small = Decode(most_seconds=10.0, part_seconds=8.0, overlap_seconds=10.0)
    parts = DecodePortion(small)(portion_of({"uri": str(sample_wav), "duration": 20.0}))
    join = Join(Folder(str(tmp_path)), "plan/run1")
    first, second = (infer(part) for part in parts)
    error = {"type": "X", "message": "no", "retryable": False, "attempt": 1}
    first = Pack(first).with_local_speakers([None], [error], 0.0).table
    assert Pack(join(first)).num_recordings == 0
    assert Pack(join(second)).errors() == [error]


def test_a_recording_that_is_found_damaged_after_some_parts_is_an_error(
    sample_wav, infer, resolve, tmp_path
):
    damaged = tmp_path / "damaged.wav"
    damaged.write_bytes(sample_wav.read_bytes()[:800_000])  # of 960 kB
    small = Decode(most_seconds=10.0, part_seconds=7.0, overlap_seconds=10.0)
    parts = [infer(part) for part in DecodePortion(small)(portion_of({"uri": str(damaged)}))]
    assert [Pack(part).part["num_parts"] for part in parts] == [None, None, 3]
    join = Join(Folder(str(tmp_path)), "plan/run1")
    packs = [Pack(join(parts[number])) for number in (2, 0, 1)]
    assert [pack.num_recordings for pack in packs] == [0, 0, 1]
    [[row]] = resolve(packs[2].table).column("rows").to_pylist()
    assert (row["status"], row["error"]["type"]) == ("error", "AudioDecodeError")


def test_storage_that_fails_between_parts_is_asked_again_for_the_rest(sample_wav, monkeypatch):
    decode = Decode(most_seconds=10.0, part_seconds=7.0, overlap_seconds=10.0)
    row = dict.fromkeys(RECORDING_FIELDS.names) | {"uri": "x", "recording_id": "x"}
    expected = list(decode(row, str(sample_wav)))
    whole, failures = Decode._decode, [2, 1]

    def failing(self, recording, source):
        for number, part in enumerate(whole(self, recording, source)):
            if failures and number == failures[-1]:
                failures.pop()
                raise StorageUnavailable("gone for a moment")
            yield part

    monkeypatch.setattr(Decode, "_decode", failing)
    monkeypatch.setattr("raydiar.failures.time.sleep", lambda seconds: None)
    found = list(decode(row, str(sample_wav)))
    assert [place for _, place in found] == [place for _, place in expected]
    for (one, _), (other, _) in zip(found, expected, strict=True):
        assert np.array_equal(one.samples, other.samples)


def rows_at(*uris: str, size: int | None = None) -> list[dict]:
    return [{"uri": uri, "size": size} for uri in uris]


def test_small_objects_are_fetched_ahead_a_dozen_at_a_time():
    objects = {f"/{n}.wav": bytes([n]) * 1000 for n in range(40)}
    with serving(objects) as server:
        server.opened.clear()
        server.opens_at = 8
        found = list(prefetched(rows_at(*(f"{server.url}{path}" for path in objects))))
        assert 8 <= server.most_at_once <= 16
        assert [source.read() for _, source in found] == list(objects.values())
        assert [source.name for _, source in found] == [row["uri"] for row, _ in found]
        assert set(server.begun.values()) == {1}
        # the channels of one file are fetched once
        server.begun.clear()
        twice = list(prefetched(rows_at(*[f"{server.url}/1.wav"] * 2)))
        assert [source.read() for _, source in twice] == [objects["/1.wav"]] * 2
        assert server.begun["/1.wav"] == 1


def test_what_is_large_local_or_cannot_be_fetched_is_left_to_the_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "SMALL_BYTES", 1000)
    objects = {"/small.wav": bytes(1000), "/large.wav": bytes(1001)}
    for ranges in (True, False):
        with serving(objects, ranges=ranges) as server:
            paths = ["/small.wav", "/large.wav", "/absent.wav"]
            rows = rows_at(*(f"{server.url}{path}" for path in paths), str(tmp_path / "a.wav"))
            sources = [source for _, source in prefetched(rows)]
            assert sources[0].read() == bytes(1000)
            assert sources[1:] == [row["uri"] for row in rows[1:]]
            # of known size: not even asked for
            server.begun.clear()
            [(_, source)] = prefetched(rows_at(f"{server.url}/large.wav", size=1001))
            assert (source, server.begun) == (f"{server.url}/large.wav", {})


def plan_of(folder: Folder, rows: list[dict], num_slots: int):
    """The plan of a manifest, and the recordings of each of its portions."""
    pq.write_table(pa.Table.from_pylist(rows), folder.path("m.parquet"))
    manifest = read_manifest(folder.path("m.parquet"))
    plan = write_plan(manifest, np.empty(0, "S16"), folder, "run1")
    read = ReadPlan(folder, plan.folder, portion_load(plan.load, num_slots))
    portions = [
        portion
        for number, name in enumerate(plan.files)
        for portion in read(pa.table({"number": [number], "name": [name]}))
    ]
    return plan, [portion.column("recordings").to_pylist()[0] for portion in portions], portions


def test_portions_go_by_what_is_to_fetch_and_never_by_a_guess_at_durations(tmp_path):
    folder = Folder(str(tmp_path))

    def sizes(rows, num_slots=1):
        return [len(portion) for portion in plan_of(folder, rows, num_slots)[1]]

    clips = [{"uri": f"s3://b/{n}.mp3", "size": 10_000} for n in range(2000)]
    assert max(sizes(clips)) == TASK_RECORDINGS
    assert max(sizes(clips, 64)) == 7  # there is something to do for everybody
    podcasts = [{"uri": f"s3://b/{n}.mp3", "size": 30 * 2**20} for n in range(100)]
    assert set(sizes(podcasts)) == {4}
    assert set(sizes([{"uri": f"s3://b/{n}.mp3"} for n in range(320)])) == {TASK_UNKNOWN}
    stated = [{"uri": f"s3://b/{n}.mp3", "seconds": 1800.0} for n in range(100)]
    assert set(sizes(stated)) == {4}
    stated = [{"uri": f"s3://b/{n}.mp3", "duration": 1800.0} for n in range(100)]
    assert set(sizes(stated)) == {4}


def test_a_plan_holds_every_recording_once_and_large_ones_first(tmp_path):
    rows = [{"uri": f"s3://b/{n}.mp3", "size": 2**20, "take": n} for n in range(200)]
    rows.append({"uri": "s3://b/day.mp3", "size": 2**30, "take": 200})
    rows.append({"uri": "s3://b/shard.tar", "size": None, "take": 201})
    plan, portions, tables = plan_of(Folder(str(tmp_path)), rows, 2)
    assert [[row["take"] for row in portion] for portion in portions[:2]] == [[200], [201]]
    taken = [row["take"] for portion in portions[2:] for row in portion]
    assert taken == list(range(200))
    numbers = [table.column("portion")[0].as_py() for table in tables]
    assert len(set(numbers)) == len(numbers)
    assert (plan.num_recordings, plan.num_shards, plan.exact) == (201, 1, False)


def test_seconds_are_a_hint_that_changes_neither_id_nor_excerpt(tmp_path):
    folder = Folder(str(tmp_path))
    plan, [[row]], _ = plan_of(folder, [{"uri": "s3://b/a.mp3", "seconds": 60.0}], 1)
    assert (row["recording_id"], row["start"], row["duration"]) == ("s3://b/a.mp3", None, None)
    assert (plan.seconds, plan.exact) == (60.0, True)


def test_the_driver_packs_many_clips_in_little_memory(tmp_path):
    """400,000 rows grow it by 70 MB; as dictionaries, all at a time, they would take 180 more."""
    uris = [f"s3://bucket/some/longer/prefix/{n:09d}.mp3" for n in range(400_000)]
    pq.write_table(pa.table({"uri": uris, "size": [20_000] * len(uris)}), tmp_path / "m.parquet")
    script = """
import resource, sys
import numpy as np
from raydiar.storage.folder import Folder
from raydiar.corpus.inputs.manifest import read_manifest
from raydiar.corpus.inputs.plan import write_plan
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
manifest, output = read_manifest(sys.argv[1] + "/m.parquet"), Folder(sys.argv[1] + "/output")
before = peak()
plan = write_plan(manifest, np.empty(0, "S16"), output, "run1")
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
