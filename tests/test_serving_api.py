"""The routes of the server, as a client meets them, over real stores and without a network."""

import json
import logging
import re
from dataclasses import replace

import pytest
from serving_services import (
    DIMENSION,
    EMBEDDING,
    MODE,
    answer,
    make_services,
    voice,
)
from starlette.testclient import TestClient

from raydiar.errors import ConfigError, DatabaseUnavailable
from raydiar.serving.http.api import create_api
from raydiar.serving.jobs.limits import QueueLimits
from raydiar.serving.results import voiceprint_text

TALK = b"RIFF....WAVE" * 100
TEXT = voiceprint_text.encode(voice(1.0), EMBEDDING, MODE)


@pytest.fixture
def services(tmp_path):
    return make_services(tmp_path)


@pytest.fixture
def client(services):
    return client_of(services)


def client_of(services, name="ann", **options):
    _, secret = services.keys.create(name)
    headers = {"Authorization": f"Bearer {secret}"}
    return TestClient(create_api(services), base_url="http://localhost", headers=headers, **options)


def upload(client, url="media://talk.wav", content=TALK):
    target = client.post("/v1/media/input", json={"url": url}).json()["url"]
    bare = TestClient(client.app, base_url="http://localhost")  # no key, as the official client
    response = bare.put(target, content=content)
    assert response.status_code == 200
    return url


def submit(client, kind="diarize", **fields):
    body = {"url": "media://talk.wav", **fields}
    return client.post(f"/v1/{kind}", json=body)


def finish(services, output=None):
    job = services.jobs.claim("worker", 60.0)
    services.jobs.succeed(job, answer(job) if output is None else output)
    return job


def assert_problem(response, status, *parts):
    document = response.json()
    assert response.status_code == status, document
    assert document["requestId"] == response.headers["X-Request-Id"]
    for part in parts:
        assert part in json.dumps(document), document
    return document


# -- who may ------------------------------------------------------------------------------------


def test_without_a_good_key_nothing_is_answered(client, services):
    routes = [
        ("GET", "/v1/test"),
        ("POST", "/v1/media/input"),
        ("POST", "/v1/media/output"),
        ("POST", "/v1/diarize"),
        ("POST", "/v1/diarize/sync"),
        ("POST", "/v1/voiceprint"),
        ("POST", "/v1/identify"),
        ("POST", "/v1/search"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/jobs/x"),
        ("DELETE", "/v1/jobs/x"),
        ("POST", "/v1/jobs/x/cancel"),
    ]
    bare = TestClient(client.app, base_url="http://localhost")
    for method, path in routes:
        for header in (None, "Bearer wrong", "Basic YTpi", "Bearer", "Bearer \x80"):
            headers = {} if header is None else {"Authorization": header.encode("latin-1")}
            response = bare.request(method, path, headers=headers, json={})
            assert_problem(response, 401, "API key")
            assert response.headers["WWW-Authenticate"] == "Bearer"
    assert client.get("/v1/test").json()["status"] == "ok"
    services.keys.revoke(services.keys.list()[0].key_id)
    assert_problem(client.get("/v1/test"), 401, "not valid")


def test_nobody_reaches_what_is_anothers(client, services):
    other = client_of(services, "bob")
    upload(client)
    job_id = submit(client).json()["jobId"]
    assert_problem(submit(other), 404, "no such upload")
    assert_problem(other.post("/v1/media/output", json={"url": "media://talk.wav"}), 404)
    assert_problem(other.get(f"/v1/jobs/{job_id}"), 404, "no such job")
    assert_problem(other.delete(f"/v1/jobs/{job_id}"), 404)
    assert_problem(other.post(f"/v1/jobs/{job_id}/cancel"), 404)
    assert other.get("/v1/jobs").json() == {"items": [], "nextCursor": None}
    assert client.get(f"/v1/jobs/{job_id}").json()["status"] == "created"


def test_a_server_without_keys_serves_this_machine_and_no_web_site(services):
    api = create_api(replace(services, anonymous=True))
    local = TestClient(api, base_url="http://127.0.0.1:8000")
    assert local.get("/v1/test").status_code == 200
    own = {"Origin": "http://127.0.0.1:8000"}
    assert local.get("/v1/test", headers=own).status_code == 200
    for origin in ("https://evil.example", "http://127.0.0.1:9999", "null"):
        response = local.post("/v1/diarize/sync", headers={"Origin": origin}, content=b"x")
        assert_problem(response, 403, "other web sites")
    rebound = TestClient(api, base_url="http://evil.example:8000")
    assert_problem(rebound.get("/v1/jobs"), 403)


# -- media --------------------------------------------------------------------------------------


def test_an_upload_can_be_played_in_parts(client):
    upload(client)
    url = client.post("/v1/media/output", json={"url": "media://talk.wav"}).json()["url"]
    bare = TestClient(client.app, base_url="http://localhost")
    whole = bare.get(url)
    assert whole.content == TALK
    assert whole.headers["Content-Type"] == "audio/x-wav"
    assert whole.headers["Accept-Ranges"] == "bytes"
    for header, part in [
        ("bytes=0-9", TALK[:10]),
        ("bytes=1190-", TALK[1190:]),
        ("bytes=-5", TALK[-5:]),
        ("bytes=10-99999", TALK[10:]),
    ]:
        response = bare.get(url, headers={"Range": header})
        assert response.status_code == 206
        assert response.content == part
        start = TALK.rindex(part) if header == "bytes=-5" else int(header[6:].split("-")[0])
        assert response.headers["Content-Range"] == f"bytes {start}-{start + len(part) - 1}/1200"
    for header in ("bytes=0-1,3-4", "bytes=-", "seconds=0-1", "bytes=9-1"):
        assert bare.get(url, headers={"Range": header}).content == TALK
    for header in ("bytes=1200-", "bytes=-0"):
        response = bare.get(url, headers={"Range": header})
        assert_problem(response, 416, "1200 bytes")
        assert response.headers["Content-Range"] == "bytes */1200"


def test_a_web_page_in_disguise_is_not_shown_as_one(client):
    upload(client, "media://page.html", b"<script>alert(1)</script>")
    url = client.post("/v1/media/output", json={"url": "media://page.html"}).json()["url"]
    response = client.get(url)
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]


