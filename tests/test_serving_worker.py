"""A worker and its queue, without networks: outages, stops, and whose failure a failure is."""

import asyncio
import errno
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from raydiar import errors
from raydiar.local_speakers import LocalSpeakers
from raydiar.serving.deployments.inference import PcmSlice, SliceInference, cut
from raydiar.serving.jobs.store import JobStore
from raydiar.serving.settings import ServeSettings
from raydiar.serving.storage.database import open_database
from raydiar.serving.stores import open_stores
from raydiar.serving.work import worker as worker_module
from raydiar.serving.work.budget import PcmBudget
from raydiar.serving.work.worker import Worker
from raydiar.windows import WindowGrid


class Work:
    """What is done with each job, in the place of a `Processor`."""

    def __init__(self, act=None, fetch=None):
        self.act = act
        self.fetch = fetch
        self.started = asyncio.Event()
        self.stopped = False
        self.apart = []

    @asynccontextmanager
    async def recording(self, job):
        if self.fetch and job.media.startswith("https://"):
            await self.fetch()
        yield None

    async def isolate(self, job, progress):
        self.apart.append(job.job_id)
        return await self(job, None, progress)

    async def __call__(self, job, path, progress):
        self.started.set()
        try:
            return await self.act() if self.act else {"diarization": []}
        except asyncio.CancelledError:
            self.stopped = True
            raise

    def close(self):
        pass


async def forever():
    await asyncio.Event().wait()


def raising(error):
    async def act():
        raise error

    return act


@pytest.fixture
def settings(tmp_path) -> ServeSettings:
    return ServeSettings(
        database=f"sqlite:///{tmp_path}/jobs.sqlite",
        media=str(tmp_path / "media"),
        lease_seconds=1.0,
        jobs_per_worker=2,
        key_running_jobs=10,
    )


@asynccontextmanager
async def working(settings, work):
    stores = open_stores(settings, "http://localhost")
    worker = Worker(settings, stores, work, work.isolate)
    worker.start()
    try:
        yield stores.jobs, worker
    finally:
        await worker.stop()


async def until(condition, seconds=30.0) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


def submit(jobs, media="media://a.wav"):
    return jobs.create("ann", "diarize", {}, media).job_id


def test_a_result_outlives_an_outage_of_the_database(postgres, settings):
    settings = settings.model_copy(update={"database": postgres.empty_database()})

    async def scenario():
        goes_on = asyncio.Event()

        async def act():
            await goes_on.wait()
            return {"diarization": ["kept"]}

        work = Work(act)
        async with working(settings, work) as (jobs, worker):
            job_id = submit(jobs)
            await asyncio.wait_for(work.started.wait(), 30)
            await asyncio.to_thread(postgres.stop)
            try:
                goes_on.set()  # the work ends while nobody can be told
                await asyncio.sleep(2)
            finally:
                await asyncio.to_thread(postgres.start)
            await until(lambda: jobs.get(job_id, "ann").status == "succeeded")
            job = jobs.get(job_id, "ann")
            assert (job.attempt, job.output) == (1, '{"diarization":["kept"]}')
            worker.check()

    asyncio.run(scenario())


def test_a_worker_that_stops_gives_its_jobs_back(settings):
    async def scenario():
        work = Work(forever)
        async with working(settings, work) as (jobs, _):
            submitted = [submit(jobs) for _ in range(3)]
            await until(lambda: jobs.queue_state().running_jobs == 2)
        found = [jobs.get(job_id, "ann") for job_id in submitted]
        assert [job.status for job in found] == ["created"] * 3
        assert [(job.attempt, job.excused) for job in found] == [(1, 1), (1, 1), (0, 0)]
        assert work.stopped

    asyncio.run(scenario())


def test_a_cancellation_stops_the_work(settings):
    async def scenario():
        work = Work(forever)
        async with working(settings, work) as (jobs, _):
            job_id = submit(jobs)
            await asyncio.wait_for(work.started.wait(), 30)
            jobs.cancel(job_id, "ann")
            await until(lambda: work.stopped)
            assert jobs.get(job_id, "ann").status == "canceled"

    asyncio.run(scenario())


def test_a_long_job_keeps_its_lease(settings):
    async def scenario():
        async def act():
            await asyncio.sleep(3 * settings.lease_seconds)
            return {}

        async with working(settings, Work(act)) as (jobs, _):
            job_id = submit(jobs)
            await until(lambda: jobs.get(job_id, "ann").status == "succeeded")
            assert jobs.get(job_id, "ann").attempt == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "status", "excused", "told"),
    [
        (errors.AudioDecodeError("a.wav: no audio"), "failed", 0, "a.wav: no audio"),
        (errors.UrlRefused("a.wav: refused"), "failed", 0, "refused"),
        (errors.FetchFailed("a.wav: HTTP 404", False), "failed", 0, "404"),
        (errors.EnrolmentError("two people speak"), "failed", 0, "two people"),
        (KeyError("an inner matter"), "failed", 0, "the server failed"),
        (errors.FetchFailed("a.wav: HTTP 503", True), "pending", 0, "503"),
        (errors.StorageUnavailable("media://a: away"), "pending", 0, "away"),
        (errors.DeviceFailed("CUDA error"), "pending", 0, "CUDA"),
        (errors.StorageDenied("media://a: 403"), "pending", 1, "403"),
        (OSError(errno.ENOSPC, "No space left"), "pending", 1, "the server failed"),
        (MemoryError(), "pending", 1, "the server failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_failures_are_put_down_to_whom_they_belong(settings, error, status, excused, told):
    """The recording's fail the job, the moment's count as attempts, the machine's do not."""

    async def scenario():
        async with working(settings, Work(raising(error))) as (jobs, _):
            job_id = submit(jobs)
            await until(lambda: jobs.get(job_id, "ann").status == status)
            job = jobs.get(job_id, "ann")
            assert job.excused == excused
            assert told in job.error
            assert "inner matter" not in job.error

    asyncio.run(scenario())


def test_a_machine_that_fails_again_and_again_is_replaced(settings, monkeypatch):
    monkeypatch.setattr(worker_module, "_MACHINE_SECONDS", 0.1)

    async def scenario():
        full = OSError(errno.ENOSPC, "No space left")
        async with working(settings, Work(raising(full))) as (jobs, worker):
            job_id = submit(jobs)
            worker.check()

            def unhealthy() -> bool:
                try:
                    worker.check()
                except errors.WorkerUnhealthy:
                    return True
                return False

            await until(unhealthy)
            assert jobs.get(job_id, "ann").status != "failed"

    asyncio.run(scenario())


def test_what_outlived_its_worker_is_done_apart(settings):
    """Of two jobs of a worker that died, neither takes the other or the next worker along."""

    async def scenario():
        stores = open_stores(settings, "http://localhost")
        an_hour_ago = JobStore(open_database(settings.database), clock=lambda: time.time() - 3600)
        held = [submit(stores.jobs) for _ in range(2)]
        for _ in held:
            an_hour_ago.claim("a worker that died", 60.0)
        fresh = submit(stores.jobs)
        work = Work()
        async with working(settings, work) as (jobs, _):
            for job_id in (*held, fresh):
                await until(lambda job_id=job_id: jobs.get(job_id, "ann").status == "succeeded")
        assert sorted(work.apart) == sorted(held)
        found = [jobs.get(job_id, "ann") for job_id in (*held, fresh)]
        assert [job.attempt - job.excused for job in found] == [1, 1, 1]

    asyncio.run(scenario())


def test_slow_hosts_keep_no_place_where_work_is_done(settings):
    settings = settings.model_copy(update={"fetches_per_worker": 2, "jobs_per_worker": 1})

    async def scenario():
        fetched = asyncio.Event()
        work = Work(fetch=fetched.wait)
        async with working(settings, work) as (jobs, _):
            slow = [submit(jobs, "https://slow/a.wav") for _ in range(3)]
            await until(lambda: jobs.queue_state().running_jobs == 2)
            upload = submit(jobs)
            await until(lambda: jobs.get(upload, "ann").status == "succeeded")
            assert {jobs.get(job_id, "ann").status for job_id in slow} == {"running", "created"}
            fetched.set()
            for job_id in slow:
                await until(lambda job_id=job_id: jobs.get(job_id, "ann").status == "succeeded")

    asyncio.run(scenario())


def test_memory_for_decoded_audio_is_handed_out():
    async def scenario():
        budget = PcmBudget(1000)  # 250 of them for those of at most 31
        inside, leave = [], {}

        async def hold(name, size):
            async with budget.room(size):
                inside.append(name)
                await leave.setdefault(name, asyncio.Event()).wait()
            inside.remove(name)

        async def settle():
            for _ in range(10):
                await asyncio.sleep(0)

        sizes = {"day": 700, "hour": 200, "later": 50, "short": 30, "endless": 10**9}
        tasks = {name: asyncio.create_task(hold(name, size)) for name, size in sizes.items()}
        await settle()
        assert inside == ["day", "short"]  # what is small does not wait behind what is large
        tasks["hour"].cancel()
        await settle()
        assert inside == ["day", "short", "later"]
        leave["day"].set()
        await settle()
        assert inside == ["short", "later"]
        leave["later"].set()
        await settle()
        assert inside == ["short", "endless"]  # alone, of the large ones
        for name in ("short", "endless"):
            leave[name].set()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert inside == []

    asyncio.run(scenario())


def test_an_idle_worker_can_be_woken(settings, monkeypatch):
    monkeypatch.setattr(worker_module, "_IDLE_SECONDS", (60.0, 60.0))

    async def scenario():
        async def act():
            return {"diarization": []}

        work = Work(act)
        async with working(settings, work) as (jobs, worker):
            await asyncio.sleep(0.5)  # it has seen that there is nothing to do
            job_id = submit(jobs)
            await asyncio.sleep(0.5)
            assert not work.started.is_set()
            worker.wake()
            await until(lambda: jobs.get(job_id, "ann").status == "succeeded", 10.0)

    asyncio.run(scenario())


# Slices


@pytest.mark.parametrize("seconds", [0.5, 10.0, 10.01, 29.9, 31.0, 47.3])
@pytest.mark.parametrize("slice_seconds", [10.0, 15.0, 120.0])
def test_slices_hold_every_window_and_only_their_samples(seconds, slice_seconds):
    grid = WindowGrid()
    samples = np.arange(round(seconds * 16000), dtype=np.int16)
    slices = list(cut(samples, grid, slice_seconds))
    assert sum(one.num_windows for one in slices) == grid.num_windows(len(samples))
    first = 0
    for one in slices:
        assert one.first_window == first
        assert grid.num_windows(len(one.samples)) == one.num_windows
        assert len(one.samples) <= slice_seconds * 16000
        assert one.samples[0] == samples[first * grid.step_samples]
        first += one.num_windows
    assert len(slices[-1].samples) == len(samples) - slices[-1].first_window * grid.step_samples


def test_one_bad_slice_fails_alone(pipeline, sample_wav):
    from raydiar.audio import decode
    from raydiar.pipelines.config import DEFAULT

    samples = decode(sample_wav, start=5.0, duration=12.5)
    inference = SliceInference(DEFAULT, "cpu", 2)
    good = list(cut(samples, WindowGrid(), 10.0))
    bad = PcmSlice(np.zeros((5, 5), np.int16), 0, 1, 5)
    *found, failure = inference([*good, bad])
    assert isinstance(failure, errors.InvalidSamples)
    joined = LocalSpeakers.concat(found)
    assert joined.complete
    assert joined.num_samples == len(samples)
