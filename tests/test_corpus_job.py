"""The corpus job on a real Ray: whole, killed and gone on with, refused, and stopped early."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import ray
from corpus_files import excerpts, files, seen, wait_until, write_manifest
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from typer.testing import CliRunner
from web_storage import serving

from raydiar.cli import app
from raydiar.corpus.inputs.manifest import read_manifest
from raydiar.corpus.inputs.plan import Plan, write_plan
from raydiar.corpus.job import decoding, reservations, stages, waiting
from raydiar.corpus.job.decoding import Decode
from raydiar.corpus.job.graph import coordinator, job_context, job_graph
from raydiar.corpus.job.placement import Placement
from raydiar.corpus.job.run import diarize_corpus, resolve_corpus
from raydiar.corpus.job.stages import Resolve, Write
from raydiar.corpus.output import dataset
from raydiar.errors import ConfigError, JobFailed, ManifestError, OutputError, WeightsNotFound
from raydiar.pipelines.config import DEFAULT
from raydiar.storage.folder import Folder

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = str(ROOT / "jobs" / "diarize_corpus.py")


@pytest.fixture
def small_packs(monkeypatch):
    """A pack for every recording of 5 s, so that a job of seconds has a middle."""
    monkeypatch.setattr(decoding, "PACK_SECONDS", 5.0)


def test_a_job_leaves_one_row_per_recording_and_a_second_run_nothing_to_do(
    local_ray, sample_wav, tmp_path, capsys, monkeypatch
):
    (tmp_path / "text.mp3").write_text("this was a recording once " * 100)
    rows = [*excerpts(sample_wav, 3), {"uri": "text.mp3"}, {"uri": "absent.wav", "take": 9}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    output = str(tmp_path / "output")

    summary = diarize_corpus(manifest, output)
    assert (summary.num_ok, summary.num_recordings) == (3, 5)
    assert summary.errors == {"AudioDecodeError": 1, "AudioNotFound": 1}
    assert "device: cpu (no GPU in the cluster)" in capsys.readouterr().out
    assert sorted(seen(output).values()) == ["error", "error", "ok", "ok", "ok"]
    table = dataset.open(output).to_table().to_pylist()
    assert sorted(row["take"] or 0 for row in table) == [0, 0, 1, 2, 9]  # carried
    by_take = {row["take"]: row for row in table if row["status"] == "ok"}
    assert by_take[1]["start"] == rows[1]["start"]
    assert by_take[1]["turns"][0]["start"] >= rows[1]["start"]
    record = json.loads((tmp_path / "output/_raydiar/run.json").read_text())
    assert (record["state"], record["num_ok"]) == ("done", 3)
    assert record["pipeline"]["fingerprint"] == table[0]["pipeline"]["fingerprint"]
    left = {path.name for path in (tmp_path / "output" / "_raydiar").iterdir()}
    assert left == {"lock.guard", "run.json", "runs", "schema.parquet"}

    before = files(output)
    with monkeypatch.context() as patch:
        patch.setattr("raydiar.corpus.job.run._process", None)  # Ray is not even asked
        again = diarize_corpus(manifest, output)
    assert (again.num_processed, again.num_done_before) == (0, 5)
    assert files(output) == before

    # more recordings on the same output, from the command line
    write_manifest(tmp_path / "m.jsonl", [*rows, {"uri": "another-absent.wav"}])
    command = ["corpus", "diarize", "--manifest", manifest, "--output", output, "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "1 recordings processed: 0 ok, 1 errors; 5 of 6 were done before" in result.output
    assert len(seen(output)) == 6
    assert files(output).items() >= before.items()


@pytest.mark.parametrize(
    "placement", [Placement("cpu", 1, 1, 1, ""), Placement("cuda", 2, 8, 1, "")]
)
def test_decoding_stays_apart_from_inference(local_ray, tmp_path, capsys, placement):
    folder = Folder(str(tmp_path))
    rows = [{"uri": f"{hours}.wav", "duration": 3600 * hours} for hours in (0.01, 0.02, 3.0)]
    rows.append({"uri": "shard.tar"})
    manifest = read_manifest(write_manifest(tmp_path / "m.jsonl", rows))
    plan = write_plan(manifest, dataset.Inventory.read(folder).done, folder, "run1")
    schema = dataset.dataset_schema(192)
    resolve = Resolve(DEFAULT.clustering, None, 0.0, {}, schema)
    write = Write(folder, "run1", schema)

    with coordinator() as actor:
        steps = (Decode(), DEFAULT, resolve, write)
        job_graph(plan, folder, *steps, placement, actor, done=np.empty(0, "S16")).explain()
    _, _, operators = capsys.readouterr().out.partition("Physical Plan (Optimized)")
    apart = [
        "TaskPoolMapOperator[MapBatches(Write)]",
        "TaskPoolMapOperator[MapBatches(Join)->MapBatches(Resolve)]",
        "ActorPoolMapOperator[MapBatches(LocalInferenceStage)]",
        "TaskPoolMapOperator[MapBatches(DecodePortion)]",
        "TaskPoolMapOperator[MapBatches(ReadPlan)]",
    ]
    for operator in apart:
        assert operator in operators


def test_a_long_recording_goes_in_parts_and_leaves_the_row_of_the_whole(
    local_ray, sample_wav, tmp_path, pipeline, monkeypatch
):
    monkeypatch.setattr(decoding, "MOST_SECONDS", 20.0)
    monkeypatch.setattr(decoding, "PART_SECONDS", 7.0)
    monkeypatch.setattr(decoding, "OVERLAP_SECONDS", 10.0)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(sample_wav, "talk.wav")
    rows = [{"uri": str(sample_wav)}, {"uri": "shard.tar"}, *excerpts(sample_wav, 2)]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    output = str(tmp_path / "output")
    summary = diarize_corpus(manifest, output, keep_local=str(tmp_path / "kept"))
    assert (summary.num_ok, summary.num_recordings, summary.num_shards_read) == (4, 4, 1)
    assert len(seen(output)) == 4
    expected = pipeline(str(sample_wav))
    written = {row["recording_id"]: row for row in dataset.open(output).to_table().to_pylist()}
    for name in (str(sample_wav), f"{tmp_path}/shard.tar#talk.wav"):
        found = dataset.to_diarization(written[name])
        assert found.duration == expected.duration
        turns = [[(t.start, t.end, t.speaker) for t in o.turns] for o in (found, expected)]
        assert turns[0] == turns[1]
        voices = [[s.embedding for s in output.speakers] for output in (found, expected)]
        np.testing.assert_allclose(*voices, atol=1e-4)
    # what was kept is whole as well
    assert resolve_corpus(str(tmp_path / "kept"), str(tmp_path / "again")).num_ok == 4
    again = dataset.open(str(tmp_path / "again")).to_table().to_pylist()
    assert {row["recording_id"]: row["turns"] for row in again} == {
        name: row["turns"] for name, row in written.items()
    }


def test_little_waits_before_a_slow_stage_and_nothing_waits_forever(local_ray, monkeypatch):
    """Rows without bytes, of which Ray Data lets hundreds wait; stages that leave no CPU."""
    peaks = Counter()

    class Watched(waiting.BoundedWaiting):
        def _is_full(self, op):
            for following in op.output_dependencies:
                queued = self._topology[op].total_enqueued_output_blocks()
                queued += following.internal_input_queue_num_blocks()
                peaks[following.name] = max(peaks[following.name], queued)
            return super()._is_full(op)

    def many(table):
        for n in range(30):
            yield pa.table({"n": [n]})

    def slow(table):
        time.sleep(0.01)
        return table

    monkeypatch.setattr(waiting, "BoundedWaiting", Watched)
    row = {"batch_size": 1, "batch_format": "pyarrow"}
    with DataContext.current(job_context(Plan("plan", (), 0, 0, np.empty(0, "S16")))):
        rows = ray.data.from_items([{"n": n} for n in range(20)], override_num_blocks=20)
        rows = rows.map_batches(many, num_cpus=0.5, **row)
        rows = rows.map_batches(slow, num_cpus=1, compute=TaskPoolStrategy(size=1), **row)
        rows = rows.map_batches(lambda table: table, num_cpus=waiting.CHEAP_CPUS, **row)
        assert sum(1 for _ in rows.iter_batches(batch_size=None, prefetch_batches=0)) == 600
    # Ray Data reads whatever a task has ready in one go: 32, and what a few tasks make at once
    assert 1 <= peaks["MapBatches(slow)"] <= 180


def test_every_actor_of_a_pool_has_work(local_ray, tmp_path):
    """Calls of actors took no CPU, passed for cheap, and were two at a time for all actors."""

    class Who:
        def __call__(self, table):
            Path(tmp_path, str(os.getpid())).touch()
            deadline = time.monotonic() + 120
            while len(os.listdir(tmp_path)) < 4 and time.monotonic() < deadline:
                time.sleep(0.05)  # or the first ones might do all before the last one began
            return pa.table({"process": [os.getpid()]})

    row = {"batch_size": 1, "batch_format": "pyarrow"}
    with DataContext.current(job_context(Plan("plan", (), 0, 0, np.empty(0, "S16")))):
        rows = ray.data.from_items([{"n": n} for n in range(24)], override_num_blocks=24)
        actors = ActorPoolStrategy(size=4)
        rows = rows.map_batches(Who, num_cpus=0.5, compute=actors, **row)
        processes = Counter(row["process"] for row in rows.iter_rows())
    assert len(processes) == 4


def test_a_killed_job_goes_on_where_it_stopped(
    local_ray, sample_wav, tmp_path, small_packs, monkeypatch
):
    rows = [*excerpts(sample_wav, 14), {"uri": "absent.wav"}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    output = tmp_path / "output"
    script = f"""