def test_signed_urls_open_nothing_else(client):
    target = client.post("/v1/media/input", json={"url": "media://a"}).json()["url"]
    assert_problem(client.put(target.replace("/a?", "/b?"), content=b"x"), 403, "signature")
    assert_problem(client.put(target.partition("?")[0], content=b"x"), 403)
    assert_problem(client.get(target.replace("upload", "download")), 403)


def test_uploads_have_a_limit_whatever_length_they_state(tmp_path):
    client = client_of(make_services(tmp_path, max_bytes=1000))
    target = client.post("/v1/media/input", json={"url": "media://a"}).json()["url"]
    assert_problem(client.put(target, content=b"x" * 1001), 413, "1000 bytes")
    assert_problem(client.put(target, content=iter([b"x" * 600] * 2)), 413, "1000 bytes")
    assert_problem(submit(client, url="media://a"), 404)  # nothing half is kept
    upload(client, "media://a", b"x" * 1000)


def test_an_upload_replaces_one_of_the_same_key(client):
    upload(client, content=b"first")
    upload(client, content=b"second")
    url = client.post("/v1/media/output", json={"url": "media://talk.wav"}).json()["url"]
    assert client.get(url).content == b"second"


@pytest.mark.parametrize("url", ["media://", "talk.wav", "media://../a", "media://a b", "s3://a/b"])
def test_bad_media_urls_are_told(client, url):
    assert_problem(client.post("/v1/media/input", json={"url": url}), 400, "key")


# -- jobs ---------------------------------------------------------------------------------------


def test_a_job_from_its_beginning_to_its_end(client, services):
    upload(client)
    created = submit(client, exclusive=True, numSpeakers=None)
    assert created.status_code == 200
    job_id = created.json()["jobId"]
    assert created.json() == {"jobId": job_id, "status": "created"}

    job = services.jobs.claim("worker", 60.0)
    assert (job.kind, job.media, job.priority) == ("diarize", "media://talk.wav", 10)
    assert job.request == {"exclusive": True}
    services.jobs.renew(job, 60.0, progress=0.42)
    document = client.get(f"/v1/jobs/{job_id}").json()
    assert (document["status"], document["progress"]) == ("running", 42)
    assert "output" not in document

    services.jobs.succeed(job, answer(job))
    response = client.get(f"/v1/jobs/{job_id}")
    document = response.json()
    assert document["status"] == "succeeded"
    assert document["createdAt"] <= document["updatedAt"]
    assert document["createdAt"].endswith("Z")
    assert document["output"] == answer(job)
    assert response.headers["Cache-Control"] == "no-store"


