"""Dynamic batching: what waits while a batch runs makes up the next one.

`ray.serve.batch` puts a batch together while the last one runs, and of what comes within its time
limit only; what a batch has no room for goes behind all that came later. Here a batch is put
together at the moment when it can run, so that it holds all that waits by then, and nothing waits
where nothing runs.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batching(Generic[T, R]):
    """Calls a function of many items for callers of one each; in one event loop.

    Parameters
    ----------
    run : coroutine function of a list of items to a list of results
        One call at a time. A result that is an exception is raised to the item's caller alone,
        an exception that `run` raises to all callers.
    cost : callable
        Of an item.
    max_cost : number
        Of a batch; an item that costs more is a batch of its own.
    owner : callable
        Of an item; by default all have the same.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Awaitable[list[R | Exception]]],
        cost: Callable[[T], float],
        max_cost: float,
        owner: Callable[[T], Hashable] = lambda item: None,
    ):
        self._run = run
        self._cost = cost
        self._max_cost = max_cost
        self._owner = owner
        # of each owner who has any, what waits; whose turn is next comes first
        self._waiting: dict[Hashable, deque[tuple[T, asyncio.Future[R]]]] = {}
        self._running: asyncio.Task | None = None

    async def __call__(self, item: T) -> R:
        """The result of an item; a caller that is cancelled before its batch runs costs nothing."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(self._owner(item), deque()).append((item, answer))
        if self._running is None:
            self._running = asyncio.create_task(self._run_all())
        return await answer

    async def _run_all(self) -> None:
        try:
            while batch := self._next():
                await self._answer(batch)
        finally:
            self._running = None

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        """Take the next batch: owners in turn, of each what waits longest and all that fits."""
        batch, cost = [], 0.0
        left = {owner: deque() for owner in self._waiting}
        served = set()
        for turn in itertools.zip_longest(*self._waiting.values()):
            for owner, waiting in zip(left, turn, strict=True):
                if waiting is None or waiting[1].cancelled():
                    continue
                more = self._cost(waiting[0])
                if batch and cost + more > self._max_cost:
                    left[owner].append(waiting)
                    continue
                batch.append(waiting)
                served.add(owner)
                cost += more
        # whoever had a turn is behind those who had none
        order = sorted(left, key=lambda owner: owner in served)
        self._waiting = {owner: left[owner] for owner in order if left[owner]}
        return batch

    async def _answer(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
            pairs = list(zip(results, batch, strict=True))
        except asyncio.CancelledError:
            for _, answer in batch:
                answer.cancel()
            raise
        except Exception as error:
            pairs = [(error, one) for one in batch]
        for result, (_, answer) in pairs:
            if answer.done():  # its caller is gone
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
