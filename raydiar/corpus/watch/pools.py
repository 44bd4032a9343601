"""How much waits before each stage of a job, and how much of their time the actors wait.

Looked at once a second in the driver, where Ray Data keeps the books of what it executes: no stage
is asked, and none is slowed. What cannot be looked at (Ray's insides may change) is left out.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from raydiar.corpus.watch.progress import RunSummary

_EVERY = 1.0  # s
_STAGE = re.compile(r"\((\w+)\)")
_NAMES = {
    "ReadPlan": "reading",
    "DecodePortion": "decode",
    "LocalInferenceStage": "inference",
    "SegmentationStage": "inference",
    "Resolve": "resolve",
    "Detect": "resolve",
    "Write": "write",
}


class PoolWatch:
    """Keeps the queues and actors of a summary up to date while a graph runs, in a `with` block.

    Parameters
    ----------
    graph : ray.data.Dataset
        Not executed yet.
    summary : RunSummary
    tell : callable, optional
        Called after each look.
    """

    def __init__(self, graph, summary: RunSummary, tell: Callable[[], None] | None = None):
        self._graph, self._summary, self._tell = graph, summary, tell
        self._executor = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pools", daemon=True)

    def __enter__(self) -> PoolWatch:
        create = getattr(self._graph, "_create_executor", None)
        if create is not None:  # its executor shows itself to nobody before the first row is out

            def seen(*args, **kwargs):
                self._executor = create(*args, **kwargs)
                return self._executor

            self._graph._create_executor = seen
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()
        with suppress(AttributeError):
            del self._graph._create_executor
        self._summary.queues = {}

    def _run(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(_EVERY):
            now = time.monotonic()
            with suppress(Exception):
                self._look(now - last)
            last = now

    def _look(self, seconds: float) -> None:
        topology = getattr(self._executor, "_topology", None)
        if not topology:
            return
        queues: Counter[str] = Counter()
        running = busy = 0
        for operator, state in list(topology.items()):
            if (stage := stage_of(operator.name)) is not None:
                queues[stage] += state.total_enqueued_input_blocks()
            if (pool := getattr(operator, "_actor_pool", None)) is not None:
                running += pool.num_running_actors()
                busy += pool.num_active_actors()
        self._summary.saw_actors(running, busy, seconds)
        self._summary.queues = dict(queues)
        if self._tell is not None:
            self._tell()


def stage_of(operator: str) -> str | None:
    """The stage that an operator of Ray Data runs, of several the last; None if none of ours."""
    stages = [_NAMES[name] for name in _STAGE.findall(operator) if name in _NAMES]
    return stages[-1] if stages else None
