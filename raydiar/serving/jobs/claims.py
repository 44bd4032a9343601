"""Which rows a worker takes: each function locks what it gives until the transaction ends.

On PostgreSQL, rows that another is about to take are skipped, never waited for; on SQLite only one
process is here at a time.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from raydiar.serving.jobs.limits import QueueLimits
from raydiar.serving.storage.tables import QUEUED, jobs

# The first job of each (owner, lane) that has any, the best first. The recursion jumps from one
# head of the index to the next, so that its cost grows with the number of owners, not of jobs. (In
# one comparison of pairs, SQLite would use the owner only; and `> 0` rather than NOT NULL makes
# PostgreSQL use the index before it has statistics.)
HEADS = sa.text("""
WITH RECURSIVE heads(seq) AS (
    SELECT (
        SELECT first.seq FROM raydiar_jobs AS first
        WHERE first.status = 'created'
        ORDER BY first.owner, first.lane, first.priority, first.seq LIMIT 1
    )
    UNION ALL
    SELECT coalesce(
        (
            SELECT same.seq FROM raydiar_jobs AS same
            WHERE same.status = 'created' AND same.owner = head.owner AND same.lane > head.lane
            ORDER BY same.lane, same.priority, same.seq LIMIT 1
        ),
        (
            SELECT other.seq FROM raydiar_jobs AS other
            WHERE other.status = 'created' AND other.owner > head.owner
            ORDER BY other.owner, other.lane, other.priority, other.seq LIMIT 1
        )
    )
    FROM heads JOIN raydiar_jobs AS head ON head.seq = heads.seq
)
SELECT owner, lane, running FROM (
    SELECT
        head.owner, head.lane, head.priority, head.seq,
        (
            SELECT count(*) FROM raydiar_jobs AS busy
            WHERE busy.owner = head.owner AND busy.lease_expires > 0 AND busy.status = 'running'
        ) AS running
    FROM heads JOIN raydiar_jobs AS head ON head.seq = heads.seq
    WHERE head.lane IN :lanes
) AS first
ORDER BY priority, running, seq
""").bindparams(sa.bindparam("lanes", expanding=True))


# The others are made once, too: that takes longer than their execution.
_first = (
    sa.select(jobs.c.seq)
    .where(
        QUEUED,
        jobs.c.owner == sa.bindparam("client"),
        jobs.c.lane == sa.bindparam("which"),
    )
    .order_by(jobs.c.priority, jobs.c.seq)
    .limit(1)
    .with_for_update(skip_locked=True)
)
_TAKE_FIRST = (
    jobs.update()
    .where(jobs.c.seq == _first.scalar_subquery())
    .values(
        status="running",
        lease_owner=sa.bindparam("worker"),
        lease_expires=sa.bindparam("until"),
        attempt=jobs.c.attempt + 1,
        updated_at=sa.bindparam("now"),
    )
    .returning(jobs.c.seq)
)
_EXPIRED = (
    sa.select(
        jobs.c.seq,
        jobs.c.status,
        jobs.c.error,
        jobs.c.attempt,
        jobs.c.excused,
        jobs.c.machine_failures,
        jobs.c.alone,
        jobs.c.cancel_requested,
    )
    .where(jobs.c.lease_expires <= sa.bindparam("now"))
    .order_by(jobs.c.lease_expires)
    .limit(100)
    .with_for_update(skip_locked=True)
)


def take_next(
    connection: sa.Connection,
    worker: str,
    lanes: Sequence[str],
    now: float,
    lease_expires: float,
    limits: QueueLimits,
) -> int | None:
    """Lease the next queued job to a worker; gives its row's number, or None.

    A client that has as many jobs under way as it may have gets none.
    """
    lease = {"worker": worker, "until": lease_expires, "now": now}
    for owner, lane, running in connection.execute(HEADS, {"lanes": list(lanes)}).all():
        most = None if owner == limits.exempt else limits.key_running
        if most is not None and running >= most:
            continue
        seq = connection.scalar(_TAKE_FIRST, {"client": owner, "which": lane, **lease})
        if seq is not None:
            return seq
    return None


def take_expired(connection: sa.Connection, now: float) -> Sequence[sa.Row]:
    """Lock jobs whose lease, or whose time to be put off, is over."""
    return connection.execute(_EXPIRED, {"now": now}).all()


def take_webhooks(
    connection: sa.Connection,
    sender: str,
    now: float,
    lease_expires: float,
    limit: int,
    per_owner: int,
    not_of: Sequence[str] = (),
) -> list[int]:
    """Lease webhooks that are due to a sender; gives the numbers of their jobs' rows.

    At most `per_owner` of each client: however many of one are due, and however slow its server
    is, those of others go out beside them.
    """
    turn = sa.func.row_number().over(
        partition_by=jobs.c.owner, order_by=(jobs.c.webhook_next_at, jobs.c.seq)
    )
    ranked = (
        sa.select(jobs.c.seq, jobs.c.webhook_next_at, turn.label("turn"))
        .where(jobs.c.webhook_next_at <= now, jobs.c.owner.not_in(not_of))
        .subquery()
    )
    first = (
        sa.select(ranked.c.seq)
        .where(ranked.c.turn <= per_owner)
        .order_by(ranked.c.turn, ranked.c.webhook_next_at)
        .limit(limit)
    )
    due = (
        sa.select(jobs.c.seq)
        .where(jobs.c.seq.in_(first.scalar_subquery()), jobs.c.webhook_next_at <= now)
        .with_for_update(skip_locked=True)
    )
    numbers = list(connection.scalars(due))
    lease = {"webhook_next_at": lease_expires, "webhook_lease_owner": sender}
    connection.execute(jobs.update().where(jobs.c.seq.in_(numbers)).values(lease))
    return numbers
