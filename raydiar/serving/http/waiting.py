"""Requests that wait for jobs: one look at the database for all of them that this process has."""

import asyncio

from starlette.concurrency import run_in_threadpool

from raydiar.errors import DatabaseUnavailable
from raydiar.serving.jobs.store import JobStore
from raydiar.serving.logs import get_logger

_LOOK_SECONDS = 0.1

logger = get_logger("ray.serve")


class Ends:
    """Tells when jobs are over; in one event loop.

    Parameters
    ----------
    jobs : JobStore
    """

    def __init__(self, jobs: JobStore):
        self._jobs = jobs
        self._awaited: dict[str, asyncio.Future] = {}
        self._looking: asyncio.Task | None = None

    async def of(self, job_id: str) -> None:
        """Wait until a job has succeeded, failed, been canceled or gone; for ever, if need be."""
        loop = asyncio.get_running_loop()
        end = self._awaited.setdefault(job_id, loop.create_future())
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look())
        try:
            await asyncio.shield(end)
        finally:
            self._awaited.pop(job_id, None)

    async def _look(self) -> None:
        while self._awaited:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                over = await run_in_threadpool(self._jobs.over, list(self._awaited))
            except DatabaseUnavailable as error:
                logger.warning("%s", error)  # jobs go on meanwhile
                continue
            except Exception as error:
                for end in self._awaited.values():
                    if not end.done():
                        end.set_exception(error)
                raise
            for job_id in over:
                if (end := self._awaited.get(job_id)) is not None and not end.done():
                    end.set_result(None)
            await asyncio.sleep(0)  # those that were told leave
