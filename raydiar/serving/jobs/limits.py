"""How much may wait in the queue, and how much does."""

from dataclasses import dataclass

import sqlalchemy as sa

from raydiar.errors import QueueFull
from raydiar.serving.storage.tables import QUEUED, jobs


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait; running jobs do not count.

    Attributes
    ----------
    max_jobs : int
    max_seconds : float
        Of audio. A job that finds the queue empty is always taken.
    unknown_seconds : float
        What a recording of unknown duration counts.
    retry_after : float
        Seconds after which a refused client shall come back.
    """

    max_jobs: int = 10_000
    max_seconds: float = 2_000 * 3600.0
    unknown_seconds: float = 1800.0
    retry_after: float = 60.0


DEFAULT_LIMITS = QueueLimits()


@dataclass(frozen=True)
class QueueState:
    """What waits (put off jobs too) and what runs; seconds are of audio."""

    queued_jobs: int
    queued_seconds: float
    running_jobs: int
    running_seconds: float


# Asked with every request: statements are made once, which takes longer than their execution.
_seconds = sa.func.coalesce(jobs.c.audio_seconds, sa.bindparam("unknown_seconds"))
_count = (sa.func.count(), sa.func.coalesce(sa.func.sum(_seconds), 0.0))
_has_lease = jobs.c.lease_expires > 0  # PostgreSQL, new to a table, reads all of it for NOT NULL
_of_kind = jobs.c.kind == sa.bindparam("kind")
_QUEUED = sa.select(*_count).where(QUEUED)
_LEASED = sa.select(jobs.c.status, *_count).where(_has_lease).group_by(jobs.c.status)
_QUEUED_OF_KIND = _QUEUED.where(_of_kind)
_LEASED_OF_KIND = _LEASED.where(_of_kind)


def read_state(
    connection: sa.Connection, unknown_seconds: float, kind: str | None = None
) -> QueueState:
    """Count what waits and what runs; a recording of unknown duration counts so many seconds."""
    values = {"unknown_seconds": unknown_seconds} | ({"kind": kind} if kind else {})
    queued, queued_seconds = connection.execute(_QUEUED_OF_KIND if kind else _QUEUED, values).one()
    leased = connection.execute(_LEASED_OF_KIND if kind else _LEASED, values)
    by_status = {status: rest for status, *rest in leased}
    put_off, put_off_seconds = by_status.get("pending", (0, 0.0))
    running, running_seconds = by_status.get("running", (0, 0.0))
    return QueueState(queued + put_off, queued_seconds + put_off_seconds, running, running_seconds)


def check_limits(
    connection: sa.Connection, limits: QueueLimits, audio_seconds: float | None
) -> None:
    """Refuse one more job of this duration if the queue is full.

    Raises
    ------
    QueueFull
    """
    state = read_state(connection, limits.unknown_seconds)
    seconds = limits.unknown_seconds if audio_seconds is None else audio_seconds
    if state.queued_jobs >= limits.max_jobs:
        full = f"{state.queued_jobs} jobs wait, and no more than {limits.max_jobs} may"
    elif state.queued_jobs and state.queued_seconds + seconds > limits.max_seconds:
        hours = (state.queued_seconds / 3600.0, limits.max_seconds / 3600.0)
        full = "{:.1f} hours of audio wait, and no more than {:.1f} may".format(*hours)
    else:
        return
    raise QueueFull(
        f"the queue is full ({full}); try again in {limits.retry_after:.0f} s",
        limits.retry_after,
    )
