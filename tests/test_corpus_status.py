"""What one sees of a job: its lines, its record, its metrics, and the status of any output."""

import json
import os
import pty
import re
import subprocess
import sys
import time
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from corpus_files import wait_until
from corpus_rows import PIPELINE, SCHEMA, publish
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.corpus.job import decoding
from raydiar.corpus.job.run import diarize_corpus
from raydiar.corpus.output import dataset
from raydiar.corpus.watch.pools import stage_of
from raydiar.corpus.watch.progress import STEPS, RunSummary
from raydiar.corpus.watch.record import write_record
from raydiar.corpus.watch.reporting import Reporter, duration, progress_line
from raydiar.corpus.watch.status import read_status
from raydiar.errors import OutputError
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def job(local_ray, sample_wav, tmp_path_factory):
    """A job that was asked where it stands all the time: output, statuses, and its lines."""
    folder = tmp_path_factory.mktemp("job")
    rows = [{"uri": str(sample_wav), "start": 5 * n, "duration": 5} for n in range(6)]
    rows += [{"uri": "absent.wav", "duration": 5}, {"uri": "gone.wav", "duration": 5}]
    manifest = folder / "m.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output, asked, lines = str(folder / "out"), [], []

    def report(line: str) -> None:
        lines.append(line)
        asked.append(read_status(output))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "PACK_SECONDS", 5.0)
        patch.setattr("raydiar.corpus.job.run.Reporter", partial(Reporter, every=0.02))
        diarize_corpus(str(manifest), output, report=report, price=2.0)
    return output, asked, lines


def test_a_running_job_can_be_asked(job):
    output, asked, lines = job
    assert {status.state for status in asked} == {"running"}
    assert {status.num_known for status in asked} == {8}
    done = [status.num_done for status in asked]
    assert done == sorted(done)
    between = [status for status in asked if 0 < status.num_ok < 6 and status.speed]
    assert between  # it was seen in the middle
    for status in between:
        assert 0 < status.seconds_left < 600
        assert status.known_exactly
        # an absent recording counts as known until it has its row
        assert 30 <= status.known_seconds <= 40.1
    assert any(re.match(r"\d of 8 recordings, 0\.0\d of 0\.01 h, .* x real time", x) for x in lines)

    result = CliRunner().invoke(app, ["corpus", "status", output, "--json"])
    told = json.loads(result.output)
    assert (told["state"], told["num_ok"], told["num_errors"], told["num_known"]) == (
        *("done", 6, 2, 8),
    )
    assert told["audio_seconds"] == told["known_seconds"] == 30.0
    assert told["seconds_left"] is None
    assert told["errors"][0]["type"] == "AudioNotFound"
    assert told["errors"][0]["count"] == 2
    text = CliRunner().invoke(app, ["corpus", "status", output]).output
    assert "recordings  8 of 8: 6 ok, 2 errors" in text
    assert "2 x AudioNotFound; the first:" in text
    assert "no such file" in text


def test_the_record_says_what_ran_where(job):
    output, _, _ = job
    record = json.loads(Path(output, "_raydiar/run.json").read_text())
    assert json.loads(Path(output, f"_raydiar/runs/{record['run']}.json").read_text()) == record
    assert (record["state"], record["num_ok"]) == ("done", 6)
    assert record["errors"] == {"AudioNotFound": 2}
    assert record["versions"].keys() == {"raydiar", "python", "ray", "torch"}
    assert record["versions"]["ray"].startswith("2.60")
    assert record["placement"]["device"] == record["device"] == "cpu"
    assert record["pipeline"]["fingerprint"]
    assert record["begun"] < record["updated"]
    assert all(record["step_seconds"][step] > 0 for step in ("decode", "inference", "resolve"))
    assert record["audio_seconds"] == 30.0
    # how busy what costs money was, and what it cost
    assert record["hours_per_hour"] == pytest.approx(30.0 / record["processing_seconds"])
    assert 0 < record["actor_seconds"] <= record["processing_seconds"] + 1
    assert 0 <= record["wait_share"] < 1
    assert record["cost"] == pytest.approx(2.0 * record["actor_seconds"] / 3600)
    assert record["cost_per_hour"] == pytest.approx(record["cost"] / (30 / 3600))


