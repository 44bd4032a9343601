"""How much may wait in the queue, and how much does."""

import math
from dataclasses import dataclass

import sqlalchemy as sa

from raydiar.errors import QueueFull
from raydiar.serving.storage.tables import QUEUED, jobs


@dataclass(frozen=True)
class QueueLimits:
    """How much may wait, of all clients and of one; running jobs do not count.

    Attributes
    ----------
    max_jobs : int
    max_seconds : float
        Of audio. A job that finds the queue empty is always taken.
    unknown_seconds : float
        What a recording of unknown duration counts.
    retry_after : float
        Seconds after which a refused client shall come back.
    key_jobs, key_seconds : float
        The same of one client.
    key_running : int or None
        Jobs of one client that may run at a time; None: as many as there is room for.
    exempt : str or None
        A client that has no limits of its own.
    """

    max_jobs: int = 10_000
    max_seconds: float = 2_000 * 3600.0
    unknown_seconds: float = 1800.0
    retry_after: float = 60.0
    key_jobs: float = math.inf
    key_seconds: float = math.inf
    key_running: int | None = None
    exempt: str | None = None


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
_of_owner = jobs.c.owner == sa.bindparam("client")
_QUEUED_OF_OWNER = _QUEUED.where(_of_owner)
_PUT_OFF_OF_OWNER = sa.select(*_count).where(_has_lease, _of_owner, jobs.c.status == "pending")
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


def read_queued(connection: sa.Connection, unknown_seconds: float, owner: str) -> tuple[int, float]:
    """Jobs of one client that wait (put off ones too), and seconds of their audio."""
    values = {"unknown_seconds": unknown_seconds, "client": owner}
    found = [
        connection.execute(query, values).one() for query in (_QUEUED_OF_OWNER, _PUT_OFF_OF_OWNER)
    ]
    return sum(jobs for jobs, _ in found), sum(seconds for _, seconds in found)


def check_limits(
    connection: sa.Connection, limits: QueueLimits, owner: str, audio_seconds: float | None
) -> None:
    """Refuse one more job of this duration if the queue is full, or this client's part of it.

    Raises
    ------
    QueueFull
    """
    seconds = limits.unknown_seconds if audio_seconds is None else audio_seconds
    state = read_state(connection, limits.unknown_seconds)
    waiting = (state.queued_jobs, state.queued_seconds)
    full = _full("", waiting, seconds, limits.max_jobs, limits.max_seconds)
    if full is None and owner != limits.exempt:
        waiting = read_queued(connection, limits.unknown_seconds, owner)
        full = _full(" of this key", waiting, seconds, limits.key_jobs, limits.key_seconds)
    if full is not None:
        raise QueueFull(
            f"the queue is full ({full}); try again in {limits.retry_after:.0f} s",
            limits.retry_after,
        )


def _full(
    whose: str, waiting: tuple[int, float], seconds: float, max_jobs: float, max_seconds: float
) -> str | None:
    """Why no more is taken, None if it is."""
    queued_jobs, queued_seconds = waiting
    if queued_jobs >= max_jobs:
        return f"{queued_jobs} jobs{whose} wait, and no more than {max_jobs:.0f} may"
    if queued_jobs and queued_seconds + seconds > max_seconds:
        hours, most = queued_seconds / 3600.0, max_seconds / 3600.0
        return f"{hours:.1f} hours of audio{whose} wait, and no more than {most:.1f} may"
    return None
