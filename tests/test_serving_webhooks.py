"""Webhooks: signed as their receivers expect, and no way into our network."""

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
import time

import pytest
import scripted_web as web

from raydiar.serving.outbound import webhooks
from raydiar.serving.outbound.addresses import FetchPolicy
from raydiar.serving.outbound.webhooks import (
    Delivery,
    deliver,
    next_attempt,
    sign,
    verify_signature,
)

SECRET = "whsec_äö"
BODY = {"jobId": "1", "status": "succeeded", "output": {"diarization": [{"speaker": "Zoë"}]}}
ALLOWED = FetchPolicy(allow_hosts=("127.0.0.1",), connect_seconds=1.0, stall_seconds=5.0)


def send(url, policy=ALLOWED, **options) -> Delivery:
    return asyncio.run(deliver(url, BODY, SECRET, policy, **options))


def test_a_webhook_is_signed_over_its_raw_body():
    with web.serving({"/hook": web.status(204)}) as server:
        assert send(f"{server.url}/hook") == Delivery(True, None)
        ((method, _, headers, raw),) = server.requests
    assert method == "POST"
    assert json.loads(raw) == BODY
    assert headers["Content-Type"] == "application/json"
    timestamp = headers["X-Request-Timestamp"]
    assert abs(int(timestamp) - time.time()) < 60
    content = b"v0:" + timestamp.encode() + b":" + raw
    digest = hmac.new(SECRET.encode(), content, hashlib.sha256).digest()
    expected = base64.b64encode(digest).decode()
    assert headers["X-Signature"] == expected
    assert verify_signature(raw, timestamp, expected, SECRET)
    assert "x-retry-num" not in {name.lower() for name in headers}


def test_a_known_signature():
    # computed with OpenSSL: printf 'v0:1700000000:{}' | openssl dgst -sha256 -hmac secret
    known = "84dd7b277ba946b3a34369b43499bfd9258b410b8894583f1288b1911aa6a6d6"
    assert sign(b"{}", "1700000000", "secret", "hex") == known
    published = base64.b64encode(bytes.fromhex(known)).decode()
    assert sign(b"{}", "1700000000", "secret") == published
    for signature in (known, published):
        assert verify_signature(b"{}", "1700000000", signature, "secret", now=1_700_000_000)


def test_receivers_can_tell_forged_and_old_webhooks():
    timestamp, now = "1000", 1100.0
    signature = sign(b"{}", timestamp, SECRET)
    assert verify_signature(b"{}", timestamp, signature, SECRET, now)
    assert not verify_signature(b"{ }", timestamp, signature, SECRET, now)
    assert not verify_signature(b"{}", "1001", signature, SECRET, now)
    assert not verify_signature(b"{}", timestamp, signature, "other", now)
    assert not verify_signature(b"{}", timestamp, "", SECRET, now)
    assert not verify_signature(b"{}", timestamp, "ü", SECRET, now)
    assert not verify_signature(b"{}", timestamp, signature, SECRET, 1301.0)
    assert not verify_signature(b"{}", timestamp, signature, SECRET, 699.0)
    assert not verify_signature(b"{}", "soon", sign(b"{}", "soon", SECRET), SECRET, now)


def test_a_retry_says_its_number_and_why():
    with web.serving({"/hook": web.in_turn(web.status(500), web.status(200))}) as server:
        first = send(f"{server.url}/hook")
        assert first == Delivery(False, "http_error")
        assert send(f"{server.url}/hook", retry_num=1, retry_reason=first.reason).ok
        headers = server.requests[1][2]
    assert headers["x-retry-num"] == "1"
    assert headers["x-retry-reason"] == "http_error"


def test_three_retries_at_once_after_a_minute_and_after_five():
    assert [next_attempt(n, 1000.0) for n in range(4)] == [1000.0, 1060.0, 1300.0, None]


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirects_are_followed_twice_with_the_body(code):
    paths = {f"/{n}": web.redirect(f"/{n + 1}", code) for n in range(3)} | {"/3": web.status(200)}
    with web.serving(paths) as server:
        assert send(f"{server.url}/0") == Delivery(False, "too_many_redirects")
        server.requests.clear()
        assert send(f"{server.url}/1").ok
        bodies = {(method, body) for method, _, _, body in server.requests}
        assert len(server.requests) == 3
    assert len(bodies) == 1
    assert json.loads(bodies.pop()[1]) == BODY


def test_see_other_is_an_answer():
    with web.serving({"/hook": web.redirect("/b", 303), "/b": web.status(200)}) as server:
        assert send(f"{server.url}/hook") == Delivery(False, "http_error")
        assert len(server.requests) == 1


@pytest.mark.parametrize("code", [400, 404, 410, 500, 503])
def test_anything_but_success_is_an_error_and_sent_once(code):
    with web.serving({"/hook": web.status(code)}) as server:
        assert send(f"{server.url}/hook") == Delivery(False, "http_error")
        assert len(server.requests) == 1


@pytest.mark.parametrize("act", [web.hang_up, lambda handler: handler.wfile.write(b"220 smtp\r\n")])
def test_no_answer_that_is_http_is_sent_once(act):
    with web.serving({"/hook": act}) as server:
        assert send(f"{server.url}/hook").reason in ("connection_failed", "http_error")
        assert len(server.requests) == 1


def test_a_silent_server_times_out(monkeypatch):
    monkeypatch.setattr(webhooks, "TIMEOUT", 0.3)
    with web.serving({"/hook": lambda handler: handler.server.stopped.wait(5)}) as server:
        assert send(f"{server.url}/hook") == Delivery(False, "http_timeout")


def test_nobody_there():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/hook"
        assert send(url) == Delivery(False, "connection_failed")
    assert send("http://nobody.invalid/hook") == Delivery(False, "connection_failed")


def test_a_certificate_that_nobody_vouches_for(self_signed):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(self_signed)
    with web.serving({"/hook": web.status(200)}, tls=tls) as server:
        assert send(f"{server.url}/hook") == Delivery(False, "ssl_error")
        assert server.requests == []


def test_what_was_sent_encrypted_is_not_sent_again_in_the_clear(self_signed, monkeypatch):
    trusting = ssl.create_default_context(cafile=str(self_signed))
    trusting.check_hostname = False
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(self_signed)
    with web.serving({"/b": web.status(200)}) as clear:
        paths = {"/a": web.redirect(f"{clear.url}/b", 307), "/b": web.status(200)}
        with web.serving(paths, tls=tls) as server:
            assert send(f"{server.url}/b").ok
            assert send(f"{server.url}/a") == Delivery(False, "url_refused")
            assert clear.requests == []
            clear.paths["/a"] = web.redirect(f"{server.url}/b", 307)
            assert send(f"{clear.url}/a").ok


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://[::1]/", "file:///etc/passwd", "http://u@a.example/"]
)
def test_webhooks_do_not_lead_inside(url):
    assert send(url) == Delivery(False, "url_refused")
    with web.serving({"/hook": web.redirect(url, 307)}) as server:
        assert send(f"{server.url}/hook") == Delivery(False, "url_refused")
        assert send(f"{server.url}/hook", FetchPolicy()) == Delivery(False, "url_refused")
        assert len(server.requests) == 1


def test_what_is_not_json_is_the_callers_error():
    with pytest.raises(ValueError, match="JSON"):
        asyncio.run(deliver("http://a.example/", {"score": float("nan")}, SECRET, ALLOWED))
