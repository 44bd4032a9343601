"""Who calls: the owner behind a bearer key, or the one owner of a server without keys."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from raydiar.serving.http.services import Services
from raydiar.serving.storage.keys import ANONYMOUS

_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_OF_PROXIES = {"forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip"}
_bearer = HTTPBearer(auto_error=False, description="An API key of this server")


async def get_services(request: Request) -> Services:  # or FastAPI would wake a thread for it
    return request.app.state.services


UsedServices = Annotated[Services, Depends(get_services)]


async def find_owner(request: Request, services: Services) -> str:
    """Owner on whose behalf a request is made, by its headers alone.

    Raises
    ------
    HTTPException
        401 without a key that works; 403 where a server without keys is called through a proxy, or
        by a page of another site.
    DatabaseUnavailable
    """
    # the first key closes a server that was open, from the next request on
    if services.anonymous and not await run_in_threadpool(services.keys.has_keys):
        _check_local(request)
        return ANONYMOUS
    scheme, secret = get_authorization_scheme_param(request.headers.get("Authorization"))
    owner = None
    if given := scheme.lower() == "bearer" and bool(secret):
        owner = await run_in_threadpool(services.keys.check, secret)
    if owner is None:
        problem = "is not valid" if given else "is missing: Authorization: Bearer <key>"
        raise HTTPException(401, f"The API key {problem}.", headers={"WWW-Authenticate": "Bearer"})
    return owner


async def authenticate(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],  # for the document
) -> str:
    """Owner whom the gate has let in, see `raydiar.serving.http.gate`."""
    return request.state.owner


Owner = Annotated[str, Depends(authenticate)]


def _check_local(request: Request) -> None:
    """Refuse what a browser sends for some web site, and what a proxy hands on.

    Without keys, whoever reaches the server may use it, and that is every page in a browser on
    this machine: it may post forms here, or come by a name of its own that it lets resolve to
    this machine. And behind a proxy on this machine, everybody comes from this machine.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    another = origin is not None and origin.partition("://")[2] != host
    if another or _name_of(host) not in _LOOPBACK:
        raise HTTPException(
            403,
            "This server has no API keys, and so answers only to http://localhost and "
            "http://127.0.0.1, without other web sites. Make a key to open it to more.",
        )
    if any(name in _OF_PROXIES or name.startswith("x-forwarded-") for name in request.headers):
        raise HTTPException(
            403,
            "This server has no API keys, and so answers nobody who comes through a proxy. Make a "
            "key to open it to more.",
        )


def _name_of(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