from raydiar.corpus.job import decoding
decoding.PACK_SECONDS = 5.0
from raydiar.corpus.inputs.manifest import read_manifest
from raydiar.corpus.job.run import diarize_corpus, resolve_corpus
diarize_corpus({manifest!r}, {str(output)!r}, num_actors=1)
"""
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            [sys.executable, "-c", script],
            env=os.environ | {"RAY_ADDRESS": local_ray},
            stdout=log,
            stderr=log,
        )

        def wait_for(pattern, number):
            deadline = time.monotonic() + 240
            while len(list(output.glob(pattern))) < number and driver.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)

        wait_for("_raydiar/lock", 1)
        with pytest.raises(OutputError, match="is being written by run"):
            diarize_corpus(manifest, str(output))
        wait_for("*.parquet", 3)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    assert driver.returncode == -signal.SIGKILL, (tmp_path / "log").read_text()
    # what it had asked of the cluster would be kept from whoever goes on, for three minutes
    wait_until(reservations.reserved_by_dead)
    begun = seen(output)
    assert 3 <= len(begun) < 15
    before = files(output)

    # on a cluster of several nodes: actors find the weights beside the output
    monkeypatch.setattr("raydiar.corpus.job.placement.is_alone", lambda: False)
    summary = diarize_corpus(manifest, str(output))
    # tasks of the killed driver may still have published while this one was starting
    assert summary.num_done_before >= len(begun)
    assert summary.num_processed == 15 - summary.num_done_before
    assert sorted(seen(output).values()) == ["error"] + ["ok"] * 14
    assert files(output).items() >= before.items()
    left = {path.name for path in (output / "_raydiar").iterdir()}
    assert left == {"lock.guard", "run.json", "runs", "schema.parquet", "models"}
    assert not reservations.reserved_by_dead()


def test_an_error_that_is_not_the_outputs_is_not_told_as_such(sample_wav, tmp_path, monkeypatch):
    """A run meets many files besides its output: sockets, weights, folders of this machine."""
    manifest = write_manifest(tmp_path / "m.jsonl", excerpts(sample_wav, 1))
    output = str(tmp_path / "output")

    def fail(*arguments):
        raise OSError(24, "Too many open files", "/somewhere/else")

    monkeypatch.setattr("raydiar.corpus.job.run._process", fail)
    with pytest.raises(JobFailed, match=r"OSError.*Too many open files(.|\n)*run the job again"):
        diarize_corpus(manifest, output)
    record = json.loads((tmp_path / "output/_raydiar/run.json").read_text())
    assert record["state"] == "stopped"
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be used as output"):
        diarize_corpus(manifest, str(tmp_path / "file" / "output"))


def test_too_many_failures_stop_the_job(local_ray, talk, tmp_path, small_packs):
    with serving({f"/{n}.wav": talk for n in range(8)}) as server:
        server.opened.clear()  # what is not absent comes when the job has stopped
        rows = [{"uri": f"absent-{n}.wav", "duration": 5} for n in range(4)]
        rows += [{"uri": f"{server.url}/{n}.wav", "duration": 5} for n in range(8)]
        manifest = write_manifest(tmp_path / "m.jsonl", rows)
        output = str(tmp_path / "output")
        with pytest.raises(JobFailed, match=r"recordings failed .* x AudioNotFound"):
            diarize_corpus(manifest, output, max_failures=2)
        record = json.loads((tmp_path / "output/_raydiar/run.json").read_text())
        assert record["state"] == "stopped"
        assert 2 < len(seen(output)) <= 4
        assert not (tmp_path / "output/_raydiar/lock").exists()

        server.opened.set()
        summary = diarize_corpus(manifest, output)
        assert len(seen(output)) == summary.num_recordings == 12


def test_a_recording_that_is_refused_costs_itself_and_many_the_job(
    local_ray, sample_wav, tmp_path, small_packs
):
    """One geo-blocked URL among millions is an error row; wrong credentials are the operator's."""
    output = str(tmp_path / "output")
    with serving({}) as server:
        refused = [{"uri": f"{server.url}/status/403/{n}.wav", "duration": 5} for n in range(40)]
        rows = [*excerpts(sample_wav, 2), refused[0], {"uri": f"{server.url}/status/401/a.wav"}]
        summary = diarize_corpus(write_manifest(tmp_path / "m.jsonl", rows), output)
        assert (summary.num_ok, summary.errors) == (2, {"StorageDenied": 2})
        table = dataset.open(output).to_table().to_pylist()
        assert all(row["error"]["retryable"] for row in table if row["status"] == "error")
        again = diarize_corpus(str(tmp_path / "m.jsonl"), output, retry_errors="retryable")
        assert (again.num_processed, again.num_done_before) == (2, 2)

        manifest = write_manifest(tmp_path / "m.jsonl", refused)
        with pytest.raises(JobFailed, match=r"refused access to all of the first .*--retry-errors"):
            diarize_corpus(manifest, str(tmp_path / "other"))
        few = write_manifest(tmp_path / "m.jsonl", refused[:3])
        assert diarize_corpus(few, str(tmp_path / "few")).errors == {"StorageDenied": 3}


