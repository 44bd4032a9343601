"""A real server in the tests' Ray: as its operator and as a client see it."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from corpus_files import wait_until
from ray import serve
from typer.testing import CliRunner

from raydiar.cli import app as cli
from raydiar.serving.app import build
from raydiar.serving.settings import ServeSettings
from raydiar.serving.stores import Stores, open_stores


@dataclass
class Running:
    """The server, as its operator (`stores`) and a client (`http`) see it."""

    url: str
    settings: ServeSettings
    owner: str
    key: str
    stores: Stores
    http: httpx.Client

    def start(self) -> None:
        serve.run(build(self.settings), name="raydiar")

    def upload(self, key: str, content: bytes) -> str:
        media = f"media://{key}"
        answer = self.http.post("/v1/media/input", json={"url": media}).raise_for_status()
        httpx.put(answer.json()["url"], content=content, timeout=60).raise_for_status()
        return media

    def submit(self, media: str, kind: str = "diarize", **options) -> str:
        answer = self.http.post(f"/v1/{kind}", json={"url": media, **options})
        return answer.raise_for_status().json()["jobId"]

    def job(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}").raise_for_status().json()

    def status(self, job_id: str) -> str:
        return self.job(job_id)["status"]

    def finished(self, job_id: str) -> dict:
        wait_until(lambda: self.status(job_id) in ("succeeded", "failed", "canceled"))
        return self.job(job_id)

    def worker_of(self, job_id: str) -> int:
        """Process id of the worker that has a job."""
        return int(self.record(job_id).lease_owner.split(":")[1])

    def record(self, job_id: str):
        return self.stores.jobs.get(job_id, self.owner)


@contextmanager
def running_server(**settings) -> Iterator[Running]:
    """Start a server with a key; it stops at the end, and Serve with it."""
    settings = ServeSettings(
        device="cpu",
        jobs_per_worker=3,
        reads_per_minute=0,  # tests look often
        submissions_per_minute=0,
        key_running_jobs=16,
        **settings,
    )
    made = CliRunner().invoke(
        cli, ["serve", "keys", "create", "tests", "--database", settings.database]
    )
    key = made.output.split()[0]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        with httpx.Client(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=120
        ) as http:
            running = Running(
                url, settings, key.split("_")[1], key, open_stores(settings, url), http
            )
            running.start()
            yield running
    finally:
        serve.shutdown()


def turns(found) -> list[tuple]:
    """Start, end and speaker of a pipeline's turns."""
    return [(round(turn.start, 3), round(turn.end, 3), turn.speaker) for turn in found]


def segments(listed: list[dict]) -> list[tuple]:
    """The same of a server's answer."""
    return [(one["start"], one["end"], one["speaker"]) for one in listed]
