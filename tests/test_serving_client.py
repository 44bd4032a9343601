"""Clients that know nothing of this server: pyannoteAI's own, and one that tries whatever fits."""

from collections import defaultdict
from dataclasses import replace

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from pyannoteai.sdk import Client
from requests.exceptions import HTTPError
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_services import EMBEDDING, MODE, make_services, serving, voice, working

from raydiar.serving.http.api import create_api
from raydiar.serving.results import voiceprint_text

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pyannoteai")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    services = make_services(tmp_path_factory.mktemp("server"))
    with serving(services) as served:
        yield served


@pytest.fixture
def client(served, monkeypatch):
    monkeypatch.setattr(Client, "API_URL", f"{served.media.public_url}/v1")
    _, secret = served.keys.create("ann")
    return Client(token=secret)


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(b"RIFF....WAVE" * 1000)
    return path


def test_the_official_client_needs_a_good_key(client):
    with pytest.raises(HTTPError, match="authenticate"):
        Client(token="wrong")


def test_the_official_client_diarizes(client, served, recording):
    url = client.upload(recording)
    assert url.startswith("media://")
    with working(served.jobs):
        job_id = client.diarize(
            url, max_speakers=3, confidence=True, turn_level_confidence=True, exclusive=True
        )
        job = client.retrieve(job_id, every_seconds=1)
    assert job["status"] == "succeeded"
    assert [turn["speaker"] for turn in job["output"]["diarization"]] == [
        "SPEAKER_00",
        "SPEAKER_01",
    ]
    assert job["output"]["diarization"][0]["confidence"] == {"SPEAKER_00": 91}
    assert len(job["output"]["exclusiveDiarization"]) == 2
    assert job["output"]["confidence"]["score"] == [90, 80, 100]


def test_the_official_client_knows_people_again(client, served, recording):
    url = client.upload(recording, media_url="media://calls/ann.wav")
    with working(served.jobs):
        job = client.retrieve(client.voiceprint(url), every_seconds=1)
        ann = job["output"]["voiceprint"]
        job_id = client.identify(url, {"Ann": ann}, matching_threshold=50.0)
        output = client.retrieve(job_id, every_seconds=1)["output"]
    assert [turn["speaker"] for turn in output["identification"]] == ["Ann", "SPEAKER_01"]
    assert output["voiceprints"][0]["match"] == "Ann"


def test_the_official_client_is_told_what_is_not_possible(client, served, recording):
    with pytest.raises(HTTPError, match="404"):
        client.diarize("media://nothing")
    url = client.upload(recording)
    with pytest.raises(HTTPError, match="400"):
        client.diarize(url, transcription=True)
    with pytest.raises(HTTPError, match="400"):
        client.identify(url, {"Ann": "AAAA"})

    def work(job):
        raise ValueError("not audio")

    with working(served.jobs, work):
        job_id = client.diarize(url)
        with pytest.raises(Exception, match=r"failed|not audio") as caught:
            client.retrieve(job_id, every_seconds=1)
    assert type(caught.value).__name__ == "PyannoteAIFailedJob"


VOICEPRINT = voiceprint_text.encode(voice(1.0), EMBEDDING, MODE)
EXPLORING = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def existing(case, job_id):
    """Half of the names that a request makes up become names of something that is there."""
    body = case.body if isinstance(case.body, dict) else {}
    if "url" in body and len(body["url"]) % 2:
        body["url"] = "media://talk.wav"
    body.pop("webhook", None)  # needs a secret
    if isinstance(body.get("voiceprint"), str):
        body["voiceprint"] = VOICEPRINT
    for number, known in enumerate(body.get("voiceprints") or []):
        if isinstance(known, dict):
            known.update(label=f"person {number}", voiceprint=VOICEPRINT)
        else:
            body["voiceprints"][number] = VOICEPRINT
    if "jobId" in (case.path_parameters or {}) and len(case.path_parameters["jobId"]) % 2:
        case.path_parameters["jobId"] = job_id
    if case.operation.label == "DELETE /v1/media/{key}":
        case.path_parameters["key"] = "talk.wav"


def test_whatever_fits_the_document_is_answered_as_documented(tmp_path):
    async def search(voiceprints, k, include_turns, where):
        return [[{"recordingId": "a.wav", "score": 0.9}] for _ in voiceprints]

    services = replace(make_services(tmp_path), search=search)
    owner, secret = services.keys.create("ann")
    record = services.media_records.open_upload(owner, "talk.wav", lambda upload_id: upload_id)
    services.media_records.finish_upload(record.upload_id, 1000)
    job = services.jobs.create(owner, "diarize", {}, "media://talk.wav")
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_api(services))
    operations = [result.ok() for result in schema.get_all_operations()]
    operations.sort(key=lambda one: one.method.upper() == "DELETE")  # others use it before
    statuses = defaultdict(set)
    with working(services.jobs):
        for operation in operations:

            @EXPLORING
            @given(case=operation.as_strategy())
            def try_out(case):
                existing(case, job.job_id)
                response = case.call(headers={"Authorization": f"Bearer {secret}"})
                statuses[case.operation.label].add(response.status_code)
                case.validate_response(response, checks=CHECKS)

            try_out()
    never_well = {label for label, seen in statuses.items() if 200 not in seen}
    assert len(operations) == 25
    # nobody guesses a signature
    assert never_well == {"PUT /v1/media/upload/{key}", "GET /v1/media/download/{key}"}