def failing_device(failures: int, marks: str):
    """LocalInferenceStage on a device that fails so many times: there is no broken GPU to test."""

    class LocalInferenceStage(stages.LocalInferenceStage):
        def _run(self, pcm):
            if len(os.listdir(marks)) < failures:
                Path(marks, str(os.getpid())).touch()  # one mark a process
                if len(os.listdir(marks)) == 2:
                    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory is short
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return super()._run(pcm)

    return LocalInferenceStage


@pytest.mark.parametrize("failures", [2, 99])
def test_a_failing_device_costs_its_process_and_then_the_job(
    local_ray, sample_wav, tmp_path, monkeypatch, failures
):
    marks, output = tmp_path / "marks", tmp_path / "output"
    marks.mkdir()
    device = failing_device(failures, str(marks))
    monkeypatch.setattr("raydiar.corpus.job.graph.LocalInferenceStage", device)
    manifest = write_manifest(tmp_path / "m.jsonl", excerpts(sample_wav, 2))
    if failures == 2:
        diarize_corpus(manifest, str(output))
        assert list(seen(output).values()) == ["ok", "ok"]
        assert len(list(marks.iterdir())) == 2  # each in a process of its own
    else:
        with pytest.raises(JobFailed, match=r"the device of node .* failed 4 times at pack") as e:
            diarize_corpus(manifest, str(output))
        assert not seen(output)
        assert e.traceback  # even while a caller holds the exception, as notebooks do:
        assert_all_cpus_become_free()


