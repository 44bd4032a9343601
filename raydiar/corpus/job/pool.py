"""The pool of CPU actors follows its cluster: a node that comes gets as many as it should have.

Ray Data lets a pool grow only as far as the CPUs that it does not keep for other stages, which are
four tenths of all, or that decoding was quicker to take. What it never withholds is a pool's least
size. So that is set anew, every few seconds, to what the job would have begun with on the nodes
that are there now, and the pool shrinks to it when nodes go.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace

import ray
from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import BackpressurePolicy

from raydiar.corpus.job.placement import Placement, room_for_actors

_EVERY = 5.0  # s
_PLACEMENT = "raydiar.pool.placement"
_MOST = "raydiar.pool.most"


def follow_cluster(context: DataContext, placement: Placement, most_packs: int) -> None:
    """Let the pool of the graphs made under a context follow its cluster, if that may grow."""
    if placement.device == "cpu" and placement.max_actors != placement.num_actors:
        most = min(placement.max_actors or most_packs, most_packs)
        context.set_config(_PLACEMENT, placement)
        context.set_config(_MOST, max(1, most))


class FollowedCluster(BackpressurePolicy):
    """Holds nothing back: it is asked in every round of Ray Data's scheduling, in its thread."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._next = 0.0
        self._largest: int | float | None = None  # size that the pool was made with

    def max_task_output_bytes_to_read(self, op) -> int | None:
        pools = op.get_autoscaling_actor_pools()
        placement = self._data_context.get_config(_PLACEMENT)
        if pools and placement is not None and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            # no interface of Ray's that is promised to stay: the pool then stays as it was made
            with suppress(AttributeError, TypeError):
                for pool in pools:
                    self._resize(pool, placement)
        return None

    def _resize(self, pool, placement: Placement) -> None:
        cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        room = room_for_actors(cpus, placement.num_threads)
        size = max(1, min(room, self._data_context.get_config(_MOST)))
        if self._largest is None:
            self._largest = pool._config.max_size
        shrinks = pool.current_size() > size
        largest = size if shrinks else max(size, self._largest)
        pool._config = replace(pool._config, min_size=size, initial_size=size, max_size=largest)
