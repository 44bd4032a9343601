"""What the routes answer, and how a job is written as JSON."""

import json
from datetime import UTC, datetime
from typing import Any, Literal

from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from raydiar.serving.jobs.records import Job
from raydiar.serving.media.names import SCHEME
from raydiar.serving.outbound.addresses import url_label

Status = Literal["pending", "created", "running", "succeeded", "failed", "canceled"]


class Answer(BaseModel):
    """Base of all answers; they serve the OpenAPI document, not validation."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)


class FieldProblem(Answer):
    field: str
    message: str


class Problem(Answer):
    """What every answer with a status of 400 or more holds."""

    message: str
    request_id: str
    errors: list[FieldProblem] | None = None


class UrlAnswer(Answer):
    url: str


class StatusAnswer(Answer):
    status: Literal["ok"] = "ok"


class KeyAnswer(StatusAnswer):
    """That a key is good, and what a client can do with this server."""

    search: bool = Field(description="Whether there is a voiceprint index to search")
    max_bytes: int = Field(description="Of an upload")


class SecretAnswer(Answer):
    secret: str


class UploadAnswer(Answer):
    num_bytes: int
    seconds: float | None = Field(None, description="That the recording says it lasts")


class JobCreated(Answer):
    job_id: str
    status: Status
    warning: str | None = None


class JobListed(Answer):
    job_id: str
    status: Status
    created_at: str
    updated_at: str
    kind: Literal["diarize", "voiceprint", "identify"]
    media: str
    progress: int = Field(description="Percent")
    warning: str | None = None


class JobAnswer(JobListed):
    output: dict[str, Any] | None = Field(
        None, description="The result; `error`, a text, in that of a failed job"
    )


class JobList(Answer):
    items: list[JobListed]
    next_cursor: str | None


class TurnAnswer(Answer):
    start: float
    end: float
    speaker: str


class SavedVersion(Answer):
    version: int
    created_at: str


class CorrectionsAnswer(Answer):
    version: int = Field(description="0 is what the machine found")
    turns: list[TurnAnswer]
    names: dict[str, str] = Field(description="Of speakers, by label")
    versions: list[SavedVersion] = Field(description="That are kept, the newest first")


class SavedAnswer(Answer):
    version: int


class WaveformAnswer(Answer):
    peaks: str = Field(description="base64; 255 is full scale, by square roots")
    seconds: float | None


class SearchResult(Answer):
    matches: list[dict[str, Any]] = Field(description="Best first")


class SearchAnswer(Answer):
    results: list[SearchResult] = Field(description="One per voiceprint asked for")


def listed(job: Job) -> dict[str, Any]:
    """A job without its output."""
    document = {
        "jobId": job.job_id,
        "status": job.status,
        "createdAt": iso(job.created_at),
        "updatedAt": iso(job.updated_at),
        "kind": job.kind,
        # a signed URL opens the recording to who reads this over a shoulder or in a log
        "media": job.media if job.media.startswith(SCHEME) else url_label(job.media),
        "progress": round(100 * job.progress),
    }
    if job.warning is not None:
        document["warning"] = job.warning
    return document


def job_response(job: Job) -> Response:
    """A job with its output, which is tens of MB for a long recording and so is not parsed."""
    document = listed(job)
    if job.status == "failed":
        document["output"] = {"error": job.error}
    text = json.dumps(document, ensure_ascii=False)
    if job.status == "succeeded" and job.output is not None:
        text = f'{text[:-1]}, "output": {job.output}}}'
    return Response(text.encode(), media_type="application/json")


def iso(seconds: float) -> str:
    time = datetime.fromtimestamp(seconds, UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
