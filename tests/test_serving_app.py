"""A real server: Ray Serve, HTTP, real weights, and what goes wrong around them."""

import importlib
import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
import yaml
from audio_files import write
from browser import DESKTOP, LISTEN, SLOW, choose, running, until, visit
from corpus_files import wait_until
from playwright.sync_api import expect
from pyannoteai.sdk import Client
from ray import serve
from ray.serve.schema import ServeDeploySchema
from running_server import running_server, segments, turns
from scripted_web import body, serving
from typer.testing import CliRunner
from voiceprint_corpus import write_dataset

from raydiar.audio import decode
from raydiar.cli import app as cli
from raydiar.diarization import read_rttm
from raydiar.errors import ConfigError
from raydiar.serving.app import build
from raydiar.serving.outbound.webhooks import verify_signature
from raydiar.serving.results import voiceprint_text
from raydiar.serving.settings import ServeSettings
from raydiar.voiceprints import builder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def expected(pipeline, sample_wav):
    """What the pipeline says in process."""
    return pipeline(sample_wav)


@pytest.fixture(scope="module")
def index(pipeline, expected, tmp_path_factory) -> str:
    """A voiceprint index of one recording, which is the sample."""
    folder = tmp_path_factory.mktemp("voices")
    corpus = write_dataset(folder / "corpus", [expected], pipeline=pipeline.describe())
    builder.build(str(folder / "index"), [corpus])
    return str(folder / "index")


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    """A small disk of its own where we may mount one, or else an ordinary folder."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder]
    with suppress(OSError):
        subprocess.run(mount, capture_output=True)
    yield folder
    if folder.is_mount():
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def server(local_ray, index, disk):
    with running_server(
        database=f"sqlite:///{disk}/server.sqlite",
        media=str(disk / "media"),
        index=index,
        slice_seconds=15.0,
        lease_seconds=3.0,
        decode_time_limit=6.0,
        allow_hosts=("127.0.0.1",),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def long_talk(sample_wav, tmp_path_factory) -> bytes:
    """60 s of conversation, which take many times as long as `talk`."""
    samples = np.tile(decode(sample_wav), 2)
    path = tmp_path_factory.mktemp("long") / "long.wav"
    return write(path, samples / 32768.0, 16000, "pcm_s16le").read_bytes()


def decoders_of(worker: int) -> list[int]:
    """Process ids of the decoding processes of a worker."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == worker and b"raydiar.audio.isolation" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def test_the_official_client_gets_what_the_pipeline_says(
    server, pipeline, expected, sample_wav, tmp_path, monkeypatch
):
    monkeypatch.setattr(Client, "API_URL", f"{server.url}/v1")
    client = Client(server.key)
    media = client.upload(sample_wav)
    job_id = client.diarize(media, confidence=True, exclusive=True, speakerVoiceprints=True)
    output = client.retrieve(job_id, every_seconds=0.2)["output"]
    assert segments(output["diarization"]) == turns(expected.turns)
    assert segments(output["exclusiveDiarization"]) == turns(expected.exclusive_turns)
    assert len(output["confidence"]["score"]) == pytest.approx(30 / 0.016875, abs=2)
    description = pipeline.describe()
    made_by = (description["embedding"], description["embedding_mode"])
    for speaker in expected.speakers:
        text = output["speakerVoiceprints"][speaker.speaker]
        served = voiceprint_text.decode(text, *made_by)
        np.testing.assert_allclose(served, speaker.embedding, rtol=1e-5, atol=1e-5)

    last = expected.speakers[-1]
    query = {"jobId": job_id, "speaker": last.speaker}
    answer = server.http.post("/v1/search", json={"speakerVoiceprint": query, "includeTurns": True})
    match = answer.json()["results"][0]["matches"][0]
    assert (match["recordingId"], match["speaker"]) == (expected.uri, last.speaker)
    assert match["score"] == pytest.approx(1.0, abs=0.01)  # the index keeps a byte a number
    assert len(match["turns"]) == len([t for t in expected.turns if t.speaker == last.speaker])
    where = {"speakerVoiceprint": query, "where": {"colour": "red"}}
    refused = server.http.post("/v1/search", json=where)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "where")
    assert "Traceback" not in refused.text

    clip = decode(sample_wav, start=21.8, duration=6.0)
    path = write(tmp_path / "one.wav", clip / 32768.0, 16000, "pcm_s16le")
    job_id = client.voiceprint(client.upload(path))
    voiceprint = client.retrieve(job_id, every_seconds=0.2)["output"]["voiceprint"]
    job_id = client.identify(media, {"Ann": voiceprint}, matching_threshold=50)
    output = client.retrieve(job_id, every_seconds=0.2)["output"]
    [found] = [one["speaker"] for one in output["voiceprints"] if one["match"] == "Ann"]
    assert [t.speaker for t in expected.turns if t.start <= 25 <= t.end] == [found]


def test_a_recording_in_the_request_is_answered_at_once(server, pipeline, talk, tmp_path):
    (tmp_path / "talk.wav").write_bytes(talk)
    expected = pipeline(tmp_path / "talk.wav")
    files = {"file": ("talk.wav", talk)}
    answer = server.http.post("/v1/diarize/sync", files=files)
    assert segments(answer.json()["output"]["diarization"]) == turns(expected.turns)
    answer = server.http.post("/v1/diarize/sync", files=files, headers={"Accept": "text/rttm"})
    (tmp_path / "served.rttm").write_text(answer.text)
    served = read_rttm(tmp_path / "served.rttm")["talk"]
    assert [t.speaker for t in served.turns] == [t.speaker for t in expected.turns]
    for name in ("start", "end"):
        times = [[getattr(t, name) for t in found.turns] for found in (served, expected)]
        np.testing.assert_allclose(*times, atol=0.002)


def test_the_page(server, expected, sample_wav):
    with running() as browser:
        tab = visit(browser.new_context(**DESKTOP), server.url)
        page = tab.page
        page.get_by_label("API key").fill(server.key)
        page.keyboard.press("Enter")
        expect(page.locator("#key")).to_be_hidden()
        choose(page, sample_wav)
        expect(page.locator("#result")).to_be_visible(timeout=SLOW)
        expect(page.locator(".lane-name")).to_have_text([one.speaker for one in expected.speakers])
        page.evaluate(LISTEN)
        page.click("#play")
        until(page, "window.sound?.currentTime > 0.1")
        page.get_by_text("Where else does this voice speak?").first.click()
        best = page.locator("#matches li").first
        expect(best).to_contain_text(expected.uri)
        expect(best).to_contain_text(expected.speakers[0].speaker)
        tab.screenshot("application")
        refusals = sum("401" in problem for problem in tab.problems)
        tab.expect_problems(*["401"] * refusals)  # of what was asked before there was a key
        assert tab.problems == []


def test_short_recordings_pass_a_long_one(server, talk, long_talk):
    medias = [server.upload("long.wav", long_talk), server.upload("talk.wav", talk)]
    # the worker's decoding processes run by now: to start one takes longer than a short recording
    first = [server.submit(medias[1]) for _ in range(6)]
    assert {server.finished(job_id)["status"] for job_id in first} == {"succeeded"}
    long = server.submit(medias[0])
    wait_until(lambda: server.status(long) == "running")
    short = [server.submit(medias[1]) for _ in range(4)]
    ended = [server.record(job_id) for job_id in short if server.finished(job_id)]
    assert [job.status for job in ended] == ["succeeded"] * 4
    assert server.finished(long)["status"] == "succeeded"
    assert max(job.finished_at for job in ended) < server.record(long).finished_at


def test_what_is_no_recording_fails_with_the_reason(server, talk, tmp_path):
    minute = write(tmp_path / "minute.flac", np.zeros(60 * 16000), 16000, "flac").read_bytes()
    files = {"text.wav": b"no audio at all", "cut.wav": talk[:60], "minute.flac": minute}
    media = {name: server.upload(name, content) for name, content in files.items()}
    reasons = {
        server.submit(media["text.wav"]): "media://text.wav",
        server.submit(media["cut.wav"]): "media://cut.wav",
        server.submit(media["minute.flac"], "voiceprint"): "lasts longer than 30 s",
    }
    for job_id, reason in reasons.items():
        job = server.finished(job_id)
        assert job["status"] == "failed"
        assert reason in job["output"]["error"]
        assert server.settings.media not in job["output"]["error"]  # not the client's business


def test_a_decoder_that_crashes_or_stalls_costs_one_job(server, talk):
    media = server.upload("talk.wav", talk)

    def job_with_stopped_decoders() -> tuple[str, list[int]]:
        before = server.submit(media)
        assert server.finished(before)["status"] == "succeeded"
        decoders = decoders_of(server.worker_of(before))
        assert decoders
        send(signal.SIGSTOP, decoders)
        job_id = server.submit(media)
        wait_until(lambda: server.status(job_id) == "running")
        return job_id, decoders

    crashes, decoders = job_with_stopped_decoders()
    time.sleep(1.0)  # it is given to its decoder now
    send(signal.SIGSEGV, decoders)
    send(signal.SIGCONT, decoders)
    assert "the process that decodes it died" in server.finished(crashes)["output"]["error"]

    stalls, decoders = job_with_stopped_decoders()
    job = server.finished(stalls)
    send(signal.SIGCONT, decoders)
    assert "decoding did not finish" in job["output"]["error"]


def send(number: signal.Signals, processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def test_a_canceled_job_stops_and_makes_room(server, talk, long_talk):
    media = server.upload("long.wav", long_talk)
    jobs = [server.submit(media) for _ in range(3)]  # all that the worker does at a time
    wait_until(lambda: server.status(jobs[2]) == "running")
    for job_id in jobs:
        server.http.post(f"/v1/jobs/{job_id}/cancel").raise_for_status()
    assert server.finished(server.submit(server.upload("talk.wav", talk)))["status"] == "succeeded"
    assert [server.status(job_id) for job_id in jobs] == ["canceled"] * 3


def test_a_recording_from_the_web_and_a_webhook(server, talk):
    with serving({"/talk.wav": body(talk), "/told": body(b"")}) as web:
        job_id = server.submit(f"{web.url}/talk.wav", webhook=f"{web.url}/told")
        assert server.finished(job_id)["status"] == "succeeded"
        wait_until(lambda: "/told" in [path for _, path, _, _ in web.requests])
    [(headers, raw)] = [(h, raw) for _, path, h, raw in web.requests if path == "/told"]
    secret = server.http.get("/v1/webhooks/secret").json()["secret"]  # of this key alone
    assert verify_signature(raw, headers["X-Request-Timestamp"], headers["X-Signature"], secret)
    told = json.loads(raw)
    assert (told["jobId"], told["status"]) == (job_id, "succeeded")
    assert told["output"] == server.job(job_id)["output"]


def test_who_has_no_key_takes_no_place(server):
    """Many who send one byte of a body each: all are answered, and so is everybody else."""
    address = httpx.URL(server.url)
    head = f"POST /v1/diarize HTTP/1.1\r\nHost: {address.host}\r\nContent-Length: 1000\r\n\r\n"
    held = [socket.create_connection((address.host, address.port), 60) for _ in range(40)]
    try:
        for one in held:
            one.sendall(f"{head}{{".encode())
        for one in held:
            assert one.recv(12) == b"HTTP/1.1 401"
        answer = server.http.get("/healthz")
        assert answer.status_code == 200
        assert len(answer.headers.get_list("X-Request-Id")) == 1
    finally:
        for one in held:
            one.close()
    mine = {"X-Request-Id": "an id of mine, 1"}
    refused = server.http.get("/v1/jobs/x", headers=mine)
    assert refused.headers.get_list("X-Request-Id") == [mine["X-Request-Id"]]
    assert refused.json()["requestId"] == mine["X-Request-Id"]


def test_replicas_that_are_killed_lose_nothing(server, sample_wav, expected):
    job_id = server.submit(server.upload("sample.wav", sample_wav.read_bytes()))
    wait_until(lambda: server.status(job_id) == "running")
    worker = server.worker_of(job_id)
    os.kill(worker, signal.SIGKILL)
    names = ray.util.list_named_actors(all_namespaces=True)
    inference = [one for one in names if "#LocalInferenceDeployment#" in one["name"]]
    assert len(inference) == 2  # one for each CPU
    for replica in inference:
        ray.kill(ray.get_actor(**replica))
    job = server.finished(job_id)
    assert segments(job["output"]["diarization"]) == turns(expected.turns)
    assert (server.record(job_id).attempt, server.record(job_id).alone) == (2, True)
    assert server.worker_of(job_id) != worker


def test_a_full_disk_is_told_and_nothing_accepted_is_lost(server, disk, talk, long_talk):
    if not disk.is_mount():
        pytest.skip("no disk of our own to fill: mounting is not allowed here")
    media = server.upload("long.wav", long_talk)
    accepted = [server.submit(media) for _ in range(4)]
    wait_until(lambda: server.status(accepted[0]) == "running")
    url = server.http.post("/v1/media/input", json={"url": "media://more.wav"}).json()["url"]
    kept = sorted(path for path in disk.rglob("*") if path.is_file())
    filler = disk / "filler"
    try:
        fill(filler)
        os.truncate(filler, filler.stat().st_size - 2**19)  # enough for the database
        assert_full(server, disk, url, long_talk)
        fill(filler)
        assert_full(server, disk, url, long_talk)
        time.sleep(3.0)  # meanwhile jobs end, and cannot be noted
    finally:
        filler.unlink()
    assert [server.finished(job_id)["status"] for job_id in accepted] == ["succeeded"] * 4
    assert sorted(path for path in disk.rglob("*") if path.is_file()) == kept
    answer = server.http.post("/v1/diarize/sync", content=talk)
    assert answer.status_code == 200


def fill(filler: Path) -> None:
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))


