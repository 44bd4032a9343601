"""What people made of a job's output: every saving is a version beside the machine's."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from raydiar.serving.storage.database import Database
from raydiar.serving.storage.tables import versions

MACHINE = 0  # the number of the output itself
MOST_VERSIONS = 200  # of a job; the oldest go first


class VersionConflict(Exception):
    """Somebody saved meanwhile.

    Attributes
    ----------
    newest : int
    """

    def __init__(self, newest: int):
        super().__init__(f"version {newest} was saved meanwhile")
        self.newest = newest


@dataclass(frozen=True)
class Version:
    """Turns and names as they were saved; time in seconds since 1970 (UTC)."""

    number: int
    created_at: float
    document: dict[str, Any]


class Versions:
    """The versions in a database; every method is one transaction.

    All raise `DatabaseUnavailable` when the database does not answer.

    Parameters
    ----------
    database : Database
    clock : callable
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time):
        self._database = database
        self._clock = clock

    def save(self, job_id: str, base: int, document: Mapping[str, Any]) -> int:
        """Add a version to a job's; gives its number.

        Parameters
        ----------
        job_id : str
        base : int
            Number of the version that was changed, which must be the newest still.
        document : mapping

        Raises
        ------
        VersionConflict
        """
        with self._database.write() as connection:
            self._database.lock(connection, f"versions of {job_id}")
            newest = self._newest(connection, job_id)
            if newest != base:
                raise VersionConflict(newest)
            connection.execute(
                versions.insert().values(
                    job_id=job_id,
                    number=newest + 1,
                    created_at=self._clock(),
                    document=json.dumps(document, separators=(",", ":")),
                )
            )
            old = sa.and_(
                versions.c.job_id == job_id, versions.c.number <= newest + 1 - MOST_VERSIONS
            )
            connection.execute(versions.delete().where(old))
        return newest + 1

    def get(self, job_id: str, number: int | None = None) -> Version | None:
        """Read a version, the newest by default; None where there is none."""
        mine = sa.select(versions).where(versions.c.job_id == job_id)
        if number is not None:
            mine = mine.where(versions.c.number == number)
        with self._database.read() as connection:
            found = connection.execute(mine.order_by(versions.c.number.desc()).limit(1)).first()
        if found is None:
            return None
        return Version(found.number, found.created_at, json.loads(found.document))

    def list(self, job_id: str) -> list[tuple[int, float]]:
        """Number and time of all versions of a job that are kept, the newest first."""
        mine = sa.select(versions.c.number, versions.c.created_at).where(
            versions.c.job_id == job_id
        )
        with self._database.read() as connection:
            rows = connection.execute(mine.order_by(versions.c.number.desc()))
            return [(number, created_at) for number, created_at in rows]

    def _newest(self, connection: sa.Connection, job_id: str) -> int:
        newest = sa.select(sa.func.max(versions.c.number)).where(versions.c.job_id == job_id)
        return connection.scalar(newest) or MACHINE
