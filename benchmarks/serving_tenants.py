"""Eight clients of a server, each with a key: what seven of them see while the eighth floods it.

Each of the seven sends clips one after the other and waits for the result; first among themselves,
then while the eighth keeps many more requests under way than it has a right to, and hundreds of
connections without a key send one byte of a body each.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from rich import print
from serving import clips_of, serving

TENANTS = 8
FLOOD = 24  # requests of the eighth at a time
THINKING = 1.0  # s between two clips of the others


def make_keys(database: str) -> list[str]:
    """Keys of so many clients, made as an operator does."""
    command = [sys.executable, "-m", "raydiar", "serve", "keys", "create"]
    made = [
        subprocess.run(
            [*command, f"tenant{number}", "--database", database],
            check=True,
            capture_output=True,
            text=True,
        )
        for number in range(TENANTS)
    ]
    return [one.stdout.split()[0] for one in made]


class Tenant:
    """A client with a key, and what it was answered."""

    def __init__(self, url: str, key: str, clip: bytes):
        self._url = f"{url}/v1/diarize/sync"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._clip = clip
        self.latencies: list[float] = []
        self.answers: Counter[int] = Counter()

    async def send(self, http: httpx.AsyncClient, until: float, thinking: float) -> None:
        while (begun := time.monotonic()) < until:
            answer = await http.post(self._url, content=self._clip, headers=self._headers)
            self.answers[answer.status_code] += 1
            if answer.status_code == 200:
                self.latencies.append(time.monotonic() - begun)
            await asyncio.sleep(thinking)


async def slow_bodies(url: str, number: int, until: float) -> int:
    """Connections without a key that send one byte of a body; gives how many were answered."""
    address = urlsplit(url)
    head = f"POST /v1/diarize HTTP/1.1\r\nHost: {address.hostname}\r\nContent-Length: 1000\r\n\r\n"

    async def one() -> bool:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(f"{head}{{".encode())
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return (await reader.read(12)).endswith(b"401")
        except TimeoutError:
            return False
        finally:
            writer.close()

    return sum(await asyncio.gather(*(one() for _ in range(number))))


async def health(http: httpx.AsyncClient, url: str, until: float) -> list[float]:
    """Seconds that `/healthz` takes, twice a second."""
    taken = []
    while (begun := time.monotonic()) < until:
        (await http.get(f"{url}/healthz")).raise_for_status()
        taken.append(time.monotonic() - begun)
        await asyncio.sleep(0.5)
    return taken


async def phase(url: str, keys: list[str], clip: bytes, seconds: float, attacked: bool) -> dict:
    until = time.monotonic() + seconds
    tenants = [Tenant(url, key, clip) for key in keys]
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits) as http:
        looking = asyncio.create_task(health(http, url, until))
        work = [tenant.send(http, until, THINKING) for tenant in tenants[1:]]
        refused = None
        if attacked:
            work += [tenants[0].send(http, until, 0.1) for _ in range(FLOOD)]
            refused = asyncio.create_task(slow_bodies(url, 300, until))
        await asyncio.gather(*work)
        told = {
            "p50, p95 s": np.percentile(
                [one for tenant in tenants[1:] for one in tenant.latencies], (50, 95)
            ).round(2),
            "answers": dict(sum((tenant.answers for tenant in tenants[1:]), Counter())),
            "healthz, longest s": round(max(await looking), 2),
        }
        if attacked:
            told["of the eighth"] = dict(tenants[0].answers)
            told["slow bodies refused, of 300"] = await refused
    told["p50, p95 s"] = told["p50, p95 s"].tolist()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    [(_, clip)] = clips_of((5.0,))
    with tempfile.TemporaryDirectory() as name:
        database = f"sqlite:///{name}/server.sqlite"
        keys = make_keys(database)
        settings = {"database": database, "submissions_per_minute": 0, "requests_per_key": 8}
        with serving(Path(name), **settings) as (url, _):
            asyncio.run(phase(url, keys, clip, 10.0, attacked=False))  # all is loaded now
            alone = asyncio.run(phase(url, keys, clip, arguments.seconds, attacked=False))
            attacked = asyncio.run(phase(url, keys, clip, arguments.seconds, attacked=True))
    ratio = attacked["p50, p95 s"][1] / alone["p50, p95 s"][1]
    result = {"alone": alone, "attacked": attacked, "p95, attacked : alone": round(ratio, 2)}
    print(result, f"load {os.getloadavg()[0]:.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
