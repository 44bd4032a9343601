"""Where a process of a job works, and what is known of the nodes there are."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray


@dataclass(frozen=True)
class Place:
    """Where a process works, and what Ray gave it there.

    Attributes
    ----------
    node, worker : str
        Ray's ids, in hexadecimal digits.
    address : str
        Of the node, for messages.
    cpus, gpus : float
    devices : tuple of str
        Numbers of its GPUs on that node; () on a CPU.
    memory_kills : int
        Processes that the kernel has killed there for want of memory.
    """

    node: str
    worker: str
    address: str
    cpus: float = 0.0
    gpus: float = 0.0
    memory_kills: int = 0
    devices: tuple[str, ...] = ()

    @classmethod
    def here(cls) -> Place:
        context = ray.get_runtime_context()
        given: dict[str, float] = {}
        if context.get_task_id() is not None and context.worker.mode == ray.WORKER_MODE:
            given = context.get_assigned_resources()
        return cls(
            context.get_node_id(),
            context.get_worker_id(),
            ray.util.get_node_ip_address(),
            given.get("CPU", 0.0),
            given.get("GPU", 0.0),
            memory_kills(),
            tuple(map(str, ray.get_gpu_ids())) if given.get("GPU") else (),
        )


def memory_kills() -> int:
    """How many processes the kernel has killed for want of memory, here or in this container."""
    for path in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        with suppress(OSError):
            if found := re.search(r"^oom_kill (\d+)$", Path(path).read_text(), re.MULTILINE):
                return int(found[1])
    return 0


def alive_nodes() -> dict[str, dict[str, float]]:
    """Resources of the nodes that are there, by id."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
