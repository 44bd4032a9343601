"""Where a job runs: how Ray is reached, which device is taken, how many actors there may be.

A cluster may hold no node yet, or others tomorrow, and nothing tells what an autoscaler could
start. So a job takes what is there, and asks for the rest by wanting it: a pool of actors goes from
what fits now, one at least, to what was asked for, and actors without a node make the autoscaler
bring one.

On a CPU every actor counts as many CPUs as torch has threads in it: two torch processes of two
threads on two cores run 5 to 20 times slower than one. One CPU of a node is always left to
reading, decoding, clustering and writing, without which the actors would wait forever; a Ray that
is started here for the job is told of one CPU more than there are, since those stages together
need a few percent of one.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from raydiar.corpus.job.growth import first_gpus, is_growing
from raydiar.corpus.job.quiet import be_quiet
from raydiar.devices import parse_device
from raydiar.errors import ConfigError

THREADS_PER_ACTOR = 4  # at most: more threads gain little on networks of this size
CPUS_PER_FEEDER = 16  # of which one decodes, clusters and writes for the actors on the others


@dataclass(frozen=True)
class Placement:
    """What the inference actors of a job are given.

    Attributes
    ----------
    device : str
        "cuda" or "cpu"
    num_actors : int
        What there is room for now, at least one.
    max_actors : int or None
        What the pool may grow to; None: as far as the cluster does.
    num_threads : int
        Of torch, and CPUs, per actor.
    reason : str
        Why this device, for the log.
    memory : float or None
        Bytes that an actor asks for, to keep off nodes that are full.
    """

    device: str
    num_actors: int
    max_actors: int | None
    num_threads: int
    reason: str
    memory: float | None = None

    def __str__(self) -> str:
        per_actor = "1 GPU" if self.device == "cuda" else f"{self.num_threads} threads"
        actors = f"{self.num_actors} actors" if self.num_actors > 1 else "1 actor"
        if self.max_actors is None:
            actors += ", or as many as the cluster comes to hold,"
        elif self.max_actors > self.num_actors:
            actors += f", up to {self.max_actors}"
        return f"device: {self.device} ({self.reason}); {actors} of {per_actor}"


@contextmanager
def connected() -> Iterator[None]:
    """Use the Ray that is there (in a job, or named by RAY_ADDRESS), or start one for the block."""
    be_quiet()
    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.WARNING, "log_to_driver": False}
    if "RAY_ADDRESS" in os.environ:
        ray.init(**quiet)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", num_cpus=num_cores() + 1, include_dashboard=False, **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def num_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spans_nodes() -> bool:
    """Whether work may run on other nodes than this process's, now or later."""
    if len(_nodes()) > 1 or is_growing():
        return True
    return not sum(node.get("CPU", 0) for node in _nodes())  # then others must come


