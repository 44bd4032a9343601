"""Telling a client's server that a job is over, signed as pyannoteAI's webhooks are.

A request carries `X-Request-Timestamp` (Unix seconds) and `X-Signature`: the HMAC-SHA256, with the
account's secret, of `v0:{timestamp}:{raw body}`, in base64, as the public documentation says, or in
hexadecimal where an operator wants that. A retry also says its number (`x-retry-num`) and why the
attempt before it failed (`x-retry-reason`).
"""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from raydiar.errors import FetchFailed, TooManyRedirects, UrlRefused
from raydiar.serving.outbound.addresses import FetchPolicy
from raydiar.serving.outbound.fetching import open_url

RETRY_DELAYS = (0, 60, 300)  # seconds after the attempt before
TIMEOUT = 10.0  # seconds
MAX_REDIRECTS = 2


@dataclass(frozen=True)
class Delivery:
    """How an attempt went.

    Attributes
    ----------
    ok : bool
    reason : str or None
        Why not, in the words of `x-retry-reason`: "http_timeout", "too_many_redirects",
        "connection_failed", "ssl_error", "http_error" (a status other than 2xx); and
        "url_refused", which is ours: the URL leads where clients must not go.
    """

    ok: bool
    reason: str | None = None


async def deliver(
    url: str,
    body: dict[str, Any],
    secret: str,
    policy: FetchPolicy,
    retry_num: int = 0,
    retry_reason: str | None = None,
    encoding: str = "base64",
) -> Delivery:
    """Send a webhook once; failures are told, not raised.

    Parameters
    ----------
    url : str
        Given by a client, and held to `policy` like the URL of a recording.
    body : dict
        What is sent, as JSON.
    secret : str
    policy : FetchPolicy
        Its limits on time and redirects give way to those of webhooks (10 s, 2 redirects).
    retry_num : int
        0 for the first attempt.
    retry_reason : str, optional
        `Delivery.reason` of the attempt before.
    encoding : str
        Of the signature, see `sign`.
    """
    raw = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    timestamp = str(int(time.time()))
    headers = {
        "Content-Type": "application/json",
        "X-Request-Timestamp": timestamp,
        "X-Signature": sign(raw, timestamp, secret, encoding),
    }
    if retry_num:
        headers |= {"x-retry-num": str(retry_num), "x-retry-reason": retry_reason or ""}
    try:
        async with (
            asyncio.timeout(TIMEOUT),
            open_url(
                "POST", url, replace(policy, max_redirects=MAX_REDIRECTS), raw, headers
            ) as response,
        ):
            ok = 200 <= response.status < 300
            return Delivery(ok, None if ok else "http_error")
    except (UrlRefused, aiohttp.InvalidURL):
        return Delivery(False, "url_refused")
    except TooManyRedirects:
        return Delivery(False, "too_many_redirects")
    except TimeoutError:  # also aiohttp's
        return Delivery(False, "http_timeout")
    except aiohttp.ClientSSLError:
        return Delivery(False, "ssl_error")
    except (FetchFailed, aiohttp.ClientConnectionError):
        return Delivery(False, "connection_failed")
    except aiohttp.ClientError:  # an answer that is not HTTP
        return Delivery(False, "http_error")


def next_attempt(retry_num: int, now: float) -> float | None:
    """When to try again after a failed attempt, in Unix seconds; None after the last.

    Parameters
    ----------
    retry_num : int
        Number of the attempt that failed, 0 for the first.
    now : float
    """
    return now + RETRY_DELAYS[retry_num] if retry_num < len(RETRY_DELAYS) else None


def sign(body: bytes, timestamp: str, secret: str, encoding: str = "base64") -> str:
    """Signature of a webhook's raw body, in "base64" or "hex"."""
    content = f"v0:{timestamp}:".encode() + body
    digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()


def verify_signature(
    body: bytes,
    timestamp: str,
    signature: str,
    secret: str,
    now: float | None = None,
    tolerance: float = 300.0,
) -> bool:
    """Whether a webhook comes from who knows the secret, and recently: for its receivers.

    Parameters
    ----------
    body : bytes
        As received, before any parsing.
    timestamp, signature : str
        The headers `X-Request-Timestamp` and `X-Signature`; the latter in either encoding.
    secret : str
    now : float, optional
        Unix seconds; the clock's by default.
    tolerance : float
        Seconds that the timestamp may be off: an old webhook cannot be sent again by others.
    """
    now = time.time() if now is None else now
    # bytes: headers may hold what is not ASCII, which compare_digest refuses as text
    given = signature.encode(errors="replace")
    expected = [sign(body, timestamp, secret, encoding).encode() for encoding in ("base64", "hex")]
    if not any(hmac.compare_digest(one, given) for one in expected):
        return False
    return timestamp.isdecimal() and abs(now - int(timestamp)) <= tolerance
