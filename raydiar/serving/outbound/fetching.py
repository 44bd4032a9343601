"""Recordings from URLs that clients give, without lending them our place in the network.

Every hop (the URL, and each redirect, which are followed here and not by the HTTP library) is
resolved once and judged; its connection is then pinned to the addresses that were judged, so that
a name which resolves to something else a moment later gains nothing. The library still knows the
name: TLS is verified against it, and the Host header names it. No proxies of the environment, no
cookies, no compression. Bodies of error responses are never read.
"""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from raydiar.errors import (
    AudioNotFound,
    FetchFailed,
    StorageDenied,
    StorageUnavailable,
    TooManyRedirects,
    UrlRefused,
)
from raydiar.serving.outbound.addresses import (
    FetchPolicy,
    check_url,
    not_public,
    parse_url,
    resolve,
    url_label,
)
from raydiar.serving.storage.streams import BLOCK_BYTES, check_size, in_thread, write_blocks
from raydiar.storage import open_source, storage_error

__all__ = ["FetchPolicy", "check_url", "fetch", "open_url"]

_REDIRECTS = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429)


async def fetch(url: str, destination: Path, policy: FetchPolicy) -> int:
    """Copy what a client's URL leads to into a file; nothing is left there if that fails.

    Failures of the moment (5xx, 429, lost connections) are tried again, from the start.

    Parameters
    ----------
    url : str
        http(s), or an object under an allowed bucket.
    destination : Path
    policy : FetchPolicy

    Returns
    -------
    num_bytes : int

    Raises
    ------
    UrlRefused
        If the URL, or a redirect, leads where clients must not go.
    MediaTooLarge
    FetchFailed
    """
    fetch_once = _fetch_object if policy.allows_bucket(url) else _fetch_http
    try:
        async with asyncio.timeout(policy.max_seconds):
            for delay in (*policy.retry_delays, None):
                try:
                    with open(destination, "wb") as file:
                        return await fetch_once(url, file, policy)
                except FetchFailed as error:
                    if delay is None or not error.retryable:
                        raise
                    await asyncio.sleep(delay * random.uniform(1.0, 1.5))
    except BaseException as error:
        destination.unlink(missing_ok=True)
        if isinstance(error, TimeoutError):
            raise FetchFailed(
                f"{url_label(url)}: could not be fetched within {policy.max_seconds:g} s.", False
            ) from error
        raise


async def _fetch_http(url: str, file: BinaryIO, policy: FetchPolicy) -> int:
    label = url_label(url)
    try:
        async with open_url("GET", url, policy) as response:
            if not 200 <= response.status < 300:
                busy = response.status >= 500 or response.status in _BUSY
                raise FetchFailed(f"{label}: the server answered HTTP {response.status}.", busy)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise FetchFailed(f"{label}: the server compresses though asked not to.", False)
            check_size(response.content_length or 0, policy.max_bytes, label)
            chunks = response.content.iter_any()
            return await write_blocks(chunks, file.write, policy.max_bytes, label)
    except aiohttp.InvalidURL as error:
        raise UrlRefused(f"{label}: not a URL.") from error
    except aiohttp.ClientSSLError as error:
        raise FetchFailed(f"{label}: the server's certificate is not valid.", False) from error
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError) as error:
        raise FetchFailed(f"{label}: the connection failed. Try again later.", True) from error
    except aiohttp.ClientError as error:
        raise FetchFailed(f"{label}: the answer is not HTTP.", False) from error


async def _fetch_object(url: str, file: BinaryIO, policy: FetchPolicy) -> int:
    label = url_label(url)
    try:
        return await write_blocks(_object_blocks(url), file.write, policy.max_bytes, label)
    except StorageUnavailable as error:
        raise FetchFailed(str(error), True) from error
    except (AudioNotFound, StorageDenied) as error:
        raise FetchFailed(str(error), False) from error


async def _object_blocks(url: str) -> AsyncIterator[bytes]:
    stack = ExitStack()
    try:
        reader = await in_thread(stack.enter_context, open_source(url))
        while block := await in_thread(_read, reader):
            yield block
    finally:
        await in_thread(stack.close)


def _read(reader) -> bytes:
    try:
        return reader.read(BLOCK_BYTES)
    except Exception as error:
        raise storage_error(error, reader.label) from error


@asynccontextmanager
async def open_url(
    method: str,
    url: str,
    policy: FetchPolicy,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send a request for a client; gives the response behind the redirects, its body unread.

    A body is sent again to where a redirect leads, if that is not from https to http.

    Raises
    ------
    UrlRefused, TooManyRedirects, FetchFailed
        The last if the host's name cannot be resolved.
    aiohttp.ClientError, TimeoutError
        What goes wrong on the wire.
    """
    # "see other" asks for a GET of something else: the body has arrived
    followed = _REDIRECTS if body is None else tuple(s for s in _REDIRECTS if s != 303)
    headers = {"User-Agent": "raydiar", "Accept-Encoding": "identity"} | (headers or {})
    timeout = aiohttp.ClientTimeout(
        sock_connect=policy.connect_seconds, sock_read=policy.stall_seconds
    )
    here = url
    for _ in range(policy.max_redirects + 1):
        parsed = parse_url(here, policy)
        connector = _pinned_connector(here, await resolve(parsed, policy))
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=timeout,
                auto_decompress=False,  # it would begin before the headers can be judged
                trust_env=False,
            ) as session,
            session.request(
                method, parsed, data=body, headers=headers, allow_redirects=False
            ) as response,
        ):
            location = response.headers.get("Location")
            if response.status not in followed or location is None:
                yield response
                return
        here = _redirected(parsed, location)
        if body is not None and parsed.scheme == "https" and here.startswith("http:"):
            raise UrlRefused(f"{url_label(here)}: a redirect from https to http is not followed.")
    raise TooManyRedirects(
        f"{url_label(url)}: redirects more than {policy.max_redirects} times.", False
    )


def _redirected(url: URL, location: str) -> str:
    try:
        return urljoin(str(url), location)
    except ValueError as error:
        raise UrlRefused(f"{url_label(str(url))}: redirects to what is not a URL.") from error


def _pinned_connector(url: str, addresses: list[str]) -> aiohttp.TCPConnector:
    """A connector for one request that reaches these addresses and no others."""
    checked = {ip_address(address) for address in addresses}

    def make_socket(info) -> socket.socket:
        family, kind, protocol, _, address = info
        # addresses in URLs pass by the resolver, so this is the one place that all come through
        if ip_address(address[0]) not in checked:
            raise not_public(url_label(url))
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        resolver=_Resolved(addresses),
        socket_factory=make_socket,
        use_dns_cache=False,
        force_close=True,
    )


class _Resolved(AbstractResolver):
    """A resolver that has resolved already."""

    def __init__(self, addresses: list[str]):
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass
