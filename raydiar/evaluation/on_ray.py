"""Scoring of very many recordings as Ray tasks; the only file of this room that knows Ray."""

from __future__ import annotations

from collections.abc import Sequence

import ray

from raydiar.evaluation.recordings import Trial
from raydiar.evaluation.scoring import NO_COLLAR, Conditions, Evaluation, gather, score

_TRIALS_PER_TASK = 200  # about 0.2 s of work


def evaluate_on_ray(trials: Sequence[Trial], conditions: Conditions = NO_COLLAR) -> Evaluation:
    """The same as `evaluate`, on all CPUs of a Ray cluster, or of this machine without one.

    Ray that is already initialised is used and left running.
    """
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
    try:
        task = ray.remote(score)
        parts = [
            task.remote(trials[first : first + _TRIALS_PER_TASK], conditions)
            for first in range(0, len(trials), _TRIALS_PER_TASK)
        ]
        return gather([scored for part in ray.get(parts) for scored in part], conditions)
    finally:
        if started:
            ray.shutdown()
