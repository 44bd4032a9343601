"""Uploads: a signed URL to put a recording to, and one to play it from."""

import math
import mimetypes
import re
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.params import Path
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from raydiar.errors import AudioNotFound
from raydiar.serving.http.access import Owner, UsedServices
from raydiar.serving.http.answers import StatusAnswer, UploadAnswer, UrlAnswer
from raydiar.serving.http.problems import responses
from raydiar.serving.http.schemas import MediaRequest
from raydiar.serving.http.services import Services
from raydiar.serving.media.names import SCHEME, check_key, media_key
from raydiar.serving.media.records import MediaRecord
from raydiar.serving.media.uploads import not_found
from raydiar.serving.storage.keys import ANONYMOUS
from raydiar.serving.storage.streams import check_size

UPLOAD_SECONDS = 24 * 3600.0  # that a URL to upload to lasts: as long as the public service's
PLAY_SECONDS = 3600.0

Key = Annotated[str, Path(description="From the signed URL", max_length=1024)]

_USUAL_RATE = 4000.0  # bytes of a second where nothing is known: speech, well compressed
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)

router = APIRouter(prefix="/v1/media", tags=["media"])


@router.post("/input", responses=responses(400, 401, 413, 503))
def make_upload_url(body: MediaRequest, owner: Owner, services: UsedServices) -> UrlAnswer:
    """Give a URL to PUT a recording to, as it is; it is then known by its `media://` URL."""
    url = services.media.sign("put", owner, media_key(body.url), UPLOAD_SECONDS)
    return UrlAnswer(url=url)


@router.post("/output", responses=responses(400, 401, 404, 413, 503))
def make_download_url(body: MediaRequest, owner: Owner, services: UsedServices) -> UrlAnswer:
    """Give a URL to GET an upload from, for an hour."""
    key = media_key(body.url)
    find_upload(services, owner, key)
    return UrlAnswer(url=services.media.sign("get", owner, key, PLAY_SECONDS))


@router.put(
    "/upload/{key:path}",
    responses=responses(400, 403, 404, 408, 413, 429, 503),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"*/*": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload(key: Key, request: Request, services: UsedServices) -> UploadAnswer:
    """Store a recording; the URL is its own permission."""
    owner = services.media.verify("put", key, request.query_params)
    max_bytes = services.settings.max_bytes
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        check_size(int(length), max_bytes, SCHEME + key)
    with request.app.state.uploads.one(owner):
        record = await store(request, owner, key, request.stream(), max_bytes)
    return UploadAnswer(num_bytes=record.num_bytes, seconds=record.seconds)


@router.get(
    "/download/{key:path}",
    response_class=Response,
    responses={
        200: {"description": "The recording.", "content": {"*/*": {}}},
        206: {"description": "A range of it.", "content": {"*/*": {}}},
        **responses(400, 403, 404, 416, 429, 503),
    },
)
async def download(key: Key, request: Request, services: UsedServices) -> Response:
    """Give a recording, or a range of its bytes; the URL is its own permission."""
    owner = services.media.verify("get", key, request.query_params)
    await run_in_threadpool(find_upload, services, owner, key)
    size = await services.media.size(owner, key)
    span = byte_range(request.headers.get("range"), size)
    start, end = span or (0, size)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if span:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return StreamingResponse(
        _counted(request, owner, services.media.read_range(owner, key, start, end)),
        206 if span else 200,
        headers,
        _media_type(key),
    )


async def _counted(request: Request, owner: str, blocks: AsyncIterator[bytes]):
    """Blocks that take a place while they are on their way."""
    with request.app.state.downloads.one(owner):
        async for block in blocks:
            yield block


@router.delete("/{key:path}", responses=responses(400, 401, 404, 409, 503))
async def delete(key: Key, owner: Owner, services: UsedServices) -> StatusAnswer:
    """Delete an upload; what a job still needs stays until that is over or canceled."""
    check_key(key)
    records = await run_in_threadpool(services.media_records.of_key, owner, key)
    if not records:
        raise not_found(SCHEME + key)
    if await run_in_threadpool(services.media_records.is_needed, owner, key):
        raise HTTPException(409, f"{SCHEME}{key}: a job is not done with it. Cancel that first.")
    await services.media.delete(owner, key)
    await run_in_threadpool(services.media_records.forget, records)
    return StatusAnswer()


async def store(
    request: Request, owner: str, key: str, chunks: AsyncIterator[bytes], max_bytes: int
) -> MediaRecord:
    """Store a stream as an owner's upload, and look how long it lasts.

    Raises
    ------
    MediaKeyError, MediaTooLarge, StorageDenied, StorageUnavailable, DatabaseUnavailable
    QueueFull
        If this owner's uploads would be too many bytes.
    AudioNotFound
        If it took longer than uploads are kept.
    """
    services: Services = request.app.state.services
    records = services.media_records
    path = services.media.path_of(owner, key)
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isdecimal() else None
    most = math.inf if owner == ANONYMOUS else 1e9 * services.settings.key_stored_gb
    # first: no file is without a record, by which it is found and deleted
    record = await run_in_threadpool(
        records.open_upload, owner, key, lambda _: path, announced, most
    )
    try:
        if most < math.inf:  # whatever length it announced
            stored = await run_in_threadpool(records.stored_bytes, owner) - (announced or 0)
            max_bytes = min(max_bytes, max(0, int(most) - stored))
        num_bytes = await services.media.write(owner, key, chunks, max_bytes)
        seconds = await request.app.state.prober.seconds(services.media, owner, key)
    except BaseException:
        await run_in_threadpool(records.forget, [record])
        raise
    finished = await run_in_threadpool(records.finish_upload, record.upload_id, num_bytes, seconds)
    if finished is None:
        raise AudioNotFound(f"{SCHEME}{key}: the upload took longer than uploads are kept.")
    return finished


def find_upload(services: Services, owner: str, key: str) -> MediaRecord:
    """A whole upload of an owner.

    Raises
    ------
    AudioNotFound
    """
    record = services.media_records.get(owner, key)
    if record is None or record.state != "uploaded":
        raise AudioNotFound(f"{SCHEME}{key}: no such upload. It may have expired; send it again.")
    return record


def audio_seconds(services: Services, record: MediaRecord) -> float:
    """What an upload counts in the queue: what it says, or what its size suggests."""
    most = services.settings.max_hours * 3600.0
    stated = record.seconds
    return min(most, record.num_bytes / _USUAL_RATE if stated is None else stated)


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte, and the one after the last, that a Range header asks for.

    None for everything: also where the header is malformed or names several ranges, which
    RFC 9110 lets a server ignore.

    Raises
    ------
    HTTPException
        416 if the range lies outside.
    """
    form = _RANGE.fullmatch((header or "").strip())
    if form is None or not any(form.groups()):
        return None
    first, last = form.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            return None
    if start >= end:
        raise HTTPException(
            416, f"The file has {size} bytes.", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, end


def _media_type(key: str) -> str:
    """Only what a browser plays: nothing that it would run as a page of this server."""
    guess = mimetypes.guess_type(key)[0] or ""
    return guess if guess.startswith(("audio/", "video/")) else "application/octet-stream"
