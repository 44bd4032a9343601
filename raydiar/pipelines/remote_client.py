"""The REST interface of pyannoteAI, which `raydiar serve` has too, from the side of a client.

One request at a time, and patience: what fails for a moment (network, 429, 5xx) is asked again
with growing waits, as long as the server says where it says so.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import requests

from raydiar.errors import (
    ConfigError,
    RemoteDenied,
    RemoteJobFailed,
    RemoteRefused,
    RemoteUnavailable,
)

PUBLIC_URL = "https://api.pyannote.ai/v1"
_TIMEOUT = (10.0, 60.0)  # s: to connect, and between two pieces of an answer
_TRIES = 6
_LONGEST_WAIT = 60.0  # s
_FIRST_LOOK, _SLOWEST_LOOK = 1.0, 10.0  # s from one look at a job to the next
_BLOCK = 1 << 20


class RemoteClient:
    """
    Parameters
    ----------
    token : str, optional
        API key; by default `$PYANNOTEAI_API_KEY`.
    base_url : str, optional
        Where the interface is, with or without its `/v1`; by default `$PYANNOTEAI_API_URL`, then
        pyannoteAI itself.

    Raises
    ------
    ConfigError
        No key, or an address that is none.
    RemoteDenied
        The server does not know the key.
    RemoteUnavailable
        There is no such server.
    """

    def __init__(self, token: str | None = None, base_url: str | None = None):
        self.url = _address(base_url or os.environ.get("PYANNOTEAI_API_URL") or PUBLIC_URL)
        token = token or os.environ.get("PYANNOTEAI_API_KEY")
        if not token:
            raise ConfigError(
                f"{self.url} needs an API key: pass token=… (--token), or set PYANNOTEAI_API_KEY; "
                "`raydiar serve keys create` makes one for a server of your own"
            )
        self._session = requests.Session()
        self._headers = {"Authorization": f"Bearer {token}"}
        self.call("GET", "/test")

    def call(self, method: str, route: str, body: dict | None = None) -> dict[str, Any]:
        """Ask, and give the JSON of the answer.

        Raises
        ------
        RemoteDenied, RemoteRefused, RemoteUnavailable
        """

        def send():
            return self._session.request(
                method,
                f"{self.url}{route}",
                json=body,
                headers=self._headers,
                timeout=_TIMEOUT,
                allow_redirects=False,  # the key is for this address
            )

        response = self._patiently(send, f"{method} {self.url}{route}")
        try:
            answer = response.json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise RemoteUnavailable(
                f"{self.url}{route} answers {response.status_code} without a JSON object: is that "
                "the address of the interface?"
            )
        return answer

    def upload(
        self, file: BinaryIO, num_bytes: int, progress: Callable[[int], None] | None = None
    ) -> str:
        """Upload a recording.

        Parameters
        ----------
        file : binary file
            That can seek.
        num_bytes : int
        progress : callable, optional
            Called with the number of bytes sent so far.

        Returns
        -------
        url : str
            To diarize it by.
        """
        media = f"media://raydiar/{uuid.uuid4().hex}"
        place = self.call("POST", "/media/input", {"url": media}).get("url")
        if not isinstance(place, str) or not place.startswith(("http://", "https://")):
            raise RemoteUnavailable(f"{self.url}/media/input names no address to upload to")

        def send():
            # a signed URL: neither the key nor a content type may go with it
            body = _Body(file, num_bytes, progress)
            return requests.put(place, data=body, timeout=_TIMEOUT)

        self._patiently(send, f"upload to {urlsplit(place).netloc}")
        return media

    def wait(self, job_id: str, timeout: float | None = None) -> dict[str, Any]:
        """Look at a job, ever less often, until it is over.

        Returns
        -------
        output : dict

        Raises
        ------
        RemoteJobFailed
            It failed, was canceled, or is not over after `timeout` seconds.
        """
        pause, since = _FIRST_LOOK, time.monotonic()
        while True:
            job = self.call("GET", f"/jobs/{job_id}")
            status, output = job.get("status"), job.get("output") or {}
            if status == "succeeded":
                return output
            if status in ("failed", "canceled"):
                why = output.get("error") or job.get("error") or "it does not say why"
                raise RemoteJobFailed(f"{self.url}: job {job_id} {status}: {why}")
            if timeout is not None and time.monotonic() - since + pause > timeout:
                raise RemoteJobFailed(
                    f"{self.url}: job {job_id} is still {status} after {timeout:g} s; it goes on "
                    "there: wait longer with timeout=…"
                )
            time.sleep(pause)
            pause = min(pause * 1.5, _SLOWEST_LOOK)

    def _patiently(self, send: Callable[[], requests.Response], what: str) -> requests.Response:
        for attempt in range(_TRIES):
            wait = min(2.0**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.0)
            try:
                response = send()
            except requests.RequestException as error:
                trouble = f"{what}: {_reason(error)}"
            else:
                if response.status_code < 300:
                    return response
                trouble = f"{what}: {response.status_code}, {_told(response)}"
                if response.status_code not in (408, 429) and response.status_code < 500:
                    raise _refusal(response.status_code, trouble)
                wait = _retry_after(response) or wait
            if attempt + 1 < _TRIES:
                time.sleep(min(wait, _LONGEST_WAIT))
        raise RemoteUnavailable(f"{trouble} (asked {_TRIES} times); try again later")


class _Body:
    """A file on its way out, from its beginning, that tells how far it is."""

    def __init__(self, file: BinaryIO, num_bytes: int, progress: Callable[[int], None] | None):
        file.seek(0)
        self._file, self._left, self._total, self._progress = file, num_bytes, num_bytes, progress

    def __len__(self) -> int:
        return self._left

    def __iter__(self):
        while block := self.read(_BLOCK):
            yield block

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(_BLOCK if size < 0 else max(size, 1 << 16))
        self._left = max(0, self._left - len(block))
        if self._progress is not None:
            self._progress(self._total - self._left)
        return block


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{url!r} is no address of a server: it starts with https:// or http://")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError("the address of a server holds no user, password, query or fragment")
    url = url.rstrip("/")
    return url if parts.path.rstrip("/").endswith("/v1") else f"{url}/v1"


def _told(response: requests.Response) -> str:
    """What the server says: its message, and each field that it does not like."""
    try:
        answer = response.json()
        message = str(answer["message"])
        fields = [
            f"{error.get('field', '')}: {error.get('message', '')}".strip(": ")
            for error in answer.get("errors") or ()
            if isinstance(error, dict)
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return response.reason or "without a word"
    return "; ".join([message, *(field for field in fields if field not in message)])


def _refusal(status: int, trouble: str) -> Exception:
    if status in (401, 403):
        return RemoteDenied(f"{trouble}; check the API key (token=…, PYANNOTEAI_API_KEY)")
    if status == 402:
        return RemoteDenied(f"{trouble}; the account at the service has to be paid for")
    if 300 <= status < 400:
        return RemoteUnavailable(f"{trouble}; it moves elsewhere: name the final address")
    return RemoteRefused(trouble)


def _retry_after(response: requests.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["Retry-After"]))
    except (KeyError, ValueError):
        return None


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not valid"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    return type(error).__name__