def test_workers_are_woken_once_a_job_is_queued(services):
    seen = []
    waking = replace(services, wake=lambda: seen.append(services.jobs.queue_state().queued_jobs))
    client = client_of(waking)
    upload(client)
    assert seen == []
    submit(client)
    submit(client, "voiceprint")
    assert seen == [1, 2]


def test_why_a_job_failed(client, services):
    upload(client)
    job_id = submit(client).json()["jobId"]
    services.jobs.fail(services.jobs.claim("worker", 60.0), 'not audio: "\u00e9"')
    document = client.get(f"/v1/jobs/{job_id}").json()
    assert document["status"] == "failed"
    assert document["output"] == {"error": 'not audio: "\u00e9"'}


def test_jobs_are_canceled_at_once_or_when_their_worker_sees_it(client, services):
    upload(client)
    queued, running = (submit(client).json()["jobId"] for _ in range(2))
    assert client.delete(f"/v1/jobs/{queued}").json()["status"] == "canceled"
    services.jobs.claim("worker", 60.0)
    assert client.post(f"/v1/jobs/{running}/cancel").json()["status"] == "running"
    assert services.jobs.get(running, services.keys.list()[0].key_id).cancel_requested
    assert client.post(f"/v1/jobs/{queued}/cancel").json()["status"] == "canceled"


def test_the_list_of_jobs_has_pages(client, services):
    upload(client)
    ids = [submit(client).json()["jobId"] for _ in range(5)]
    finish(services)
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["jobId"] for job in first["items"]] == ids[:2:-1]
    assert set(first["items"][0]) == {
        "jobId", "status", "createdAt", "updatedAt", "kind", "media", "progress",
    }  # fmt: skip
    rest = client.get("/v1/jobs", params={"cursor": first["nextCursor"]}).json()
    assert [job["jobId"] for job in rest["items"]] == ids[2::-1]
    assert rest["nextCursor"] is None
    done = client.get("/v1/jobs", params={"status": "succeeded"}).json()["items"]
    assert [job["jobId"] for job in done] == ids[:1]
    assert_problem(client.get("/v1/jobs", params={"cursor": "zzz"}), 400, "cursor")
    assert_problem(client.get("/v1/jobs", params={"limit": 0}), 400, "limit")
    assert_problem(client.get("/v1/jobs", params={"status": "done"}), 400, "status")


def test_who_asks_for_a_model_of_the_public_service_is_told(client, services):
    upload(client)
    created = submit(client, model="precision-2").json()
    assert "precision-2 is not available" in created["warning"]
    for unknown in ("precision-3", "the best you have"):
        assert f"{unknown} is not available" in submit(client, model=unknown).json()["warning"]
    assert client.get(f"/v1/jobs/{created['jobId']}").json()["warning"] == created["warning"]


def test_the_model_that_runs_is_no_reason_for_a_warning(tmp_path):
    pipeline = "pyannote/speaker-diarization-community-1"
    client = client_of(make_services(tmp_path, pipeline=pipeline))
    upload(client)
    assert "warning" not in submit(client, model="community-1").json()
    assert pipeline in submit(client, model="precision-2").json()["warning"]


