"""Scoring and searching on Ray; the only file of this room that knows Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import ray

from raydiar.evaluation.recordings import Trial
from raydiar.evaluation.scoring import NO_COLLAR, Conditions, Evaluation, gather, score

_TRIALS_PER_TASK = 200  # about 0.2 s of work


def evaluate_on_ray(trials: Sequence[Trial], conditions: Conditions = NO_COLLAR) -> Evaluation:
    """The same as `evaluate`, on all CPUs of a Ray cluster, or of this machine without one.

    Ray that is already initialised is used and left running.
    """
    with _ray():
        task = ray.remote(score)
        parts = [
            task.remote(trials[first : first + _TRIALS_PER_TASK], conditions)
            for first in range(0, len(trials), _TRIALS_PER_TASK)
        ]
        return gather([scored for part in ray.get(parts) for scored in part], conditions)


@contextmanager
def searchers(objective: Callable, number: int) -> Iterator[Callable[[Sequence], Iterator]]:
    """Actors that each hold the recordings of a search; gives what maps parameters to results."""
    with _ray():
        searcher = ray.remote(_Searcher)
        actors = [searcher.options(num_cpus=1).remote(objective) for _ in range(number)]

        def run(batch: Sequence) -> Iterator:
            pending = [
                actors[index % number].evaluate.remote(values) for index, values in enumerate(batch)
            ]
            for result in pending:
                yield ray.get(result)

        yield run
        for actor in actors:
            ray.kill(actor)


class _Searcher:
    def __init__(self, objective: Callable):
        self._objective = objective

    def evaluate(self, values: dict):
        return self._objective(values)


@contextmanager
def _ray() -> Iterator[None]:
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
    try:
        yield
    finally:
        if started:
            ray.shutdown()
