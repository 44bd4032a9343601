"""Jobs on clusters that hold no worker when they begin: nodes come, work, and go again."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from corpus_files import driver, excerpts, seen, wait_until, write_manifest
from ray_clusters import RAY, growing_cluster

from raydiar.corpus.job import growth, placement
from raydiar.errors import ConfigError

SCRIPT = Path(__file__).resolve().parents[1] / "jobs" / "diarize_corpus.py"


def submit(cluster, *command: str, working_dir: Path | None = None) -> subprocess.Popen:
    """`ray job submit -- python …`, whose output is told as one stream."""
    submission = [*RAY, "job", "submit", "--address", cluster.dashboard]
    # not needed otherwise, and the nodes here share the copy that each deletes when it goes
    submission += ["--working-dir", str(working_dir)] if working_dir else []
    return subprocess.Popen(
        [*submission, "--", sys.executable, *command],
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_job_starts_where_nothing_runs_and_lets_go_of_what_came(sample_wav, tmp_path):
    """As `cluster/` starts them: `--device auto` found no device on a head without CPUs."""
    folder, output = tmp_path / "folder", tmp_path / "output"
    folder.mkdir()
    shutil.copy(SCRIPT, folder)
    manifest = write_manifest(tmp_path / "m.jsonl", excerpts(sample_wav, 4))
    with growing_cluster({"cpu": {"CPU": 1, "most": 3}}, idle_seconds=6) as cluster:
        command = ("--manifest", manifest, "--output")
        refused = submit(cluster, SCRIPT.name, *command, "output", working_dir=folder)
        job = submit(cluster, str(SCRIPT), *command, str(output))
        told, _ = refused.communicate(timeout=120)
        assert refused.returncode == 1, told
        assert "--output output: a job that was submitted with --working-dir" in told

        most = 0
        while job.poll() is None:
            most = max(most, len(cluster.raylets()))
            time.sleep(0.3)
        most = max(most, len(cluster.raylets()))  # nodes stay for seconds after their last work
        told = job.stdout.read()
        assert job.returncode == 0, told
        assert "device: cpu (the cluster has no GPU to bring; waiting for nodes)" in told
        assert list(seen(output).values()) == ["ok"] * 4
        assert list((output / "_raydiar" / "models").iterdir()), "nodes to come share no disk"
        assert most >= 3  # the head, what infers, what feeds it
        wait_until(lambda: len(cluster.raylets()) == 1, seconds=150)


ON_MADE_UP_GPUS = """
import os, sys
from pathlib import Path
import ray
from raydiar.corpus.job import graph, stages
from raydiar.corpus.job.run import diarize_corpus

manifest, output, marks = sys.argv[1:]

class LocalInferenceStage(stages.LocalInferenceStage):
    def __init__(self, pipeline, device, *more):
        assert device == "cuda"
        [gpu] = ray.get_gpu_ids()
        Path(marks, ray.get_runtime_context().get_node_id()).touch()
        super().__init__(pipeline, "cpu", *more)  # there is no GPU behind it

