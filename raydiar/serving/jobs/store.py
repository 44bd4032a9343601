"""The queue of jobs: filled by clients, leased by workers, kept until results expire.

The database is the queue. A worker holds a job by a lease that it renews; when it dies, the lease
expires and the next `claim` puts the job back. Whoever lost the lease can write nothing any more:
every write of a worker asks for the lease's owner and the attempt. Machines compare lease times by
their own clocks, which must agree to within a fraction of a lease.
"""

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from raydiar.errors import JobCanceled, LeaseLost
from raydiar.naming import public_uri, without_secrets
from raydiar.serving.jobs import claims
from raydiar.serving.jobs.limits import (
    DEFAULT_LIMITS,
    QueueLimits,
    QueueState,
    check_limits,
    read_state,
)
from raydiar.serving.jobs.records import (
    KINDS,
    LANES,
    UPLOADS,
    URLS,
    WITH_OUTPUT,
    Job,
    Page,
    check_storable,
    decode_cursor,
    encode_cursor,
    is_uuid,
    read_jobs,
    storable,
)
from raydiar.serving.media.names import SCHEME
from raydiar.serving.storage.database import Database
from raydiar.serving.storage.tables import documents, jobs, versions

# Asked ten times a second: made once.
_ALIVE = sa.select(jobs.c.job_id).where(
    jobs.c.job_id.in_(sa.bindparam("job_ids", expanding=True)),
    jobs.c.status.not_in(("succeeded", "failed", "canceled")),
)


