"""The corpus job as users start it: a plain script, and `ray job submit` to a cluster."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).resolve().parents[1]
RAY = str(Path(sys.executable).with_name("ray"))


@pytest.fixture
def manifest(sample_wav, tmp_path) -> str:
    rows = [{"uri": str(sample_wav), "start": 6, "duration": 5}, {"uri": "absent.wav"}]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def statuses(output) -> list[str]:
    return sorted(pq.read_table(output).column("status").to_pylist())


def test_the_script_starts_its_own_ray_and_ends_it(manifest, tmp_path):
    command = [sys.executable, "jobs/diarize_corpus.py", "--manifest", manifest]
    command += ["--output", str(tmp_path / "output")]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    job = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert job.returncode == 0, job.stderr
    assert statuses(tmp_path / "output") == ["error", "ok"]
    assert "device: cpu" in job.stdout
    assert "2 recordings processed: 1 ok, 1 errors" in job.stdout
    assert f"The dataset is in {tmp_path / 'output'}" in job.stdout


def test_the_script_says_in_one_line_what_is_wrong(tmp_path):
    command = [sys.executable, "jobs/diarize_corpus.py", "--manifest", str(tmp_path / "m.csv")]
    command += ["--output", str(tmp_path / "output")]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert job.returncode == 1
    assert job.stderr == f"raydiar: there is no manifest at {tmp_path}/m.csv\n"


@pytest.mark.parametrize(
    "script", [["jobs/diarize_corpus.py"], ["jobs/detect_corpus.py", "speech"]], ids=lambda s: s[0]
)
def test_ray_job_submit(script, manifest, tmp_path):
    gcs, dashboard, client, agent, metrics = free_ports(5)
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    environment.pop("RAY_ADDRESS", None)
    start = [RAY, "start", "--head", "--block", "--num-cpus=3", f"--port={gcs}"]
    start += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    start += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    start += [f"--metrics-export-port={metrics}"]
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(start, env=environment, stdout=log, stderr=log)
    try:
        submit = [RAY, "job", "submit", f"--address=http://127.0.0.1:{dashboard}"]
        submit += ["--working-dir", ".", "--", sys.executable, *script]
        submit += ["--manifest", manifest, "--output", str(tmp_path / "output")]
        wait_for_port(dashboard, head, tmp_path / "head.log")
        job = subprocess.run(submit, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert job.returncode == 0, job.stdout + job.stderr
        assert "The dataset is in" in job.stdout
        assert statuses(tmp_path / "output") == ["error", "ok"]
    finally:
        head.send_signal(signal.SIGTERM)  # it ends the processes that it started, and no others
        head.wait(60)


def wait_for_port(port: int, head: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert head.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError(f"no dashboard: {log.read_text()}")
