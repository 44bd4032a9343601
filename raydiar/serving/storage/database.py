"""The server's database: a SQLite file on one machine, PostgreSQL for several.

All writing happens in short transactions. On SQLite they take the write lock when they begin (one
that reads first and locks later can fail at once when another wrote in between); on PostgreSQL they
lock rows, and `Database.lock` stands for what is no row. A transaction that fails for want of the
database raises `DatabaseUnavailable`; connections that broke meanwhile are replaced.
"""

import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from raydiar.errors import ConfigError, DatabaseUnavailable
from raydiar.serving.storage.private import make_private_folder
from raydiar.serving.storage.tables import MIGRATIONS, SCHEMA_VERSION, metadata, schema

_SQLITE_LOCK_SECONDS = 20.0

# Network and server: a server that vanished is noticed in seconds, not in the two hours of TCP's
# defaults; one client that stalls within a transaction does not hold up the others for long.
_POSTGRES_DEFAULTS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "raydiar",
    "options": "-c lock_timeout=15s -c idle_in_transaction_session_timeout=30s",
}

_SQLITE_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_READONLY,
}


class Database:
    """A pool of connections; threads may share it, processes may not. See `open_database`.

    Attributes
    ----------
    url : sqlalchemy.URL
        Where it is; a SQLite file by its absolute path, so that a process in another working
        directory finds the same one by `url.render_as_string(hide_password=False)`.
    """

    def __init__(self, url: sa.URL):
        self.url = url
        if self.is_single_node:
            self._engine = sa.create_engine(url, connect_args={"timeout": _SQLITE_LOCK_SECONDS})
            sa.event.listen(self._engine, "connect", _leave_begin_to_us)
            sa.event.listen(self._engine, "begin", _begin)
        else:
            defaults = {name: v for name, v in _POSTGRES_DEFAULTS.items() if name not in url.query}
            self._engine = sa.create_engine(
                url,
                connect_args=defaults,
                pool_pre_ping=True,
                pool_timeout=15,
                isolation_level="READ COMMITTED",
            )
        self._writer = self._engine.execution_options(raydiar_writes=True)

    @property
    def is_single_node(self) -> bool:
        """Whether only processes of one machine can use it: true for SQLite."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads.

        Raises
        ------
        DatabaseUnavailable
            When the database does not answer.
        """
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A transaction that writes; committed at the end, rolled back on an exception.

        Raises
        ------
        DatabaseUnavailable
            When the database does not answer. Nothing was written, unless the answer to the very
            commit was lost.
        """
        with self._translated(), self._writer.begin() as connection:
            yield connection

    def lock(self, connection: sa.Connection, name: str) -> None:
        """Let one writing transaction at a time pass, in all processes, until it ends."""
        if not self.is_single_node:  # SQLite has one writer anyway
            key = zlib.crc32(f"raydiar:{name}".encode())
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))

    def close(self) -> None:
        """Close all connections that are not in use; a later use opens new ones."""
        self._engine.dispose()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
            if not _is_unavailable(error):
                raise
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise DatabaseUnavailable(
                f"the database {self.url.render_as_string()} does not answer: {reason}"
            ) from error


def parse_url(url: str) -> sa.URL:
    """Check a database's URL; a relative path of SQLite becomes absolute.

    Parameters
    ----------
    url : str
        `sqlite:////var/lib/raydiar/server.db`, `postgresql+psycopg://user:password@host/name`.

    Raises
    ------
    ConfigError
        When it is no such URL.
    """
    way_out = "give sqlite:////absolute/path.db or postgresql+psycopg://user:password@host/name"
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # the text may hold a password: not repeated
        raise ConfigError(f"the database's URL cannot be read; {way_out}") from None
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if not parsed.database or ":memory:" in parsed.database or "mode" in parsed.query:
            raise ConfigError(
                "a SQLite database in memory cannot be shared by the server's processes;"
                " give sqlite:////absolute/path.db"
            )
        return parsed.set(database=str(Path(parsed.database).absolute()))
    raise ConfigError(f"{parsed.drivername} is no database that raydiar knows; {way_out}")


def is_single_node(url: str) -> bool:
    """Whether only processes of one machine can use the database at a URL: true for SQLite."""
    return parse_url(url).get_backend_name() == "sqlite"


def open_database(url: str) -> Database:
    """Open the server's database; creates what is missing in it.

    Several processes may do so at once.

    Parameters
    ----------
    url : str
        See `parse_url`. The folder of a SQLite file is made, for this user only; it must be
        on a local disk.

    Raises
    ------
    ConfigError
        When the URL makes no sense, or a newer raydiar made the database.
    DatabaseUnavailable
        When the database does not answer.
    """
    parsed = parse_url(url)
    try:
        if parsed.get_backend_name() == "sqlite":
            make_private_folder(Path(parsed.database).parent)
            if not os.path.exists(parsed.database):
                # SQLite gives the files beside it the same mode
                Path(parsed.database).touch(mode=0o600)
        database = Database(parsed)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"PostgreSQL needs a package: pip install 'psycopg[binary]' ({error})"
        ) from None
    except OSError as error:
        raise ConfigError(f"no folder for the database can be made: {error}") from None
    if database.is_single_node:
        _switch_to_wal(database)
    with database.write() as connection:
        database.lock(connection, "schema")
        schema.create(connection, checkfirst=True)
        version = connection.scalar(sa.select(sa.func.max(schema.c.version)))
        if version is not None and version > SCHEMA_VERSION:
            raise ConfigError(
                f"the database {parsed.render_as_string()} has schema {version}, and this raydiar"
                f" knows schemas up to {SCHEMA_VERSION}: install the raydiar that made it"
            )
        for newer in range((version or SCHEMA_VERSION) + 1, SCHEMA_VERSION + 1):
            for statement in MIGRATIONS[newer]:
                connection.exec_driver_sql(statement)
        metadata.create_all(connection)  # tables that are new
        if version is None:
            connection.execute(schema.insert().values(version=SCHEMA_VERSION))
        elif version < SCHEMA_VERSION:
            connection.execute(schema.update().values(version=SCHEMA_VERSION))
            for table in metadata.tables.values():
                for index in table.indexes:
                    index.create(connection, checkfirst=True)
    return database


def _leave_begin_to_us(connection: sqlite3.Connection, _) -> None:
    connection.isolation_level = None  # Python's driver would begin only before a first INSERT
    connection.execute("PRAGMA secure_delete = ON")  # of a voice that is deleted nothing stays


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("raydiar_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _switch_to_wal(database: Database) -> None:
    """Let readers go on while one writes; lasts in the file, and is no transaction's business."""
    deadline = time.monotonic() + _SQLITE_LOCK_SECONDS
    while True:
        try:
            with sqlite3.connect(database.url.database, timeout=1.0) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            connection.close()
            return
        except sqlite3.DatabaseError as error:
            message = f"the database {database.url.database} cannot be opened: {error}"
            code = error.sqlite_errorcode & 0xFF
            if code not in _SQLITE_UNAVAILABLE:
                raise ConfigError(message) from error
            # SQLite does not always wait for its lock here
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise DatabaseUnavailable(message) from error
            time.sleep(0.02)


def _is_unavailable(error: sa.exc.DBAPIError | sa.exc.TimeoutError) -> bool:
    if isinstance(error, sa.exc.TimeoutError) or error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.Error):
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_UNAVAILABLE
    read_only = getattr(error.orig, "sqlstate", None) == "25006"  # became a standby
    return read_only or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
