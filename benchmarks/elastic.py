"""Elastic training, 1 → 2 → 1 workers, while a node comes and goes.

python benchmarks/elastic.py

One run by one worker is begun on a cluster with room for one; a node is added, so that Ray Train
makes two of it, and taken away by force. The run must end as one that was left alone: every step
once, its losses within 1e-4.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import ray
import torch
from ray.cluster_utils import Cluster
from training_files import small_recipe

from raydiar.training import start
from raydiar.training.folder import RunFolder


class Watch:
    """Adds a node once the run goes, and takes it away once two workers share it."""

    def __init__(self, cluster: Cluster, folder: str, run: threading.Thread):
        self.cluster, self.run_folder, self.thread = cluster, RunFolder(folder), run
        self.told: list[tuple[float, str]] = []
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        self.told.append((time.monotonic() - self.begun, text))
        print(f"{self.told[-1][0]:6.1f} s  {text}", flush=True)

    def watch(self) -> None:
        self.until(lambda: self.step() >= 2)
        self.say(f"one worker is at step {self.step()}; a node comes")
        node = self.cluster.add_node(num_cpus=1)
        self.until(lambda: self.workers() == 2)
        self.say(f"two workers go on from step {self.first()}")
        reached = self.step() + 4
        self.until(lambda: self.step() >= reached)
        self.say(f"two workers are at step {self.step()}; the node goes")
        self.cluster.remove_node(node, allow_graceful=False)
        self.until(lambda: self.workers() == 1)
        self.say(f"one worker goes on from step {self.first()}")

    def step(self) -> int:
        return max(self.run_folder.checkpoints(), default=0)

    def workers(self) -> int:
        return (self.run_folder.read_json("workers.json") or {}).get("workers", 0)

    def first(self) -> int:
        return self.run_folder.read_json("workers.json")["first_step"]

    def until(self, condition) -> None:
        while not condition():
            if not self.thread.is_alive():
                raise SystemExit("the run ended too early: take more --steps")
            time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as home:
        recipe = small_recipe(Path(home) / "talks")
        training = replace(
            recipe.training,
            max_steps=arguments.steps,
            batch_size=4,
            schedule="constant",
            validate_every=10**6,
        )
        recipe = replace(recipe, training=training)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        try:
            ray.init(cluster.address, log_to_driver=False)
            options = {"workers": (1, 2), "device": "cpu", "resize_interval": 1.0}
            run = threading.Thread(
                target=start, args=(recipe, f"{home}/run"), kwargs=options, daemon=True
            )
            run.start()
            watch = Watch(cluster, f"{home}/run", run)
            watch.watch()
            run.join()
            watch.say(f"the run ended at step {watch.step()}")
        finally:
            ray.shutdown()
            cluster.shutdown()
        start(recipe, f"{home}/alone", device="cpu", quiet=True)
        rows = [RunFolder(f"{home}/{name}").rows("log") for name in ("run", "alone")]
        assert [row["step"] for row in rows[0]] == list(range(1, arguments.steps + 1))
        apart = [abs(one["loss"] - two["loss"]) for one, two in zip(*rows, strict=True)]
    print(f"largest difference of a step's loss from an undisturbed run: {max(apart):.1e}")
    print(f"of the last step: {apart[-1]:.1e}")
    if arguments.json:
        found = {"told": watch.told, "largest": max(apart), "last": apart[-1]}
        Path(arguments.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