class JobStore:
    """The jobs in a database; every method is one transaction.

    All raise `DatabaseUnavailable` when the database does not answer.

    Parameters
    ----------
    database : Database
    limits : QueueLimits
    max_attempts : int
        Attempts that count after which a job is given up.
    max_machine_failures : int
        Attempts that machines failed at, after which it is given up as well.
    result_hours : float
        How long a finished job is kept.
    clock : callable
        Seconds since 1970 (UTC).
    """

    def __init__(
        self,
        database: Database,
        limits: QueueLimits = DEFAULT_LIMITS,
        max_attempts: int = 3,
        result_hours: float = 24.0,
        clock: Callable[[], float] = time.time,
        max_machine_failures: int = 24,
    ):
        self._database = database
        self._limits = limits
        self._max_attempts = max_attempts
        self._max_machine_failures = max_machine_failures
        self._result_seconds = result_hours * 3600.0
        self._clock = clock

    # What clients do.

    def create(
        self,
        owner: str,
        kind: str,
        request: Mapping[str, Any],
        media: str,
        *,
        priority: int = 0,
        audio_seconds: float | None = None,
        webhook: str | None = None,
        webhook_status_only: bool = False,
        warning: str | None = None,
    ) -> Job:
        """Queue a job.

        Raises
        ------
        QueueFull
            When it would exceed the limits.
        ValueError
            When the kind is unknown, or a text holds what no database can.
        """
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}, not one of {', '.join(KINDS)}")
        check_storable(media=media, webhook=webhook, warning=warning)
        now = self._clock()
        job_id = str(uuid.uuid4())
        with self._database.write() as connection:
            self._database.lock(connection, "create")  # counted and added by one at a time
            check_limits(connection, self._limits, owner, audio_seconds)
            connection.execute(
                jobs.insert().values(
                    job_id=job_id,
                    owner=owner,
                    kind=kind,
                    lane=UPLOADS if media.startswith(SCHEME) else URLS,
                    priority=priority,
                    status="created",
                    media=media,
                    audio_seconds=audio_seconds,
                    warning=warning,
                    created_at=now,
                    updated_at=now,
                    webhook=webhook,
                    webhook_status_only=webhook_status_only,
                )
            )
            connection.execute(
                documents.insert().values(job_id=job_id, request=json.dumps(dict(request)))
            )
            return read_jobs(connection, jobs.c.job_id == job_id)[0]

    def check_room(self, owner: str) -> None:
        """Refuse a client's job before its recording is uploaded.

        Raises
        ------
        QueueFull
            When no more may wait.
        """
        with self._database.read() as connection:
            check_limits(connection, self._limits, owner, 0.0)

    def get(self, job_id: str, owner: str) -> Job | None:
        """Read a job of this owner, with its output; None for another's and for an unknown one."""
        if not is_uuid(job_id):
            return None
        with self._database.read() as connection:
            where = sa.and_(jobs.c.job_id == job_id, jobs.c.owner == owner)
            return next(iter(read_jobs(connection, where, output=WITH_OUTPUT)), None)

    def waveform(self, job_id: str) -> str | None:
        """How loud the recording of a job is, see `raydiar.serving.results.waveform`."""
        found = sa.select(documents.c.waveform).where(documents.c.job_id == job_id)
        with self._database.read() as connection:
            return connection.scalar(found)

    def over(self, job_ids: Sequence[str]) -> set[str]:
        """Those of some jobs that have ended, or are gone."""
        with self._database.read() as connection:
            return set(job_ids).difference(connection.scalars(_ALIVE, {"job_ids": list(job_ids)}))

    def list(
        self,
        owner: str,
        limit: int = 100,
        cursor: str | None = None,
        status: str | None = None,
    ) -> Page:
        """List jobs of this owner without their outputs, newest first.

        A job created meanwhile never shifts the following pages.

        Raises
        ------
        InvalidCursor
            When the cursor is none of a page's `next_cursor`.
        """
        where = [jobs.c.owner == owner]
        if cursor is not None:
            where.append(jobs.c.seq < decode_cursor(cursor))
        if status is not None:
            where.append(jobs.c.status == status)
        newest = sa.select(jobs.c.seq).where(*where).order_by(jobs.c.seq.desc()).limit(limit + 1)
        with self._database.read() as connection:
            numbers = list(connection.scalars(newest))
            page = read_jobs(connection, jobs.c.seq.in_(numbers[:limit]))
        more = len(numbers) > limit
        return Page(page[::-1], encode_cursor(numbers[limit - 1]) if more else None)

    def cancel(self, job_id: str, owner: str) -> Job | None:
        """Cancel a job: a queued one at once, a running one when its worker next renews its lease.

        Returns
        -------
        Job or None
            As it is now; a finished one stays what it was. None where `get` gives None.
        """
        if not is_uuid(job_id):
            return None
        mine = sa.and_(jobs.c.job_id == job_id, jobs.c.owner == owner)
        with self._database.write() as connection:
            status = connection.scalar(sa.select(jobs.c.status).where(mine).with_for_update())
            if status in ("created", "pending"):
                connection.execute(self._end("canceled").where(mine))
                _forget_secrets(connection, mine)
            elif status == "running":
                asked = {"cancel_requested": True, "updated_at": self._clock()}
                connection.execute(jobs.update().where(mine).values(asked))
            return next(iter(read_jobs(connection, mine, output=WITH_OUTPUT)), None)

    def forget_output(self, job_id: str, owner: str) -> None:
        """Delete what was heard in a finished job's recording, and what its client sent along."""
        over = sa.select(jobs.c.job_id).where(
            jobs.c.job_id == job_id, jobs.c.owner == owner, jobs.c.finished_at.is_not(None)
        )
        nothing = {"output": None, "waveform": None, "request": "{}"}
        with self._database.write() as connection:
            for found in list(connection.scalars(over)):
                mine = documents.c.job_id == found
                connection.execute(documents.update().where(mine).values(nothing))
                connection.execute(versions.delete().where(versions.c.job_id == found))

    # What workers do.

    def claim(self, owner: str, lease_seconds: float, lanes: Sequence[str] = LANES) -> Job | None:
        """Lease the next job: of smallest priority, of the client with fewest running, the oldest.

        Jobs whose lease expired come back to the queue first, or are given up.

        Parameters
        ----------
        owner : str
            Name of the worker, of which there is only one.
        lease_seconds : float
        lanes : sequence of str
            What the worker has room for; everything by default.

        Returns
        -------
        Job or None
            None when there is nothing to do.
        """
        now = self._clock()
        with self._database.write() as connection:
            for row in claims.take_expired(connection, now):
                connection.execute(self._after_lease(row).where(jobs.c.seq == row.seq))
                _forget_secrets(connection, jobs.c.seq == row.seq)
            seq = claims.take_next(connection, owner, lanes, now, now + lease_seconds, self._limits)
            return None if seq is None else read_jobs(connection, jobs.c.seq == seq)[0]

    def renew(
        self,
        job: Job,
        lease_seconds: float,
        progress: float | None = None,
        audio_seconds: float | None = None,
    ) -> None:
        """Keep the lease of a job for so long from now, and tell of its progress.

        Raises
        ------
        LeaseLost
            When another may have the job.
        JobCanceled
            When the client canceled it, which it now is.
        """
        known = {"progress": progress, "audio_seconds": audio_seconds}
        values = {name: value for name, value in known.items() if value is not None}
        now = self._clock()
        change = jobs.update().values(lease_expires=now + lease_seconds, updated_at=now, **values)
        self._as_holder(job, change, "running")

    def succeed(self, job: Job, output: Mapping[str, Any], waveform: str | None = None) -> None:
        """Write the result of a job; may be repeated when the database did not answer.

        Parameters
        ----------
        job : Job
        output : mapping
        waveform : str, optional
            See `raydiar.serving.results.waveform`.

        Raises
        ------
        LeaseLost, JobCanceled
            See `renew`; nothing is written.
        ValueError
            When the output holds NaN or infinity, which JSON has not.
        """
        text = json.dumps(output, allow_nan=False, separators=(",", ":"))
        done = self._end("succeeded").values(progress=1.0)
        self._as_holder(job, done, "succeeded", {"output": text, "waveform": waveform})

    def fail(self, job: Job, error: str) -> None:
        """Write why a job failed; may be repeated.

        Raises
        ------
        LeaseLost, JobCanceled
            See `renew`; nothing is written.
        """
        self._as_holder(job, self._end("failed", error), "failed")

    def release(
        self,
        job: Job,
        reason: str,
        *,
        counts: bool = True,
        machine: bool = False,
        delay: float = 0.0,
    ) -> None:
        """Give a job back to the queue; it is given up when too many attempts were in vain.

        Parameters
        ----------
        job : Job
        reason : str
        counts : bool
            Whether this was an attempt: false where the cause is not the job, as when the worker is
            told to stop.
        machine : bool
            Whether the machine failed, which counts by itself: a job outlives many of these, but
            not all.
        delay : float
            Seconds until somebody may claim it again.

        Raises
        ------
        LeaseLost, JobCanceled
            See `renew`.
        """
        excused = job.excused + (machine or not counts)
        failures = job.machine_failures + machine
        change, status = self._after_attempt(job, reason, excused, delay, failures)
        self._as_holder(job, change, status)

    # What the server does.

    def queue_state(self, kind: str | None = None) -> QueueState:
        """Count what waits and what runs, of one kind or of all."""
        with self._database.read() as connection:
            return read_state(connection, self._limits.unknown_seconds, kind)

    def expire(self, now: float | None = None) -> int:
        """Delete finished jobs whose time is over, with their outputs; gives how many."""
        now = self._clock() if now is None else now
        deleted = 0
        old = sa.select(jobs.c.job_id).where(jobs.c.expires_at <= now).limit(100)
        while True:  # in small transactions, so that nobody waits for long
            with self._database.write() as connection:
                found = list(connection.scalars(old.with_for_update(skip_locked=True)))
                for table in (documents, versions):
                    connection.execute(table.delete().where(table.c.job_id.in_(found)))
                connection.execute(jobs.delete().where(jobs.c.job_id.in_(found)))
            deleted += len(found)
            if not found:
                return deleted

    def due_webhooks(
        self,
        owner: str,
        lease_seconds: float,
        limit: int = 10,
        now: float | None = None,
        per_owner: int = 4,
        not_of: Sequence[str] = (),
    ) -> Sequence[Job]:
        """Lease webhooks that are due; when not told their fate, they are due again after that.

        At most `limit`, so many of each client, and none of some.

        Returns
        -------
        list of Job
            With their outputs, except where the client wants the status only.
        """
        now = self._clock() if now is None else now
        with self._database.write() as connection:
            numbers = claims.take_webhooks(
                connection, owner, now, now + lease_seconds, limit, per_owner, not_of
            )
            return read_jobs(
                connection, jobs.c.seq.in_(numbers), output=~jobs.c.webhook_status_only
            )

    def webhook_sent(self, job: Job) -> None:
        """Note that a webhook was delivered, by whomever: it is not sent again."""
        values = {"webhook_done": True, "webhook_next_at": None, "webhook_error": None}
        values |= {"webhook": public_uri(job.webhook or "") or None}
        with self._database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.job_id == job.job_id).values(values))

    def webhook_failed(self, job: Job, reason: str, next_at: float | None) -> None:
        """Note that a delivery failed, and when to try again (None: never).

        Changes nothing when the lease of the webhook is another's by now.
        """
        values = {
            "webhook_attempts": job.webhook_attempts + 1,
            "webhook_next_at": next_at,
            "webhook_error": storable(reason),
        }
        if next_at is None:
            values["webhook"] = public_uri(job.webhook or "") or None
        held = sa.and_(
            jobs.c.job_id == job.job_id,
            jobs.c.webhook_lease_owner == job.webhook_lease_owner,
            jobs.c.webhook_next_at == job.webhook_next_at,
        )
        with self._database.write() as connection:
            connection.execute(jobs.update().where(held).values(values))

    def _end(self, status: str, error: str | None = None) -> sa.Update:
        now = self._clock()
        return jobs.update().values(
            status=status,
            error=storable(without_secrets(error or "") or None),
            updated_at=now,
            finished_at=now,
            expires_at=now + self._result_seconds,
            lease_expires=None,
            webhook_next_at=sa.case((jobs.c.webhook.is_not(None), now)),
        )

    def _after_attempt(
        self,
        job: Job | sa.Row,
        reason: str,
        excused: int,
        delay: float = 0.0,
        machine_failures: int = 0,
    ) -> tuple[sa.Update, str]:
        """Queue a job again or give it up; gives the change and the new status."""
        if job.attempt - excused >= self._max_attempts:
            error = f"given up after {self._max_attempts} attempts: {reason}"
            return self._end("failed", error), "failed"
        if machine_failures >= self._max_machine_failures:
            error = f"given up, for this server failed at it {machine_failures} times: {reason}"
            return self._end("failed", error), "failed"
        now = self._clock()
        values = {
            "status": "pending" if delay > 0 else "created",
            "error": storable(without_secrets(reason)),
            "excused": excused,
            "machine_failures": machine_failures,
            "progress": 0.0,
            "updated_at": now,
            "lease_expires": now + delay if delay > 0 else None,
        }
        return jobs.update().values(values), values["status"]

    def _after_lease(self, row: sa.Row) -> sa.Update:
        """What becomes of a job whose lease, or whose time to be put off, is over."""
        if row.cancel_requested:
            return self._end("canceled")
        if row.status == "pending":
            return jobs.update().values(status="created", lease_expires=None)
        # A worker that dies takes all its jobs along, and one of them may be why. Each is tried
        # again in a process of its own (see `Worker`), and only what happens there counts.
        reason, failures = "its worker died or lost touch", row.machine_failures
        if row.alone:
            return self._after_attempt(row, reason, row.excused, machine_failures=failures)[0]
        change, _ = self._after_attempt(row, reason, row.excused + 1, machine_failures=failures)
        return change.values(alone=True)

    def _as_holder(
        self,
        job: Job,
        change: sa.Update,
        status: str,
        result: Mapping[str, str | None] | None = None,
    ) -> None:
        """Change a job if its lease is still held; once more is no error (a lost answer)."""
        lease = sa.and_(
            jobs.c.job_id == job.job_id,
            jobs.c.lease_owner == job.lease_owner,
            jobs.c.attempt == job.attempt,
        )
        running = sa.and_(lease, jobs.c.status == "running")
        with self._database.write() as connection:
            changed = connection.execute(change.where(running, ~jobs.c.cancel_requested)).rowcount
            if changed and result is not None:
                where = documents.c.job_id == job.job_id
                connection.execute(documents.update().where(where).values(result))
            if changed:
                _forget_secrets(connection, lease)
                return
            connection.execute(self._end("canceled").where(running, jobs.c.cancel_requested))
            _forget_secrets(connection, lease)
            now_is = connection.scalar(sa.select(jobs.c.status).where(lease))
        if now_is == "canceled":
            raise JobCanceled(f"job {job.job_id} was canceled")
        if now_is != status:
            raise LeaseLost(f"{job.lease_owner} lost the lease of its attempt at {job.job_id}")


def _forget_secrets(connection: sa.Connection, where: sa.ColumnElement[bool]) -> None:
    """Of jobs that are over, keep URLs without what opens them: nobody asks there again."""
    over = sa.and_(where, jobs.c.finished_at.is_not(None), jobs.c.media.like("%?%"))
    for row in connection.execute(sa.select(jobs.c.seq, jobs.c.media).where(over)).all():
        told = jobs.update().where(jobs.c.seq == row.seq).values(media=public_uri(row.media))
        connection.execute(told)
