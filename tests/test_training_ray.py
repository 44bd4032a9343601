"""Training on Ray's workers: as in one process, whatever dies."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from training_files import small_recipe, write_conversations
from training_runs import run_alone, same_run

from raydiar.errors import TrainingError
from raydiar.training import start
from raydiar.training.folder import RunFolder


def test_two_workers_of_unequal_shares_train_as_one_process_and_one_may_die(local_ray, tmp_path):
    """Batches of five, for two workers; one is killed in the middle."""
    recipe = small_recipe(tmp_path / "talks")
    alone = run_alone(recipe, tmp_path / "alone")
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


def test_what_would_happen_again_is_not_tried_again(local_ray, tmp_path):
    """Recordings that cannot be read end the run with what is wrong, at the first try."""
    manifest = write_conversations(tmp_path, 1)
    (tmp_path / "talk0.wav").write_bytes(b"no audio")
    manifest.write_text("uri,rttm,seconds\ntalk0.wav,talk0.rttm,8\n")
    recipe = replace(small_recipe(tmp_path / "talks"), manifest=str(manifest), validate=None)
    with pytest.raises(TrainingError, match="recordings in a row cannot be read"):
        start(recipe, tmp_path / "run", workers=1, device="cpu")
    [attempt] = (tmp_path / "run/_raydiar/ray").iterdir()
    assert attempt.name.startswith("train-")


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
