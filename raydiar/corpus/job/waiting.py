"""How much may wait between two stages, and how many of a cheap stage run at once.

Ray Data bounds what waits by its bytes. Packs without PCM have next to none, so that hundreds of
thousands would gather before a slow stage, each an object that the driver keeps account of; here
their number is bounded as well. And the stages after inference ask for a hundredth of a CPU: Ray
Data gives CPUs to the first stages first, and a decode task that is held back, because packs wait,
keeps its own. Were the last stages to need what is left, packs would wait forever.
"""

from __future__ import annotations

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)

from raydiar.corpus.job.pool import FollowedCluster

CHEAP_CPUS = 0.01  # of the stages that must never wait for others
_CHEAP = 0.1
_LEAST = 32  # blocks that may wait before any stage
_PER_TASK = 4
_LEAST_KEY = "raydiar.waiting.least"


def bound_waiting(context: DataContext, least: int = _LEAST) -> None:
    """Bound what waits before each stage of the graphs made under a context.

    Parameters
    ----------
    least : int
        Blocks that may wait in any case: no stage takes more at a time.
    """
    context.set_config(_LEAST_KEY, max(least, _LEAST))
    context.set_config(
        ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
        [*ENABLED_BACKPRESSURE_POLICIES, BoundedWaiting, FollowedCluster],
    )


class BoundedWaiting(BackpressurePolicy):
    """At most a few blocks for every task of the next stage wait before it."""

    def can_add_input(self, op) -> bool:
        # one more call of an actor takes no CPU either, but actors bound their calls themselves
        on_actors = bool(op.get_autoscaling_actor_pools())
        if not on_actors and op.incremental_resource_usage().cpu < _CHEAP:
            cpus = self._resource_manager.get_global_limits().cpu
            if op.num_active_tasks() >= max(2, cpus / 4):
                return False
        return not self._is_full(op)

    def max_task_output_bytes_to_read(self, op) -> int | None:
        return 0 if self._is_full(op) else None

    def _is_full(self, op) -> bool:
        waiting = self._topology[op].total_enqueued_output_blocks()
        if not op.output_dependencies:
            return False  # the driver takes receipts as they come
        [following] = op.output_dependencies
        waiting += following.internal_input_queue_num_blocks()
        least = self._data_context.get_config(_LEAST_KEY)
        return waiting >= max(least, _PER_TASK * following.num_active_tasks())
