"""Workers: they lease jobs, have them done, and write down how that went.

A job is held by a lease that is renewed every few seconds; whoever dies gives it up by silence. A
result that the database does not take is kept and written when it answers again.

Recordings at hand and those that must be fetched first are claimed apart: however slow the hosts of
URLs are, they keep none of the places where work is done.
"""

import asyncio
import os
import random
import socket
import uuid
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from raydiar.diarization import Diarization
from raydiar.errors import DatabaseUnavailable, JobCanceled, LeaseLost, WorkerUnhealthy
from raydiar.local_speakers import LocalSpeakers
from raydiar.serving.deployments.inference import PcmSlice
from raydiar.serving.failures import (
    MACHINE,
    MOMENT,
    cause_of,
    is_lost_replica,
    message,
    verdict,
)
from raydiar.serving.jobs.records import LANES, UPLOADS, URLS, Job
from raydiar.serving.logs import get_logger
from raydiar.serving.settings import ServeSettings
from raydiar.serving.stores import Stores, open_stores
from raydiar.serving.work.housekeeping import Housekeeping
from raydiar.serving.work.isolated import isolation
from raydiar.serving.work.processing import WAVEFORM, Processor, Progress, Voiceprints
from raydiar.windows import WindowGrid

_RENEW_SECONDS = 2.0  # at most: a cancellation is seen then
_IDLE_SECONDS = (0.2, 1.0)  # between looks at an empty queue, growing
_AWAY_SECONDS = (0.2, 5.0)  # between tries at a database that does not answer, growing
_GRACE_SECONDS = 8.0  # after an outage: all workers are back by then, and have renewed leases
_MOMENT_SECONDS = 5.0  # until a job that failed for the moment is tried again, doubling
_MACHINE_SECONDS = 15.0  # until a job is tried again that a machine failed at, perhaps elsewhere
_MOST_DELAY = 300.0
_MOST_MACHINE_FAILURES = 3  # one after another, before a worker is replaced
_LAST_WORDS_SECONDS = 10.0  # for results, when a worker is told to stop
_MOST_ASKS = 3  # of replicas that die of a request

logger = get_logger("ray.serve")


