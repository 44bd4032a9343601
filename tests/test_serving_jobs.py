"""The queue of jobs: what clients and workers see, on SQLite and on PostgreSQL."""

import json
import sqlite3
import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from serving_processes import (
    CONTEXT,
    claim_and_hang,
    create_until_full,
    deliver_until_done,
    run_all,
    work_through_outages,
    work_until_empty,
)

from raydiar.errors import (
    ConfigError,
    DatabaseUnavailable,
    InvalidCursor,
    JobCanceled,
    LeaseLost,
    QueueFull,
)
from raydiar.serving.jobs.limits import QueueLimits, QueueState
from raydiar.serving.jobs.store import JobStore
from raydiar.serving.media.records import MediaRecords
from raydiar.serving.storage import database as database_module
from raydiar.serving.storage.database import is_single_node, open_database


class Clock:
    def __init__(self):
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(database_url):
    database = open_database(database_url)
    yield database
    database.close()


@pytest.fixture
def store(database, clock):
    return JobStore(database, clock=clock)


def add(store, owner="ann", kind="diarize", **more):
    return store.create(owner, kind, {"model": "m"}, "media://talk", **more)


def test_a_job_from_creation_to_its_result(store, clock):
    request = {"voiceprints": [{"label": "Zoë \u0000 \ud800"}], "numSpeakers": None}
    created = store.create("ann", "identify", request, "https://a/b", warning="slow")
    assert (created.status, created.created_at) == ("created", clock.now)
    assert uuid.UUID(created.job_id).version == 4

    clock.now += 5
    claimed = store.claim("worker", 30.0)
    assert claimed.job_id == created.job_id
    assert (claimed.status, claimed.attempt, claimed.request) == ("running", 1, request)
    assert (claimed.media, claimed.warning) == ("https://a/b", "slow")
    assert store.claim("other", 30.0) is None

    store.renew(claimed, 30.0, progress=0.25, audio_seconds=90.5)
    seen = store.get(created.job_id, "ann")
    assert (seen.progress, seen.audio_seconds, seen.output) == (0.25, 90.5, None)

    output = {"diarization": [{"speaker": "Zoë \u0000 \ud800", "start": 0.1}]}
    store.succeed(claimed, output)
    seen = store.get(created.job_id, "ann")
    assert (seen.status, seen.progress, seen.finished_at) == ("succeeded", 1.0, clock.now)
    assert json.loads(seen.output) == output
    assert store.claim("worker", 30.0) is None


@pytest.mark.parametrize("end", ["succeed", "fail", "cancel", "give up"])
def test_what_opens_a_url_is_forgotten_when_its_job_is_over(store, database, clock, end):
    url = "https://host/a.wav?X-Amz-Signature=5ec4e7"
    hook = "https://host/hook?token=5ec4e7"
    job_id = store.create("client", "diarize", {}, url, webhook=hook).job_id
    job = store.claim("worker", 10)
    assert job.media == url
    if end == "succeed":
        store.succeed(job, {})
    elif end == "fail":
        store.fail(job, f"{url}: no")
    elif end == "cancel":
        store.cancel(job_id, "client")
        with pytest.raises(JobCanceled):
            store.renew(job, 10)
    while end == "give up" and job is not None:
        clock.now += 100
        job = store.claim("worker", 10)
    job = store.get(job_id, "client")
    assert job.finished_at is not None
    assert job.media == "https://host/a.wav"
    [due] = store.due_webhooks("sender", 10)
    assert due.webhook == hook
    store.webhook_sent(due)
    with database.read() as connection:
        for table in ("raydiar_jobs", "raydiar_documents"):
            assert "5ec4e7" not in str(connection.execute(sa.text(f"SELECT * FROM {table}")).all())


def test_an_output_of_tens_of_megabytes(store):
    add(store)
    output = {"scores": "7" * 40_000_000}
    job = store.claim("worker", 30.0)
    store.succeed(job, output)
    assert json.loads(store.get(job.job_id, "ann").output) == output


def test_not_a_number_is_no_result(store):
    add(store)
    job = store.claim("worker", 30.0)
    with pytest.raises(ValueError, match="JSON"):
        store.succeed(job, {"start": float("nan")})
    assert store.get(job.job_id, "ann").status == "running"


