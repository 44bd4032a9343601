"""The REST interface of the server: the routes of pyannoteAI's, and some of our own."""

from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from raydiar import __version__
from raydiar.serving.http import problems
from raydiar.serving.http.envelope import Envelope
from raydiar.serving.http.gate import Gate, needs_key
from raydiar.serving.http.places import Places
from raydiar.serving.http.problems import responses
from raydiar.serving.http.routes import corrections, jobs, media, search, server, sync, webhooks
from raydiar.serving.http.services import Services
from raydiar.serving.http.waiting import Ends
from raydiar.serving.media.probing import Prober

DESCRIPTION = """
Who spoke when, for recordings of up to a day. The routes are those of pyannoteAI's REST interface,
and its clients work here. Upload a recording (`/v1/media/input`) or name a URL, queue a job, and
ask for it until it is over; or send a short one to `/v1/diarize/sync` and wait.

Errors are `{message, requestId, errors?}`, with the id also in the header `X-Request-Id`.
"""


def create_api(services: Services, tells_request_id: bool = True) -> FastAPI:
    """Make the application.

    It blocks nowhere: what waits for the database or the disk does so in threads.

    Parameters
    ----------
    services : Services
    tells_request_id : bool
        See `Envelope`.
    """
    api = FastAPI(
        title="raydiar",
        version=__version__,
        description=DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,  # see `raydiar.serving.http.reference`
        redoc_url=None,
    )
    api.state.services = services
    api.state.ends = Ends(services.jobs)
    api.state.prober = Prober()
    settings = services.settings
    per_key = settings.requests_per_key
    api.state.waiting = Places("requests that wait for a result", settings.max_waiting, per_key)
    api.state.uploads = Places("uploads", settings.max_uploads, per_key)
    api.state.downloads = Places("downloads", settings.max_uploads, per_key)
    for routes in (sync, jobs, corrections, media, webhooks, search, server):
        api.include_router(routes.router)
    api.include_router(jobs.v2)
    api.mount("/web", server.page_files)
    problems.install(api)
    api.add_middleware(Gate, services=services)
    api.add_middleware(
        Envelope,
        page_origin=_origin(services.media.public_url),
        min_upload_rate=services.settings.min_upload_rate,
        tells_request_id=tells_request_id,
    )
    make_document = api.openapi
    api.openapi = lambda: _with_429(_without_422(make_document()))
    return api


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _without_422(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI documents that invalid requests are answered with 422; here it is 400."""
    for path in document["paths"].values():
        for operation in path.values():
            described = operation.get("responses", {}).get("422", {})
            schema = described.get("content", {}).get("application/json", {}).get("schema", {})
            if schema.get("$ref", "").endswith("/HTTPValidationError"):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)
    return document


def _with_429(document: dict[str, Any]) -> dict[str, Any]:
    """What the gate answers to whoever asks too often."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if needs_key(path, method.upper()):
                [too_often] = responses(429).values()
                described = {
                    "description": too_often["description"],
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                    },
                }
                operation["responses"].setdefault("429", described)
    return document
