"""What clients of the server see of what goes wrong around it, and that no accepted job is lost.

Clients send clips while, one after the other, processes are killed, PostgreSQL is stopped, the disk
is full, and the server is stopped and started. Half of them wait for `POST /v1/diarize/sync`, half
upload, submit, and ask for the job until it is over; one only looks whether the server is well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from rich import print
from serving import clips_of, serving

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from postgres_server import PostgresServer, find_programs  # noqa: E402

LENGTHS = (5.0, 5.0, 10.0, 20.0)
CLIENTS = 6
DISK_MB = 48
_PATIENCE = 300.0  # for what was accepted

Clips = list[tuple[float, bytes]]


class Clients:
    """Clients that send clips until they are told to stop, and remember what they were told."""

    def __init__(self, url: str, clips: Clips):
        self._url = url
        self.bodies = [body for _, body in clips]
        self.answers: Counter[str] = Counter()
        self.accepted: list[str] = []
        self.ends: Counter[str] = Counter()
        self._going = True

    async def run(self, seconds: float, faults: dict[float, Callable[[], object]]) -> dict:
        """Go on for so long, faults coming at their times, and until all accepted jobs are over."""
        limits = httpx.Limits(max_connections=2 * CLIENTS)
        async with httpx.AsyncClient(base_url=self._url, timeout=120, limits=limits) as http:
            sending = [self._send(http, number) for number in range(CLIENTS)]
            senders = [asyncio.create_task(one) for one in [*sending, self._look(http)]]
            begun = time.monotonic()
            for at, fault in sorted(faults.items()):
                await asyncio.sleep(begun + at - time.monotonic())
                await asyncio.to_thread(fault)
            await asyncio.sleep(begun + seconds - time.monotonic())
            self._going = False
            await asyncio.gather(*senders)
            await self.await_all(http)
        return self.told()

    async def await_all(self, http: httpx.AsyncClient) -> None:
        """Ask for what was accepted until it is over."""
        deadline = time.monotonic() + _PATIENCE
        left = list(self.accepted)
        while left and time.monotonic() < deadline:
            for job_id in list(left):
                status = (await http.get(f"/v1/jobs/{job_id}")).json()["status"]
                if status in ("succeeded", "failed", "canceled"):
                    self.ends[status] += 1
                    left.remove(job_id)
            await asyncio.sleep(0.5)
        if left:
            self.ends["not over"] = len(left)

    def told(self) -> dict:
        return {
            "answers": dict(self.answers),
            "jobs accepted": len(self.accepted),
            "how they ended": dict(self.ends),
        }

    async def _send(self, http: httpx.AsyncClient, number: int) -> None:
        turn = number
        while self._going:
            turn += 1
            body = self.bodies[turn % len(self.bodies)]
            try:
                if number % 2:
                    answer = await http.post("/v1/diarize/sync", content=body)
                    self._note("sync", answer)
                else:
                    answer = await self.submit(http, f"{number}-{turn}", body)
                if answer.status_code not in (200, 422):
                    await asyncio.sleep(0.5)
                elif not number % 2:
                    await self._until_over(http, self.accepted[-1])
            except httpx.HTTPError as error:
                self.answers[f"connection: {type(error).__name__}"] += 1
                await asyncio.sleep(0.5)

    async def submit(self, http: httpx.AsyncClient, name: str, body: bytes) -> httpx.Response:
        media = {"url": f"media://{name}.wav"}
        answer = await http.post("/v1/media/input", json=media)
        if answer.status_code == 200:
            answer = await http.put(answer.json()["url"], content=body)
            self._note("upload", answer)
        if answer.status_code == 200:
            answer = await http.post("/v1/diarize", json=media)
            self._note("submit", answer)
            if answer.status_code == 200:
                self.accepted.append(answer.json()["jobId"])
        return answer

    async def _look(self, http: httpx.AsyncClient) -> None:
        """Twice a second, see whether the server is well, and whether it would take a job."""
        media = {"url": "media://looking.wav"}
        while self._going:
            self._note("health", await http.get("/healthz"))
            answer = await http.post("/v1/media/input", json=media)
            self._note("small upload", await http.put(answer.json()["url"], content=b"RIFF"))
            await asyncio.sleep(0.5)

    async def _until_over(self, http: httpx.AsyncClient, job_id: str) -> None:
        while self._going:
            answer = await http.get(f"/v1/jobs/{job_id}")
            if answer.status_code == 200 and answer.json()["status"] == "succeeded":
                return
            await asyncio.sleep(0.2)

    def _note(self, what: str, answer: httpx.Response) -> None:
        self.answers[f"{what} {answer.status_code}"] += 1


def kill(name: str) -> Callable[[], None]:
    """A fault: the processes of a deployment die."""

    def act() -> None:
        killed = 0
        for process in psutil.process_iter(["cmdline"]):
            words = " ".join(process.info["cmdline"] or ())
            if words.startswith("ray::ServeReplica") and name in words:
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
        assert killed, f"no {name} to kill"

    return act


def replicas_killed(clips: Clips, seconds: float) -> dict:
    faults = {
        seconds / 4: kill("WorkerDeployment"),
        seconds / 2: kill("LocalInferenceDeployment"),
        3 * seconds / 4: kill("ResolveDeployment"),
    }
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as (url, _):
        return asyncio.run(Clients(url, clips).run(seconds, faults))


def database_stopped(clips: Clips, seconds: float) -> dict:
    programs = find_programs()
    if programs is None:
        return {"not tried": "no PostgreSQL here"}
    postgres = PostgresServer(programs)
    stopped_for = min(10.0, seconds / 3)
    faults = {seconds / 3: postgres.stop, seconds / 3 + stopped_for: postgres.start}
    try:
        database = postgres.empty_database()
        with (
            tempfile.TemporaryDirectory() as name,
            serving(Path(name), database=database) as (url, _),
        ):
            told = asyncio.run(Clients(url, clips).run(seconds, faults))
    finally:
        postgres.close()
    return {"stopped for s": stopped_for, **told}


def disk_filled(clips: Clips, seconds: float) -> dict:
    with tempfile.TemporaryDirectory() as name:
        disk = Path(name, "disk")
        disk.mkdir()
        mount = f"mount -t tmpfs -o size={DISK_MB}m tmpfs {disk} && exec"
        inside = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"])]
        wrap = [*inside, "sh", "-c", f'{mount} "$@"', "sh"]
        settings = {"database": f"sqlite:///{disk}/server.sqlite", "media": f"{disk}/media"}
        with serving(Path(name), wrap=wrap, **settings) as (url, process):
            filler = Path(f"/proc/{process.pid}/root{disk}/filler")

            def fill() -> None:
                with filler.open("wb", buffering=0) as file:
                    try:
                        while True:
                            file.write(bytes(2**16))
                    except OSError:
                        pass

            faults = {seconds / 3: fill, 2 * seconds / 3: filler.unlink}
            return asyncio.run(Clients(url, clips).run(seconds, faults))


def server_restarted(clips: Clips, seconds: float) -> dict:
    """Stopped with jobs queued and under way, and started again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(folder) as (url, _):
            before = Clients(url, clips)
            asyncio.run(_submit_all(before, url, round(seconds)))
        with serving(folder) as (url, _):
            asyncio.run(_await_all(before, url))
    return before.told()


async def _submit_all(clients: Clients, url: str, number: int) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        for turn in range(number):
            body = clients.bodies[turn % len(clients.bodies)]
            await clients.submit(http, f"{turn}", body)


async def _await_all(clients: Clients, url: str) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        await clients.await_all(http)


FAULTS = {
    "replicas killed": replicas_killed,
    "database stopped": database_stopped,
    "disk full": disk_filled,
    "server restarted": server_restarted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=", ".join(FAULTS))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    clips = clips_of(LENGTHS)
    results = {}
    for name in arguments.names or FAULTS:
        results[name] = FAULTS[name](clips, arguments.seconds)
        print(name, results[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    lost = [
        name
        for name, result in results.items()
        if set(result.get("how they ended", ())) - {"succeeded"}
    ]
    if lost:
        sys.exit(f"jobs were lost: {', '.join(lost)}")


if __name__ == "__main__":
    main()