def test_why_a_job_failed_may_quote_anything(store):
    add(store)
    job = store.claim("worker", 30.0)
    store.fail(job, "not audio: \x00\ud800 Zoë")
    seen = store.get(job.job_id, "ann")
    assert (seen.status, seen.error) == ("failed", "not audio: ? Zoë")


@pytest.mark.parametrize("text", ["media://\x00", "media://\ud800"])
def test_texts_that_no_database_can_hold_are_refused(store, text):
    with pytest.raises(ValueError, match="NUL"):
        store.create("ann", "diarize", {}, text)
    with pytest.raises(ValueError, match="webhook"):
        add(store, webhook=text)
    assert store.list("ann").jobs == []


def test_small_priority_first_then_the_oldest(store):
    batch = [add(store, priority=5).job_id for _ in range(2)]
    urgent = [add(store, priority=1).job_id for _ in range(2)]
    assert [store.claim("w", 30.0).job_id for _ in range(4)] == urgent + batch


def test_one_client_with_many_jobs_does_not_starve_another(store):
    for _ in range(20):
        add(store, "greedy")
    add(store, "modest")
    add(store, "modest", "voiceprint")
    owners = [store.claim("w", 30.0).owner for _ in range(6)]
    assert sorted(owners[:4]) == ["greedy", "greedy", "modest", "modest"]
    assert owners[4:] == ["greedy", "greedy"]  # nothing is left idle


def test_jobs_are_of_known_kinds(store):
    with pytest.raises(ValueError, match="diarize, voiceprint, identify"):
        add(store, kind="transcribe")


def test_an_expired_lease_gives_the_job_to_another_and_bars_the_first(store, clock):
    add(store)
    first = store.claim("first", 30.0)
    clock.now += 29
    store.renew(first, 30.0)
    clock.now += 29
    assert store.claim("second", 30.0) is None
    clock.now += 1
    second = store.claim("second", 30.0)
    assert (second.job_id, second.attempt) == (first.job_id, 2)
    for write in (
        lambda: store.renew(first, 30.0),
        lambda: store.succeed(first, {"by": "first"}),
        lambda: store.fail(first, "broken"),
        lambda: store.release(first, "stopping"),
    ):
        with pytest.raises(LeaseLost, match="first"):
            write()
    store.succeed(second, {"by": "second"})
    with pytest.raises(LeaseLost):
        store.fail(first, "broken")
    seen = store.get(first.job_id, "ann")
    assert (seen.status, seen.output) == ("succeeded", '{"by":"second"}')


def test_the_same_worker_cannot_write_for_its_earlier_attempt(store, clock):
    add(store)
    first = store.claim("worker", 30.0)
    clock.now += 31
    second = store.claim("worker", 30.0)
    with pytest.raises(LeaseLost):
        store.succeed(first, {})
    store.succeed(second, {})


def test_a_lease_that_expired_unnoticed_still_counts(store, clock):
    add(store)
    job = store.claim("worker", 30.0)
    clock.now += 100
    store.renew(job, 30.0)
    assert store.claim("other", 30.0) is None


def test_writing_a_result_again_after_a_lost_answer_is_no_error(store):
    add(store)
    job = store.claim("worker", 30.0)
    store.succeed(job, {"a": 1})
    store.succeed(job, {"a": 1})
    with pytest.raises(LeaseLost):
        store.fail(job, "broken")
    assert store.get(job.job_id, "ann").output == '{"a":1}'


def test_a_job_that_kills_its_workers_is_given_up_and_takes_no_other_along(store, clock):
    """Four jobs die together; each is then tried apart, and only the cause goes on dying."""
    poison, *others = [add(store) for _ in range(4)]
    held = [store.claim("worker", 30.0) for _ in range(4)]
    assert not any(job.alone for job in held)
    clock.now += 31
    for attempt in (2, 3, 4):
        while (job := store.claim("worker", 30.0)) is not None:
            assert job.alone
            if job.job_id != poison.job_id:
                store.succeed(job, {})
            else:
                assert job.attempt == attempt
        clock.now += 31
    assert store.claim("worker", 30.0) is None
    seen = store.get(poison.job_id, "ann")
    assert seen.status == "failed"
    assert seen.error.startswith("given up after 3 attempts: its worker died")
    found = [store.get(job.job_id, "ann") for job in others]
    assert [(job.status, job.attempt - job.excused) for job in found] == [("succeeded", 1)] * 3


