"""The REST interface of the server: the routes of pyannoteAI's, and some of our own."""

from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from raydiar import __version__
from raydiar.serving.http import problems
from raydiar.serving.http.envelope import Envelope
from raydiar.serving.http.routes import jobs, media, search, server, sync
from raydiar.serving.http.services import Services
from raydiar.serving.http.waiting import Ends

DESCRIPTION = """
Who spoke when, for recordings of up to a day. The routes are those of pyannoteAI's REST interface,
and its clients work here. Upload a recording (`/v1/media/input`) or name a URL, queue a job, and
ask for it until it is over; or send a short one to `/v1/diarize/sync` and wait.

Errors are `{message, requestId, errors?}`, with the id also in the header `X-Request-Id`.
"""


def create_api(services: Services) -> FastAPI:
    """Make the application.

    It blocks nowhere: what waits for the database or the disk does so in threads.

    Parameters
    ----------
    services : Services
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
    for routes in (sync, jobs, media, search, server):
        api.include_router(routes.router)
    api.mount("/web", server.page_files)
    problems.install(api)
    api.add_middleware(Envelope, page_origin=_origin(services.media.public_url))
    make_document = api.openapi
    api.openapi = lambda: _without_422(make_document())
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
