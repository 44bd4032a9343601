"""A job on a Ray cluster of several nodes, one of which dies."""

from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from corpus_files import driver, files, seen, wait_until, write_manifest
from web_storage import serving

JOB = """
from raydiar.corpus.job import decoding
decoding.PACK_SECONDS = 5.0
from raydiar.corpus.job.run import diarize_corpus
diarize_corpus({manifest!r}, {output!r}, num_actors=2)
"""


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    quick |= {"health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    # too little for both actors: one has to go to the other node
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    cluster.shutdown()


def infers(node) -> bool:
    """Whether an actor of the inference runs on a node."""
    raylet = node.all_processes["raylet"][0].process.pid
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for child in children:
        with suppress(OSError):  # it ended meanwhile
            if "LocalInferenceStage" in Path(f"/proc/{child}/cmdline").read_text():
                return True
    return False


def test_a_node_that_dies_costs_only_what_it_had_in_flight(cluster, talk, tmp_path):
    other = cluster.add_node(num_cpus=2)
    output = tmp_path / "output"
    with serving({f"/{number}.wav": talk for number in range(24)}) as server:
        uris = [f"{server.url}/{number}.wav" for number in range(24)]
        manifest = write_manifest(tmp_path / "m.jsonl", [{"uri": u, "duration": 5} for u in uris])
        job = JOB.format(manifest=manifest, output=str(output))
        server.opened.clear()  # no audio before the node that is to die has an actor
        with driver(job, cluster.address, tmp_path / "log") as process:
            wait_until(lambda: infers(other) or process.poll() is not None)
            server.opened.set()
            wait_until(lambda: len(files(output)) >= 3 or process.poll() is not None)
            assert process.poll() is None, (tmp_path / "log").read_text()
            begun = Counter(server.begun)
            in_flight = len(begun) - len(seen(output))
            cluster.remove_node(other, allow_graceful=False)
            cluster.add_node(num_cpus=2)
            assert process.wait(timeout=240) == 0, (tmp_path / "log").read_text()
    assert list(seen(output).values()) == ["ok"] * 24
    assert {path.name for path in (output / "_raydiar/tmp").glob("*")} == set()
    once = min(server.begun.values())
    assert sum(count > once for count in server.begun.values()) <= in_flight