def test_a_machine_that_fails_for_ever_does_not_keep_a_job_for_ever(database, clock):
    store = JobStore(database, clock=clock, max_machine_failures=5)
    job_id = add(store).job_id
    for failures in range(5):
        job = store.claim("worker", 30.0)
        assert job.machine_failures == failures
        store.release(job, "no room on the disk", machine=True)
    assert store.claim("worker", 30.0) is None
    seen = store.get(job_id, "ann")
    assert seen.status == "failed"
    assert seen.error == "given up, for this server failed at it 5 times: no room on the disk"


def test_released_jobs_come_back_and_count_unless_excused(store, clock):
    add(store)
    for _ in range(10):
        store.release(store.claim("worker", 30.0), "the worker stops", counts=False)
    for _ in range(2):
        store.release(store.claim("worker", 30.0), "the storage is slow")
    last = store.claim("worker", 30.0)
    assert last.error == "the storage is slow"
    store.release(last, "the storage is slow")
    seen = store.get(last.job_id, "ann")
    assert (seen.status, seen.progress) == ("failed", 0.0)
    assert seen.error == "given up after 3 attempts: the storage is slow"
    assert store.claim("worker", 30.0) is None


def test_a_job_put_off_waits_its_time_and_lets_others_pass(store, clock):
    put_off, other = add(store), add(store)
    store.release(store.claim("worker", 30.0), "503", delay=60.0)
    assert store.get(put_off.job_id, "ann").status == "pending"
    assert store.queue_state().queued_jobs == 2
    assert store.claim("worker", 300.0).job_id == other.job_id
    assert store.claim("worker", 30.0) is None
    clock.now += 60
    again = store.claim("worker", 30.0)
    assert (again.job_id, again.attempt, again.error) == (put_off.job_id, 2, "503")


def test_of_many_jobs_those_that_are_over(store):
    waiting, running, done, canceled = (add(store).job_id for _ in range(4))
    store.cancel(canceled, "ann")
    store.cancel(waiting, "ann")
    waiting = add(store).job_id
    claimed = {job.job_id: job for job in (store.claim("worker", 30.0) for _ in range(2))}
    assert claimed.keys() == {running, done}
    store.succeed(claimed[done], {})
    asked = [waiting, running, done, canceled, "gone"]
    assert store.over(asked) == {done, canceled, "gone"}
    assert store.over([]) == set()


def test_canceling_a_queued_job(store):
    job = add(store, webhook="https://me")
    assert store.cancel(job.job_id, "bob") is None
    assert store.cancel(job.job_id, "ann").status == "canceled"
    assert store.claim("worker", 30.0) is None
    assert [due.status for due in store.due_webhooks("s", 30.0)] == ["canceled"]
    put_off = add(store)
    store.release(store.claim("worker", 30.0), "503", delay=60.0)
    assert store.cancel(put_off.job_id, "ann").status == "canceled"


@pytest.mark.parametrize("write", ["renew", "succeed", "fail", "release"])
def test_a_worker_learns_that_its_job_is_canceled(store, write):
    add(store)
    job = store.claim("worker", 30.0)
    asked = store.cancel(job.job_id, "ann")
    assert (asked.status, asked.cancel_requested) == ("running", True)
    argument = {"renew": 30.0, "succeed": {}, "fail": "broken", "release": "stopping"}[write]
    for _ in range(2):
        with pytest.raises(JobCanceled, match=job.job_id):
            getattr(store, write)(job, argument)
    seen = store.get(job.job_id, "ann")
    assert (seen.status, seen.output, seen.error) == ("canceled", None, None)
    assert store.claim("worker", 30.0) is None


def test_a_canceled_job_of_a_dead_worker_ends_canceled(store, clock):
    add(store)
    job = store.claim("worker", 30.0)
    store.cancel(job.job_id, "ann")
    clock.now += 31
    assert store.claim("other", 30.0) is None
    assert store.get(job.job_id, "ann").status == "canceled"


def test_canceling_a_finished_job_changes_nothing(store):
    add(store)
    job = store.claim("worker", 30.0)
    store.succeed(job, {"a": 1})
    seen = store.cancel(job.job_id, "ann")
    assert (seen.status, seen.output) == ("succeeded", '{"a":1}')


