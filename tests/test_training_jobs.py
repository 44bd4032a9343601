"""Training as users of a cluster start it: `ray job submit`, again after a kill."""

import json
import os
import signal
import subprocess
import time

import pytest
import torch
from ray_clusters import job_cluster
from training_files import TINY, write_conversations
from training_runs import run_alone, same_run

from raydiar.training import Recipe
from raydiar.training.exporting import load_trained
from raydiar.training.folder import RunFolder

LIMIT = 300  # s, that nothing here takes on any machine


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster():
    with job_cluster(num_cpus=3) as one:
        yield one


def wait_for(condition, job: subprocess.Popen):
    """What a condition gives once it holds, while a job runs."""
    deadline = time.monotonic() + LIMIT
    while not (found := condition()):
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def outcome(job: subprocess.Popen) -> str:
    said, _ = job.communicate(timeout=LIMIT)
    assert job.returncode == 0, said
    return said


def test_a_killed_segmentation_job_goes_on_when_it_is_submitted_again(cluster, tmp_path):
    """With more workers than before."""
    manifest = write_conversations(tmp_path / "talks", 2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "kind: segmentation\n"
        "manifest: of the command\n"
        "architecture: PyanNet\n"
        f"hyper_parameters: {json.dumps(TINY)}\n"
        "task: {duration: 1.0, max_speakers_per_chunk: 2}\n"
        "training: {batch_size: 3, checkpoint_every: 2, log_every: 1, schedule: constant,\n"
        "  learning_rate: 1.0e-4, max_steps: 1000000, validate_every: 1000000}\n"
    )
    folder = str(tmp_path / "run")
    command = ["jobs/train_segmentation.py", "--manifest", str(manifest), "--into", folder]
    command += ["--validate", str(manifest), "--recipe", str(recipe), "--device", "cpu"]
    run = RunFolder(folder)
    job = cluster.submit(*command)
    driver = wait_for(lambda: cluster.driver_of(folder), job)
    wait_for(lambda: max(run.checkpoints(), default=0) >= 4, job)
    os.kill(driver, signal.SIGKILL)
    said, _ = job.communicate(timeout=LIMIT)
    assert job.returncode != 0, said
    steps = str(max(run.checkpoints()) + 3)

    said = outcome(cluster.submit(*command, "--max-steps", steps, "--workers", "2"))
    assert f"SpeakerDiarization: step {steps} of {steps}, finished" in said
    assert "goes on from step" in said
    assert "Failed to query" not in said, "Ray Train looked for its controller elsewhere"
    whole = Recipe.read(str(recipe), manifest=str(manifest), validate=str(manifest))
    same_run(run_alone(whole.with_training(max_steps=int(steps)), tmp_path / "alone"), folder)


def test_an_embedding_job(cluster, tmp_path):
    manifest = write_conversations(tmp_path / "talks", 3)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "kind: embedding\n"
        "manifest: of the command\n"
        "architecture: XVectorSincNet\n"
        "hyper_parameters: {dimension: 16}\n"
        "task: {duration: 1.0}\n"
        "training: {max_steps: 2, batch_size: 4}\n"
    )
    folder = str(tmp_path / "run")
    said = outcome(
        cluster.submit(
            *("jobs/train_embedding.py", f"--manifest={manifest}", "--into", folder),
            *("--recipe", str(recipe), "--device", "cpu"),
        )
    )
    assert "SpeakerEmbedding: step 2 of 2, finished" in said
    assert load_trained(folder).dimension == 16