def test_where_a_server_keeps_its_pipeline_is_not_told(tmp_path):
    client = client_of(make_services(tmp_path, pipeline="/srv/models/pipeline"))
    upload(client)
    warning = submit(client, model="precision-2").json()["warning"]
    assert "its own pipeline." in warning
    assert "srv" not in warning


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"transcription": True}, "no speech-to-text"),
        ({"transcriptionConfig": {"model": "x"}}, "no speech-to-text"),
        ({"model": ""}, "model"),
        ({"model": "\0"}, "model"),
        ({"numSpeaker": 2}, "no such field"),
        ({"num_speakers": 2}, "no such field"),
        ({"speechProbability": True}, "no such field"),
        ({"numSpeakers": 0}, "numSpeakers"),
        ({"numSpeakers": "2"}, "numSpeakers"),
        ({"numSpeakers": True}, "numSpeakers"),
        ({"maxSpeakers": 10**30}, "maxSpeakers"),
        ({"minSpeakers": 3, "maxSpeakers": 2}, "above maxSpeakers"),
        ({"numSpeakers": 5, "maxSpeakers": 2}, "not between"),
        ({"confidence": "yes"}, "confidence"),
        ({"url": None}, "url"),
        ({"url": ""}, "url"),
        ({"url": "media://talk.wav\0"}, "media key"),
        ({"url": "\ud800"}, "url"),
        ({"url": "file:///etc/passwd"}, "only http"),
        ({"url": "/etc/passwd"}, "only http"),
        ({"url": "http://169.254.169.254/latest/meta-data"}, "public internet"),
        ({"url": "http://127.0.0.1:8000/"}, "public internet"),
        ({"url": "http://user:word@example.com/a"}, "user or password"),
        ({"url": "s3://bucket/a.wav"}, "only http"),
        ({"webhook": "ftp://example.com/hook"}, "http:// or https://"),
        ({"\ud800": 1}, "string"),
    ],
)
def test_what_cannot_be_done_is_refused_at_the_door(client, services, fields, told):
    upload(client)
    document = json.dumps({"url": "media://talk.wav", **fields})
    json_type = {"Content-Type": "application/json"}
    assert_problem(client.post("/v1/diarize", content=document, headers=json_type), 400, told)
    assert services.jobs.queue_state().queued_jobs == 0


@pytest.mark.parametrize("body", ["", "{", "[]", "null", '"a"', "[" * 100_000, '{"a": NaN'])
def test_what_is_not_a_request_is_refused(client, body):
    response = client.post("/v1/diarize", content=body)
    assert_problem(response, 400)


def test_json_that_is_not_called_so_is_told(client):
    response = client.post("/v1/diarize", content=json.dumps({"url": "media://talk.wav"}))
    assert_problem(response, 400, "Content-Type: application/json")


def test_missing_uploads_are_told_before_the_job_is_queued(client):
    assert_problem(submit(client), 404, "media://talk.wav", "no such upload")


def test_urls_are_taken_from_where_the_operator_allows(tmp_path):
    services = make_services(
        tmp_path,
        allow_buckets=("s3://bucket/calls",),
        allow_hosts=("10.0.0.0/8",),
        webhook_secret="0123456789abcdef",
    )
    client = client_of(services)
    for url in (
        "s3://bucket/calls/a.wav",
        "http://10.1.2.3/a.wav",
        "https://example.com/a.wav?s=1",
    ):
        assert submit(client, url=url, webhook="https://example.com/").status_code == 200
    job = services.jobs.list(services.keys.list()[0].key_id).jobs[0]
    assert job.media == "https://example.com/a.wav?s=1"
    assert job.webhook == "https://example.com/"
    listed = client.get("/v1/jobs").json()["items"][0]["media"]
    assert listed == "https://example.com/a.wav"  # a list is no place for a signature
    assert_problem(submit(client, url="s3://bucket/other/a.wav"), 400, "only http")
    hook = submit(client, url="http://10.1.2.3/a.wav", webhook="s3://bucket/calls/hook")
    assert_problem(hook, 400, "webhook")


def test_a_full_queue_asks_to_come_back(tmp_path):
    client = client_of(make_services(tmp_path, limits=QueueLimits(max_jobs=1, retry_after=30)))
    upload(client)
    assert submit(client).status_code == 200
    response = submit(client)
    assert_problem(response, 429, "queue is full")
    assert response.headers["Retry-After"] == "30"


def test_identification_takes_voiceprints_of_this_server(client, services):
    upload(client)
    voiceprints = [{"label": "Ann", "voiceprint": TEXT}]
    matching = {"exclusive": True, "threshold": 0}
    response = submit(client, "identify", voiceprints=voiceprints, matching=matching)
    assert response.status_code == 200
    finish(services)
    output = client.get(f"/v1/jobs/{response.json()['jobId']}").json()["output"]
    assert output["identification"][0]["speaker"] == "Ann"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "voiceprints"),
        ({"voiceprints": []}, "voiceprints"),
        ({"voiceprints": [{"label": "Ann", "voiceprint": "AAAA"}]}, "voiceprints.0.voiceprint"),
        ({"voiceprints": [{"label": "Ann", "voiceprint": TEXT}] * 2}, "one voiceprint per label"),
        ({"voiceprints": [{"label": "SPEAKER_00", "voiceprint": TEXT}]}, "nobody knows"),
        ({"voiceprints": [{"label": " ", "voiceprint": TEXT}]}, "label"),
        ({"voiceprints": [{"label": str(n), "voiceprint": TEXT} for n in range(51)]}, "50"),
    ],
)
def test_voiceprints_that_cannot_be_used_are_refused(client, fields, told):
    upload(client)
    assert_problem(submit(client, "identify", **fields), 400, told)


