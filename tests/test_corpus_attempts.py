"""Who is to answer for work that ended its process: its node, its device, its pack, or nobody."""

import asyncio
import re

import pytest
from corpus_files import driver, seen, write_manifest

from raydiar.corpus.job import attempts, exclusion, places
from raydiar.corpus.job.attempts import MOST_ATTEMPTS, Coordinator
from raydiar.corpus.job.exclusion import Exclusion
from raydiar.corpus.job.places import Place


@pytest.fixture
def nodes(monkeypatch) -> dict:
    """What is alive, by node; and nothing is held on real nodes."""
    alive = {name: {"CPU": 4, "GPU": 1} for name in "abcd"}
    monkeypatch.setattr(attempts, "alive_nodes", lambda: alive)
    monkeypatch.setattr(exclusion, "alive_nodes", lambda: alive)
    monkeypatch.setattr(attempts, "_killed_by_ray", lambda worker: worker == "starved")
    monkeypatch.setattr(Exclusion, "_hold", lambda self, place: self._holds.update({place: None}))
    return alive


def at(node: str, worker: str = "w", memory_kills: int = 0, devices=("0",)) -> Place:
    return Place(node, worker, f"address of {node}", 1.0, 1.0, memory_kills, devices)


def run(call):
    return asyncio.run(call)


def test_nodes_that_go_cost_no_attempt(nodes):
    """Four spot losses under one long pack ended the job "for want of memory"."""
    coordinator = Coordinator()
    for number in range(3 * MOST_ATTEMPTS):
        nodes[str(number)] = {"CPU": 4, "GPU": 1}
        assert run(coordinator.begin(("pack", 1), "pack 1", at(str(number)))) is None
        del nodes[str(number)]
    run(coordinator.end(("pack", 1), at("a")))


@pytest.mark.parametrize(
    ("deaths", "told"),
    [
        ([at("a")] * 5, "not for want of memory, as far as the nodes can tell"),
        ([at("a", "starved"), *[at("b")] * 4], "1 of them for want of memory: give the nodes more"),
        ([at("a", memory_kills=n) for n in range(5)], "4 of them for want of memory"),
        # another node's count says nothing
        ([at("ab"[n % 2], memory_kills=n) for n in range(5)], "not for want of memory"),
    ],
)
def test_processes_that_die_alone_count_and_are_told_by_their_cause(nodes, deaths, told):
    coordinator = Coordinator()
    for place in deaths[:-1]:
        assert run(coordinator.begin(("pack", 1), "pack 1", place)) is None
    refusal = run(coordinator.begin(("pack", 1), "pack 1", deaths[-1]))
    assert refusal.startswith("4 processes died of pack 1, ")
    assert told in refusal
    assert run(coordinator.begin(("pack", 2), "pack 2", deaths[-1])) is None


def fail(coordinator, pack: int, node: str, devices=("0",)) -> str | None:
    key, what, place = ("pack", pack), f"pack {pack}", at(node, devices=devices)
    assert run(coordinator.begin(key, what, place)) is None
    return run(coordinator.device_failed(key, what, place, "CUDA error"))


def test_a_node_whose_device_fails_again_is_left_out_while_there_are_others(nodes):
    coordinator = Coordinator()
    assert fail(coordinator, 1, "a") is None
    assert run(coordinator.admits(at("a")))  # once may be nothing
    assert fail(coordinator, 2, "a") is None
    assert not run(coordinator.admits(at("a")))
    assert run(coordinator.admits(at("b")))
    [notice] = run(coordinator.notices(0))
    assert "address of a" in notice
    assert "CUDA error" in notice
    assert run(coordinator.notices(1)) == []
    assert at("a") in coordinator._exclusion._holds
    for name in "bcd":
        del nodes[name]
    assert run(coordinator.admits(at("a")))  # better a bad one than none


def test_one_bad_gpu_of_a_node_is_left_out_by_its_number(nodes):
    """All eight were left out for one, or, where there was no other node, none."""
    nodes["a"]["GPU"] = 8
    for name in "bcd":
        del nodes[name]
    coordinator = Coordinator()
    for pack in (1, 2):
        assert fail(coordinator, pack, "a", ("3",)) is None
    assert not run(coordinator.admits(at("a", devices=("3",))))
    assert run(coordinator.admits(at("a", devices=("4",))))
    [notice] = run(coordinator.notices(0))
    assert notice.startswith("GPU 3 of node address of a (a) is left out: it failed 2 times")
    # two bad ones are the node's, but there is no other
    fail(coordinator, 3, "a", ("4",))
    assert run(coordinator.admits(at("a", devices=("4",))))
    fail(coordinator, 4, "a", ("4",))
    assert not run(coordinator.admits(at("a", devices=("4",))))
    nodes["b"] = {"CPU": 4, "GPU": 8}
    fail(coordinator, 5, "a", ("5",))
    assert not run(coordinator.admits(at("a", devices=("6",))))
    assert run(coordinator.admits(at("b", devices=("3",))))
    assert "is left out: 3 of its GPUs failed 5 times" in run(coordinator.notices(2))[0]


