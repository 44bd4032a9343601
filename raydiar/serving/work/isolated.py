"""A job in a process of its own: what kills that process takes no other job along."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from raydiar.errors import WorkerUnhealthy
from raydiar.serving.jobs.records import Job
from raydiar.serving.work.processing import Processor, Progress

_LOOK_SECONDS = 1.0


@ray.remote(num_cpus=0, max_restarts=0)
class _IsolatedProcess:
    """Does one job, with a processor that is made here."""

    def __init__(self, make_processor: Callable[[], Processor]):
        self._make_processor = make_processor
        self._progress = Progress()

    async def run(self, job: Job) -> dict[str, Any]:
        process = await asyncio.to_thread(self._make_processor)
        try:
            async with process.recording(job) as path:
                return await process(job, path, self._progress)
        finally:
            process.close()

    async def progress(self) -> Progress:
        return self._progress


def isolation(
    make_processor: Callable[[], Processor],
) -> Callable[[Job, Progress], Awaitable[dict[str, Any]]]:
    """A coroutine function that does a job as a `Processor` would, in a process of its own.

    Parameters
    ----------
    make_processor : callable
        Sent to that process and called there.
    """

    async def isolate(job: Job, progress: Progress) -> dict[str, Any]:
        actor = _IsolatedProcess.remote(make_processor)
        watching = asyncio.create_task(_watch(actor, progress))
        try:
            return await actor.run.remote(job)
        except RayTaskError:
            raise
        except RayActorError as error:
            raise WorkerUnhealthy(
                "the process that worked on this recording, and on nothing else, died"
            ) from error
        finally:
            watching.cancel()
            ray.kill(actor)

    return isolate


async def _watch(actor, progress: Progress) -> None:
    with suppress(RayError):  # it has died, which whoever awaits its result is told
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            seen: Progress = await actor.progress.remote()
            progress.fraction, progress.audio_seconds = seen.fraction, seen.audio_seconds