def test_clients_see_only_their_own_jobs(store):
    job = add(store, "ann")
    assert store.get(job.job_id, "bob") is None
    assert store.cancel(job.job_id, "bob") is None
    assert store.list("bob").jobs == []
    assert store.get(job.job_id, "ann").status == "created"


@pytest.mark.parametrize("job_id", ["", "x", "\x00", "\ud800", str(uuid.uuid4()), "' OR 1=1 --"])
def test_unknown_ids_are_unknown(store, job_id):
    assert store.get(job_id, "ann") is None
    assert store.cancel(job_id, "ann") is None


def test_pages_are_stable_while_jobs_are_created(store):
    ids = [add(store).job_id for _ in range(5)][::-1]
    add(store, "bob")
    first = store.list("ann", limit=2)
    newer = add(store).job_id
    second = store.list("ann", limit=2, cursor=first.next_cursor)
    third = store.list("ann", limit=2, cursor=second.next_cursor)
    assert [job.job_id for page in (first, second, third) for job in page.jobs] == ids
    assert third.next_cursor is None
    assert store.list("ann", limit=1).jobs[0].job_id == newer
    assert store.list("ann", limit=6).next_cursor is None
    assert ids[0] not in first.next_cursor
    store.claim("worker", 30.0)
    running = store.list("ann", status="running").jobs
    assert [job.job_id for job in running] == [ids[-1]]


@pytest.mark.parametrize("cursor", ["", "x", "\x00", "é", "YmVmb3JlOi0x", "YmVmb3JlOjk" * 9])
def test_made_up_cursors_are_refused(store, cursor):
    with pytest.raises(InvalidCursor, match="cursor"):
        store.list("ann", cursor=cursor)


def test_the_queue_is_limited_in_jobs(database, clock):
    store = JobStore(database, QueueLimits(max_jobs=2, retry_after=7.0), clock=clock)
    store.check_room("ann")
    add(store, "ann")
    add(store, "bob")
    with pytest.raises(QueueFull, match="2 jobs wait, and no more than 2 may") as refusal:
        add(store, "cid")
    assert refusal.value.retry_after == 7.0
    with pytest.raises(QueueFull):
        store.check_room("ann")
    store.claim("worker", 30.0)
    add(store, "cid")  # running ones do not wait


def test_the_queue_is_limited_in_audio(database, clock):
    limits = QueueLimits(max_seconds=3600.0, unknown_seconds=600.0)
    store = JobStore(database, limits, clock=clock)
    add(store, audio_seconds=24 * 3600.0)  # however long: nothing waits
    with pytest.raises(QueueFull, match=r"24\.0 hours of audio wait, and no more than 1\.0 may"):
        add(store, audio_seconds=1.0)
    store.claim("worker", 30.0)
    add(store, audio_seconds=3000.0)
    add(store)
    with pytest.raises(QueueFull):
        add(store)
    assert store.queue_state() == QueueState(2, 3600.0, 1, 24 * 3600.0)


def test_one_client_cannot_fill_the_queue(database, clock):
    limits = QueueLimits(key_jobs=2, key_seconds=3600.0, unknown_seconds=600.0)
    store = JobStore(database, limits, clock=clock)
    add(store, "greedy")
    put_off = store.claim("worker", 30.0)
    store.release(put_off, "503", delay=3600.0)  # waits as well
    add(store, "greedy")
    for refused in (lambda: add(store, "greedy"), lambda: store.check_room("greedy")):
        with pytest.raises(QueueFull, match="2 jobs of this key wait, and no more than 2 may"):
            refused()
    add(store, "modest", audio_seconds=3000.0)
    store.check_room("modest")
    with pytest.raises(QueueFull, match=r"0\.8 hours of audio of this key"):
        add(store, "modest", audio_seconds=601.0)


def test_one_client_has_so_many_jobs_under_way(database, clock):
    store = JobStore(database, QueueLimits(key_running=2), clock=clock)
    jobs = [add(store, "greedy") for _ in range(3)]
    held = [store.claim("worker", 30.0) for _ in range(2)]
    assert store.claim("worker", 30.0) is None
    modest = add(store, "modest")
    assert store.claim("worker", 30.0).job_id == modest.job_id
    store.succeed(held[0], {})
    assert store.claim("worker", 30.0).job_id == jobs[2].job_id


