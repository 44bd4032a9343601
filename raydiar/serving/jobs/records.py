"""What a job is, and how it is read from the database."""

import base64
import json
import uuid
from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa

from raydiar.errors import InvalidCursor
from raydiar.serving.storage.tables import documents, jobs

KINDS = ("diarize", "voiceprint", "identify")
UPLOADS, URLS = "upload", "url"  # lanes of the queue: what is at hand, and what must be fetched
LANES = (UPLOADS, URLS)


@dataclass(frozen=True)
class Job:
    """One job as it was when it was read. Times are seconds since 1970 (UTC).

    Attributes
    ----------
    job_id : str
        A UUID.
    owner : str
        Id of the API key that it belongs to.
    kind : str
        One of `KINDS`.
    priority : int
        Smaller ones go first.
    status : str
        created (queued), running, succeeded, failed or canceled; pending is a job that was put off
        after an attempt, until its time comes and it is queued again.
    media : str
        URL of the recording.
    audio_seconds : float or None
        None while nobody looked.
    progress : float
        0 to 1.
    error : str or None
        Why it failed; before its end, why its last attempt did.
    finished_at, expires_at : float or None
        When it reached its last state, and when it will be deleted.
    attempt : int
        Number of times that a worker has claimed it.
    excused : int
        How many of these do not count towards giving up.
    machine_failures : int
        How many of these failed for want of a machine that works.
    alone : bool
        Whether it is worked on in a process of its own, because a worker that had it died.
    lease_owner : str or None
        The worker that has it, or had it last.
    webhook_attempts : int
        Deliveries that failed.
    webhook_next_at : float or None
        When the webhook is due; None before the end, once sent, and when given up.
    webhook_done : bool
        Whether it was delivered.
    webhook_error : str or None
        Why the last delivery failed.
    request : dict
        What the client asked for.
    output : str or None
        The result as JSON text, not parsed: it may be tens of MB and is mostly passed on. Only
        what says so reads it.
    """

    job_id: str
    owner: str
    kind: str
    priority: int
    status: str
    media: str
    audio_seconds: float | None
    progress: float
    warning: str | None
    error: str | None
    created_at: float
    updated_at: float
    finished_at: float | None
    expires_at: float | None
    attempt: int
    excused: int
    machine_failures: int
    alone: bool
    lease_owner: str | None
    lease_expires: float | None
    cancel_requested: bool
    webhook: str | None
    webhook_status_only: bool
    webhook_attempts: int
    webhook_next_at: float | None
    webhook_done: bool
    webhook_error: str | None
    webhook_lease_owner: str | None
    request: dict[str, Any]
    output: str | None = None


@dataclass(frozen=True)
class Page:
    """Part of a list; `next_cursor` leads to the rest, and is None at the end."""

    jobs: list[Job]
    next_cursor: str | None


_ROW = [jobs.c[field.name] for field in fields(Job) if field.name in jobs.c]

NO_OUTPUT = sa.false()
WITH_OUTPUT = sa.true()


def read_jobs(
    connection: sa.Connection,
    where: sa.ColumnElement[bool],
    output: sa.ColumnElement[bool] = NO_OUTPUT,
) -> list[Job]:
    """Read jobs, the oldest first; with the outputs of those that a condition is true for."""
    text = sa.case((output, documents.c.output)).label("output")
    joined = jobs.join(documents, documents.c.job_id == jobs.c.job_id)
    rows = connection.execute(
        sa.select(*_ROW, documents.c.request, text)
        .select_from(joined)
        .where(where)
        .order_by(jobs.c.seq)
    )
    return [Job(**{**row, "request": json.loads(row["request"])}) for row in rows.mappings()]


def is_uuid(text: str) -> bool:
    """Whether a text from outside can be an id of ours (PostgreSQL cannot ask for any text)."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def storable(text: str | None) -> str | None:
    """Leave out what PostgreSQL or UTF-8 cannot hold; an error may quote anything."""
    return text and text.replace("\0", "").encode(errors="replace").decode()


def check_storable(**texts: str | None) -> None:
    """Refuse texts that `storable` would change.

    Raises
    ------
    ValueError
    """
    for name, text in texts.items():
        if storable(text) != text:
            raise ValueError(f"{name} holds a NUL or half a surrogate pair: {text!r}")


def encode_cursor(seq: int) -> str:
    return base64.urlsafe_b64encode(b"before:%d" % seq).decode().rstrip("=")


def decode_cursor(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        name, number = text.split(":")
        if name == "before" and number.isdecimal() and int(number) < 2**63:
            return int(number)
    except ValueError:
        pass
    raise InvalidCursor("this cursor is from no list of jobs; leave it out to start anew")
