"""API keys: who gets in, on SQLite and on PostgreSQL."""

import hashlib
import re

import pytest
import sqlalchemy as sa

from raydiar.errors import ConfigError, DatabaseUnavailable
from raydiar.serving.storage.database import open_database
from raydiar.serving.storage.keys import KeyRing, environment_entry


@pytest.fixture
def database(database_url):
    database = open_database(database_url)
    yield database
    database.close()


def test_a_key_works_until_it_is_revoked(database):
    ring = KeyRing(database, {})
    assert not ring.has_keys()
    key_id, secret = ring.create("lab")
    assert re.fullmatch(rf"rdr_{key_id}_[A-Za-z0-9_-]{{43}}", secret)
    other_id, other = ring.create("lab")
    elsewhere = KeyRing(database, {})
    assert elsewhere.has_keys()
    assert (elsewhere.check(secret), elsewhere.check(other)) == (key_id, other_id)
    assert ring.revoke(key_id)
    assert elsewhere.check(secret) is None
    assert elsewhere.check(other) == other_id
    assert not ring.revoke(key_id)
    assert not ring.revoke("unknown")
    ring.revoke(other_id)
    assert not elsewhere.has_keys()


def test_keys_are_listed_without_their_secrets(database):
    ring = KeyRing(database, {"RAYDIAR_API_KEYS": environment_entry("ops", "t")}, lambda: 5.0)
    key_id, secret = ring.create("lab")
    ring.revoke(key_id)
    listed = ring.list()
    assert [(key.key_id, key.name) for key in listed] == [(key_id, "lab"), ("env:ops", "ops")]
    assert (listed[0].created_at, listed[0].revoked_at) == (5.0, 5.0)
    random = secret.rpartition(key_id)[2]
    with database.read() as connection:
        stored = str(connection.execute(sa.text("SELECT * FROM raydiar_api_keys")).all())
    assert random not in stored + repr(listed)


def test_nothing_but_the_whole_secret_works(database):
    ring = KeyRing(database, {})
    key_id, secret = ring.create("lab")
    last = "A" if secret[-1] != "A" else "B"
    _, other = ring.create("lab")
    swapped = f"rdr_{key_id}_{other[-43:]}"
    wrong = ["", key_id, secret[:-1], secret + "A", secret[:-1] + last, secret.upper(), swapped]
    wrong += [f" {secret}", f"{secret}\n", hashlib.sha256(secret.encode()).hexdigest()]
    wrong += [f"rdr_{'0' * 16}_{'A' * 43}", "\x00", "\ud800", "é", "' OR 1=1 --"]
    assert [ring.check(text) for text in wrong] == [None] * len(wrong)
    assert ring.check(secret) == key_id


def test_keys_of_the_environment(database):
    token = "any old token: ü"
    entries = [environment_entry("a.b-c_1", token), environment_entry("ops", "second")]
    entries.append(environment_entry("ops", "third").upper().replace("OPS", "ops"))
    for separator in (",", " ", "\n", " , "):
        ring = KeyRing(database, {"RAYDIAR_API_KEYS": f" {separator.join(entries)},\n"})
        assert ring.has_keys()
        assert ring.check(token) == "env:a.b-c_1"
        assert ring.check("second") == ring.check("third") == "env:ops"
        assert ring.check("fourth") is None
        assert ring.check(entries[0].partition(":")[2]) is None
    with pytest.raises(ConfigError, match="RAYDIAR_API_KEYS"):
        ring.revoke("env:ops")
    key_id, secret = ring.create("ops")
    assert ring.check(secret) == key_id


@pytest.mark.parametrize(
    "text",
    [
        "lab:topsecret",
        "topsecret",
        f"lab:{'0' * 63}",
        f"lab:{'g' * 64}topsecret",
        f":{'0' * 64}",
        f"l@b:{'0' * 64}",
        f"lab:{'0' * 64};topsecret",
        f"one:{'0' * 64},topsecret:{'0' * 64}",
        f"lab:{hashlib.sha256(b'').hexdigest()}",
    ],
)
def test_malformed_keys_of_the_environment_are_refused_and_not_repeated(text, tmp_path):
    database = open_database(f"sqlite:///{tmp_path}/a.db")
    with pytest.raises(ConfigError, match=r"entry [12] of RAYDIAR_API_KEYS") as refusal:
        KeyRing(database, {"RAYDIAR_API_KEYS": text})
    assert "topsecret" not in str(refusal.value)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a,b", "x" * 65, "é", "a\n"])
def test_names_that_no_key_can_have(name, tmp_path):
    ring = KeyRing(open_database(f"sqlite:///{tmp_path}/a.db"), {})
    for make in (ring.create, lambda name: environment_entry(name, "secret")):
        with pytest.raises(ConfigError, match="name"):
            make(name)


def test_an_empty_secret_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        environment_entry("lab", "")


def test_without_the_database_only_the_environments_keys_work(postgres):
    database = open_database(postgres.empty_database())
    ring = KeyRing(database, {"RAYDIAR_API_KEYS": environment_entry("ops", "token")})
    key_id, secret = ring.create("lab")
    postgres.stop()
    try:
        assert ring.check("token") == "env:ops"
        with pytest.raises(DatabaseUnavailable):
            ring.check(secret)
    finally:
        postgres.start()
    assert ring.check(secret) == key_id
    database.close()
