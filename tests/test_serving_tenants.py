"""What one client of a server may take up, and that what is deleted is gone."""

import io
import json
import wave
from dataclasses import replace

import numpy as np
import pytest
from serving_services import EMBEDDING, MODE, answer, make_services, voice
from starlette.testclient import TestClient, WebSocketDenialResponse
from test_serving_api import assert_problem, client_of, finish, submit, upload

from raydiar.serving.http.api import create_api
from raydiar.serving.jobs.limits import QueueLimits
from raydiar.serving.outbound.webhooks import verify_signature
from raydiar.serving.results import voiceprint_text

TEXT = voiceprint_text.encode(voice(1.0), EMBEDDING, MODE)


@pytest.fixture
def services(tmp_path):
    return make_services(tmp_path)


@pytest.fixture
def client(services):
    return client_of(services)


def hour_of_silence(hours=1.0) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(1)
        out.setframerate(100)
        out.writeframes(bytes([128]) * int(hours * 360_000))
    return file.getvalue()


def test_a_job_counts_the_hours_that_its_upload_has(tmp_path):
    limits = QueueLimits(max_seconds=5 * 3600.0)
    services = make_services(tmp_path, limits=limits)
    client = client_of(services)
    target = client.post("/v1/media/input", json={"url": "media://day"}).json()["url"]
    told = client.put(target, content=hour_of_silence(4.0)).json()
    assert told["seconds"] == pytest.approx(4 * 3600.0)
    assert submit(client, url="media://day").status_code == 200
    assert_problem(submit(client, url="media://day"), 429, "4.0 hours of audio wait")
    upload(client, "media://short", hour_of_silence(0.5))
    assert submit(client, url="media://short").status_code == 200


def test_uploads_of_a_key_have_a_quota(tmp_path):
    services = make_services(tmp_path, key_stored_gb=3e-6)
    ann, bob = client_of(services), client_of(services, "bob")
    upload(ann, "media://a", b"x" * 2000)
    target = ann.post("/v1/media/input", json={"url": "media://b"}).json()["url"]
    refused = ann.put(target, content=b"x" * 2000)
    assert_problem(refused, 429, "delete some")
    assert int(refused.headers["Retry-After"]) > 3600
    assert_problem(ann.put(target, content=iter([b"x" * 600] * 3)), 413)  # says no length
    upload(ann, "media://b", b"x" * 1000)
    upload(bob, "media://a", b"x" * 2000)
    assert ann.delete("/v1/media/a").json() == {"status": "ok"}
    upload(ann, "media://c", b"x" * 2000)


def test_an_upload_lives_as_long_as_jobs_need_it(services, client):
    upload(client)
    job_id = submit(client).json()["jobId"]
    records = services.media_records
    assert services.jobs.get(job_id, "nobody") is None
    assert records.expired(now=9e9) == []
    assert_problem(client.delete("/v1/media/talk.wav"), 409, "not done with it")
    finish(services)
    assert [record.key for record in records.expired(now=9e9)] == ["talk.wav"]
    assert client.delete("/v1/media/talk.wav").status_code == 200
    assert_problem(client.delete("/v1/media/talk.wav"), 404)
    assert_problem(client.post("/v1/media/output", json={"url": "media://talk.wav"}), 404)


def test_only_the_owner_deletes(services, client):
    upload(client, "media://upload/a.wav")  # a key that looks like another route's
    other = client_of(services, "bob")
    assert_problem(other.delete("/v1/media/upload/a.wav"), 404)
    bare = TestClient(client.app, base_url="http://localhost")
    assert_problem(bare.delete("/v1/media/upload/a.wav"), 401)
    assert client.delete("/v1/media/upload/a.wav").status_code == 200
    for key in ("", "a//b", "..%2Fa"):
        assert client.delete(f"/v1/media/{key}").status_code in (400, 404, 405)


