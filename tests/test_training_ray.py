"""Training on Ray's workers: as in one process, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from training_files import TINY, write_conversations

from raydiar.training import Recipe, TrainingConfig, start
from raydiar.training.exporting import load_trained
from raydiar.training.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Recipe:
    manifest = write_conversations(tmp_path_factory.mktemp("talks"), 3)
    return Recipe(
        "segmentation",
        str(manifest),
        validate=str(manifest),
        architecture="PyanNet",
        hyper_parameters=TINY,
        task={"duration": 2.0, "max_speakers_per_chunk": 2},
        training=TrainingConfig(
            max_steps=12,
            batch_size=5,
            learning_rate=1e-3,
            checkpoint_every=2,
            validate_every=6,
            log_every=1,
        ),
    )


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory) -> str:
    """The same run in one process."""
    folder = str(tmp_path_factory.mktemp("alone") / "run")
    start(recipe, folder, device="cpu", quiet=True)
    return folder


def same_run(one: str, other: str, tolerance: float = 1e-4) -> None:
    rows = [RunFolder(folder).rows("log") for folder in (one, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=tolerance)
    ends = [load_trained(folder).state_dict() for folder in (one, other)]
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-3), name
    found = [RunFolder(folder).rows("validation")[-1] for folder in (one, other)]
    assert found[0]["val_der"] == pytest.approx(found[1]["val_der"], abs=0.02)


def test_two_workers_of_unequal_shares_train_as_one_process_and_one_may_die(
    recipe, alone, local_ray, tmp_path
):
    """Batches of five, for two workers; one is killed in the middle."""
    folder = str(tmp_path / "run")
    killed = threading.Event()

    def kill() -> None:
        while not killed.is_set():
            if any(step >= 4 for step in RunFolder(folder).checkpoints()):
                for pid in worker_pids():
                    os.kill(pid, signal.SIGKILL)
                    killed.set()
                    return
            time.sleep(0.05)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    status = start(recipe, folder, workers=2, device="cpu")
    thread.join(5)
    assert killed.is_set(), "nothing was killed: the run was over first"
    assert status["finished"]
    assert status["step"] == 12
    same_run(alone, folder)


def worker_pids() -> list[int]:
    """Processes of Ray Train's workers of our own cluster."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            name = (path / "cmdline").read_bytes().split(b"\0")[0].decode()
            parent = ours(int(path.name))
        except (OSError, ValueError):
            continue
        if name.startswith("ray::") and "RayTrainWorker" in name and parent:
            found.append(int(path.name))
    return found


def ours(pid: int) -> bool:
    """Whether a process descends from this one."""
    while pid > 1:
        if pid == os.getpid():
            return True
        stat = Path(f"/proc/{pid}/stat").read_text()
        pid = int(stat.rpartition(")")[2].split()[1])
    return False


def test_a_job_that_is_killed_goes_on_when_it_is_submitted_again(recipe, alone, tmp_path):
    """`ray job submit`, to a cluster of its own; stopped in the middle, then submitted again."""
    from test_job_entrypoints import RAY, free_ports, wait_for_port

    gcs, dashboard, client, agent, metrics = free_ports(5)
    environment = os.environ | {"RAY_USAGE_STATS_ENABLED": "0"}
    environment.pop("RAY_ADDRESS", None)
    command = [RAY, "start", "--head", "--block", "--num-cpus=3", f"--port={gcs}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--metrics-export-port={metrics}"]
    folder = str(tmp_path / "run")
    recipe_file = tmp_path / "recipe.json"
    recipe_file.write_text(json.dumps(as_mapping(recipe)))
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for_port(dashboard, head, tmp_path / "head.log")
        address = ["--address", f"http://127.0.0.1:{dashboard}"]
        submit = [RAY, "job", "submit", *address, "--working-dir", "."]
        script = [sys.executable, "jobs/train_segmentation.py", "--recipe", str(recipe_file)]
        script += ["--manifest", recipe.manifest, "--into", folder, "--workers", "1"]
        script += ["--device", "cpu"]
        options = {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}
        first = [*submit, "--no-wait", "--submission-id", "first", "--", *script]
        assert subprocess.run(first, **options).returncode == 0
        deadline = time.monotonic() + 180
        while not any(step >= 4 for step in RunFolder(folder).checkpoints()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        subprocess.run([RAY, "job", "stop", *address, "first"], **options)
        cut = max(RunFolder(folder).checkpoints())
        again = subprocess.run([*submit, "--", *script], **options)
        assert again.returncode == 0, again.stdout + again.stderr
        if cut < 12:
            assert f"goes on from step {cut}" in again.stdout or cut < max(
                RunFolder(folder).checkpoints()
            )
        assert "step 12 of 12, finished" in again.stdout
        same_run(alone, folder)
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(60)


def as_mapping(recipe: Recipe) -> dict:
    from dataclasses import asdict

    return asdict(recipe)
