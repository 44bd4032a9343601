"""Jobs: queued, looked at, listed and canceled."""

import re
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.params import Path
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from raydiar.errors import UrlRefused, VoiceprintTextError
from raydiar.serving.http.access import Owner, UsedServices
from raydiar.serving.http.answers import (
    JobAnswer,
    JobCreated,
    JobList,
    KeyAnswer,
    Status,
    StatusAnswer,
    job_response,
    listed,
)
from raydiar.serving.http.problems import InvalidFields, responses
from raydiar.serving.http.routes.media import audio_seconds, find_upload
from raydiar.serving.http.schemas import (
    DiarizeRequest,
    IdentifyRequest,
    JobRequest,
    KnownVoice,
    VoiceprintRequest,
)
from raydiar.serving.http.services import Services
from raydiar.serving.jobs.records import Job
from raydiar.serving.media.names import SCHEME, media_key
from raydiar.serving.outbound.addresses import FetchPolicy, check_url
from raydiar.serving.results import voiceprint_text

PRIORITY = 10  # those for whom somebody waits on the line go first

_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")

JobId = Annotated[str, Path(alias="jobId")]

router = APIRouter(prefix="/v1", tags=["jobs"])
v2 = APIRouter(prefix="/v2", tags=["jobs"])

_SUBMITTED = {
    "responses": responses(400, 401, 404, 413, 429, 503),
    "response_model_exclude_none": True,
}
_FOUND = {"response_model": JobAnswer, "responses": responses(401, 404, 503)}


@router.get("/test", responses=responses(401, 503), tags=["server"])
def check_key(owner: Owner, services: UsedServices) -> KeyAnswer:
    """Tell whether the API key is good, and what the server can do."""
    return KeyAnswer(search=services.may_search(owner), max_bytes=services.settings.max_bytes)


@router.post("/diarize", **_SUBMITTED)
def diarize(body: DiarizeRequest, owner: Owner, services: UsedServices) -> JobCreated:
    """Queue the diarization of a recording."""
    return _submit(services, owner, "diarize", body)


@router.post("/voiceprint", **_SUBMITTED)
def make_voiceprint(body: VoiceprintRequest, owner: Owner, services: UsedServices) -> JobCreated:
    """Queue the making of a voiceprint from at most 30 s of one person."""
    return _submit(services, owner, "voiceprint", body)


@router.post("/identify", **_SUBMITTED)
def identify(body: IdentifyRequest, owner: Owner, services: UsedServices) -> JobCreated:
    """Queue the diarization of a recording whose speakers are looked for among voiceprints."""
    _check_voiceprints(services, body.voiceprints)
    return _submit(services, owner, "identify", body)


@router.get("/jobs", response_model=JobList, responses=responses(400, 401, 503))
def list_jobs(
    owner: Owner,
    services: UsedServices,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
    status: Status | None = None,
) -> Response:
    """List jobs without their outputs, newest first."""
    page = services.jobs.list(owner, limit, cursor, status)
    items = [listed(job) for job in page.jobs]
    return JSONResponse({"items": items, "nextCursor": page.next_cursor})


@v2.get("/jobs", response_model=JobList, responses=responses(400, 401, 503))
def list_jobs_by_cursor(
    owner: Owner,
    services: UsedServices,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
    status: Status | None = None,
) -> Response:
    """List jobs without their outputs, newest first; as `/v1/jobs`."""
    return list_jobs(owner, services, limit, cursor, status)


@router.get("/jobs/{jobId}", **_FOUND)
def get_job(job_id: JobId, owner: Owner, services: UsedServices) -> Response:
    """Look at a job; its output is there once it has succeeded."""
    return job_response(known(services.jobs.get(job_id, owner)))


@router.post("/jobs/{jobId}/cancel", **_FOUND)
@router.delete("/jobs/{jobId}", **_FOUND)
def cancel_job(job_id: JobId, owner: Owner, services: UsedServices) -> Response:
    """Cancel a job; a running one ends a little later, and a finished one stays as it is."""
    return job_response(known(services.jobs.cancel(job_id, owner)))


@router.delete("/jobs/{jobId}/output", responses=responses(401, 404, 409, 503))
def delete_output(job_id: JobId, owner: Owner, services: UsedServices) -> StatusAnswer:
    """Delete what a finished job heard: output, voiceprints, corrections. That it was stays."""
    if known(services.jobs.get(job_id, owner)).finished_at is None:
        raise HTTPException(409, "The job is not over. Cancel it, or wait for its end.")
    services.jobs.forget_output(job_id, owner)
    return StatusAnswer()


def model_warning(services: Services, model: str | None) -> str | None:
    """What a client should know who asked for a model by name."""
    pipeline = services.settings.pipeline
    if model is None or (pipeline or "").endswith(f"speaker-diarization-{model}"):
        return None
    # a folder of the server is none of a client's business
    name = f" ({pipeline})" if _HUB_NAME.fullmatch(pipeline or "") else ""
    return f"The model {model} is not available here: this server uses its own pipeline{name}."


def _submit(services: Services, owner: str, kind: str, body: JobRequest) -> JobCreated:
    policy = FetchPolicy(services.settings.allow_hosts, services.settings.allow_buckets)
    seconds = _check_media(services, owner, body.url, policy)
    if body.webhook is not None:
        _check_webhook(body.webhook, policy)
    job = services.jobs.create(
        owner,
        kind,
        body.document(),
        body.url,
        priority=PRIORITY,
        audio_seconds=seconds,
        webhook=body.webhook,
        webhook_status_only=bool(body.webhook_status_only),
        warning=model_warning(services, body.model),
    )
    services.wake()
    return JobCreated.model_validate(
        {"jobId": job.job_id, "status": job.status, "warning": job.warning}
    )


def _check_media(services: Services, owner: str, url: str, policy: FetchPolicy) -> float | None:
    """Seconds that a recording counts; None where nobody has looked."""
    if url.startswith(SCHEME):
        return audio_seconds(services, find_upload(services, owner, media_key(url)))
    try:
        check_url(url, policy)
    except UrlRefused as error:
        raise InvalidFields({"url": str(error)}) from error
    return None


def _check_webhook(url: str, policy: FetchPolicy) -> None:
    if not url.startswith(("http://", "https://")):
        raise InvalidFields({"webhook": "a webhook is an http:// or https:// URL"})
    try:
        check_url(url, policy)
    except UrlRefused as error:
        raise InvalidFields({"webhook": str(error)}) from error


def _check_voiceprints(services: Services, voiceprints: list[KnownVoice]) -> None:
    problems = {}
    for number, voice in enumerate(voiceprints):
        try:
            decode_voiceprint(services, voice.voiceprint)
        except VoiceprintTextError as error:
            problems[f"voiceprints.{number}.voiceprint"] = f"{voice.label}: {error}"
    if problems:
        raise InvalidFields(problems)


def decode_voiceprint(services: Services, text: str):
    """Vector of a voiceprint that a client sent.

    Returns
    -------
    vector : (dimension,) float32

    Raises
    ------
    VoiceprintTextError
    """
    vector = voiceprint_text.decode(text, services.embedding, services.embedding_mode)
    if len(vector) != services.dimension:
        raise VoiceprintTextError(
            f"The voiceprint has {len(vector)} dimensions, and this server's {services.dimension}."
        )
    return vector


def known(job: Job | None) -> Job:
    """A job that is there.

    Raises
    ------
    HTTPException
        404
    """
    if job is None:
        raise HTTPException(404, "There is no such job. Results are deleted after a while.")
    return job