def test_of_a_deleted_output_no_voice_is_left(services, client, tmp_path):
    upload(client)
    body = {"speakerVoiceprints": True}
    job_id = submit(client, **body).json()["jobId"]
    assert_problem(client.delete(f"/v1/jobs/{job_id}/output"), 409, "not over")
    job = services.jobs.claim("worker", 60.0)
    output = answer(job) | {"marker": "a voice nobody shall find"}
    services.jobs.succeed(job, output, "d2F2ZWZvcm0gb2YgdGhlIHZvaWNl")
    assert "marker" in client.get(f"/v1/jobs/{job_id}").json()["output"]
    assert_problem(client_of(services, "bob").delete(f"/v1/jobs/{job_id}/output"), 404)
    assert client.delete(f"/v1/jobs/{job_id}/output").status_code == 200
    seen = client.get(f"/v1/jobs/{job_id}").json()
    assert seen["status"] == "succeeded"
    assert "output" not in seen
    services.jobs._database.close()  # the last connection leaves no log behind
    left = b"".join(path.read_bytes() for path in tmp_path.glob("server.sqlite*"))
    assert b"a voice nobody shall find" not in left
    assert b"d2F2ZWZvcm0gb2YgdGhlIHZvaWNl" not in left


def test_every_key_has_a_webhook_secret_of_its_own(services, client):
    other = client_of(services, "bob")
    mine = client.get("/v1/webhooks/secret").json()["secret"]
    assert client.get("/v1/webhooks/secret").json()["secret"] == mine
    theirs = other.get("/v1/webhooks/secret").json()["secret"]
    assert theirs != mine
    assert len(mine) >= 32
    rotated = client.post("/v1/webhooks/secret").json()["secret"]
    assert rotated not in (mine, theirs)
    assert other.get("/v1/webhooks/secret").json()["secret"] == theirs
    assert not verify_signature(b"{}", "1", "x", rotated)


def test_an_index_may_be_for_some_keys_only(services):
    async def search(voiceprints, k, include_turns, where):
        return [[] for _ in voiceprints]

    services = replace(services, search=search)
    ann, bob = client_of(services), client_of(services, "bob")
    owner = services.keys.list()[0].key_id
    settings = services.settings.model_copy(update={"index_keys": (owner,)})
    services = replace(services, settings=settings)
    for client, may in ((ann, True), (bob, False)):
        client = TestClient(
            create_api(services), base_url="http://localhost", headers=client.headers
        )
        assert client.get("/v1/test").json()["search"] == may
        status = client.post("/v1/search", json={"voiceprint": TEXT}).status_code
        assert status == (200 if may else 404)


@pytest.mark.parametrize(
    ("number", "k", "turns", "status"),
    [(100, 50, False, 200), (100, 51, False, 400), (10, 20, True, 200), (10, 21, True, 400)],
)
def test_a_search_finds_so_much_at_a_time(services, number, k, turns, status):
    async def search(voiceprints, k, include_turns, where):
        return [[] for _ in voiceprints]

    client = client_of(replace(services, search=search))
    body = {"voiceprints": [TEXT] * number, "k": k, "includeTurns": turns}
    answer = client.post("/v1/search", json=body)
    assert answer.status_code == status
    if status == 400:
        assert_problem(answer, 400, f"{number * k}, and no more than")


def test_what_newer_clients_ask_for(client, services):
    upload(client)
    ids = [submit(client).json()["jobId"] for _ in range(3)]
    first = client.get("/v2/jobs", params={"limit": 2}).json()
    rest = client.get("/v2/jobs", params={"limit": 2, "cursor": first["nextCursor"]}).json()
    assert [job["jobId"] for job in first["items"] + rest["items"]] == ids[::-1]
    assert rest["nextCursor"] is None
    assert_problem(client.post("/v1/live", json={}), 501, "live streams")
    bare = TestClient(client.app, base_url="http://localhost")
    assert_problem(bare.get("/v2/jobs"), 401)
    with pytest.raises(WebSocketDenialResponse) as refusal, bare.websocket_connect("/v1/live"):
        pass
    assert refusal.value.status_code == 501
    assert "live streams" in json.loads(refusal.value.content)["message"]


def test_the_confidence_of_a_day_is_no_flood():
    from raydiar.serving.results import output

    scores = np.full(5_120_000, 0.5)
    merged = output._merged(scores, 5_120_000, 0.016875)
    assert len(merged.score) <= output.MAX_SCORES
    assert len(merged.score) * merged.resolution == pytest.approx(86_400, rel=1e-3)
    assert set(merged.score) == {50}
    assert output._merged(scores, 100, 0.016875).resolution == 0.016875
