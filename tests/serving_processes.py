"""Processes that share one database of jobs with the tests; each function is one's whole life."""

import contextlib
import multiprocessing
import time

from raydiar.errors import DatabaseUnavailable, LeaseLost, QueueFull
from raydiar.serving.jobs.limits import QueueLimits
from raydiar.serving.jobs.store import JobStore
from raydiar.serving.storage.database import open_database

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["raydiar.serving.jobs.store", "psycopg"])  # imported once for all


def run_all(target, number: int, *arguments) -> list:
    """Run a function in processes that start at the same moment; gives what each answers."""
    barrier, answers = CONTEXT.Barrier(number), CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_run, args=(target, barrier, answers, index, *arguments))
        for index in range(number)
    ]
    for process in processes:
        process.start()
    results = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(20)
    assert not [result for result in results if isinstance(result, Exception)]
    return results


def _run(target, barrier, answers, index, *arguments) -> None:
    barrier.wait(60)
    try:
        answers.put(target(index, *arguments))
    except Exception as error:
        answers.put(RuntimeError(repr(error)))  # not all of them can be pickled


def create_until_full(index: int, url: str, max_jobs: int, tries: int) -> tuple[int, int]:
    """Create jobs; gives how many were taken and how many refused."""
    store = JobStore(open_database(url), QueueLimits(max_jobs=max_jobs))
    refused = 0
    for _ in range(tries):
        try:
            store.create(f"client{index}", "diarize", {}, "media://a")
        except QueueFull:
            refused += 1
    return tries - refused, refused


def work_until_empty(index: int, url: str) -> list[str]:
    """Claim and finish jobs; gives their ids."""
    store = JobStore(open_database(url))
    done = []
    while job := store.claim(f"worker{index}", 60.0):
        store.succeed(job, {"worker": index})
        done.append(job.job_id)
    return done


def work_through_outages(index: int, url: str) -> int:
    """Do all jobs, waiting where the database is away; gives how many waits."""
    store = JobStore(open_database(url), max_attempts=100)
    waits = 0

    def insist(call):
        nonlocal waits
        while True:
            try:
                return call()
            except DatabaseUnavailable:
                waits += 1
                time.sleep(0.05)

    while True:
        job = insist(lambda: store.claim(f"worker{index}", 2.0))
        if job is None:
            state = insist(store.queue_state)
            if not state.queued_jobs and not state.running_jobs:
                return waits
        else:
            time.sleep(0.02)
            with contextlib.suppress(LeaseLost):
                insist(lambda job=job: store.succeed(job, {"worker": index}))


def deliver_until_done(index: int, url: str) -> list[str]:
    """Send webhooks; gives the ids of their jobs."""
    store = JobStore(open_database(url))
    sent = []
    while due := store.due_webhooks(f"sender{index}", 60.0):
        for job in due:
            store.webhook_sent(job)
            sent.append(job.job_id)
    return sent


def claim_and_hang(url: str, lease_seconds: float, claimed) -> None:
    """Claim a job, say so, and never finish it."""
    store = JobStore(open_database(url))
    claimed.put(store.claim("doomed", lease_seconds).job_id)
    time.sleep(600)
