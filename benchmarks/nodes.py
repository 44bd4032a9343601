"""Loses worker nodes at random through a job, then its driver, then the head; counts what is left.

Real Ray nodes, as processes of this machine; real recordings, decoding, clustering and writing.
Inference sleeps and gives what one real recording gave, so that some hundred recordings take
minutes on two cores. There must be exactly one row a recording, and none an error; what is
reported is how many recordings were inferred again.

    python benchmarks/nodes.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import soundfile
from engine import conversation
from ray.cluster_utils import Cluster

from raydiar.pipelines.config_file import load_config
from raydiar.pipelines.speaker_diarization import local_inference

SECONDS = 5  # of a recording
WORKERS = 3
JOB = """
import os, pickle, sys, threading, time
from pathlib import Path
from raydiar.corpus.job import decoding
from raydiar.corpus.job import graph, stages
from raydiar.corpus.job.attempts import Attempts
from raydiar.corpus.job.run import diarize_corpus

decoding.PACK_SECONDS = 5.0  # a pack a recording
manifest, output, marks, local = sys.argv[1:]

class LocalInferenceStage(stages.LocalInferenceStage):
    def __init__(self, pipeline, device, num_threads, coordinator):
        threading.Thread(target=stages._end_with, args=(coordinator,), daemon=True).start()
        self._attempts = Attempts(coordinator)
        self._attempts.check_admitted()
        self._failure = None

    def _infer(self, sources):
        time.sleep(0.5)
        for number in range(len(sources)):
            Path(marks, f"{os.getpid()}-{time.time_ns()}-{number}").touch()
        return [pickle.loads(Path(local).read_bytes()) for _ in sources]

graph.LocalInferenceStage = LocalInferenceStage
print(diarize_corpus(manifest, output, device="cpu", num_actors=4))
"""


def start_cluster() -> Cluster:
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    quick |= {"health_check_timeout_ms": 2000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(WORKERS):
        cluster.add_node(num_cpus=2)
    return cluster


class Trial:
    """A job over `num_recordings`, and what is done to it."""

    def __init__(self, home: Path, num_recordings: int):
        self.home, self.num_recordings = home, num_recordings
        self.output, self.marks = home / "output", home / "marks"
        self.marks.mkdir()
        samples, _ = soundfile.read(conversation(60), dtype="int16")
        rows = []
        for number in range(num_recordings):
            start = number * (len(samples) - SECONDS * 16000) // num_recordings
            path = home / f"{number:03}.wav"
            soundfile.write(path, samples[start : start + SECONDS * 16000], 16000)
            rows.append({"uri": str(path)})  # of unknown duration: there is work for all actors
        self.manifest = home / "manifest.jsonl"
        self.manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
        [local] = local_inference(load_config().localize())([samples[: SECONDS * 16000]])
        (home / "local").write_bytes(pickle.dumps(local))
        self.events: list[str] = []
        self._begun = time.monotonic()

    def note(self, event: str) -> None:
        rows, seconds = len(self.rows()), time.monotonic() - self._begun
        self.events.append(f"{seconds:4.0f} s, {rows:3} rows: {event}")
        print(f"  {self.events[-1]}", flush=True)

    def rows(self) -> list[str]:
        """Recordings of all rows in the output, doubled ones twice."""
        names = sorted(self.output.glob("*.parquet"))
        columns = [pq.read_table(name, columns=["recording_id", "status"]) for name in names]
        rows = [row for table in columns for row in table.to_pylist()]
        assert all(row["status"] == "ok" for row in rows), "a lost node made an error row"
        return [row["recording_id"] for row in rows]

    def start_driver(self, cluster: Cluster) -> subprocess.Popen:
        """A driver that writes the output; waits until the lock of a killed one is silent."""
        paths = (self.manifest, self.output, self.marks, self.home / "local")
        while True:
            log = (self.home / f"driver-{len(list(self.home.glob('driver-*')))}").open("w")
            driver = subprocess.Popen(
                [sys.executable, "-c", JOB, *map(str, paths)],
                env=os.environ | {"RAY_ADDRESS": cluster.address},
                stdout=log,
                stderr=log,
            )
            marks = self.num_inferred()
            while driver.poll() is None and self.num_inferred() == marks:
                time.sleep(0.2)
            if driver.poll() in (None, 0):
                return driver
            told = Path(log.name).read_text()
            assert "is being written by run" in told, told
            time.sleep(5)

    def num_inferred(self) -> int:
        return sum(1 for _ in self.marks.iterdir())

    def wait_for(self, share: float, driver: subprocess.Popen) -> None:
        while len(self.rows()) < share * self.num_recordings and driver.poll() is None:
            time.sleep(0.5)

    def lose_a_node(self, cluster: Cluster) -> None:
        node = random.choice(sorted(cluster.worker_nodes, key=lambda node: node.node_id))
        cluster.remove_node(node, allow_graceful=False)
        self.note("a worker node was lost")
        cluster.add_node(num_cpus=2)


def run(trial: Trial, losses: int) -> None:
    cluster = start_cluster()
    driver = None
    try:
        driver = trial.start_driver(cluster)
        trial.note("the job runs on three workers")
        for number in range(losses):
            trial.wait_for(0.4 * (number + 1) / losses, driver)
            trial.lose_a_node(cluster)
        trial.wait_for(0.5, driver)
        driver.kill()
        trial.note("the driver was killed")
        driver.wait()
        driver = trial.start_driver(cluster)
        trial.note("it was run again")
        trial.wait_for(0.75, driver)
        cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        trial.note("the head was lost")
        driver.kill()
        driver.wait()
        cluster.shutdown()
        cluster = start_cluster()
        driver = trial.start_driver(cluster)
        trial.note("it was run again, on another cluster")
        trial.wait_for(0.9, driver)
        if driver.poll() is None:
            trial.lose_a_node(cluster)
        assert driver.wait(600) == 0
        trial.note("done")
    finally:
        if driver is not None:
            driver.kill()
            driver.wait()
        cluster.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="60 recordings, two lost nodes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    number, losses = (60, 1) if arguments.quick else (400, 5)
    with tempfile.TemporaryDirectory(prefix="raydiar-nodes-") as home:
        trial = Trial(Path(home), number)
        run(trial, losses)
        rows = trial.rows()
        assert len(rows) == len(set(rows)) == number, f"{len(rows)} rows, {len(set(rows))} of them"
        again = trial.num_inferred() - number
    print(f"  {number} recordings, one row each; {again} were inferred again")
    if arguments.json:
        result = {"benchmark": "nodes", "recordings": number, "inferred_again": again}
        arguments.json.write_text(json.dumps(result | {"events": trial.events}, indent=2))


if __name__ == "__main__":
    main()
