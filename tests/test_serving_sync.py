"""Diarization while the client waits: what comes back, and what is left behind."""

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from serving_services import conversation, make_services, serving, working
from starlette.testclient import TestClient

from raydiar.serving.http.api import create_api
from raydiar.serving.jobs.limits import QueueLimits

TALK = b"RIFF....WAVE" * 100
ROUTE = "/v1/diarize/sync"


@pytest.fixture
def services(tmp_path):
    return make_services(tmp_path)


def client_of(services):
    _, secret = services.keys.create("ann")
    headers = {"Authorization": f"Bearer {secret}"}
    return TestClient(create_api(services), base_url="http://localhost", headers=headers)


def form(content=TALK, name="team talk.wav", **fields):
    return {"files": {"file": (name, content, "audio/wav")}, "data": fields}


def files_of(services) -> list[Path]:
    return [path for path in Path(services.settings.media).rglob("*") if path.is_file()]


def assert_nothing_left(services):
    assert files_of(services) == []
    state = services.jobs.queue_state()
    assert (state.queued_jobs, state.running_jobs) == (0, 0)


def test_a_worker_is_woken(services):
    woken = []
    client = client_of(replace(services, wake=lambda: woken.append(1)))
    with working(services.jobs):
        assert client.post(ROUTE, **form()).status_code == 200
    assert woken == [1]


def test_a_file_comes_back_as_turns(services):
    client, seen = client_of(services), []

    def work(job):
        [file] = files_of(services)
        seen.append((job.kind, job.priority, job.request, file.read_bytes()))
        return {"diarization": []}

    with working(services.jobs, work):
        response = client.post(ROUTE, **form(numSpeakers="2", exclusive="true", maxSpeakers=""))
    assert response.status_code == 200
    assert response.json()["status"] == "succeeded"
    assert response.json()["output"] == {"diarization": []}
    assert seen == [("diarize", 0, {"numSpeakers": 2, "exclusive": True}, TALK)]
    assert_nothing_left(services)


def test_a_bare_body_and_options_in_the_address(services):
    client, seen = client_of(services), []

    def work(job):
        seen.append((job.request, files_of(services)[0].read_bytes()))
        return {"diarization": []}

    with working(services.jobs, work):
        # as curl's --data-binary sends it
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        response = client.post(f"{ROUTE}?minSpeakers=2", content=iter([b"ab", b"cd"]), headers=kind)
    assert response.status_code == 200
    assert seen == [({"minSpeakers": 2}, b"abcd")]


