"""Diarization while the client waits: upload in, turns out, in one request."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import ConfigDict, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from raydiar.errors import MediaTooLarge, RaydiarError
from raydiar.serving.http.access import Owner, UsedServices
from raydiar.serving.http.answers import JobAnswer, job_response
from raydiar.serving.http.forms import FILE, form_of
from raydiar.serving.http.negotiation import best_type
from raydiar.serving.http.problems import InvalidFields, fields_of, responses
from raydiar.serving.http.routes.jobs import known
from raydiar.serving.http.routes.media import audio_seconds, store
from raydiar.serving.http.schemas import Options
from raydiar.serving.http.services import Services
from raydiar.serving.jobs.records import Job
from raydiar.serving.media.names import SCHEME
from raydiar.serving.results.output import from_output, to_csv, uri_of

PRIORITY = 0
JSON, RTTM, CSV = "application/json", "text/rttm", "text/csv"

_FORM_BYTES = 2**17  # that a form may have besides its file

router = APIRouter(prefix="/v1", tags=["jobs"])


class SyncOptions(Options):
    """As texts: in the query, or in fields of the form."""

    model_config = ConfigDict(strict=False)


_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {FILE: _BINARY},
                "required": [FILE],
                "description": "The recording; the options of the query may also be fields.",
            }
        },
        "application/octet-stream": {"schema": _BINARY},
    },
}


@router.post(
    "/diarize/sync",
    response_model=JobAnswer,
    responses={
        200: {"content": {RTTM: {}, CSV: {}}},
        **responses(400, 401, 406, 408, 409, 413, 422, 429, 503),
    },
    openapi_extra={"requestBody": _BODY},
)
async def diarize_now(
    request: Request,
    owner: Owner,
    services: UsedServices,
    options: Annotated[SyncOptions, Query()],
) -> Response:
    """Diarize the recording in the body, and answer when that is done.

    RTTM and CSV (`Accept: text/rttm`, `text/csv`) hold the segments that do not overlap where
    `exclusive` is asked for.
    """
    media_type = best_type(request.headers.get("accept"), (JSON, RTTM, CSV))
    if media_type is None:
        raise HTTPException(406, f"Answers here are {JSON}, {RTTM} or {CSV}.")
    with request.app.state.waiting.one(owner):
        return await _diarize(request, owner, services, options, media_type)


async def _diarize(
    request: Request, owner: str, services: Services, options: SyncOptions, media_type: str
) -> Response:
    form = form_of(request.headers.get("content-type"))
    max_bytes = services.settings.max_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes + (_FORM_BYTES if form else 0):
        raise _too_large(max_bytes)
    await run_in_threadpool(services.jobs.check_room, owner)  # sooner than after an upload
    chunks = request.stream() if form is None else form.file_chunks(request.stream())
    async with _uploaded(request, owner, chunks, max_bytes) as (url, seconds):
        if form is not None:
            options = _with_fields(options, form.fields)
        document = options.model_dump(by_alias=True, exclude_none=True)
        job = await _run(services, owner, document, url, seconds, request)
    filename = form.filename if form else None
    if job.status == "failed":  # told by a name that the client knows
        raise HTTPException(422, job.error.replace(url, filename or "The recording"))
    if job.status == "canceled":
        raise HTTPException(409, "The job was canceled.")
    if media_type == JSON:
        return await run_in_threadpool(job_response, job)
    return await run_in_threadpool(_as_text, job.output, uri_of(filename), media_type)


def _as_text(output: str, uri: str, media_type: str) -> Response:
    diarization = from_output(output, uri)
    text = diarization.to_rttm() if media_type == RTTM else to_csv(diarization)
    return Response(text, media_type=media_type)


def _with_fields(options: SyncOptions, fields: dict[str, str]) -> SyncOptions:
    """Options of the query, and over them those of the form; empty fields are left out."""
    given = {name: value for name, value in fields.items() if value}
    try:
        return SyncOptions.model_validate(
            options.model_dump(by_alias=True, exclude_none=True) | given
        )
    except ValidationError as error:
        raise InvalidFields(fields_of(error)) from error


@asynccontextmanager
async def _uploaded(
    request: Request, owner: str, chunks: AsyncIterator[bytes], max_bytes: int
) -> AsyncIterator[tuple[str, float | None]]:
    """URL of an upload that is there while the block lasts, and its seconds."""
    services: Services = request.app.state.services
    key = f"sync/{uuid.uuid4().hex}"
    try:
        record = await store(request, owner, key, chunks, max_bytes)
    except MediaTooLarge as error:
        raise _too_large(max_bytes) from error  # of a key that the client did not choose
    try:
        if not record.num_bytes:
            raise HTTPException(400, "The recording is empty.")
        yield SCHEME + key, audio_seconds(services, record)
    finally:
        await _finish(_delete(services, owner, key, record))


def _too_large(max_bytes: int) -> HTTPException:
    return HTTPException(
        413, f"The recording is larger than {max_bytes} bytes. Send a shorter one, or compress it."
    )


async def _delete(services: Services, owner: str, key: str, record) -> None:
    await services.media.delete(owner, key)
    await run_in_threadpool(services.media_records.forget, [record])


async def _run(
    services: Services,
    owner: str,
    document: dict,
    url: str,
    seconds: float | None,
    request: Request,
) -> Job:
    """A job that is over.

    Raises
    ------
    ClientDisconnect
        When nobody waits any more; the job is canceled.
    QueueFull
    """
    creating = asyncio.ensure_future(
        run_in_threadpool(
            services.jobs.create,
            owner,
            "diarize",
            document,
            url,
            priority=PRIORITY,
            audio_seconds=seconds,
        )
    )
    try:
        # shielded: a client that hangs up just now must not leave a job behind
        job = await asyncio.shield(creating)
        services.wake()
        job = await _wait(services, owner, job, request)
    except BaseException:
        await _finish(_cancel(services, owner, creating))
        raise
    return job


async def _cancel(services: Services, owner: str, creating: asyncio.Future[Job]) -> None:
    with suppress(RaydiarError):  # then there is no job
        job = await creating
        await run_in_threadpool(services.jobs.cancel, job.job_id, owner)


async def _wait(services: Services, owner: str, job: Job, request: Request) -> Job:
    end = asyncio.ensure_future(request.app.state.ends.of(job.job_id))
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({end, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not end.done():
            gone.result()
            raise ClientDisconnect
        end.result()
    finally:
        end.cancel()
        gone.cancel()
    return known(await run_in_threadpool(services.jobs.get, job.job_id, owner))


async def _hung_up(request: Request) -> None:
    """Return when the client is gone; all of the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _finish(cleaning) -> None:
    """Clean up to the end, also in a task that is being cancelled."""
    await asyncio.shield(asyncio.ensure_future(cleaning))