def test_voiceprints_of_another_embedding_are_refused(client):
    upload(client)
    text = voiceprint_text.encode(voice(1.0), "cd" * 32, MODE)
    known = [{"label": "Ann", "voiceprint": text}]
    assert_problem(submit(client, "identify", voiceprints=known), 400, "another embedding")
    longer = voiceprint_text.encode(range(1, DIMENSION + 2), EMBEDDING, MODE)
    known = [{"label": "Ann", "voiceprint": longer}]
    assert_problem(submit(client, "identify", voiceprints=known), 400, "dimensions")


# -- search -------------------------------------------------------------------------------------


@pytest.fixture
def searches():
    return []


@pytest.fixture
def finder(services, searches):
    async def search(voiceprints, k, include_turns, where):
        if where and set(where) - {"show"}:
            raise ConfigError("the index has no such column")
        searches.append((voiceprints, k, include_turns, where))
        return [[{"recordingId": "a.wav", "score": 0.9}] for _ in voiceprints]

    return client_of(replace(services, search=search))


def test_a_server_without_an_index_says_so(client):
    assert_problem(client.post("/v1/search", json={"voiceprint": TEXT}), 404, "no voiceprint index")


def test_voices_are_searched_by_text_and_by_speaker_of_a_job(finder, services, searches):
    one = finder.post("/v1/search", json={"voiceprint": TEXT})
    assert one.json() == {"results": [{"matches": [{"recordingId": "a.wav", "score": 0.9}]}]}
    body = {"voiceprints": [TEXT, TEXT], "k": 3, "includeTurns": True, "where": {"show": ["x"]}}
    assert len(finder.post("/v1/search", json=body).json()["results"]) == 2
    upload(finder)
    job_id = submit(finder, speakerVoiceprints=True).json()["jobId"]
    finish(services)
    body = {"speakerVoiceprint": {"jobId": job_id, "speaker": "SPEAKER_01"}}
    assert finder.post("/v1/search", json=body).status_code == 200
    assert [(v.tolist(), *rest) for v, *rest in searches] == [
        ([voice(1.0).tolist()], 10, False, None),
        ([voice(1.0).tolist()] * 2, 3, True, {"show": ["x"]}),
        ([voice(0.1, 1.0).tolist()], 10, False, None),
    ]


def test_searches_that_make_no_sense_are_refused(finder, services):
    def search(status, told, **body):
        assert_problem(finder.post("/v1/search", json=body), status, told)

    search(400, "give one of")
    search(400, "give one of", voiceprint=TEXT, voiceprints=[TEXT])
    search(400, "voiceprints.1", voiceprints=[TEXT, TEXT[:-8]])
    search(400, "no such column", voiceprint=TEXT, where={"x": 1})
    search(400, "k", voiceprint=TEXT, k=100_000)
    search(404, "no such job", speakerVoiceprint={"jobId": "x", "speaker": "SPEAKER_00"})
    upload(finder)
    job_id = submit(finder).json()["jobId"]
    finish(services)
    search(400, "no voiceprint", speakerVoiceprint={"jobId": job_id, "speaker": "SPEAKER_00"})


# -- the server ---------------------------------------------------------------------------------


def test_requests_have_a_limit_whatever_length_they_state(client):
    body = json.dumps({"url": "media://a", "x": "y" * 2**20}).encode()
    assert_problem(client.post("/v1/diarize", content=body), 413, "1048576 bytes")
    chunks = (body[i : i + 2**16] for i in range(0, len(body), 2**16))
    kind = {"Content-Type": "application/json"}
    assert_problem(client.post("/v1/diarize", content=chunks, headers=kind), 413, "bytes")
    assert_problem(client.post("/v1/identify", content=body, headers=kind), 400)