def assert_full(server, disk: Path, url: str, recording: bytes) -> None:
    for answer in (
        httpx.put(url, content=recording, timeout=120),
        server.http.post("/v1/diarize/sync", content=recording),
    ):
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert str(disk) not in answer.text


def test_what_is_queued_outlives_the_server(server, talk, long_talk):
    medias = [server.upload("long.wav", long_talk), server.upload("talk.wav", talk)]
    jobs = [server.submit(medias[0]) for _ in range(3)] + [server.submit(medias[1])]
    wait_until(lambda: server.status(jobs[0]) == "running")
    serve.delete("raydiar")
    records = [server.record(job_id) for job_id in jobs]
    assert {job.status for job in records} == {"created"}
    assert [job.attempt - job.excused for job in records] == [0] * 4  # none of it is their fault
    for job_id in jobs[:2]:
        server.stores.jobs.cancel(job_id, server.owner)
    server.start()
    assert [server.finished(job_id)["status"] for job_id in jobs[2:]] == ["succeeded"] * 2


# What is refused, and what operators edit


@pytest.mark.parametrize(
    ("settings", "way_out"),
    [
        ({}, "postgresql"),
        ({"database": "postgresql://user@host/name"}, "s3://"),
        ({"database": "postgresql://user@host/name", "media": "file:///uploads"}, "s3://"),
    ],
)
def test_several_nodes_want_what_they_can_share(local_ray, monkeypatch, settings, way_out):
    monkeypatch.setattr("raydiar.serving.app.spans_nodes", lambda: True)
    with pytest.raises(ConfigError, match=way_out):
        build(ServeSettings(**settings))


def test_without_keys_nobody_else_is_served(tmp_path):
    database = f"sqlite:///{tmp_path}/empty.sqlite"
    command = ["serve", "--host", "0.0.0.0", "--database", database]
    with pytest.raises(ConfigError, match="keys create"):
        CliRunner().invoke(cli, command, catch_exceptions=False)


def test_keys_are_made_listed_and_revoked(tmp_path):
    database = ["--database", f"sqlite:///{tmp_path}/keys.sqlite"]

    def run(*command):
        return CliRunner().invoke(cli, ["serve", "keys", *command, *database]).output

    secret = run("create", "ann").split()[0]
    key_id = secret.split("_")[1]
    assert "ann" in run("list")
    assert secret not in run("list")
    run("revoke", key_id)
    assert "revoked" in run("list")
    with pytest.raises(ConfigError, match=key_id):
        CliRunner().invoke(
            cli, ["serve", "keys", "revoke", key_id, *database], catch_exceptions=False
        )


def test_the_configuration_files_are_those_of_serve():
    config = yaml.safe_load((ROOT / "cluster/serve.yaml").read_text())
    [application] = ServeDeploySchema.model_validate(config).applications
    module, _, name = application.import_path.partition(":")
    assert getattr(importlib.import_module(module), name) is build
    ServeSettings(**application.args)
    manifests = (ROOT / "cluster/kuberay/rayservice.yaml").read_text()
    [service] = [d for d in yaml.safe_load_all(manifests) if d["kind"] == "RayService"]
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == config