def test_a_node_that_goes_on_to_work_is_trusted_again(nodes):
    coordinator = Coordinator()
    fail(coordinator, 1, "a")
    for number in range(20):
        run(coordinator.end(("pack", number), at("a")))
    fail(coordinator, 2, "a")
    assert run(coordinator.admits(at("a")))


def test_a_pack_that_breaks_every_device_stops_the_job(nodes):
    coordinator = Coordinator()
    refusals = [fail(coordinator, 1, node) for node in "abab"]
    assert refusals[:3] == [None] * 3
    assert "nodes address of a, address of b failed 4 times at pack 1" in refusals[3]


def test_a_device_alone_in_its_cluster_is_tried_until_the_job_stops(nodes):
    for name in "bcd":
        nodes[name] = {"CPU": 4}  # no GPU
    coordinator = Coordinator()
    refusals = [fail(coordinator, 1, "a") for _ in range(4)]
    assert run(coordinator.notices(0)) == []
    assert "the device of node address of a failed 4 times at pack 1" in refusals[3]


def test_what_the_kernel_killed_for_memory_is_counted_here():
    assert places.memory_kills() >= 0


BROKEN_IN_ONE_PLACE = """
import os, time
from pathlib import Path
import ray
from raydiar.corpus.job import decoding
from raydiar.corpus.job import graph, stages
from raydiar.corpus.job.run import diarize_corpus
decoding.PACK_SECONDS = 6.0

class LocalInferenceStage(stages.LocalInferenceStage):
    def _run(self, pcm):
        here = {here}
        if here == {bad!r}:
            Path({marks!r}, str(os.getpid())).touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        deadline = time.monotonic() + 200
        while len(os.listdir({marks!r})) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)  # or this node might have done all before the other one began
        return super()._run(pcm)

    def __init__(self, pipeline, device, *more):
        super().__init__(pipeline, "cpu", *more)  # there may be no GPU behind it

graph.LocalInferenceStage = LocalInferenceStage
diarize_corpus({manifest!r}, {output!r}, device={device!r}, num_actors=2)
"""


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    yield cluster
    cluster.shutdown()


def test_a_broken_device_on_one_node_does_not_end_the_job(cluster, talk, tmp_path):
    """Its process was started on the same node again, four times, and the job was over."""
    bad, _ = (cluster.add_node(num_cpus=2) for _ in range(2))
    node = "ray.get_runtime_context().get_node_id()"
    log = run_broken(cluster, talk, tmp_path, "cpu", node, bad.node_id)
    assert f"({bad.node_id[:8]}) is left out: its device failed 2 times" in log


def test_a_broken_gpu_beside_a_good_one_does_not_end_the_job(cluster, talk, tmp_path):
    """On one node, where nothing was left out at all: the job was over after four attempts."""
    cluster.add_node(num_cpus=4, num_gpus=2)
    log = run_broken(cluster, talk, tmp_path, "cuda", "str(*ray.get_gpu_ids())", "1")
    assert re.search(r"GPU 1 of node \S+ \(\w+\) is left out: it failed 2 times", log)


def run_broken(cluster, talk, tmp_path, device: str, here: str, bad: str) -> str:
    """Run a job one of whose places is broken; gives what it told."""
    marks, output, log = (tmp_path / name for name in ("marks", "output", "log"))
    marks.mkdir()
    files = [tmp_path / f"{number}.wav" for number in range(8)]
    for file in files:
        file.write_bytes(talk)  # of unknown duration, so that there is work for two actors
    manifest = write_manifest(tmp_path / "m.jsonl", [{"uri": str(file)} for file in files])
    job = BROKEN_IN_ONE_PLACE.format(
        bad=bad,
        here=here,
        device=device,
        marks=str(marks),
        manifest=manifest,
        output=str(output),
    )
    with driver(job, cluster.address, log) as process:
        assert process.wait(timeout=240) == 0, log.read_text()
    assert list(seen(output).values()) == ["ok"] * 8
    assert len(list(marks.iterdir())) >= 2
    return log.read_text()
