"""How errors are answered: always `{message, requestId, errors?}`, and never with internals."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from raydiar import errors
from raydiar.serving.http.answers import Problem
from raydiar.serving.logs import get_logger

logger = get_logger("raydiar.serving")

RETRY_SECONDS = 5  # for clients, when what fails may work in a moment
_MAX_FIELD = 200  # characters of a field's name, which may be a client's

# Messages of these are written for clients.
_STATUSES = {
    errors.UrlRefused: 400,
    errors.MediaKeyError: 400,
    errors.VoiceprintTextError: 400,
    errors.InvalidCursor: 400,
    errors.SignatureRefused: 403,
    errors.AudioNotFound: 404,
    errors.MediaTooLarge: 413,
}
_TITLES = {
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    413: "The request is too large.",
}

_NO_JSON = ("json_invalid", "model_attributes_type")  # the latter also where no type is stated


class InvalidFields(Exception):
    """Fields of a request that are refused.

    Attributes
    ----------
    problems : dict
        Message by name of the field.
    """

    def __init__(self, problems: Mapping[str, str]):
        super().__init__(problems)
        self.problems = problems


def problem(
    request_id: str,
    status: int,
    message: str,
    fields: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An answer that tells of an error."""
    document: dict[str, Any] = {"message": _text(message), "requestId": request_id}
    if fields:
        document["errors"] = [
            {"field": _text(name)[:_MAX_FIELD], "message": _text(text)}
            for name, text in fields.items()
        ]
    return JSONResponse(document, status, headers=headers)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route documents of its errors."""
    return {status: {"model": Problem, "description": _MEANINGS[status]} for status in statuses}


_MEANINGS = {
    400: "The request is not valid.",
    401: "The API key is missing or not valid.",
    403: "The signed URL is not valid, or has expired.",
    404: "There is no such thing of this owner.",
    406: "None of the accepted media types can be answered.",
    408: "The body comes too slowly.",
    409: "That is not possible now: a job was canceled, or is not over.",
    413: "The body is too large.",
    416: "The range lies outside the file.",
    422: "The job failed.",
    429: "The server is too busy; see Retry-After.",
    503: "The server cannot do its work for the moment; see Retry-After.",
}


def install(app: FastAPI) -> None:
    """Answer the exceptions of an application's routes."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(InvalidFields, _invalid_fields)
    app.add_exception_handler(errors.QueueFull, _busy)
    for kind in (errors.DatabaseUnavailable, errors.StorageUnavailable):
        app.add_exception_handler(kind, _unavailable)
    for kind in _STATUSES:
        app.add_exception_handler(kind, _refused)


def fields_of(error: ValidationError | RequestValidationError) -> dict[str, str]:
    """Message by name of the field."""
    found: dict[str, str] = {}
    for detail in error.errors():
        place = [str(part) for part in detail["loc"] if part not in ("body", "query", "path")]
        message = detail["msg"].removeprefix("Value error, ")
        if detail["type"] == "extra_forbidden":
            message = "this server knows no such field"
        found.setdefault(".".join(place), message)
    return found


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    titled = error.detail in ("Not Found", "Method Not Allowed", "Request Entity Too Large")
    message = _TITLES.get(error.status_code, error.detail) if titled else error.detail
    return problem(request.state.request_id, error.status_code, message, headers=error.headers)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    if any(detail["type"] in _NO_JSON for detail in error.errors()):
        return problem(
            request.state.request_id,
            400,
            "The body is no JSON object. Send one, and the header Content-Type: application/json.",
        )
    return _answer_fields(request, fields_of(error))


async def _invalid_fields(request: Request, error: InvalidFields) -> JSONResponse:
    return _answer_fields(request, error.problems)


def _answer_fields(request: Request, fields: Mapping[str, str]) -> JSONResponse:
    told = [f"{name[:_MAX_FIELD]}: {text}" if name else text for name, text in fields.items()]
    message = f"The request is not valid. {_first(told)}"
    return problem(request.state.request_id, 400, message, fields)


def _first(told: Sequence[str]) -> str:
    return told[0] if len(told) == 1 else f"{told[0]} (and {len(told) - 1} more)"


async def _busy(request: Request, error: errors.QueueFull) -> JSONResponse:
    headers = {"Retry-After": f"{error.retry_after:.0f}"}
    return problem(request.state.request_id, 429, str(error), headers=headers)


async def _unavailable(request: Request, error: errors.RaydiarError) -> JSONResponse:
    request_id = request.state.request_id
    logger.error("request %s: %s", request_id, error)
    return unavailable(request_id)


def unavailable(request_id: str) -> JSONResponse:
    """For when the database or the store does not answer: which of them, and where, is ours."""
    message = f"The server cannot do its work for the moment. Try again in {RETRY_SECONDS} s."
    return problem(request_id, 503, message, headers={"Retry-After": str(RETRY_SECONDS)})


async def _refused(request: Request, error: errors.RaydiarError) -> JSONResponse:
    status = next(status for kind, status in _STATUSES.items() if isinstance(error, kind))
    return problem(request.state.request_id, status, str(error))


def _text(text: str) -> str:
    return text.encode(errors="replace").decode()  # a client's text may hold what UTF-8 cannot