def test_what_must_be_fetched_waits_apart(store):
    url = store.create("ann", "diarize", {}, "https://host/a.wav").job_id
    upload = add(store).job_id
    assert store.claim("worker", 30.0, ["upload"]).job_id == upload
    assert store.claim("worker", 30.0, ["upload"]) is None
    assert store.claim("worker", 30.0, ["url"]).job_id == url


def test_results_are_deleted_after_their_time(store, database, clock):
    old, queued = add(store), add(store)
    store.succeed(store.claim("worker", 30.0), {"a": 1})
    clock.now += 24 * 3600 - 1
    assert store.expire() == 0
    assert store.get(old.job_id, "ann").output == '{"a":1}'
    clock.now += 1
    assert store.expire() == 1
    assert store.get(old.job_id, "ann") is None
    assert store.get(queued.job_id, "ann").status == "created"
    with database.read() as connection:
        documents = connection.execute(sa.text("SELECT job_id FROM raydiar_documents")).all()
    assert documents == [(queued.job_id,)]


def finished(store, **more):
    add(store, **more)
    job = store.claim("worker", 30.0)
    store.succeed(job, {"a": 1})
    return job


def test_webhooks_are_due_at_the_end_and_until_sent(store, clock):
    add(store, webhook="https://me")
    assert store.due_webhooks("s", 30.0) == []
    job = store.claim("worker", 30.0)
    store.succeed(job, {"a": 1})
    finished(store)  # wants none
    [due] = store.due_webhooks("one", 30.0)
    assert (due.job_id, due.webhook, due.output) == (job.job_id, "https://me", '{"a":1}')
    assert store.due_webhooks("two", 30.0) == []
    store.webhook_sent(due)
    clock.now += 1000
    assert store.due_webhooks("two", 30.0) == []
    assert store.get(job.job_id, "ann").webhook_done


def test_a_webhook_of_the_status_only_comes_without_the_output(store):
    finished(store, webhook="https://me", webhook_status_only=True)
    [due] = store.due_webhooks("one", 30.0)
    assert (due.status, due.output) == ("succeeded", None)


def test_a_failed_webhook_is_tried_again_and_given_up(store, clock):
    job = finished(store, webhook="https://me")
    [due] = store.due_webhooks("one", 30.0)
    store.webhook_failed(due, "http_timeout", clock.now + 60)
    clock.now += 59
    assert store.due_webhooks("one", 30.0) == []
    clock.now += 1
    [due] = store.due_webhooks("one", 30.0)
    assert (due.webhook_attempts, due.webhook_error) == (1, "http_timeout")
    store.webhook_failed(due, "too_many_redirects", None)
    clock.now += 10_000
    assert store.due_webhooks("one", 30.0) == []
    seen = store.get(job.job_id, "ann")
    assert (seen.webhook_attempts, seen.webhook_error) == (2, "too_many_redirects")
    assert not seen.webhook_done


def test_the_webhook_of_a_dead_sender_goes_to_another(store, clock):
    finished(store, webhook="https://me")
    [first] = store.due_webhooks("first", 30.0)
    clock.now += 31
    [second] = store.due_webhooks("second", 30.0)
    store.webhook_failed(first, "http_timeout", None)  # too late to say so
    clock.now += 31
    assert store.due_webhooks("third", 30.0)
    store.webhook_sent(second)  # but sent is sent
    clock.now += 31
    assert store.due_webhooks("third", 30.0) == []


def test_the_webhooks_of_one_client_do_not_hold_up_those_of_others(store):
    for _ in range(20):
        finished(store, owner="greedy", webhook="https://slow")
    finished(store, owner="modest", webhook="https://quick")
    due = store.due_webhooks("s", 30.0, limit=10, per_owner=3)
    assert sorted(job.owner for job in due) == ["greedy"] * 3 + ["modest"]
    assert [job.owner for job in store.due_webhooks("t", 30.0, limit=2)] == ["greedy"] * 2