def assert_all_cpus_become_free():
    """Fails if actors of an ended job live on: the next one would wait for their CPUs forever."""
    import ray

    deadline = time.monotonic() + 200
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, ray.available_resources()
        time.sleep(0.2)


def test_what_cannot_work_is_refused_before_any_work(sample_wav, tmp_path):
    import ray

    started = ray.is_initialized()
    output = str(tmp_path / "output")
    twice = write_manifest(tmp_path / "twice.jsonl", [{"uri": "a.wav"}] * 2)
    with pytest.raises(ManifestError, match="more than once"):
        diarize_corpus(twice, output)
    good = write_manifest(tmp_path / "good.jsonl", [{"uri": "a.wav"}])
    with pytest.raises(WeightsNotFound):
        diarize_corpus(good, output, str(tmp_path / "no-such-pipeline"))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError, match="cannot be used as output"):
        diarize_corpus(good, str(tmp_path / "file"))
    assert ray.is_initialized() == started
    assert not files(output)
    assert not list((tmp_path / "output" / "_raydiar").glob("plan/*"))


def test_an_output_takes_only_its_own_pipeline_and_columns(local_ray, tmp_path):
    output = str(tmp_path / "output")
    manifest = write_manifest(tmp_path / "m.jsonl", [{"uri": "a.wav", "take": 1}])
    diarize_corpus(manifest, output)
    before = files(output)
    other = DEFAULT.with_parameters({"clustering": {"threshold": 0.6}})
    with pytest.raises(OutputError, match=r"made by another pipeline .* different: parameters"):
        diarize_corpus(manifest, output, other)
    write_manifest(tmp_path / "m.jsonl", [{"uri": "b.wav", "take": "one"}])
    with pytest.raises(OutputError, match="'take' as int64, the manifest as string"):
        diarize_corpus(manifest, output)
    assert files(output) == before


def test_a_gpu_that_is_not_there_is_refused(local_ray, tmp_path):
    manifest = write_manifest(tmp_path / "m.jsonl", [{"uri": "a.wav"}])
    with pytest.raises(ConfigError, match="no node of the Ray cluster has a GPU"):
        diarize_corpus(manifest, str(tmp_path / "output"), device="cuda")