class Worker:
    """Does jobs of a queue, several at a time, in an event loop.

    Parameters
    ----------
    settings : ServeSettings
    stores : Stores
    process : Processor
    isolate : coroutine function of (Job, Progress) to an output
        Does a whole job in another process, which may die of it.
    """

    def __init__(
        self,
        settings: ServeSettings,
        stores: Stores,
        process: Processor,
        isolate: Callable[[Job, Progress], Awaitable[dict[str, Any]]],
    ):
        self._settings = settings
        self._jobs = stores.jobs
        self._process = process
        self._isolate = isolate
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._room = asyncio.Semaphore(settings.jobs_per_worker)
        self._fetching = asyncio.Semaphore(settings.fetches_per_worker)
        self._running: set[asyncio.Task] = set()
        self._awake = {lane: asyncio.Event() for lane in LANES}
        self._machine_failures = 0
        # threads of its own: a renewal must not wait for downloads
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="database")
        self._housekeeping = Housekeeping(settings, stores, self.name)
        self._loops: list[asyncio.Task] = []

    def start(self) -> None:
        """Begin, in the running event loop."""
        loops = (
            self._claim_jobs(UPLOADS, self._room),
            self._claim_jobs(URLS, self._fetching),
            self._housekeeping.webhooks(),
            self._housekeeping.expiry(),
        )
        self._loops = [asyncio.create_task(loop) for loop in loops]

    async def stop(self) -> None:
        """Stop, giving jobs under way back to the queue; it is not held against them."""
        for group in (self._loops, list(self._running)):
            for task in group:
                task.cancel()
            if group:
                await asyncio.wait(group)
        self._process.close()

    def wake(self) -> None:
        """Look for a job now, if there is nothing to do."""
        for awake in self._awake.values():
            awake.set()

    def check(self) -> None:
        """
        Raises
        ------
        WorkerUnhealthy
            When a worker in another process, perhaps on another node, would do better.
        """
        if self._machine_failures >= _MOST_MACHINE_FAILURES:
            raise WorkerUnhealthy(
                f"this machine failed at {self._machine_failures} jobs one after another"
            )
        for loop in self._loops:
            if loop.done() and not loop.cancelled():
                raise WorkerUnhealthy(f"a loop of the worker ended: {loop.exception()!r}")

    async def _claim_jobs(self, lane: str, room: asyncio.Semaphore) -> None:
        idle = _IDLE_SECONDS[0]
        while True:
            await room.acquire()
            place = _Place(room)
            self._awake[lane].clear()
            job = await self._claim(lane)
            if job is None:
                place.leave()
                with suppress(TimeoutError):
                    await asyncio.wait_for(
                        self._awake[lane].wait(), idle * random.uniform(0.8, 1.2)
                    )
                idle = min(_IDLE_SECONDS[1], idle * 1.3)
                continue
            idle = _IDLE_SECONDS[0]
            task = asyncio.create_task(self._do(job, place))
            self._running.add(task)
            task.add_done_callback(partial(self._done, place))
            if self._machine_failures:  # what this machine fails at is others' meanwhile
                await asyncio.sleep(_MACHINE_SECONDS)

    async def _claim(self, lane: str) -> Job | None:
        claim = partial(self._jobs.claim, self.name, self._settings.lease_seconds, [lane])
        claiming = asyncio.get_running_loop().run_in_executor(self._threads, claim)
        try:
            return await asyncio.shield(claiming)
        except DatabaseUnavailable as error:
            logger.warning("%s", error)
            # Leases expired meanwhile, but their holders live and have results to write: whoever
            # claimed first now would have their work done again.
            await self._told(self._jobs.queue_state)
            await asyncio.sleep(_GRACE_SECONDS)
            return None
        except asyncio.CancelledError:
            await asyncio.wait([claiming], timeout=_LAST_WORDS_SECONDS)
            claimed = claiming.done() and claiming.exception() is None
            if claimed and (job := claiming.result()) is not None:
                await self._write(job, self._giving_back(job))
            raise

    def _giving_back(self, job: Job) -> Callable[[], None]:
        return partial(self._jobs.release, job, "its worker was stopped", counts=False)

    def _done(self, place: "_Place", task: asyncio.Task) -> None:
        self._running.discard(task)
        place.leave()
        if not task.cancelled() and task.exception() is not None:
            logger.error("a job ended in an unexpected way", exc_info=task.exception())

    async def _do(self, job: Job, place: "_Place") -> None:
        """A job from its claim to its end; never raises what is a job's."""
        progress = Progress()
        work = asyncio.create_task(self._output_of(job, place, progress))
        lease = asyncio.create_task(self._keep_lease(job, progress))
        try:
            await asyncio.wait({work, lease}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():  # canceled by the client, or another's by now
                logger.info("job %s: %s", job.job_id, lease.exception())
                return
            await self._shielded(self._write(job, self._ending(job, work)))
        except asyncio.CancelledError:
            await self._shielded(self._write(job, self._giving_back(job)))
            raise
        finally:
            for task in (work, lease):
                task.cancel()
            await asyncio.wait({work, lease})

    async def _output_of(self, job: Job, place: "_Place", progress: Progress) -> dict[str, Any]:
        if job.alone:
            await place.move_to(self._room)
            return await self._isolate(job, progress)
        async with self._process.recording(job) as path:
            await place.move_to(self._room)
            return await self._process(job, path, progress)

    def _ending(self, job: Job, work: asyncio.Task) -> Callable[[], Any]:
        """What to write at the end of a job's work."""
        if (raised := work.exception()) is None:
            self._machine_failures = 0
            return partial(self._succeed, job, work.result())
        error = cause_of(raised)
        kind = verdict(error)
        text = message(error, job.media)
        if kind == MOMENT:
            logger.warning("job %s is put off: %s", job.job_id, error)
            delay = min(_MOST_DELAY, _MOMENT_SECONDS * 2 ** (job.attempt - 1))
            return partial(self._jobs.release, job, text, delay=delay)
        if kind == MACHINE:
            self._machine_failures += 1
            logger.error("this machine failed at job %s", job.job_id, exc_info=error)
            delay = min(_MOST_DELAY, _MACHINE_SECONDS * 2**job.machine_failures)
            return partial(self._jobs.release, job, text, machine=True, delay=delay)
        logger.info("job %s failed", job.job_id, exc_info=error)
        return partial(self._jobs.fail, job, text)

    def _succeed(self, job: Job, output: dict[str, Any]) -> None:
        try:
            self._jobs.succeed(job, output, output.pop(WAVEFORM, None))
        except ValueError as error:
            logger.exception("the output of job %s cannot be written", job.job_id)
            self._jobs.fail(job, message(error, job.media))

    async def _keep_lease(self, job: Job, progress: Progress) -> None:
        """Renew the lease until it is lost or the client cancels, which is then raised."""
        pause = min(_RENEW_SECONDS, self._settings.lease_seconds / 3)
        while True:
            await asyncio.sleep(pause)
            await self._told(
                self._jobs.renew,
                job,
                self._settings.lease_seconds,
                min(1.0, progress.fraction),
                progress.audio_seconds,
            )

    async def _write(self, job: Job, write: Callable[[], Any]) -> None:
        try:
            await self._told(write)
        except (LeaseLost, JobCanceled) as error:
            logger.info("job %s: %s", job.job_id, error)

    async def _shielded(self, writing) -> None:
        """Await something to its end, for a while also when this task is cancelled."""
        task = asyncio.ensure_future(writing)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait([task], timeout=_LAST_WORDS_SECONDS)
            raise

    async def _told(self, call: Callable, *args) -> Any:
        """Call the database, again and again while it does not answer."""
        pause = _AWAY_SECONDS[0]
        loop = asyncio.get_running_loop()
        while True:
            try:
                return await loop.run_in_executor(self._threads, partial(call, *args))
            except DatabaseUnavailable as error:
                logger.warning("%s", error)
                await asyncio.sleep(pause * random.uniform(0.8, 1.2))
                pause = min(_AWAY_SECONDS[1], 2 * pause)


class _Place:
    """A place that a job takes, first where recordings are fetched and then where work is done."""

    def __init__(self, room: asyncio.Semaphore):
        self._room = room

    async def move_to(self, room: asyncio.Semaphore) -> None:
        """Wait for a place there, and leave this one for it."""
        if room is not self._room:
            await room.acquire()
            self.leave()
            self._room = room

    def leave(self) -> None:
        self._room.release()


@serve.deployment(
    health_check_period_s=2,
    max_queued_requests=4,  # calls are hints: none is missed while there is no replica
    graceful_shutdown_wait_loop_s=0.1,  # nobody waits for an answer of it
    graceful_shutdown_timeout_s=3 * _LAST_WORDS_SECONDS,
)
class WorkerDeployment:
    """A replica that works off the queue.

    Parameters
    ----------
    settings : ServeSettings
    public_url : str
    voiceprints : Voiceprints
    grid : WindowGrid
    slice_seconds : float, s
    in_flight : int
        See `Processor`.
    inference, resolving : DeploymentHandle
        Of `LocalInferenceDeployment` and `ResolveDeployment`.
    """

    async def __init__(
        self,
        settings: ServeSettings,
        public_url: str,
        voiceprints: Voiceprints,
        grid: WindowGrid,
        slice_seconds: float,
        in_flight: int,
        inference: DeploymentHandle,
        resolving: DeploymentHandle,
    ):
        async def infer(one: PcmSlice) -> LocalSpeakers:
            return await _answer(lambda: inference.infer.remote(one))

        async def resolve(local: LocalSpeakers, uri: str, bounds: dict) -> Diarization:
            return await _answer(lambda: resolving.resolve.remote(local, uri, bounds))

        def make_processor() -> Processor:
            stores = open_stores(settings, public_url)
            return Processor(
                settings, stores, voiceprints, grid, slice_seconds, in_flight, infer, resolve
            )

        stores = await asyncio.to_thread(open_stores, settings, public_url)
        process = await asyncio.to_thread(make_processor)
        self._worker = Worker(settings, stores, process, isolation(make_processor))
        self._worker.start()

    async def wake(self) -> None:
        """See `Worker`."""
        self._worker.wake()

    async def check_health(self) -> None:
        self._worker.check()

    async def __del__(self):
        await self._worker.stop()


async def _answer(ask: Callable[[], Any]) -> Any:
    """Ask a deployment; another replica if one dies, but not for ever: the request may be why."""
    for left in reversed(range(_MOST_ASKS)):
        response = ask()
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            if not left or not is_lost_replica(cause_of(error)):
                raise
            logger.warning("a replica was lost, another is asked: %s", error)