def test_a_server_below_a_path_takes_uploads_of_any_size(services):
    _, secret = services.keys.create("ann")
    below = TestClient(
        create_api(services),
        base_url="http://localhost",
        root_path="/speakers",
        headers={"Authorization": f"Bearer {secret}"},
    )
    response = below.post("/speakers/v1/media/input", json={"url": "media://a"})
    target = response.json()["url"].replace("localhost/v1", "localhost/speakers/v1")
    assert below.put(target, content=b"x" * 2**21).status_code == 200
    assert "default-src 'self'" in below.get("/speakers/").headers["Content-Security-Policy"]


def test_a_database_that_is_away_is_told_without_its_address(client, services, monkeypatch):
    def away():
        raise DatabaseUnavailable("the database postgresql://secret-host/x does not answer")

    assert client.get("/healthz").json() == {"status": "ok"}
    monkeypatch.setattr(services.jobs, "queue_state", away)
    response = client.get("/healthz")
    assert_problem(response, 503, "Try again")
    assert "secret-host" not in response.text
    assert response.headers["Retry-After"] == "5"


def test_what_went_wrong_inside_is_for_the_log_only(services, monkeypatch, caplog):
    def broken(*_):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(services.jobs, "get", broken)
    client = client_of(services, raise_server_exceptions=False)
    with caplog.at_level(logging.ERROR, "raydiar.serving"):
        response = client.get("/v1/jobs/some-private-name")
    document = assert_problem(response, 500)
    assert "secret" not in response.text
    assert document["requestId"] in caplog.text
    assert "secret detail" in caplog.text
    assert "some-private-name" not in caplog.text.partition("Traceback")[0]


def test_request_ids_of_a_proxy_are_kept_if_they_are_ids(client):
    ids = ["0a1b2c3d-4e5f", "short", "x" * 65, "a b c d e f g h"]
    answered = [
        client.get("/v1/test", headers={"X-Request-Id": given}).headers["X-Request-Id"]
        for given in ids
    ]
    assert answered[0] == ids[0]
    assert not set(answered[1:]) & set(ids)


def test_addresses_without_anything_are_told_as_json(client):
    assert_problem(client.get("/nothing"), 404, "nothing at this address")
    assert_problem(client.get("/web/nothing.js"), 404, "nothing at this address")
    assert_problem(client.get("/v1/diarize"), 405, "method")
    assert_problem(client.get("/web/../../jobs.py"), 404)
    assert_problem(client.get("/web/%2e%2e/jobs.py"), 404)


def test_metrics_tell_what_waits_and_what_runs(client, services):
    upload(client)
    for _ in range(3):
        submit(client)
    services.jobs.claim("worker", 60.0)
    for _ in range(2):
        lines = client.get("/metrics").text.splitlines()
    assert 'raydiar_jobs{kind="diarize",state="queued"} 2.0' in lines
    assert 'raydiar_jobs{kind="diarize",state="running"} 1.0' in lines
    assert 'raydiar_jobs{kind="voiceprint",state="queued"} 0.0' in lines
    seconds = 2 * len(TALK) / 4000  # of what says nothing of its length
    assert f'raydiar_audio_seconds{{kind="diarize",state="queued"}} {seconds}' in lines


def test_the_page_runs_only_its_own_scripts(client):
    for path in ("/", "/web/app.js", "/docs"):
        response = client.get(path)
        assert response.status_code == 200
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert "media-src 'self' blob: http://localhost" in policy
        assert response.headers["Referrer-Policy"] == "no-referrer"
        assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_the_documentation_can_be_read_without_the_internet(client):
    text = client.get("/docs").text
    assert "POST /v1/diarize/sync" in text
    assert "integer, at least 1, at most 100" in text
    assert "list of KnownVoice" in text
    assert "<script" not in text
    assert set(re.findall(r"(?:src|href)=.([^'\">]*)", text)) == {
        "openapi.json",
        "web/reference.css",
        "web/style.css",
    }


def test_the_documentation_names_the_answers_that_are_given(client):
    document = client.get("/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(document)
    fields = document["components"]["schemas"]["DiarizeRequest"]["properties"]
    assert {"url", "numSpeakers", "turnLevelConfidence", "webhookStatusOnly"} <= set(fields)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            statuses = set(operation["responses"])
            assert "503" in statuses, path
            assert ("401" in statuses) == ("security" in operation), path
