"""The server under load from another process, on loopback: at capacity, and at four times that.

Clips of 5 to 40 s in random order, each a `POST /v1/diarize/sync`. Rounds of: the engine in one
process on the same clips, with as many threads as there are cores; as many clients as keep the
server busy; clips that arrive four times as fast as the server answered those, with room for few.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
import soundfile
import yaml
from engine import conversation
from rich import print

LENGTHS = (5.0, 5.0, 10.0, 10.0, 20.0, 40.0)
CLIENTS = 8
RAMP_SECONDS = 5.0
_READY = "raydiar serves on "


@contextmanager
def serving(folder: Path, wrap: Sequence[str] = (), **settings):
    """A server in a process of its own, by a command before its own; gives address and process."""
    config = {"applications": [{"args": settings}]}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    command = [
        *wrap,
        sys.executable,
        "-m",
        "raydiar",
        "serve",
        "--config",
        str(folder / "serve.yaml"),
    ]
    port = free_port()
    command += ["--port", str(port), "--device", "cpu"]
    log = (folder / "log").open("w+")
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        for line in process.stdout:
            if line.startswith(_READY):
                break
        else:
            log.seek(0)
            sys.exit(f"the server did not start:\n{log.read()[-3000:]}")
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def clips_of(lengths: tuple[float, ...]) -> list[tuple[float, bytes]]:
    """Stretches of real conversation one after the other, as WAV files."""
    samples, rate = soundfile.read(conversation(sum(lengths)), dtype="int16")
    clips, start = [], 0
    for length in lengths:
        stop = start + int(length * rate)
        file = io.BytesIO()
        soundfile.write(file, samples[start:stop], rate, format="WAV")
        clips.append((length, file.getvalue()))
        start = stop
    return clips


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def own_memory() -> float:
    """GB that the processes of this machine's Ray hold for themselves."""
    total = 0
    for process in psutil.process_iter(["name", "cmdline"]):
        try:
            words = " ".join(process.info["cmdline"] or ())
            if "ray::" in words or "raydiar serve" in words:
                total += process.memory_full_info().uss
        except psutil.Error:
            continue
    return total / 1e9


class Load:
    """Requests of one phase, of which those that end within its window count.

    Parameters
    ----------
    url : str
    clips : list of (float, bytes)
    seconds : float
        Of the window, which begins after `RAMP_SECONDS`, when the server is as busy as it will be.
    """

    def __init__(self, url: str, clips: list[tuple[float, bytes]], seconds: float):
        self._url = f"{url}/v1/diarize/sync"
        self._clips = clips
        self._rng = random.Random(0)
        self._begin = time.monotonic() + RAMP_SECONDS
        self._end = self._begin + seconds
        self._seconds = seconds
        self._latencies, self._audio, self._refused = [], 0.0, 0
        self._errors: list[str] = []

    async def of_clients(self, number: int) -> dict:
        """Clients that each send one clip after the other."""

        async def client(http: httpx.AsyncClient) -> None:
            while time.monotonic() < self._end:
                await self._send(http)

        async with httpx.AsyncClient(timeout=600) as http:
            await asyncio.gather(*(client(http) for _ in range(number)))
        return self._told()

    async def of_arrivals(self, per_second: float) -> dict:
        """Clips that come at random times, whatever becomes of those before; none comes again."""
        async with (
            httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http,
            asyncio.TaskGroup() as group,
        ):
            while time.monotonic() < self._end:
                group.create_task(self._send(http))
                await asyncio.sleep(self._rng.expovariate(per_second))
        return self._told()

    async def _send(self, http: httpx.AsyncClient) -> None:
        length, body = self._rng.choice(self._clips)
        start = time.monotonic()
        try:
            answer = await http.post(self._url, content=body)
        except httpx.HTTPError as error:
            self._errors.append(repr(error))
            return
        now = time.monotonic()
        counts = self._begin <= now < self._end
        if answer.status_code == 200 and counts:
            self._latencies.append(now - start)
            self._audio += length
        elif answer.status_code == 429:
            assert float(answer.headers["retry-after"]) > 0
            self._refused += counts
        elif answer.status_code != 200:
            self._errors.append(f"{answer.status_code} {answer.text[:200]}")

    def _told(self) -> dict:
        return {
            "requests/s": len(self._latencies) / self._seconds,
            "audio s/s": self._audio / self._seconds,
            "p50, p95, p99 s": np.percentile(self._latencies, (50, 95, 99)).round(2).tolist(),
            "answered 429": self._refused,
            "errors": len(self._errors),
            "first errors": self._errors[:3],
        }


def in_process(clips: list[tuple[float, bytes]], seconds: float, num_threads: int) -> float:
    """Audio seconds per second of the engine alone on the same clips."""
    code = (
        "import io, json, sys, time, random, torch\n"
        "from raydiar import Pipeline\n"
        f"torch.set_num_threads({num_threads})\n"
        "pipeline = Pipeline.from_pretrained()\n"
        "folder, seconds = sys.argv[1], float(sys.argv[2])\n"
        "clips = json.load(open(folder + '/clips.json'))\n"
        "pipeline(clips[0][1])\n"
        "rng, done, begun = random.Random(0), 0.0, time.monotonic()\n"
        "while time.monotonic() - begun < seconds:\n"
        "    chosen = [rng.choice(clips) for _ in range(16)]\n"
        "    files = [{'audio': path, 'uri': f'{n}'} for n, (_, path) in enumerate(chosen)]\n"
        "    done += sum(output.duration for _, output in pipeline(files))\n"
        "print(done / (time.monotonic() - begun))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        named = []
        for number, (length, body) in enumerate(clips):
            path = Path(folder, f"{number}.wav")
            path.write_bytes(body)
            named.append((length, str(path)))
        Path(folder, "clips.json").write_text(json.dumps(named))
        command = [sys.executable, "-c", code, folder, str(seconds)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds = arguments.seconds
    clips = clips_of(LENGTHS)
    cores = os.cpu_count() or 1
    rounds = []
    with tempfile.TemporaryDirectory() as name:
        settings = {"max_queued_jobs": 2 * CLIENTS, "jobs_per_worker": CLIENTS}
        with serving(Path(name), **settings) as (url, _):
            asyncio.run(Load(url, clips, 10.0).of_clients(CLIENTS))
            for _ in range(arguments.rounds):
                # the server has nothing to do meanwhile
                one = {"engine, audio s/s": in_process(clips, seconds / 2, cores)}
                one["GB before"] = own_memory()
                at_capacity = asyncio.run(Load(url, clips, seconds).of_clients(CLIENTS))
                four_times = 4 * at_capacity["requests/s"]
                overload = asyncio.run(Load(url, clips, seconds).of_arrivals(four_times))
                one |= {"at capacity": at_capacity, "four times": overload}
                one["GB after"] = own_memory()
                one["server : engine"] = at_capacity["audio s/s"] / one["engine, audio s/s"]
                one["goodput"] = overload["audio s/s"] / at_capacity["audio s/s"]
                print(one)
                rounds.append(one)
    medians = {
        key: np.median([one[key] for one in rounds]) for key in ("server : engine", "goodput")
    }
    print("medians", medians)
    if arguments.json:
        arguments.json.write_text(json.dumps({"rounds": rounds, "medians": medians}, indent=1))


if __name__ == "__main__":
    main()