def test_processes_that_start_at_once_make_one_schema_and_keep_the_limit(database_url):
    counts = run_all(create_until_full, 8, database_url, 150, 25)
    assert sum(taken for taken, _ in counts) == 150
    assert sum(refused for _, refused in counts) == 50
    assert JobStore(open_database(database_url)).queue_state().queued_jobs == 150


def test_eight_processes_do_every_job_and_send_every_webhook_once(database, database_url):
    store = JobStore(database)
    jobs = [add(store, f"client{i % 5}", webhook="https://me") for i in range(200)]
    ids = sorted(job.job_id for job in jobs)
    done = run_all(work_until_empty, 8, database_url)
    assert sorted(job_id for worker in done for job_id in worker) == ids
    assert sum(bool(worker) for worker in done) > 1
    assert {store.get(job.job_id, job.owner).attempt for job in jobs} == {1}
    sent = run_all(deliver_until_done, 2, database_url)
    assert sorted(job_id for sender in sent for job_id in sender) == ids


def test_the_job_of_a_killed_process_is_done_by_another(database, database_url):
    store = JobStore(database)
    job = add(store)
    claimed = CONTEXT.Queue()
    process = CONTEXT.Process(target=claim_and_hang, args=(database_url, 2.0, claimed))
    process.start()
    assert claimed.get(timeout=60) == job.job_id
    assert store.claim("other", 30.0) is None
    process.kill()
    process.join(20)
    deadline = time.monotonic() + 30
    while (again := store.claim("other", 30.0)) is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (again.job_id, again.attempt) == (job.job_id, 2)
    store.succeed(again, {})


def test_a_restarted_database_works_again_without_a_restart_of_ours(postgres):
    url = postgres.empty_database()
    database = open_database(url)
    store = JobStore(database)
    kept = add(store)
    running = store.claim("worker", 600.0)
    postgres.stop()
    try:
        for call in (
            lambda: add(store),
            lambda: store.claim("worker", 30.0),
            lambda: store.renew(running, 30.0),
            lambda: store.get(kept.job_id, "ann"),
            lambda: open_database(url),
        ):
            with pytest.raises(DatabaseUnavailable, match="does not answer"):
                call()
    finally:
        postgres.start()
    store.succeed(running, {})
    assert store.get(kept.job_id, "ann").status == "succeeded"
    add(store)
    assert store.claim("worker", 30.0) is not None
    database.close()


def test_workers_wait_while_the_database_restarts_and_lose_no_job(postgres):
    url = postgres.empty_database()
    database = open_database(url)
    store = JobStore(database)
    jobs = [add(store) for _ in range(100)]
    with ThreadPoolExecutor(1) as thread:
        answers = thread.submit(run_all, work_through_outages, 2, url)
        for done in (20, 60):
            while store.queue_state().queued_jobs > 100 - done:
                time.sleep(0.02)
            postgres.stop()
            time.sleep(0.2)
            postgres.start()
        waits = answers.result(60)
    assert all(waits)
    assert {store.get(job.job_id, "ann").status for job in jobs} == {"succeeded"}
    database.close()


def test_a_connection_lost_within_a_transaction(postgres):
    database = open_database(postgres.empty_database())
    store = JobStore(database)

    def write_while_it_restarts():
        with database.write() as connection:
            connection.execute(sa.text("SELECT 1"))
            postgres.stop()
            postgres.start()
            connection.execute(sa.text("SELECT 1"))

    with pytest.raises(DatabaseUnavailable):
        write_while_it_restarts()
    assert add(store).status == "created"
    database.close()


def test_a_sqlite_file_locked_for_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "_SQLITE_LOCK_SECONDS", 0.1)
    store = JobStore(open_database(f"sqlite:///{tmp_path}/a.db"))
    job = add(store)
    other = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="locked"):
        add(store)
    assert store.get(job.job_id, "ann").status == "created"  # readers go on
    other.execute("ROLLBACK")
    add(store)
    other.close()


def test_what_is_no_database_is_refused(tmp_path):
    (tmp_path / "a.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(ConfigError, match=r"a\.db cannot be opened"):
        open_database(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(ConfigError, match="folder"):
        open_database(f"sqlite:///{tmp_path}/a.db/b.db")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql://me:secret@host/db", "mysql is no database"),
        ("secret", "cannot be read"),
    ],
)
def test_urls_that_make_no_sense(url, message):
    with pytest.raises(ConfigError, match=message) as refusal:
        open_database(url)
    assert "secret" not in str(refusal.value)