graph.LocalInferenceStage = LocalInferenceStage
print(diarize_corpus(manifest, output, device="cuda", num_actors=2))
"""


def test_gpus_that_are_not_there_yet_are_asked_for(sample_wav, tmp_path):
    marks, output = tmp_path / "marks", tmp_path / "output"
    marks.mkdir()
    script = tmp_path / "job.py"
    script.write_text(ON_MADE_UP_GPUS)
    manifest = write_manifest(tmp_path / "m.jsonl", excerpts(sample_wav, 2))
    groups = {"cpu": {"CPU": 2, "most": 2}, "gpu": {"CPU": 1, "GPU": 1, "most": 2}}
    with growing_cluster(groups, version=1) as cluster:
        job = submit(cluster, str(script), manifest, str(output), str(marks))
        told, _ = job.communicate(timeout=240)
        assert job.returncode == 0, told
        assert "device: cuda (asking for GPUs that are not there yet); 1 actor, up to 2" in told
    assert list(seen(output).values()) == ["ok"] * 2
    assert list(marks.iterdir())


def nodes(monkeypatch, *resources: dict, alone: bool = False):
    monkeypatch.setattr(placement, "_nodes", lambda: list(resources))
    monkeypatch.setattr(placement, "is_alone", lambda: alone)


HEAD, CPUS, GPUS = {"CPU": 0}, {"CPU": 8, "memory": 2**34}, {"CPU": 16, "GPU": 2}


@pytest.mark.parametrize(
    ("found", "device", "num_actors", "chosen"),
    [
        ([HEAD], "cuda", None, ("cuda", 1, None)),
        ([HEAD], "cuda", 64, ("cuda", 1, 64)),
        ([HEAD, GPUS], "auto", "auto", ("cuda", 2, None)),
        ([HEAD, GPUS], "cuda", 1, ("cuda", 1, 1)),
        ([HEAD, GPUS, GPUS], "auto", "64", ("cuda", 4, 64)),
        ([HEAD, CPUS], "auto", None, ("cpu", 7, None)),
        ([HEAD, CPUS], "cuda", 3, ("cuda", 1, 3)),
        ([HEAD], "cpu", None, ("cpu", 1, None)),
        ([HEAD], "cpu", 500, ("cpu", 1, 500)),
        ([HEAD, CPUS], "cpu", 500, ("cpu", 7, 500)),
        ([HEAD, GPUS], "cpu", 4, ("cpu", 4, 4)),
    ],
)
def test_a_pool_goes_from_what_is_there_to_what_was_asked_for(
    monkeypatch, found, device, num_actors, chosen
):
    nodes(monkeypatch, *found)
    place = placement.place(device, num_actors)
    assert (place.device, place.num_actors, place.max_actors) == chosen


def test_a_machine_alone_is_all_there_will_be(monkeypatch):
    nodes(monkeypatch, {"CPU": 9}, alone=True)
    place = placement.place()
    assert place.num_actors == place.max_actors
    with pytest.raises(ConfigError, match="no node of the Ray cluster has a GPU"):
        placement.place("cuda")
    with pytest.raises(ConfigError, match="do not fit"):
        placement.place("cpu", 99)


@pytest.mark.parametrize("number", [0, -1, "many", "2.5"])
def test_a_number_of_actors_is_one_or_auto(number):
    with pytest.raises(ConfigError, match="at least 1, or auto"):
        placement.actors_asked_for(number)


def test_a_cluster_that_starts_nothing_for_a_gpu_has_none(local_ray):
    assert growth.first_gpus(begun=1.0) == (0, "nothing was started for a GPU in 1 s")
    assert not growth.is_growing()


ON_EVERY_NODE = """
import os, time
from pathlib import Path
import ray
from raydiar.corpus.job import decoding, graph, pool, stages
from raydiar.corpus.job.run import diarize_corpus
decoding.PACK_SECONDS = 5.0
pool._EVERY = 0.5

class LocalInferenceStage(stages.LocalInferenceStage):
    def _run(self, pcm):
        Path({marks!r}, ray.get_runtime_context().get_node_id()).touch()
        deadline = time.monotonic() + 200
        while len(os.listdir({marks!r})) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)  # for the node that comes
        return super()._run(pcm)

graph.LocalInferenceStage = LocalInferenceStage
print(diarize_corpus({manifest!r}, {output!r}, device="cpu"))
"""


def test_a_node_that_comes_gets_as_many_actors_as_if_it_had_been_there(talk, tmp_path):
    """Ray Data kept four tenths of the CPUs for stages that need none of them."""
    from ray.cluster_utils import Cluster

    marks, output, log = (tmp_path / name for name in ("marks", "output", "log"))
    marks.mkdir()
    for number in range(6):
        (tmp_path / f"{number}.wav").write_bytes(talk)
    rows = [{"uri": str(tmp_path / f"{number}.wav")} for number in range(6)]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    job = ON_EVERY_NODE.format(marks=str(marks), manifest=manifest, output=str(output))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        cluster.add_node(num_cpus=2)
        with driver(job, cluster.address, log) as process:
            wait_until(lambda: list(marks.iterdir()) or process.poll() is not None)
            cluster.add_node(num_cpus=2)
            assert process.wait(timeout=280) == 0, log.read_text()
    finally:
        cluster.shutdown()
    assert list(seen(output).values()) == ["ok"] * 6
    assert len(list(marks.iterdir())) == 2
