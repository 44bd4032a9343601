"""What holds for every request: its id, limits on its body, headers, and an answer in any case."""

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raydiar.serving.http import pace
from raydiar.serving.http.problems import logger, problem

MAX_JSON = 2**20  # bytes of a request's body
MAX_LONG = 16 * 2**20  # with the voiceprints of 50 people, or the turns of a day
_LONG_RATE = 2**16  # bytes per second that long ones come with at least

NO_LIVE = "This server does not diarize live streams. Send recordings: see /docs."

_REQUEST_ID = re.compile(r"[A-Za-z0-9-]{8,64}", re.ASCII)
_STREAMED = ("/v1/media/upload/", "/v1/diarize/sync")  # these limit themselves


class Envelope:
    """ASGI middleware.

    Parameters
    ----------
    app : ASGI application
    page_origin : str
        Origin of signed URLs, which the page uploads to and plays from.
    min_upload_rate : float
        Bytes per second, on the average.
    tells_request_id : bool
        Whether the id is to be told in a header; Serve's proxy, which gives each request one, tells
        it by itself.
    """

    def __init__(
        self, app: ASGIApp, page_origin: str, min_upload_rate: float, tells_request_id: bool = True
    ):
        self._app = app
        self._min_upload_rate = min_upload_rate
        self._tells_request_id = tells_request_id
        self._page_policy = (
            f"default-src 'self'; connect-src 'self' {page_origin}; "
            f"media-src 'self' blob: {page_origin}; img-src 'self' data: blob:; "
            "worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await refuse_websocket(scope, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        known = _REQUEST_ID.fullmatch(given) or (given and not self._tells_request_id)
        request_id = given if known else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._add_headers(MutableHeaders(scope=message), path, request_id)
            await send(message)

        limit = _limit(path)
        length = headers.get("content-length", "0")
        try:
            if limit is not None and length.isdecimal() and int(length) > limit:
                refusal = problem(request_id, 413, _too_large(limit))
                await refusal(scope, receive, send_with_headers)
                return
            if limit is None:
                rate = self._min_upload_rate
                limited = pace.at_rate(receive, rate) if rate else receive
            else:
                paced = pace.within(receive, pace.JSON_SECONDS)
                if limit > MAX_JSON:
                    paced = pace.at_rate(receive, _LONG_RATE)
                limited = _limited(paced, limit)
            await self._app(scope, limited, send_with_headers)
        except ClientDisconnect:
            return  # nobody is there to be answered
        except Exception:
            logger.exception("request %s: %s %s failed", request_id, scope["method"], _route(scope))
            if started:
                raise  # so that the connection is cut: half an answer must not look whole
            message = "The server failed; its log knows why, under the id of this request."
            await problem(request_id, 500, message)(scope, receive, send_with_headers)

    def _add_headers(self, headers: MutableHeaders, path: str, request_id: str) -> None:
        if self._tells_request_id:
            headers["X-Request-Id"] = request_id
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        if path in ("/", "/docs") or path.startswith("/web/"):
            headers["Content-Security-Policy"] = self._page_policy
            headers["Cache-Control"] = "no-cache"
        else:
            headers.setdefault(
                "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox"
            )
            headers["Cache-Control"] = "no-store"


async def refuse_websocket(scope: Scope, send: Send) -> None:
    """Answer 501, where the server can: nothing here takes live streams."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1003})
        return
    refusal = problem(uuid.uuid4().hex, 501, NO_LIVE)
    kind = "websocket.http.response"
    headers = refusal.raw_headers
    await send({"type": f"{kind}.start", "status": refusal.status_code, "headers": headers})
    await send({"type": f"{kind}.body", "body": refusal.body})


def _limit(path: str) -> int | None:
    if path.startswith(_STREAMED):
        return None
    long = path == "/v1/identify" or path.endswith("/corrections")
    return MAX_LONG if long else MAX_JSON


def _limited(receive: Receive, limit: int) -> Receive:
    """Whatever length a client states, or none: stop reading beyond the limit."""
    received = 0

    async def receive_limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return receive_limited


def _too_large(limit: int) -> str:
    return f"The body of this request may have {limit} bytes at most."


def _route(scope: Scope) -> str:
    """The path's pattern: a path may hold names that clients gave."""
    return getattr(scope.get("route"), "path", "an unknown path")