def test_a_password_is_not_in_the_error():
    with pytest.raises(DatabaseUnavailable) as refusal:
        open_database("postgresql://me:secret@127.0.0.1:1/db")
    assert "secret" not in str(refusal.value)


def test_a_sqlite_file_is_for_one_node(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_single_node("sqlite:///a.db")
    assert not is_single_node("postgresql+psycopg://host/a")
    database = open_database("sqlite:///a.db")
    assert database.is_single_node
    monkeypatch.chdir("/")
    again = open_database(database.url.render_as_string(hide_password=False))
    assert again.url.database == str(tmp_path / "a.db")


def test_a_newer_schema_is_refused(database, database_url):
    with database.write() as connection:
        connection.execute(sa.text("UPDATE raydiar_schema SET version = 99"))
    with pytest.raises(ConfigError, match="schema 99"):
        open_database(database_url)


def test_a_database_of_an_older_raydiar_goes_on(database, database_url):
    """What schema 1 lacked is added, and what was in it stays."""
    store = JobStore(database)
    job_id = add(store).job_id
    url_id = store.create("ann", "diarize", {}, "https://host/a.wav").job_id
    lacking = {
        "raydiar_jobs": ("lane", "machine_failures", "alone"),
        "raydiar_documents": ("waveform",),
        "raydiar_media": ("seconds",),
    }
    with database.write() as connection:
        for index in ("raydiar_jobs_next", "raydiar_jobs_media"):
            connection.exec_driver_sql(f"DROP INDEX {index}")
        connection.exec_driver_sql(
            "CREATE INDEX raydiar_jobs_queue ON raydiar_jobs (owner, kind, priority, seq)"
        )
        for table, columns in lacking.items():
            for column in columns:
                connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.exec_driver_sql("DROP TABLE raydiar_versions")
        connection.exec_driver_sql("UPDATE raydiar_schema SET version = 1")
    for _ in range(2):
        store = JobStore(open_database(database_url))
    assert store.claim("worker", 30.0, ["upload"]).job_id == job_id
    assert store.claim("worker", 30.0, ["url"]).job_id == url_id
    inspector = sa.inspect(sa.create_engine(database.url))
    assert "raydiar_jobs_next" in {i["name"] for i in inspector.get_indexes("raydiar_jobs")}
    assert inspector.has_table("raydiar_versions")


def fill(database, number):
    """Queue jobs of one client, behind one job of another."""
    add(JobStore(database), "modest", audio_seconds=60.0)
    columns = "owner, kind, priority, media, created_at, updated_at, progress, attempt, excused"
    flags = "cancel_requested, webhook_status_only, webhook_attempts, webhook_done"
    rows = f"""
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number})
        INSERT INTO raydiar_jobs (job_id, status, {columns}, {flags})
        SELECT 'job' || i, 'created', 'greedy', 'diarize', 0, 'media://a', 0, 0, 0, 0, 0,
               false, false, 0, false FROM n"""
    with database.write() as connection:
        connection.execute(sa.text(rows))
        connection.execute(
            sa.text(
                "INSERT INTO raydiar_documents (job_id, request)"
                " SELECT job_id, '{}' FROM raydiar_jobs WHERE owner = 'greedy'"
            )
        )


def rows_read(plan: dict) -> int:
    """Most rows that one step of PostgreSQL's plan gave or threw away."""
    seen = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    return max([seen, *map(rows_read, plan.get("Plans", []))])


@pytest.mark.parametrize("analyzed", [False, True])
def test_claiming_from_a_long_queue_reads_few_rows_of_postgres(postgres, analyzed):
    database = open_database(postgres.empty_database())
    fill(database, 100_000)
    if analyzed:
        with database.write() as connection:
            connection.execute(sa.text("ANALYZE"))
    statements = []

    def note(connection, cursor, statement, parameters, *_):
        statements.append((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        assert JobStore(database).claim("worker", 30.0).owner == "modest"
        assert JobStore(database).claim("worker", 30.0).owner == "greedy"
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert len(statements) == 8
    with database.write() as connection:
        for statement, parameters in statements:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
            [[plan]] = connection.exec_driver_sql(explain, parameters).scalars()
            assert rows_read(plan["Plan"]) < 10, plan
    database.close()


def test_claiming_from_a_long_queue_is_little_work_for_sqlite(tmp_path):
    steps = []
    for number in (10, 100_000):
        database = open_database(f"sqlite:///{tmp_path}/{number}.db")
        fill(database, number)
        counted = [0]

        def count(counted=counted):
            counted[0] += 1

        def watch(connection, _, count=count):
            connection.set_progress_handler(count, 1)

        database.close()  # the next connection is watched
        sa.event.listen(sa.Engine, "connect", watch)
        try:
            assert JobStore(database).claim("worker", 30.0).owner == "modest"
            assert JobStore(database).claim("worker", 30.0).owner == "greedy"
        finally:
            sa.event.remove(sa.Engine, "connect", watch)
        database.close()
        steps.append(counted[0])
    assert 0 < steps[1] < 1.2 * steps[0]


def test_uploads_belong_to_one_client(database, clock):
    records = MediaRecords(database, clock=clock)
    mine = records.open_upload("ann", "a/talk.wav", lambda upload_id: f"/store/{upload_id}")
    assert records.get("ann", "a/talk.wav") == mine
    assert (mine.state, mine.store_path) == ("open", f"/store/{mine.upload_id}")
    assert records.get("bob", "a/talk.wav") is None
    other = records.open_upload("bob", "a/talk.wav", lambda upload_id: f"/store/{upload_id}")
    assert records.finish_upload(other.upload_id, 7).state == "uploaded"
    assert records.get("ann", "a/talk.wav") == mine
    assert records.get("bob", "a/talk.wav").num_bytes == 7
    for key in ("\x00", "\ud800", "nothing"):
        assert records.get("ann", key) is None
        assert records.get_upload(key) is None


def test_an_upload_replaces_an_older_one_when_it_is_whole(database, clock):
    records = MediaRecords(database, clock=clock)
    old = records.open_upload("ann", "talk", lambda upload_id: upload_id)
    records.finish_upload(old.upload_id, 5_000_000_000)
    new = records.open_upload("ann", "talk", lambda upload_id: upload_id)
    assert records.get("ann", "talk").upload_id == old.upload_id
    assert records.get("ann", "talk").num_bytes == 5_000_000_000
    records.finish_upload(new.upload_id, 6)
    assert records.get("ann", "talk").upload_id == new.upload_id


def test_uploads_of_one_client_are_so_many_bytes(database, clock):
    records = MediaRecords(database, media_hours=1.0, clock=clock)

    def open_upload(owner, announced):
        return records.open_upload(owner, "talk", str, announced, max_stored=1000)

    first = open_upload("ann", 600)
    with pytest.raises(QueueFull, match="delete some") as refusal:
        open_upload("ann", 600)
    assert refusal.value.retry_after == 3600.0
    open_upload("bob", 600)
    records.finish_upload(first.upload_id, 300)
    assert records.stored_bytes("ann") == 300
    open_upload("ann", 600)


def test_an_upload_does_not_expire_while_a_job_needs_it(database, store, clock):
    records = MediaRecords(database, media_hours=1.0, clock=clock)
    record = records.open_upload("ann", "talk", str)
    records.finish_upload(record.upload_id, 5, 1.5)
    add(store)  # about media://talk
    clock.now += 7200
    assert records.expired() == []
    assert records.get("ann", "talk").seconds == 1.5
    store.succeed(store.claim("worker", 30.0), {})
    assert [one.upload_id for one in records.expired()] == [record.upload_id]
    assert records.get("ann", "talk") is None


def test_uploads_are_named_for_deletion_until_they_are_deleted(database, clock):
    records = MediaRecords(database, media_hours=1.0, clock=clock)
    old = records.open_upload("ann", "talk", lambda upload_id: upload_id)
    clock.now += 1800
    new = records.open_upload("ann", "talk", lambda upload_id: upload_id)
    records.finish_upload(new.upload_id, 6)
    clock.now += 1800
    assert records.finish_upload(old.upload_id, 5) is None
    for _ in range(2):  # a cleaner may die before it is done
        assert records.expired() == [old]
    records.forget([old])
    assert records.expired() == []
    assert records.get("ann", "talk").upload_id == new.upload_id