def test_stages_that_ray_runs_as_one_are_named_by_the_last():
    assert stage_of("MapBatches(LocalInferenceStage)") == "inference"
    assert stage_of("MapBatches(Join)->MapBatches(Keep)->MapBatches(Resolve)") == "resolve"
    assert stage_of("Input") is None


def test_a_status_tells_queues_work_and_cost(job):
    output, asked, _ = job
    queues = [status.queues for status in asked if status.queues]
    assert queues
    for seen in queues:
        assert {"decode", "inference", "resolve", "write"} <= seen.keys()
        assert all(depth >= 0 for depth in seen.values())
    status = read_status(output)
    assert status.queues == {}  # of a run that is over
    assert 0 <= status.wait_share < 1
    assert re.search(
        r"work +\d\S* actor hours, \d+% of them waiting; cost .* an hour of audio", str(status)
    )
    result = CliRunner().invoke(
        app, ["corpus", "diarize", "--input", output, "--output", output, "--price", "-1"]
    )
    assert (result.exit_code, result.stdout) == (1, "")
    assert "price must be 0 or more" in result.stderr


def test_prometheus_finds_the_metrics(job):
    import ray

    output, _, _ = job
    [node] = ray.nodes()
    address = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    wanted = {
        f'ray_raydiar_audio_seconds_total{{output="{output}"}}': 30.0,
        f'ray_raydiar_recordings_total{{output="{output}",status="ok"}}': 6.0,
        f'ray_raydiar_recordings_total{{output="{output}",status="error"}}': 2.0,
        f'ray_raydiar_errors_total{{output="{output}",type="AudioNotFound"}}': 2.0,
        f'ray_raydiar_step_seconds_count{{output="{output}",step="inference"}}': 8.0,
    }
    dashboard = (ROOT / "cluster/grafana-dashboard.json").read_text()
    shown = set(re.findall(r"ray_raydiar_\w+", dashboard))
    assert len(json.loads(dashboard)["panels"]) == 9
    assert len(shown) == 9
    deadline = time.monotonic() + 200  # Ray hands metrics on every ten seconds
    found = {}
    names: set[str] = set()
    while time.monotonic() < deadline and not (wanted.items() <= found.items() and shown <= names):
        time.sleep(0.5)
        with urllib.request.urlopen(address) as answer:
            found = dict(samples(answer.read().decode()))
        names = {name.partition("{")[0] for name in found}
    assert wanted.items() <= found.items(), {k: v for k, v in found.items() if "raydiar" in k}
    assert shown <= names  # what the dashboard asks for is served


def samples(text: str):
    """Samples of Prometheus' text format, without the labels that Ray adds."""
    for name, labels, value in re.findall(r"^(ray_raydiar_\w+)\{(.*)\} (\S+)$", text, re.M):
        ours = re.findall(r'(?:output|status|type|step|stage|state)="[^"]*"', labels)
        yield f"{name}{{{','.join(sorted(ours))}}}", float(value)


def test_a_job_gives_rates_to_plan_with(job, tmp_path):
    output, _, _ = job
    rates = tmp_path / "rates.json"
    command = [sys.executable, "benchmarks/rates.py", "--job", output, "--json", str(rates)]
    subprocess.run(command, cwd=ROOT, check=True)
    plan = ["plan", "--hours", "1000", "--cpus", "8", "--rates", str(rates)]
    result = CliRunner().invoke(app, plan)
    assert result.exit_code == 0, result.output
    assert f"in run {json.loads(Path(output, '_raydiar/run.json').read_text())['run']}" in (
        result.output
    )


# -- states ----------------------------------------------------------------------------------------


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> Folder:
    uri = str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out"
    folder = Folder(uri)
    dataset.write_schema(folder, SCHEMA)
    return folder


def summary(run: str, **values) -> RunSummary:
    return RunSummary(run, "m.parquet", "out", num_recordings=4, **values)


def test_an_output_tells_its_state(folder):
    assert read_status(folder.uri).state == "unknown"
    publish(folder, "run1", "ok", "a", "b")
    with OutputLock(folder, "run1"):
        assert read_status(folder.uri).state == "starting"
        write_record(folder, summary("run1", num_ok=2), PIPELINE)
        status = read_status(folder.uri)
        assert (status.state, status.num_done, status.num_known) == ("running", 2, 4)
    assert read_status(folder.uri).state == "killed"
    write_record(folder, summary("run1", num_ok=2, state="stopped"), PIPELINE)
    assert read_status(folder.uri).state == "stopped"
    with OutputLock(folder, "run2"):
        status = read_status(folder.uri)
        assert (status.state, status.run, status.num_known) == ("starting", "run2", None)
        assert "state       starting (run run2)" in str(status)
        write_record(folder, summary("run2"), PIPELINE)
        # a run that lost its lock, waking up late
        write_record(folder, summary("run1", state="stopped"), PIPELINE)
        assert read_status(folder.uri).run == "run2"
    write_record(folder, summary("run2", state="done"), PIPELINE)
    assert read_status(folder.uri).state == "done"
    assert set(folder.list("_raydiar/runs")) == {"run1.json", "run2.json"}


