"""Voices of the index that are like given ones."""

import json

import numpy as np
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from raydiar.errors import ConfigError, VoiceprintTextError
from raydiar.serving.http.access import Owner, UsedServices
from raydiar.serving.http.answers import SearchAnswer
from raydiar.serving.http.problems import InvalidFields, responses
from raydiar.serving.http.routes.jobs import decode_voiceprint, known
from raydiar.serving.http.schemas import (
    MAX_ALL_HITS,
    MAX_HITS_WITH_TURNS,
    SearchRequest,
    SpeakerOfJob,
)
from raydiar.serving.http.services import Services

DEFAULT_HITS = 10

router = APIRouter(prefix="/v1", tags=["search"])


@router.post("/search", responses=responses(400, 401, 404, 413, 429, 503))
async def search(body: SearchRequest, owner: Owner, services: UsedServices) -> SearchAnswer:
    """Look for recordings in which somebody speaks, by voice."""
    if not services.may_search(owner):
        raise HTTPException(404, "This server has no voiceprint index to search in.")
    voiceprints = await run_in_threadpool(_queries, services, owner, body)
    hits = len(voiceprints) * (body.k or DEFAULT_HITS)
    most = MAX_HITS_WITH_TURNS if body.include_turns else MAX_ALL_HITS
    if hits > most:
        told = f"{len(voiceprints)} voiceprints of so many matches are {hits}, and no more than "
        raise InvalidFields({"k": f"{told}{most} are given at a time"})
    try:
        found = await services.search(
            voiceprints, body.k or DEFAULT_HITS, bool(body.include_turns), body.where
        )
    except ConfigError as error:  # a column that the index has not, or a value of another type
        raise InvalidFields({"where": str(error)}) from error
    return SearchAnswer.model_validate({"results": [{"matches": matches} for matches in found]})


def _queries(services: Services, owner: str, body: SearchRequest) -> np.ndarray:
    """(num_queries, dimension) float32"""
    if body.speaker_voiceprint is not None:
        fields = {"speakerVoiceprint": _voiceprint_of(services, owner, body.speaker_voiceprint)}
    elif body.voiceprint is not None:
        fields = {"voiceprint": body.voiceprint}
    else:
        fields = {f"voiceprints.{n}": text for n, text in enumerate(body.voiceprints)}
    vectors, problems = [], {}
    for name, text in fields.items():
        try:
            vectors.append(decode_voiceprint(services, text))
        except VoiceprintTextError as error:
            problems[name] = str(error)
    if problems:
        raise InvalidFields(problems)
    return np.stack(vectors)


def _voiceprint_of(services: Services, owner: str, wanted: SpeakerOfJob) -> str:
    job = known(services.jobs.get(wanted.job_id, owner))
    output = json.loads(job.output) if job.status == "succeeded" and job.output else {}
    text = output.get("speakerVoiceprints", {}).get(wanted.speaker)
    if text is None:
        raise InvalidFields(
            {
                "speakerVoiceprint": "that job has no voiceprint of that speaker: it must have "
                "succeeded, with speakerVoiceprints, and the speaker be long enough alone"
            }
        )
    return text
