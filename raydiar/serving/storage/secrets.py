"""Secrets that the server makes for itself and shares among its processes."""

import hashlib
import secrets as random

import sqlalchemy as sa

from raydiar.serving.storage import tables
from raydiar.serving.storage.database import Database


def shared_secret(database: Database, name: str) -> str:
    """A random secret that all processes of a server know; made by the first that asks.

    Raises
    ------
    DatabaseUnavailable
    """
    known = sa.select(tables.secrets.c.value).where(tables.secrets.c.name == name)
    with database.read() as connection:
        value = connection.scalar(known)
    if value is not None:
        return value
    with database.write() as connection:
        database.lock(connection, f"secret {name}")
        value = connection.scalar(known)
        if value is None:
            value = random.token_urlsafe(32)
            connection.execute(tables.secrets.insert().values(name=name, value=value))
    return value


class WebhookSecrets:
    """What signs the webhooks of each owner: nobody can sign for another.

    Parameters
    ----------
    database : Database
    given : mapping of str to str
        Secrets of owners that the operator chose.
    """

    def __init__(self, database: Database, given: dict[str, str]):
        self._database = database
        self._given = given

    def of(self, owner: str) -> str:
        """An owner's secret; made when it is first asked for.

        Raises
        ------
        DatabaseUnavailable
        """
        return self._given.get(owner) or shared_secret(self._database, _name(owner))

    def rotate(self, owner: str) -> str:
        """Give an owner another secret; what is sent from now on is signed with it.

        Raises
        ------
        ValueError
            When the operator chose it.
        DatabaseUnavailable
        """
        if owner in self._given:
            raise ValueError("the secret of this owner is in the server's settings")
        with self._database.write() as connection:
            table = tables.secrets
            connection.execute(table.delete().where(table.c.name == _name(owner)))
        return self.of(owner)


def _name(owner: str) -> str:
    # owners of the environment's keys have names that are too long for the column
    return f"webhooks {hashlib.sha256(owner.encode()).hexdigest()[:40]}"