def place(
    device: str = "auto",
    num_actors: int | str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Placement:
    """Choose the device and the number of inference actors for the cluster.

    Parameters
    ----------
    device : str
        "cuda", which is asked of the cluster if it has none yet, "cpu", or "auto": CUDA if a node
        has a GPU. Where no node runs yet, "auto" asks for a GPU and sees whether one comes.
    num_actors : int or "auto", optional
        What the pool may grow to; by default as far as the cluster does.
    say : callable, optional
        Told what is waited for.

    Raises
    ------
    ConfigError
        If there is no such device, or no such room, on a machine that is all there will be.
    """
    device = parse_device(device, of_cluster=True)
    most = actors_asked_for(num_actors)
    alone, nodes = is_alone(), _nodes()
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if device == "cuda" and not gpus and alone:
        raise ConfigError("no node of the Ray cluster has a GPU: use --device cpu, or auto")
    reason = "as asked for" if device == "cpu" else "no GPU in the cluster"
    if device == "auto" and not gpus and not alone:
        if sum(node.get("CPU", 0) for node in nodes):
            reason += "; --device cuda would ask for one"
        else:
            say("no node runs yet: asking the cluster for a GPU (--device cpu would not)")
            gpus, reason = first_gpus()
            nodes = _nodes()
    if device == "cuda" or (gpus and device != "cpu"):
        now = min(max(gpus, 1), most or gpus or 1)
        reason = f"{gpus} GPUs in the cluster" if gpus else "asking for GPUs that are not there yet"
        return Placement("cuda", now, (most or gpus) if alone else most, 1, reason)
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if alone:
        size, threads = fit_actors(cpus, most)
        return Placement("cpu", size, size, threads, reason)
    try:
        size, threads = fit_actors(cpus)
        if most is not None:
            size, threads = fit_actors(cpus, min(most, size))
    except ConfigError:
        # no node that fits one: of nodes to come it is only known that they have a CPU
        return Placement("cpu", 1, most, 1, f"{reason}; waiting for nodes")
    return Placement("cpu", size, most, threads, reason, _memory(nodes, size, threads))


def actors_asked_for(num_actors: int | str | None) -> int | None:
    """A number of actors; None for "auto".

    Raises
    ------
    ConfigError
    """
    if num_actors in (None, "auto"):
        return None
    try:
        number = int(num_actors)
    except ValueError:
        number = 0
    if number < 1:
        raise ConfigError(f"num_actors must be at least 1, or auto, not {num_actors}")
    return number


def fit_actors(
    cpus: list[int], num_actors: int | None = None, per_feeder: float = CPUS_PER_FEEDER
) -> tuple[int, int]:
    """Number of actors and threads of each that use nodes with these CPUs best.

    Two actors of one thread do 1.4 times the work of one of two threads, so there are as many as
    fit; of fewer that are asked for, each has more threads. Of every `per_feeder` CPUs of a node,
    one is left to what feeds the actors.

    Raises
    ------
    ConfigError
        If so many actors do not fit.
    """
    fitting = {
        threads: room_for_actors(cpus, threads, per_feeder)
        for threads in range(1, THREADS_PER_ACTOR + 1)
    }
    size = num_actors or fitting[1]
    if not 0 < size <= fitting[1]:
        raise ConfigError(
            f"{size or 1} inference actors and the other stages do not fit into {sum(cpus)} CPUs "
            "of the Ray cluster"
        )
    return size, max(threads for threads, most in fitting.items() if most >= size)


def room_for_actors(cpus: list[int], threads: int, per_feeder: float = CPUS_PER_FEEDER) -> int:
    """How many actors of so many threads nodes with these CPUs hold, beside what feeds them.

    Nodes of one CPU feed each other.
    """
    single = sum(node == 1 for node in cpus)
    held = sum(_fitting(node, threads, per_feeder) for node in cpus)
    return held + (_fitting(single, 1, per_feeder) if threads == 1 else 0)


def _fitting(cpus: float, threads: int, per_feeder: float = CPUS_PER_FEEDER) -> int:
    feeders = max(1, math.ceil(int(cpus) / per_feeder))
    return max(0, int(cpus) - feeders) // threads


def _memory(nodes: list[dict[str, float]], size: int, threads: int) -> float | None:
    """Bytes that every actor asks for so that no node takes one more than it should.

    When a node is lost, its actors start again on the CPUs that the others have left for decoding,
    and would wait for it forever. Memory is what Ray can ration beside CPUs. None where there is
    one node, or where nodes differ so much that no amount does it.
    """
    fitting = [_fitting(node.get("CPU", 0), threads) for node in nodes]
    holding = [(node.get("memory", 0.0), k) for node, k in zip(nodes, fitting, strict=True) if k]
    if not holding or not all(free for free, _ in holding):
        return None
    memory = 1.01 * max(free / (k + 1) for free, k in holding)
    enough = sum(min(k, int(free // memory)) for free, k in holding) >= size
    return memory if len(nodes) > 1 and enough else None


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def is_alone() -> bool:
    """Whether this process started its Ray itself: the machine is then all there will be."""
    node = ray._private.worker.global_worker.node
    return node is not None and node.head and len(_nodes()) == 1
