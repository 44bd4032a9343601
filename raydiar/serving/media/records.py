"""What clients uploaded: whose it is, under which key, and where the bytes lie.

Each upload is a record of its own, and a key means the newest whole one: while a client uploads
again under an old key, what it uploaded before stays readable. A record outlives its file, not the
other way round: `expired` names records, and `forget` drops them once their files are deleted. What
a job still needs does not expire.
"""

import math
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from raydiar.errors import QueueFull
from raydiar.serving.jobs.records import check_storable, is_uuid, storable
from raydiar.serving.media.names import SCHEME
from raydiar.serving.storage.database import Database
from raydiar.serving.storage.tables import jobs, media


@dataclass(frozen=True)
class MediaRecord:
    """One upload. Times are seconds since 1970 (UTC).

    Attributes
    ----------
    upload_id : str
        A UUID.
    owner : str
        Id of the API key that it belongs to.
    key : str
        The client's name for it (`media://<key>`).
    state : str
        open (not all bytes are there) or uploaded.
    num_bytes : int or None
        While open what the client announced, None if it did not.
    seconds : float or None
        That it says it lasts.
    store_path : str
        Where the media store keeps the bytes.
    """

    upload_id: str
    owner: str
    key: str
    state: str
    num_bytes: int | None
    seconds: float | None
    created_at: float
    expires_at: float
    store_path: str


_ROW = [media.c[name] for name in MediaRecord.__dataclass_fields__]

# whether a job that is not over is about it
_NEEDED = sa.exists().where(
    jobs.c.owner == media.c.owner,
    jobs.c.media == sa.literal(SCHEME) + media.c.key,
    jobs.c.finished_at.is_(None),
)
_STORED = sa.select(
    sa.func.coalesce(sa.func.sum(media.c.num_bytes), 0), sa.func.min(media.c.expires_at)
).where(media.c.owner == sa.bindparam("client"))


class MediaRecords:
    """The uploads in a database; every method is one transaction.

    All raise `DatabaseUnavailable` when the database does not answer.

    Parameters
    ----------
    database : Database
    media_hours : float
        How long an upload is kept.
    clock : callable
        Seconds since 1970 (UTC).
    """

    def __init__(
        self,
        database: Database,
        media_hours: float = 24.0,
        clock: Callable[[], float] = time.time,
    ):
        self._database = database
        self._seconds = media_hours * 3600.0
        self._clock = clock

    def open_upload(
        self,
        owner: str,
        key: str,
        make_path: Callable[[str], str],
        announced_bytes: int | None = None,
        max_stored: float = math.inf,
    ) -> MediaRecord:
        """Promise an upload.

        Parameters
        ----------
        owner, key : str
        make_path : callable
            Takes the upload's id, gives the path in the media store.
        announced_bytes : int, optional
        max_stored : float
            Bytes that this owner's uploads may have, with this one.

        Raises
        ------
        QueueFull
            When they would have more; told with the time until one of them expires.
        ValueError
            When the key holds what no database can.
        """
        check_storable(key=key)
        upload_id = str(uuid.uuid4())
        now = self._clock()
        record = MediaRecord(
            upload_id=upload_id,
            owner=owner,
            key=key,
            state="open",
            num_bytes=announced_bytes,
            seconds=None,
            created_at=now,
            expires_at=now + self._seconds,
            store_path=make_path(upload_id),
        )
        with self._database.write() as connection:
            self._database.lock(connection, f"uploads of {owner}")
            if max_stored < math.inf:
                _check_stored(connection, owner, (announced_bytes or 0), max_stored, now)
            connection.execute(media.insert().values(vars(record)))
        return record

    def get_upload(self, upload_id: str) -> MediaRecord | None:
        """Read one upload, whosesoever; None when unknown or expired."""
        if not is_uuid(upload_id):
            return None
        return self._newest(media.c.upload_id == upload_id)

    def stored_bytes(self, owner: str) -> int:
        """Bytes of an owner's uploads, with what those under way announced."""
        with self._database.read() as connection:
            return int(connection.execute(_STORED, {"client": owner}).one()[0])

    def finish_upload(
        self, upload_id: str, num_bytes: int, seconds: float | None = None
    ) -> MediaRecord | None:
        """Note that all bytes of an upload are there; None when it is unknown or expired."""
        values = {"state": "uploaded", "num_bytes": num_bytes, "seconds": seconds}
        alive = sa.and_(media.c.upload_id == upload_id, media.c.expires_at > self._clock())
        with self._database.write() as connection:
            connection.execute(media.update().where(alive).values(values))
        return self.get_upload(upload_id)

    def get(self, owner: str, key: str) -> MediaRecord | None:
        """Read the newest whole upload of an owner's key; an open one where there is none.

        None for another owner's key, and for an unknown or expired one.
        """
        if key != storable(key):  # from outside, and PostgreSQL cannot even ask for it
            return None
        return self._newest(media.c.owner == owner, media.c.key == key)

    def expired(self, now: float | None = None, limit: int = 1000) -> list[MediaRecord]:
        """Name uploads whose time is over; their files are to be deleted, then `forget` called."""
        now = self._clock() if now is None else now
        old = sa.select(*_ROW).where(media.c.expires_at <= now, ~_NEEDED)
        old = old.order_by(media.c.expires_at)
        with self._database.read() as connection:
            return [MediaRecord(**row) for row in connection.execute(old.limit(limit)).mappings()]

    def of_key(self, owner: str, key: str) -> list[MediaRecord]:
        """All uploads of an owner's key, to be deleted; none where `get` gives None."""
        if key != storable(key):
            return []
        mine = sa.select(*_ROW).where(media.c.owner == owner, media.c.key == key)
        with self._database.read() as connection:
            return [MediaRecord(**row) for row in connection.execute(mine).mappings()]

    def is_needed(self, owner: str, key: str) -> bool:
        """Whether a job that is not over is about an upload."""
        about = sa.select(jobs.c.seq).where(
            jobs.c.owner == owner, jobs.c.media == SCHEME + key, jobs.c.finished_at.is_(None)
        )
        with self._database.read() as connection:
            return connection.execute(about.limit(1)).first() is not None

    def store_paths(self) -> set[str]:
        """Where all uploads lie that there are records of."""
        with self._database.read() as connection:
            return set(connection.scalars(sa.select(media.c.store_path)))

    def forget(self, records: Iterable[MediaRecord]) -> None:
        """Delete records whose files are deleted."""
        gone = [record.upload_id for record in records]
        with self._database.write() as connection:
            connection.execute(media.delete().where(media.c.upload_id.in_(gone)))

    def _newest(self, *where: sa.ColumnElement[bool]) -> MediaRecord | None:
        whole_first = sa.case((media.c.state == "uploaded", 0), else_=1)
        alive = (media.c.expires_at > self._clock()) | _NEEDED
        newest = sa.select(*_ROW).where(*where, alive)
        with self._database.read() as connection:
            rows = connection.execute(newest.order_by(whole_first, media.c.seq.desc()).limit(1))
            row = rows.mappings().first()
        return None if row is None else MediaRecord(**row)


def _check_stored(
    connection: sa.Connection, owner: str, more: int, most: float, now: float
) -> None:
    stored, expires_at = connection.execute(_STORED, {"client": owner}).one()
    stored = int(stored)  # PostgreSQL's sum is a decimal number
    if stored + more <= most:
        return
    wait = max(1.0, (expires_at or now) - now)
    raise QueueFull(
        f"uploads of this key have {stored / 1e9:.1f} GB, and no more than {most / 1e9:.1f} GB are "
        f"kept: delete some, or try again in {wait:.0f} s",
        wait,
    )
