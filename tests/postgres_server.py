"""A private PostgreSQL for tests: a cluster of its own in a temporary folder, on a Unix socket."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import psycopg

_DEBIAN = Path("/usr/lib/postgresql")


class PostgresServer:
    """A server that can be stopped and started again; see `empty_database`.

    PostgreSQL refuses to run as root: the server then runs as another user.
    """

    def __init__(self, programs: Path):
        self._programs = programs
        self._as_user = {}
        # not below pytest's folder: a socket's path has at most 107 characters
        self._folder = Path(tempfile.mkdtemp(prefix="raydiar-pg-"))
        if os.getuid() == 0:
            user = _ordinary_user()
            self._as_user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        self._data = self._folder / "data"
        make = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", *make, "--pgdata", self._data)
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories={self._folder} -c fsync=off"
        log = self._folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self._data, "-l", log, "-o", options)

    def stop(self) -> None:
        """Stop at once, as when the machine dies."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self._data)

    def empty_database(self) -> str:
        """Empty the one database that tests use; gives its URL."""
        with psycopg.connect(host=str(self._folder), user="postgres") as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return f"postgresql+psycopg://postgres@/postgres?host={self._folder}"

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str | Path) -> None:
        # the server inherits what it can: no pipes, or reading them would never end
        with tempfile.TemporaryFile("w+") as output:
            command = [self._programs / program, *arguments]
            how = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            code = subprocess.run(command, cwd=self._folder, **how, **self._as_user).returncode
            output.seek(0)
            assert code == 0, f"{program}: {output.read()}"


def find_programs() -> Path | None:
    """The folder with PostgreSQL's programs; installs Debian's where we may."""
    programs = _look()
    if programs is None and os.getuid() == 0 and shutil.which("apt-get"):
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
        subprocess.run(["apt-get", "update"], **quiet)
        install = ["apt-get", "install", "-y", "--no-install-recommends", "postgresql"]
        subprocess.run(install, **quiet)
        programs = _look()
    return programs


def _look() -> Path | None:
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    versions = [path.parent for path in _DEBIAN.glob("*/bin/initdb")]  # Debian: not on the path
    return max(versions, key=lambda path: float(path.parent.name), default=None)


def _ordinary_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
