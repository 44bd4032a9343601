"""A real server on what several nodes share: PostgreSQL and object storage, which come and go."""

import threading
import time

import fsspec
import pytest
from pyannoteai.sdk import Client
from running_server import running_server, segments, turns

OUTAGE_SECONDS = 4.0


@pytest.fixture(scope="module")
def bucket(s3_proxy, tmp_path_factory):
    """A bucket, by its name."""
    s3_proxy.start_backend()
    empty = tmp_path_factory.mktemp("bucket") / "empty"
    empty.touch()
    s3_proxy.make("serving", "marker", [empty])
    return "serving"


@pytest.fixture(scope="module")
def server(local_ray, postgres, bucket):
    with running_server(
        database=postgres.empty_database(),
        media=f"s3://{bucket}/media",
        slice_seconds=15.0,
        lease_seconds=3.0,
    ) as running:
        yield running


def objects(bucket: str) -> list[str]:
    return fsspec.filesystem("s3", use_listings_cache=False).find(f"{bucket}/media")


def test_the_official_client_works(server, bucket, pipeline, sample_wav, monkeypatch):
    monkeypatch.setattr(Client, "API_URL", f"{server.url}/v1")
    client = Client(server.key)
    media = client.upload(sample_wav)
    assert len(objects(bucket)) == 1
    output = client.retrieve(client.diarize(media), every_seconds=0.2)["output"]
    assert segments(output["diarization"]) == turns(pipeline(sample_wav).turns)


def test_an_upload_of_a_request_goes_with_it(server, bucket, talk):
    before = objects(bucket)
    answer = server.http.post("/v1/diarize/sync", content=talk).raise_for_status()
    assert answer.json()["status"] == "succeeded"
    assert objects(bucket) == before


def test_storage_that_fails_is_told_and_tried_again(server, s3, talk):
    media = server.upload("talk.wav", talk)
    s3.fault = lambda method, path: 503 if "media" in path else None
    job_id = server.submit(media)
    refused = server.http.post("/v1/diarize/sync", content=talk)
    assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
    assert s3.faults
    assert server.status(job_id) in ("created", "pending", "running")
    s3.reset()
    assert server.finished(job_id)["status"] == "succeeded"


def test_an_outage_of_the_database_loses_nothing(server, postgres, talk, sample_wav):
    media = server.upload("sample.wav", sample_wav.read_bytes())
    accepted = [server.submit(media) for _ in range(5)]
    waiting = []

    def wait() -> None:
        waiting.append(server.http.post("/v1/diarize/sync", content=talk))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.5)  # it has its job, and waits
    postgres.stop()
    try:
        begun = time.monotonic()
        for path in ("/healthz", "/metrics", f"/v1/jobs/{accepted[0]}"):
            answer = server.http.get(path)
            assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
            assert "postgres" not in answer.text  # what it runs on is not its clients' business
        refused = server.http.post("/v1/diarize", json={"url": media})
        assert refused.status_code == 503
        time.sleep(max(0.0, begun + OUTAGE_SECONDS - time.monotonic()))
    finally:
        postgres.start()
    thread.join(120)
    assert [answer.status_code for answer in waiting] == [200]
    jobs = [server.finished(job_id) for job_id in accepted]
    assert [job["status"] for job in jobs] == ["succeeded"] * 5
    assert server.http.get("/healthz").status_code == 200
