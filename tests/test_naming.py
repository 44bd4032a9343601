"""What recordings are called: without secrets, and told apart."""

import os
import pickle
from pathlib import Path

import pytest

from raydiar import errors
from raydiar.errors import RaydiarError
from raydiar.naming import (
    clean_uri,
    distinct_names,
    local_path,
    public_uri,
    recording_name,
    without_secrets,
)

SIGNED = (
    "https://bucket.s3.amazonaws.com/calls/My%20call.mp3?X-Amz-Algorithm=AWS4-HMAC-SHA256"
    "&X-Amz-Credential=AKIA/20261125/us-east-1/s3/aws4_request&X-Amz-Signature=5ec4e7"
)


@pytest.mark.parametrize(
    ("uri", "public", "name"),
    [
        (SIGNED, "https://bucket.s3.amazonaws.com/calls/My%20call.mp3", "My call"),
        ("https://user:5ec4e7@host:8080/a.b.wav#t=10", "https://host:8080/a.b.wav#t=10", "a.b"),
        ("https://h/x.tar?sig=5ec4e7#in/b.wav", "https://h/x.tar#in/b.wav", "x"),
        ("https://h/a.wav#access_token=5ec4e7", "https://h/a.wav", "a"),
        ("https://user:5ec/4e7@host/a.wav", "https://host/a.wav", "a"),
        ("http://[::1]:9000/a.wav?sig=5ec4e7", "http://[::1]:9000/a.wav", "a"),
        ("https://host?file=5ec4e7.wav", "https://host", "host"),
        ("ftp://anna:5ec4e7@host/a.wav", "ftp://host/a.wav", "a"),
        ("HTTPS://host/@anna/a.wav?5ec4e7", "HTTPS://host/@anna/a.wav", "a"),
        (
            "simplecache::https://u:5ec4e7@host/a.wav?X-Amz-Signature=5ec4e7",
            "simplecache::https://host/a.wav",
            "a",
        ),
        ("zip://in/b.wav::https://h/a.zip?sig=5ec4e7", "zip://in/b.wav::https://h/a.zip", "b"),
        ("s3://key:5ec4e7@bucket/what?.wav", "s3://bucket/what?.wav", "what?"),
        ("s3://bucket/a#1.wav?versionId=7", "s3://bucket/a#1.wav?versionId=7", "a#1"),
        ("s3://bucket/a.wav?x=1&X-Amz-Signature=5ec4e7", "s3://bucket/a.wav", "a"),
        ("abfs://container@account/a.wav", "abfs://container@account/a.wav", "a"),
        ("/data/what? #1 [x7].wav", "/data/what? #1 [x7].wav", "what? #1 [x7]"),
        ("file:///data/My%20call.wav", "file:///data/My%20call.wav", "My call"),
        ("file:///data/caf%E9.wav", "file:///data/caf%E9.wav", "caf\\xe9"),
        (os.fsdecode(b"/data/caf\xe9.wav"), "/data/caf\\xe9.wav", "caf\\xe9"),
        ("media://key", "media://key", "key"),
    ],
)
def test_names_hold_no_secrets(uri, public, name):
    assert public_uri(uri) == public
    assert recording_name(uri) == name
    assert public_uri(public) == public


def test_a_url_in_a_message_loses_its_secrets():
    for text in (
        f"404, message='Not Found', url='{SIGNED}'",
        f"FileNotFoundError: {SIGNED}",
        f"({SIGNED}).",
        "GET /calls/a.mp3?a=b&X-Amz-Signature=5ec4e7 failed",
        "see zip://b.wav::https://u:5ec4e7@h/a.zip?token=5ec4e7: damaged",
    ):
        told = without_secrets(text)
        assert "5ec4e7" not in told
        assert "/a" in told or "My%20call.mp3" in told
    assert without_secrets("https://host/a.wav: no such file.") == (
        "https://host/a.wav: no such file."
    )


@pytest.mark.parametrize(
    "kind",
    [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, RaydiarError)],
)
def test_no_error_holds_a_secret(kind):
    more = {"FetchFailed": (True,), "TooManyRedirects": (True,), "QueueFull": (1.0,)}
    error = kind(f"{SIGNED}: no", *more.get(kind.__name__, ()))
    copy = pickle.loads(pickle.dumps(error))
    for told in (str(error), repr(error), str(copy), repr(copy), str(error.args)):
        assert "5ec4e7" not in told
        assert "My%20call.mp3" in told


def test_equal_names_are_told_apart_by_as_little_as_it_takes(monkeypatch):
    monkeypatch.chdir("/")
    assert distinct_names(["a/x.wav", "b/y.wav"]) == ["x", "y"]
    assert distinct_names(["a/x.wav", "a/x.mp3", "z"]) == ["x.wav", "x.mp3", "z"]
    assert distinct_names(["mon/call.wav", "tue/call.wav"]) == ["mon-call", "tue-call"]
    assert distinct_names(["1/mon/call.wav", "2/mon/call.wav", "x.wav"]) == [
        *("1-mon-call", "2-mon-call", "x"),
    ]
    assert distinct_names(["x.wav", "x.wav"]) == ["x-1", "x-2"]
    assert distinct_names(["x.wav", "x.wav", "x-1.wav"]) == ["x-2", "x-3", "x-1"]
    assert distinct_names([f"{SIGNED}&a=1", f"{SIGNED}&a=2"]) == ["My_call-1", "My_call-2"]
    assert distinct_names(["a b.wav", "a_b.wav", ".x.wav"]) == ["a_b-1", "a_b-2", "x"]


def test_file_uris_name_files(tmp_path):
    for name in ("plain.wav", "My call.wav", "50%25 off.wav", "what?#[1].wav", "ü.wav"):
        path = tmp_path / name
        path.touch()
        assert local_path(path.as_uri()) == str(path)
        assert local_path(f"file://localhost{path.as_uri()[7:]}") == str(path)
        assert local_path(path) == str(path)
    # put together without escapes, as some do
    assert local_path(f"file://{tmp_path}/50%25 off.wav") == f"{tmp_path}/50%25 off.wav"
    assert local_path("s3://bucket/a.wav") is None
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav")
    Path(odd).touch()
    assert clean_uri(odd) == f"file://{tmp_path}/caf%E9.wav"
    assert local_path(clean_uri(odd)) == odd
    assert clean_uri("/data/ü.wav") == "/data/ü.wav"
