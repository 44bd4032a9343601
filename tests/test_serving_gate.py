"""Who is let in, how often, and how slowly: the attacks of one on all, in small."""

import json
import socket
from dataclasses import replace

import httpx
import pytest
from serving_services import make_services, serving, working
from starlette.testclient import TestClient

from raydiar.errors import ConfigError
from raydiar.serving.deployments.placement import check_keys
from raydiar.serving.http import pace
from raydiar.serving.http.api import create_api
from raydiar.serving.settings import ServeSettings
from raydiar.serving.storage.database import open_database
from raydiar.serving.storage.keys import KeyRing


@pytest.fixture
def services(tmp_path):
    return make_services(tmp_path)


def key_of(services, name="ann") -> str:
    return services.keys.create(name)[1]


def with_key(services, name="ann", **options) -> TestClient:
    headers = {"Authorization": f"Bearer {key_of(services, name)}"}
    return TestClient(create_api(services), base_url="http://localhost", headers=headers, **options)


class SlowClient:
    """Sends the head of a request and so much of its body, and then nothing."""

    def __init__(self, url: str, line: str, body: bytes = b"{", length: int = 1000, key=None):
        address = httpx.URL(url)
        self.socket = socket.create_connection((address.host, address.port), timeout=60)
        head = f"{line} HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: {length}\r\n"
        head += "Content-Type: application/json\r\n"
        head += f"Authorization: Bearer {key}\r\n" if key else ""
        self.socket.sendall(head.encode() + b"\r\n" + body)

    def answer(self) -> tuple[int, dict]:
        """Status and document of what the server says without the rest of the body."""
        received = b""
        while b"\r\n\r\n" not in received or not received.endswith(b"}"):
            more = self.socket.recv(65536)
            if not more:
                break
            received += more
        head, _, body = received.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize(
    "line",
    [
        "POST /v1/diarize",
        "POST /v1/diarize/sync",
        "POST /v1/identify",
        "POST /v1/search",
        "POST /v1/media/input",
        "PUT /v1/media/upload/a?owner=ann&expires=9999999999&signature=0",
    ],
)
def test_who_may_not_call_is_refused_before_the_body_is_there(services, line):
    with serving(services) as running:
        slow = SlowClient(running.media.public_url, line)
        status, told = slow.answer()
        slow.close()
    assert status == (403 if "upload" in line else 401)
    assert told["message"]


def test_a_body_that_does_not_come_is_not_waited_for(services, monkeypatch):
    monkeypatch.setattr(pace, "JSON_SECONDS", 0.3)
    key = key_of(services)
    with serving(services) as running:
        slow = SlowClient(running.media.public_url, "POST /v1/diarize", key=key)
        status, told = slow.answer()
        slow.close()
    assert (status, told["message"]) == (408, "The body of this request comes too slowly.")


@pytest.mark.parametrize("route", ["upload", "sync"])
def test_an_upload_that_stops_in_the_middle_is_broken_off(services, monkeypatch, route):
    monkeypatch.setattr(pace, "GRACE_SECONDS", 0.3)
    services = replace(
        services, settings=services.settings.model_copy(update={"min_upload_rate": 1e9})
    )
    key = key_of(services)
    with serving(services) as running:
        url = running.media.public_url
        line = "POST /v1/diarize/sync"
        if route == "upload":
            headers = {"Authorization": f"Bearer {key}"}
            body = {"url": "media://a"}
            signed = httpx.post(f"{url}/v1/media/input", json=body, headers=headers).json()["url"]
            line = f"PUT {signed.removeprefix(url)}"
        slow = SlowClient(url, line, body=b"x" * 1000, length=10**9, key=key)
        status, _ = slow.answer()
        slow.close()
    assert status == 408
    assert services.media_records.get(services.keys.list()[0].key_id, "a") is None


