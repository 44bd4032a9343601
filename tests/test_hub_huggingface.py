"""The Hugging Face Hub, over HTTP: what is asked of it, and what people read when it fails."""

import json
import os
import subprocess
import sys

import pytest
from hub_server import HubServer, Repository

WEIGHTS = bytes(range(256)) * 4000  # 1 MB

SCRIPT = """
import json, sys
from raydiar import hub
from raydiar.errors import WeightsNotFound
for arguments in json.load(sys.stdin):
    try:
        print(json.dumps([str(hub.fetch(**arguments)), None]))
    except WeightsNotFound as error:
        print(json.dumps([None, str(error)]))
"""


@pytest.fixture
def server():
    server = HubServer(
        {
            "org/open": Repository(
                {
                    "main": {"config.yaml": b"main", "pytorch_model.bin": WEIGHTS},
                    "v2": {"config.yaml": b"v2", "sub/folder/pytorch_model.bin": b"in a folder"},
                }
            ),
            "org/gated": Repository({"main": {"pytorch_model.bin": WEIGHTS}}, gated=True),
            "org/private": Repository({"main": {"pytorch_model.bin": WEIGHTS}}, private=True),
        }
    )
    yield server
    server.close()


@pytest.fixture
def fetch(server, tmp_path):
    """Fetch files in a process of its own, as huggingface_hub reads its settings once."""

    def run(*calls, **environment):
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=json.dumps(calls),
            env={
                **{name: value for name, value in os.environ.items() if name != "HF_TOKEN"},
                "HF_ENDPOINT": server.url,
                "HF_HOME": str(tmp_path / "hf"),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


def content(path) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def test_repositories_revisions_folders_and_tokens(server, fetch):
    weights = {"filename": "pytorch_model.bin"}
    found = fetch(
        {"uri": "org/open", **weights},
        {"uri": "hf://org/open@v2/config.yaml"},
        {"uri": "org/open", "filename": "config.yaml", "revision": "v2"},
        {"uri": "org/open", "subfolder": "sub/folder", "revision": "v2", **weights},
        {"uri": "org/gated", "token": "hf_good", **weights},
        {"uri": "org/private", "token": "hf_good", **weights},
        {"uri": "org/open", "token": "a-key-of-pyannoteAI", **weights},
    )
    assert [error for _, error in found] == [None] * 7
    expected = [WEIGHTS, b"v2", b"v2", b"in a folder", WEIGHTS, WEIGHTS, WEIGHTS]
    assert [content(path) for path, _ in found] == expected
    shown = {headers.get("Authorization") for _, _, headers in server.seen}
    assert shown == {None, "Bearer hf_good"}, "a key of pyannoteAI's is none of the Hub's business"
    # A second process asks whether the branch has moved, and downloads nothing.
    server.seen.clear()
    [[path, _]] = fetch({"uri": "org/open", **weights})
    assert content(path) == WEIGHTS
    assert [method for method, at, _ in server.seen if at.startswith("/org")] == ["HEAD"]
    # A branch that moves brings the new bytes; without a network, the last ones serve.
    server.repositories["org/open"].revisions["main"]["pytorch_model.bin"] = WEIGHTS[::-1]
    [[path, _]] = fetch({"uri": "org/open", **weights})
    assert content(path) == WEIGHTS[::-1]
    server.close()
    for environment in ({"HF_HUB_OFFLINE": "1"}, {}):
        [[path, error]] = fetch({"uri": "org/open", **weights}, **environment)
        assert (error, content(path)) == (None, WEIGHTS[::-1])


def test_an_interrupted_download_is_continued(server, fetch, tmp_path):
    weights = {"uri": "org/open", "filename": "pytorch_model.bin"}
    server.cuts, server.cut_after = 2, 300_000
    [[path, _]] = fetch(weights)
    assert content(path) == WEIGHTS
    starts = [headers.get("Range") for headers in server.downloads("pytorch_model.bin")]
    assert starts == [None, "bytes=300000-", "bytes=600000-"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_later_process_goes_on_from_what_has_arrived(server, fetch, tmp_path):
    weights = {"uri": "org/open", "filename": "pytorch_model.bin"}
    server.cuts, server.cut_after = 10**9, 300_000
    first = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.replace("json.load(sys.stdin)", f"[{weights!r}]")],
        env={**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf")},
    )
    while not server.downloads("pytorch_model.bin")[1:]:
        assert first.poll() is None
    first.kill()  # its second try is on its way
    first.wait()
    [partial] = tmp_path.rglob("*.partial")
    arrived = partial.stat().st_size
    assert arrived >= 300_000
    server.seen.clear()
    server.cuts = 0
    [[path, _]] = fetch(weights)
    assert content(path) == WEIGHTS
    [headers] = server.downloads("pytorch_model.bin")
    assert headers["Range"] == f"bytes={arrived}-"


def test_servers_without_ranges_and_damaged_bytes(server, fetch):
    weights = {"uri": "org/open", "filename": "pytorch_model.bin"}
    server.cuts, server.cut_after, server.ranges = 1, 300_000, False
    [[path, _]] = fetch(weights)
    assert content(path) == WEIGHTS
    server.repositories["org/open"].revisions["main"]["pytorch_model.bin"] = WEIGHTS + b"!"
    server.damage = True
    [[path, error]] = fetch(weights)
    assert path is None
    assert "not what the Hub says it is" in error
    server.damage = False
    [[path, _]] = fetch(weights)
    assert content(path) == WEIGHTS + b"!"


def test_every_failure_names_what_helps(server, fetch):
    weights = {"filename": "pytorch_model.bin"}
    found = fetch(
        {"uri": "org/gated", **weights},
        {"uri": "org/gated", "token": "hf_bad", **weights},
        {"uri": "org/gated", "token": "a-key-of-pyannoteAI", **weights},
        {"uri": "org/private", **weights},
        {"uri": "org/nothing", **weights},
        {"uri": "org/open", "revision": "v3", **weights},
        {"uri": "org/open", "filename": "plda.npz", "revision": "v2"},
        {"uri": "org/-.-", **weights},
    )
    gated, bad, key, private, nothing, revision, entry, name = [error for _, error in found]
    for error in (gated, key):
        assert "org/gated is gated: accept its conditions at" in error
        assert "`raydiar models download org/gated --token hf_…`" in error
    assert "was not sent" in key
    assert "does not take this token" in bad
    assert "settings/tokens" in bad
    for error in (private, nothing):
        assert "shows it to nobody without a token" in error
    assert "`raydiar models download org/private --token hf_…`" in private
    assert "no revision 'v3'" in revision
    assert "`raydiar models download org/open`" in revision
    assert "org/open holds no file plda.npz at 'v2'" in entry
    assert "org/name" in name


def test_failures_of_the_network(server, fetch):
    weights = {"uri": "org/open", "filename": "pytorch_model.bin"}
    bundle = "`raydiar models bundle org/open --into bundle.tar`"
    [[_, error]] = fetch(weights, HF_HUB_OFFLINE="1")
    assert "`HF_HUB_OFFLINE=0 raydiar models download org/open`" in error
    assert bundle in error
    server.status = 503
    [[_, error]] = fetch(weights)
    assert "the Hub answers 503" in error
    server.status = None
    server.close()
    [[_, error]] = fetch(weights)
    assert "cannot be reached" in error
    assert bundle in error
