"""What people correct in a job's output, how it looks as a file, and how loud the recording is."""

import json
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query
from fastapi.params import Path
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from raydiar.serving.http.access import Owner, UsedServices
from raydiar.serving.http.answers import (
    CorrectionsAnswer,
    SavedAnswer,
    WaveformAnswer,
    iso,
)
from raydiar.serving.http.problems import responses
from raydiar.serving.http.routes.jobs import JobId, known
from raydiar.serving.http.schemas import Corrections
from raydiar.serving.http.services import Services
from raydiar.serving.jobs.versions import MACHINE, VersionConflict
from raydiar.serving.results.exports import EXPORTS, export
from raydiar.serving.results.output import uri_of

router = APIRouter(prefix="/v1/jobs/{jobId}", tags=["corrections"])

Version = Annotated[
    int | None, Query(ge=0, description="0 is the machine's; by default the newest")
]


@router.get("/corrections", responses=responses(400, 401, 404, 503))
def read_corrections(
    job_id: JobId, owner: Owner, services: UsedServices, version: Version = None
) -> CorrectionsAnswer:
    """Give the turns and names as they were saved last, or in a version."""
    number, document = _document(services, owner, job_id, version)
    saved = [
        {"version": number, "created_at": iso(created_at)}
        for number, created_at in services.versions.list(job_id)
    ]
    return CorrectionsAnswer.model_validate({"version": number, "versions": saved, **document})


@router.put("/corrections", responses=responses(400, 401, 404, 408, 409, 413, 503))
def save_corrections(
    job_id: JobId, body: Corrections, owner: Owner, services: UsedServices
) -> SavedAnswer:
    """Save turns and names as a new version; the machine's output stays as it is."""
    _output(services, owner, job_id)
    try:
        number = services.versions.save(job_id, body.base, body.document())
    except VersionConflict as error:
        raise HTTPException(
            409, f"Version {error.newest} was saved meanwhile. Load it, and change that."
        ) from error
    return SavedAnswer(version=number)


@router.get(
    "/export/{form}",
    response_class=Response,
    responses={
        200: {"content": {kind: {} for kind, _ in EXPORTS.values()}},
        **responses(400, 401, 404, 503),
    },
)
def export_turns(
    job_id: JobId,
    form: Annotated[Literal[tuple(EXPORTS)], Path()],
    owner: Owner,
    services: UsedServices,
    version: Version = None,
    name: Annotated[
        str | None, Query(max_length=500, description="Of the recording; by default its own")
    ] = None,
) -> Response:
    """Give the turns as a file; corrected ones are labels to train with, as RTTM."""
    _, document = _document(services, owner, job_id, version)
    job = known(services.jobs.get(job_id, owner))
    uri = uri_of(name or job.media.split("?")[0])
    try:
        text = export(document["turns"], document["names"], uri, form)
    except ValueError as error:  # a name that a format cannot hold
        raise HTTPException(400, str(error)) from error
    kind, ending = EXPORTS[form]
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(uri)}{ending}"}
    return Response(text, media_type=kind, headers=headers)


@router.get("/waveform", responses=responses(401, 404, 503))
def read_waveform(job_id: JobId, owner: Owner, services: UsedServices) -> WaveformAnswer:
    """Give the loudness of equal stretches of the recording; nothing where it is not known."""
    job = known(services.jobs.get(job_id, owner))
    return WaveformAnswer(peaks=services.jobs.waveform(job_id) or "", seconds=job.audio_seconds)


def _document(
    services: Services, owner: str, job_id: str, number: int | None
) -> tuple[int, dict[str, Any]]:
    """Number, turns and names of a version."""
    output = _output(services, owner, job_id)
    saved = services.versions.get(job_id, number) if number != MACHINE else None
    if saved is not None:
        return saved.number, saved.document
    if number:
        raise HTTPException(404, f"There is no version {number}, or it is too old to be kept.")
    turns = [
        {"start": turn["start"], "end": turn["end"], "speaker": turn["speaker"]}
        for turn in json.loads(output)["diarization"]
    ]
    return MACHINE, {"turns": turns, "names": {}}


def _output(services: Services, owner: str, job_id: str) -> str:
    """The output of a job that has turns."""
    job = known(services.jobs.get(job_id, owner))
    if job.status != "succeeded" or job.output is None or job.kind == "voiceprint":
        raise HTTPException(404, "This job has no turns: it must be over, and its output kept.")
    return job.output