def test_a_dead_driver_was_killed(folder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with OutputLock(folder, "run1"):
        write_record(folder, summary("run1"), PIPELINE)
        lock = json.loads(folder.read("_raydiar/lock"))
    folder.publish("_raydiar/lock", json.dumps(lock | {"process": dead.pid}).encode())
    assert read_status(folder.uri).state == "killed"


def test_only_rows_that_count_are_counted(folder):
    publish(folder, "run1", "error", "a", "b", "c")
    publish(folder, "run2", "ok", "b", "d")
    publish(folder, "run3", "ok", "d")
    before = {name: folder.read(name) for name in folder.list()}
    status = read_status(folder.uri)
    assert (status.num_ok, status.num_errors, status.audio_seconds) == (2, 2, 6.0)
    [kind] = status.errors
    assert (kind.type, kind.count, kind.recording_id) == ("AudioDecodeError", 2, "a")
    assert kind.message == "not audio"
    assert {name: folder.read(name) for name in folder.list()} == before


def test_a_file_that_a_job_rewrites_meanwhile_is_no_error(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    dataset.write_schema(folder, SCHEMA)
    publish(folder, "run1", "error", "a", "b")
    listed = Folder.list

    def list_then_rewrite(self, *arguments):
        found = listed(self, *arguments)
        for name in listed(self):
            if "run1" in name:
                publish(self, "run2", "error", "a", "b")
                self.delete(name)
        return found

    monkeypatch.setattr(Folder, "list", list_then_rewrite)
    assert read_status(folder.uri).num_errors == 2


def test_what_is_no_output_is_refused(tmp_path):
    with pytest.raises(OutputError, match="holds no diarization dataset"):
        read_status(str(tmp_path))
    result = CliRunner().invoke(app, ["corpus", "status", str(tmp_path)])
    assert (result.exit_code, result.output) == (
        *(1, f"raydiar: {tmp_path} holds no diarization dataset\n"),
    )


# -- lines -----------------------------------------------------------------------------------------


def receipt(ok: int, audio: float, errors=(), stated: float = 0.0, shards=()) -> dict:
    steps = {f"{step}_seconds": [1.0] for step in STEPS}
    counts = {"ok": ok, "errors": list(errors), "audio_seconds": audio}
    return counts | {"stated_seconds": stated, "shards": list(shards)} | steps


def test_time_left_and_known_hours_come_from_what_is_done():
    run = summary("run1")
    assert (run.seconds_left, run.known_seconds) == (None, None)
    assert "0 of 4 recordings, 0.00 h" in progress_line(run)
    run.add(receipt(1, 3600.0))
    run.processing_seconds = 60.0
    assert run.seconds_left == 180.0
    assert run.known_seconds == 4 * 3600.0
    assert progress_line(run) == (
        "1 of 4 recordings, 1.00 of ≈4.00 h, 60.0 x real time, 0 errors, ≈3 min left"
    )
    run.add(receipt(0, 0.0, ["AudioNotFound", "AudioNotFound", "EmptyAudio"]))
    assert progress_line(run).endswith(
        "1.00 of ≈1.00 h, 60.0 x real time, 3 errors (2 AudioNotFound, 1 EmptyAudio), ≈0 s left"
    )
    run.num_recordings = 9  # a manifest whose end is not known yet
    assert progress_line(run).startswith("4 of 9 recordings")


def test_time_left_comes_from_the_manifest_where_it_states_all_seconds():
    run = summary("run1", stated_seconds=36_000.0, stated_all=True)
    assert (run.seconds_left, run.known_seconds) == (None, 36_000.0)
    run.processing_seconds = 60.0
    run.add(receipt(1, 3500.0, stated=3600.0))  # the longest of all four are to come
    assert run.seconds_left == pytest.approx(540.0)
    assert run.known_seconds == 3500.0 + 32_400.0


def test_time_left_of_shards_comes_from_the_shards_read():
    run = RunSummary("run1", "m", "out", num_recordings=2, num_shards=2, num_shards_read=1)
    told = {"num_rows": 500, "num_done": 0}
    run.add(receipt(500, 3600.0, shards=[told]))
    run.add(receipt(1, 100.0))
    assert run.part_done == 0.5
    assert run.known_seconds == 2 * 3700.0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (3599, "1 h 0 min"), (180_000, "2 d 2 h")],
)
def test_durations_are_in_words(seconds, words):
    assert duration(seconds) == words


