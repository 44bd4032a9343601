"""Who may call, and how often, is settled before a byte of the body is read.

Routes would read the body first: a thousand connections without a key, each of which sends one
byte, would then take all places that there are.
"""

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raydiar.errors import DatabaseUnavailable
from raydiar.serving.http.access import find_owner
from raydiar.serving.http.problems import logger, problem, unavailable
from raydiar.serving.http.rates import Rate, Rates
from raydiar.serving.http.services import Services
from raydiar.serving.storage.keys import ANONYMOUS

_KEYED = ("/v1/", "/v2/")
_SIGNED = ("/v1/media/upload/", "/v1/media/download/")  # these URLs are their own permission


class Gate:
    """ASGI middleware; `request.state.owner` is who passed.

    Parameters
    ----------
    app : ASGI application
    services : Services
    """

    def __init__(self, app: ASGIApp, services: Services):
        self._app = app
        self._services = services
        settings = services.settings
        self._rates = Rates(settings.reads_per_minute, settings.submissions_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] != "http" or not needs_key(path, scope["method"]):
            await self._app(scope, receive, send)
            return
        request_id = scope["state"]["request_id"]
        try:
            owner = await find_owner(Request(scope), self._services)
        except HTTPException as error:
            refusal = problem(request_id, error.status_code, error.detail, headers=error.headers)
            await refusal(scope, receive, send)
            return
        except DatabaseUnavailable as error:
            logger.error("request %s: %s", request_id, error)
            await unavailable(request_id)(scope, receive, send)
            return
        scope["state"]["owner"] = owner
        rate = self._count(owner, scope["method"])
        if rate is not None and not rate.allowed:
            message = f"This key has sent {rate.limit} such requests in a minute: no more."
            await problem(request_id, 429, message, headers=rate.headers())(scope, receive, send)
            return
        await self._app(scope, receive, send if rate is None else _telling(send, rate))

    def _count(self, owner: str, method: str) -> Rate | None:
        if owner == ANONYMOUS:  # whose machine this is
            return None
        return self._rates.count(owner, reads=method in ("GET", "HEAD"))


def needs_key(path: str, method: str) -> bool:
    """Whether a key is asked for at a path, whether or not there is anything."""
    signed = path.startswith(_SIGNED) and method != "DELETE"
    return path.startswith(_KEYED) and not signed


def _telling(send: Send, rate: Rate) -> Send:
    async def send_with_rate(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in rate.headers().items():
                headers[name] = value
        await send(message)

    return send_with_rate