@pytest.mark.parametrize("size", [1, 100, 65536, 3_000_000])
def test_files_of_any_size_and_content_arrive_whole(services, size):
    content = (b"\r\n--boundary\r\n\r\n-" * (size // 16 + 1))[:size]
    client, seen = client_of(services), []

    def work(job):
        seen.append(files_of(services)[0].read_bytes())
        return {"diarization": []}

    with working(services.jobs, work):
        assert client.post(ROUTE, **form(content)).status_code == 200
    assert seen == [content]


@pytest.mark.parametrize(
    ("accept", "kind", "first"),
    [
        ("text/rttm", "text/rttm", "SPEAKER team_talk 1 0.000 5.000"),
        ("text/csv", "text/csv", "uri,start,end,speaker,confidence"),
        ("text/csv;q=0.5, text/rttm", "text/rttm", "SPEAKER"),
        ("text/*;q=0.9, application/json;q=0.1", "text/rttm", "SPEAKER"),
        ("*/*", "application/json", "{"),
        ("text/html, */*;q=0.1", "application/json", "{"),
    ],
)
def test_the_client_chooses_the_format(services, accept, kind, first):
    with working(services.jobs):
        response = client_of(services).post(ROUTE, headers={"Accept": accept}, **form())
    assert response.headers["Content-Type"].startswith(kind)
    assert response.text.startswith(first)


def test_text_without_overlap_where_that_is_asked_for(services):
    with working(services.jobs):
        headers = {"Accept": "text/rttm"}
        response = client_of(services).post(f"{ROUTE}?exclusive=true", headers=headers, **form())
    ends = [turn.end for turn in conversation().exclusive_turns]
    assert f" 0.000 {ends[0]:.3f} " in response.text


@pytest.mark.parametrize("accept", ["text/html", "application/json;q=0", "image/*"])
def test_formats_that_do_not_exist(services, accept):
    response = client_of(services).post(ROUTE, headers={"Accept": accept}, **form())
    assert response.status_code == 406
    assert "text/rttm" in response.json()["message"]


def test_why_it_failed(services):
    def work(job):
        raise ValueError(f"{job.media}: not audio that FFmpeg can decode")

    client = client_of(services)
    with working(services.jobs, work):
        named, nameless = client.post(ROUTE, **form()), client.post(ROUTE, content=TALK)
    assert (named.status_code, nameless.status_code) == (422, 422)
    assert named.json()["message"] == "team talk.wav: not audio that FFmpeg can decode"
    assert nameless.json()["message"] == "The recording: not audio that FFmpeg can decode"
    assert_nothing_left(services)


def test_a_busy_server_asks_to_come_back(tmp_path):
    services = make_services(tmp_path, limits=QueueLimits(max_jobs=0, retry_after=30))
    response = client_of(services).post(ROUTE, **form())
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "30"
    assert_nothing_left(services)


def test_a_job_that_another_request_cancels(services):
    client = client_of(services)

    stop, owner = threading.Event(), services.keys.list()[0].key_id

    def cancel():
        while not stop.wait(0.01):
            for job in services.jobs.list(owner).jobs:
                services.jobs.cancel(job.job_id, owner)

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        assert client.post(ROUTE, **form()).status_code == 409
    finally:
        stop.set()
        thread.join()
    assert_nothing_left(services)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("in_form", [False, True])
def test_a_recording_that_is_too_large_is_not_kept(tmp_path, chunked, in_form):
    services = make_services(tmp_path, max_bytes=200_000)
    client = client_of(services)
    request = form(b"x" * 500_000) if in_form else {"content": b"x" * 500_000}
    if chunked:
        built = client.build_request("POST", ROUTE, **request)
        kind = built.headers.get("Content-Type", "audio/wav")
        content = built.read()
        chunks = (content[i : i + 65536] for i in range(0, len(content), 65536))
        request = {"content": chunks, "headers": {"Content-Type": kind}}
    response = client.post(ROUTE, **request)
    assert response.status_code == 413
    assert "200000 bytes" in response.json()["message"]
    assert_nothing_left(services)


BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nabc\r\n'


@pytest.mark.parametrize(
    ("content", "headers", "told"),
    [
        (b"", {}, "empty"),
        (PART, BOUNDARY, "ends too early"),
        (b"abc", BOUNDARY, "damaged"),
        (b"--b--\r\n", BOUNDARY, "no file in a field"),
        (PART * 2 + b"--b--\r\n", BOUNDARY, "several files"),
        (PART.replace(b'"file"', b'"audio"') + b"--b--\r\n", BOUNDARY, "not in the field"),
        (PART.replace(b"abc", b"") + b"--b--\r\n", BOUNDARY, "empty"),
        (PART + b"--b--\r\n", {"Content-Type": "multipart/form-data"}, "boundary"),
        (PART, {"Content-Type": "multipart/form-data; boundary=" + "b" * 300}, "boundary"),
        (
            PART + b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx\r\n--b--\r\n',
            BOUNDARY,
            "no such field",
        ),
        (
            PART + b'--b\r\nContent-Disposition: form-data; name="numSpeakers"\r\n\r\n0\r\n--b--',
            BOUNDARY,
            "numSpeakers",
        ),
    ],
)
def test_bodies_that_are_no_recording(services, content, headers, told):
    response = client_of(services).post(ROUTE, content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert told in response.text
    assert_nothing_left(services)


def test_fields_beside_the_file_have_a_limit(services):
    response = client_of(services).post(ROUTE, **form(x="y" * 100_000))
    assert response.status_code == 413
    assert_nothing_left(services)


def test_options_of_the_address_are_checked_before_the_upload(services):
    response = client_of(services).post(f"{ROUTE}?numSpeaker=2", content=iter([b"x"]))
    assert response.status_code == 400
    assert "no such field" in response.text


def test_a_client_that_hangs_up_cancels_its_job(services):
    _, secret = services.keys.create("ann")
    owner = services.keys.list()[0].key_id
    headers = {"Authorization": f"Bearer {secret}"}

    async def hang_up(url):
        async with httpx.AsyncClient(headers=headers) as client:
            request = asyncio.create_task(client.post(url + ROUTE, content=TALK))
            while not services.jobs.queue_state().queued_jobs:
                await asyncio.sleep(0.01)
            request.cancel()
            await asyncio.wait([request])
        while services.jobs.queue_state().queued_jobs or files_of(services):
            await asyncio.sleep(0.01)

    with serving(services) as served:
        asyncio.run(asyncio.wait_for(hang_up(served.media.public_url), 20))
    assert [job.status for job in services.jobs.list(owner).jobs] == ["canceled"]
    assert_nothing_left(services)


@pytest.mark.parametrize("creating", [False, True])
def test_a_server_that_ends_the_request_cancels_its_job(services, monkeypatch, creating):
    """As Ray Serve does when a client hangs up: the route is cancelled, wherever it is."""
    create = services.jobs.create

    def slow(*arguments, **options):
        job = create(*arguments, **options)
        time.sleep(0.5)
        return job

    if creating:
        monkeypatch.setattr(services.jobs, "create", slow)
    _, secret = services.keys.create("ann")
    owner = services.keys.list()[0].key_id
    headers = {"Authorization": f"Bearer {secret}"}

    async def end():
        transport = httpx.ASGITransport(create_api(services))  # runs the route in our task
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            request = asyncio.create_task(client.post(ROUTE, content=TALK))
            while not services.jobs.queue_state().queued_jobs:
                await asyncio.sleep(0.01)
            request.cancel()
            await asyncio.wait([request])

    asyncio.run(asyncio.wait_for(end(), 20))
    assert [job.status for job in services.jobs.list(owner).jobs] == ["canceled"]
    assert_nothing_left(services)


def test_a_client_that_breaks_off_its_upload_leaves_nothing(services):
    _, secret = services.keys.create("ann")
    headers = {"Authorization": f"Bearer {secret}"}

    async def break_off(url):
        reached = asyncio.Event()

        async def endless():
            while True:
                yield b"x" * 2**20
                reached.set()

        async with httpx.AsyncClient(headers=headers) as client:
            request = asyncio.create_task(client.post(url + ROUTE, content=endless()))
            await reached.wait()
            while not files_of(services):
                await asyncio.sleep(0.01)
            request.cancel()
            await asyncio.wait([request])
        while files_of(services):
            await asyncio.sleep(0.01)

    with serving(services) as served:
        asyncio.run(asyncio.wait_for(break_off(served.media.public_url), 20))
    assert_nothing_left(services)