def test_a_job_that_finishes_nothing_says_so_even_if_its_record_cannot_be_written(monkeypatch):
    monkeypatch.setattr("raydiar.corpus.watch.reporting.QUIET_SECONDS", 0.1)

    def fail():
        raise OSError("the storage is away")

    lines = []
    with Reporter(summary("run1"), fail, lines.append, every=0.1):
        wait_until(lambda: any("nothing finished" in line for line in lines[1:]))
    assert re.search(r"0 errors; nothing finished for \d+ s$", lines[-1])


@pytest.mark.parametrize("error", [BrokenPipeError, ValueError, RuntimeError])
def test_who_looks_on_may_leave_and_the_record_is_still_written(error):
    records = []

    def report(line):
        raise error("nobody reads this")

    with Reporter(summary("run1"), lambda: records.append(1), report, every=0.05):
        wait_until(lambda: len(records) >= 3)


def test_a_job_whose_output_nobody_reads_goes_on(tmp_path):
    """As after `raydiar corpus diarize … | head -1`, or with a terminal that is gone."""
    script = f"""
import sys, time
from pathlib import Path
from raydiar.corpus.watch.progress import RunSummary
from raydiar.corpus.watch.reporting import Reporter, print_line
run = RunSummary("run1", "m", "out", num_recordings=3)
record = Path({str(tmp_path / "record")!r})
sys.stdin.readline()
print_line("device: cpu")
records = []
with Reporter(run, lambda: records.append(record.write_text(f"{{len(records)}}")), every=0.1):
    while len(records) < 5:
        time.sleep(0.05)
print("end")
"""
    job = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    job.stdout.close()
    job.stdin.write(b"go\n")
    job.stdin.close()
    assert job.wait(200) == 0
    assert int((tmp_path / "record").read_text()) >= 4


# what it has done grows by one for each line that it is given
WATCHED = """
import sys
from raydiar.corpus.watch.progress import RunSummary
from raydiar.corpus.watch.reporting import Reporter
run = RunSummary("run1", "m", "out", num_recordings=3)
with Reporter(run, lambda: None, every=0.5):
    print("device: cpu", flush=True)
    for _ in range(3):
        sys.stdin.readline()
        run.num_ok += 1
print("end")
"""


def test_a_terminal_shows_one_line_kept_up_to_date():
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100"}
    watched = subprocess.Popen(
        [sys.executable, "-c", WATCHED], stdin=subprocess.PIPE, stdout=theirs, env=environment
    )
    os.close(theirs)
    shown, awaited = b"", 0
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if awaited < 3 and f"{awaited} of 3 recordings".encode() in shown:
            awaited += 1
            watched.stdin.write(b"on\n")
            watched.stdin.flush()
    assert watched.wait() == 0
    watched.stdin.close()
    text = shown.decode()
    assert {f"{n} of 3 recordings" in text for n in range(3)} == {True}
    plain = [re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|\r", "", line) for line in text.split("\n")]
    # all else was drawn over in place
    assert [line.strip() for line in plain if "recordings" not in line and line.strip()] == [
        "device: cpu",
        "end",
    ]
    assert "\x1b[2K" in text


def test_a_log_gets_a_line_now_and_then():
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", WATCHED], **pipes) as log:
        told = log.stdout.readline()
        assert told == "device: cpu\n"
        for _ in range(3):
            told += (line := log.stdout.readline())
            assert re.match(r"\d of 3 recordings, ", line)
            log.stdin.write("on\n")
            log.stdin.flush()
        rest = log.stdout.read().splitlines()
    assert log.returncode == 0
    assert rest[-1] == "end"
    assert all(re.match(r"\d of 3 recordings, ", line) for line in rest[:-1])
    assert "\x1b" not in told
