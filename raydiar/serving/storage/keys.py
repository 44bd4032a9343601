"""API keys: who may use the server, and whose a job is.

The server makes keys of 256 random bits and keeps their SHA-256 only. A slow hash (bcrypt, scrypt)
buys time against guessing what people choose; 2^256 keys cannot be guessed at any speed, and a slow
hash at every request would let anybody keep the server busy. Keys may also come from the
environment, as hashes; such tokens must be long and random too.

Nothing is cached: a revoked key is refused from the next request on.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from raydiar.errors import ConfigError
from raydiar.serving.storage.database import Database
from raydiar.serving.storage.tables import api_keys

ENVIRONMENT = "RAYDIAR_API_KEYS"
ANONYMOUS = "local"  # the owner of what is done without a key

_SECRET = re.compile(r"rdr_([0-9a-f]{16})_[A-Za-z0-9_-]{43}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_ENTRY = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9A-Fa-f]{64})", re.ASCII)


@dataclass(frozen=True)
class APIKey:
    """A key without its secret. Times are seconds since 1970 (UTC).

    Attributes
    ----------
    key_id : str
        The owner of what is done with it; `env:<name>` where it is from the environment.
    name : str
    created_at : float or None
        None for a key from the environment.
    revoked_at : float or None
    """

    key_id: str
    name: str
    created_at: float | None
    revoked_at: float | None


class KeyRing:
    """The keys of the database and of the environment.

    Parameters
    ----------
    database : Database
    environ : mapping, optional
        Its `RAYDIAR_API_KEYS` holds `name:sha256hex` entries, see `environment_entry`, separated by
        commas or white space. A name may come twice: two secrets of one client.
    clock : callable

    Raises
    ------
    ConfigError
        When the environment's keys are malformed.
    """

    def __init__(
        self,
        database: Database,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.time,
    ):
        self.database = database
        self._environment = _parse(environ.get(ENVIRONMENT, ""))
        self._clock = clock

    def create(self, name: str) -> tuple[str, str]:
        """Make a key.

        Returns
        -------
        key_id : str
        secret : str
            `rdr_<key_id>_<43 characters>`; it is not kept, and cannot be shown again.

        Raises
        ------
        ConfigError
            When the name is not 1 to 64 letters, digits, dots, dashes and underscores.
        """
        _check_name(name)
        key_id = secrets.token_hex(8)
        secret = f"rdr_{key_id}_{secrets.token_urlsafe(32)}"
        values = {
            "key_id": key_id,
            "name": name,
            "sha256": _hash(secret),
            "created_at": self._clock(),
        }
        with self.database.write() as connection:
            connection.execute(api_keys.insert().values(values))
        return key_id, secret

    def revoke(self, key_id: str) -> bool:
        """Refuse a key from now on; gives whether it was one that worked.

        Raises
        ------
        ConfigError
            When it is from the environment.
        """
        if key_id in self._environment.values():
            raise ConfigError(f"{key_id} is from {ENVIRONMENT}: take it out there")
        works = sa.and_(api_keys.c.key_id == key_id, api_keys.c.revoked_at.is_(None))
        with self.database.write() as connection:
            change = api_keys.update().where(works).values(revoked_at=self._clock())
            return connection.execute(change).rowcount > 0

    def list(self) -> list[APIKey]:
        """List all keys, also revoked ones, the oldest first; at last the environment's."""
        columns = [api_keys.c[name] for name in APIKey.__dataclass_fields__]
        by_age = sa.select(*columns).order_by(api_keys.c.created_at, api_keys.c.key_id)
        with self.database.read() as connection:
            keys = [APIKey(**row) for row in connection.execute(by_age).mappings()]
        owners = sorted(set(self._environment.values()))
        return keys + [APIKey(owner, owner.removeprefix("env:"), None, None) for owner in owners]

    def has_keys(self) -> bool:
        """Whether there is any key that works."""
        if self._environment:
            return True
        working = sa.select(api_keys.c.key_id).where(api_keys.c.revoked_at.is_(None)).limit(1)
        with self.database.read() as connection:
            return connection.execute(working).first() is not None

    def had_keys(self) -> bool:
        """Whether there is or was any key: also when all of them are revoked."""
        if self._environment:
            return True
        with self.database.read() as connection:
            return connection.execute(sa.select(api_keys.c.key_id).limit(1)).first() is not None

    def check(self, secret: str) -> str | None:
        """Find whose a secret is; None when it is nobody's.

        A wrong secret takes the same steps whether or not its id exists. The environment's keys
        work without the database.

        Raises
        ------
        DatabaseUnavailable
            When the database does not answer.
        """
        digest = _hash(secret)
        owner = None
        for known, name in self._environment.items():
            if hmac.compare_digest(known, digest):
                owner = name
        form = _SECRET.fullmatch(secret)
        if owner is not None or form is None:
            return owner
        row = sa.select(api_keys.c.sha256, api_keys.c.revoked_at).where(
            api_keys.c.key_id == form[1]
        )
        with self.database.read() as connection:
            found = connection.execute(row).first()
        known, revoked_at = found or ("0" * 64, None)
        right = hmac.compare_digest(known, digest)
        return form[1] if right and revoked_at is None else None


def environment_entry(name: str, secret: str) -> str:
    """Make the entry of `RAYDIAR_API_KEYS` for a secret, which may be any text.

    Raises
    ------
    ConfigError
        When the name is not 1 to 64 letters, digits, dots, dashes and underscores, or there is no
        secret.
    """
    _check_name(name)
    if not secret:
        raise ConfigError("an empty secret protects nothing")
    return f"{name}:{_hash(secret)}"


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"a key's name is 1 to 64 letters, digits, dots, dashes and underscores, not {name!r}"
        )


def _parse(text: str) -> dict[str, str]:
    """Owner by hash. No message repeats an entry: it may be a secret in plain text."""
    owners: dict[str, str] = {}
    for number, entry in enumerate(re.split(r"[,\s]+", text.strip(", \t\r\n")), 1):
        if not entry:
            continue
        form = _ENTRY.fullmatch(entry)
        if form is None:
            raise ConfigError(f"entry {number} of {ENVIRONMENT} is not name:sha256hex")
        digest, owner = form[2].lower(), f"env:{form[1]}"
        if digest == _hash(""):
            raise ConfigError(f"entry {number} of {ENVIRONMENT} is the hash of an empty secret")
        if owners.setdefault(digest, owner) != owner:
            raise ConfigError(f"entry {number} of {ENVIRONMENT} has the secret of another name")
    return owners


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