def test_requests_that_wait_have_a_cap_for_all_and_for_each(tmp_path):
    services = make_services(tmp_path, requests_per_key=1, max_waiting=2)
    keys = [key_of(services, name) for name in ("ann", "bob", "cid")]
    with serving(services) as running:
        url = running.media.public_url
        slow = [SlowClient(url, "POST /v1/diarize/sync", length=10**6, key=key) for key in keys[:2]]
        refusals = [("of this key", keys[0]), ("requests that wait", keys[2])]
        for told, key in refusals:
            headers = {"Authorization": f"Bearer {key}"}
            sync = f"{url}/v1/diarize/sync"
            while True:  # the slow ones are on their way still
                answer = httpx.post(sync, content=b"", headers=headers, timeout=60)
                if answer.status_code == 429:
                    break
                assert answer.status_code == 400  # empty
            assert told in answer.json()["message"]
            assert int(answer.headers["Retry-After"]) > 0
        assert httpx.get(f"{url}/healthz").status_code == 200
        for client in slow:
            client.close()
        with working(services.jobs):
            while httpx.post(sync, content=b"x", headers=headers, timeout=60).status_code == 429:
                pass  # until the server has seen that they are gone


def test_a_key_that_asks_too_often_is_told_when_to_come_back(tmp_path):
    services = make_services(tmp_path, reads_per_minute=3, submissions_per_minute=2)
    ann, bob = (with_key(services, name) for name in ("ann", "bob"))
    for left in (2, 1, 0):
        told = ann.get("/v1/jobs").headers
        assert (told["X-RateLimit-Limit"], told["X-RateLimit-Remaining"]) == ("3", str(left))
    refused = ann.get("/v1/jobs")
    assert refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert refused.json()["requestId"] == refused.headers["X-Request-Id"]
    assert "X-RateLimit-Limit" in ann.post("/v1/diarize", json={"url": "x"}).headers
    assert ann.post("/v1/diarize", json={"url": "x"}).status_code == 400
    assert ann.post("/v1/diarize", json={"url": "x"}).status_code == 429
    assert bob.get("/v1/jobs").status_code == 200  # whose minute is his own
    assert ann.get("/healthz").status_code == 200


# -- servers without keys ------------------------------------------------------------------------


def test_a_running_server_without_keys_learns_of_the_first(services):
    local = TestClient(create_api(replace(services, anonymous=True)), base_url="http://localhost")
    assert local.get("/v1/test").status_code == 200
    key = key_of(services)
    assert local.get("/v1/test").status_code == 401
    assert local.get("/v1/test", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize(
    "header", ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"]
)
def test_a_server_without_keys_answers_no_proxy(services, header):
    local = TestClient(create_api(replace(services, anonymous=True)), base_url="http://localhost")
    answer = local.get("/v1/test", headers={header: "203.0.113.5"})
    assert answer.status_code == 403
    assert "proxy" in answer.json()["message"]


def test_revoking_the_only_key_does_not_open_the_server(tmp_path, monkeypatch):
    monkeypatch.delenv("RAYDIAR_API_KEYS", raising=False)
    settings = ServeSettings(database=f"sqlite:///{tmp_path}/server.sqlite")
    ring = KeyRing(open_database(settings.database))
    assert check_keys(settings, "127.0.0.1")  # never had any
    key_id, _ = ring.create("ann")
    assert not check_keys(settings, "127.0.0.1")
    ring.revoke(key_id)
    with pytest.raises(ConfigError, match=r"all API keys are revoked.*--no-keys"):
        check_keys(settings, "127.0.0.1")
    meant = settings.model_copy(update={"no_keys": True})
    assert check_keys(meant, "127.0.0.1")
    with pytest.raises(ConfigError, match="others can reach"):
        check_keys(meant, "0.0.0.0")


def test_the_database_is_for_its_user_only(tmp_path):
    services = make_services(tmp_path / "a" / "b")
    services.keys.create("ann")
    held = {path.name: oct(path.stat().st_mode)[-3:] for path in (tmp_path / "a/b").iterdir()}
    assert held.pop("server.sqlite") == "600"
    assert set(held.values()) <= {"600"}
    assert oct((tmp_path / "a").stat().st_mode)[-3:] == "700"
