"""The server under load from another process, on loopback: at capacity, and at four times that.

Clips of 5 to 40 s in random order, each a `POST /v1/diarize/sync`. First as many clients as keep
the server busy; then four times as many, of a queue that holds few. The engine in one process on
the same clips and as many threads is what the server is compared with.
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
_READY = "raydiar serves on "


@contextmanager
def serving(folder: Path, **settings):
    """A server in a process of its own; gives its address and process."""
    config = {"applications": [{"args": settings}]}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "raydiar", "serve", "--config", str(folder / "serve.yaml")]
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


async def load(url: str, clips: list[tuple[float, bytes]], clients: int, seconds: float) -> dict:
    """Clients that each send one clip after the other."""
    rng = random.Random(0)
    latencies, done, refused, other = [], 0.0, 0, []
    end = time.monotonic() + seconds
    begun = time.monotonic()

    async def client(http: httpx.AsyncClient) -> None:
        nonlocal done, refused
        while time.monotonic() < end:
            length, body = rng.choice(clips)
            start = time.monotonic()
            try:
                answer = await http.post(f"{url}/v1/diarize/sync", content=body)
            except httpx.HTTPError as error:
                other.append(repr(error))
                continue
            if answer.status_code == 200:
                latencies.append(time.monotonic() - start)
                done += length
            elif answer.status_code == 429:
                assert float(answer.headers["retry-after"]) > 0
                refused += 1
                await asyncio.sleep(0.5)  # sooner than it is told to: a rude client
            else:
                other.append(f"{answer.status_code} {answer.text[:200]}")

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=600, limits=limits) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    wall = time.monotonic() - begun
    return {
        "clients": clients,
        "requests/s": len(latencies) / wall,
        "audio s/s": done / wall,
        "p50, p95, p99 s": np.percentile(latencies, (50, 95, 99)).round(2).tolist(),
        "answered 429": refused,
        "errors": len(other),
        "first errors": other[:3],
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
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    clips = clips_of(LENGTHS)
    cores = os.cpu_count() or 1
    results = {"engine, audio s/s": in_process(clips, arguments.seconds / 2, cores)}
    print(results)
    with tempfile.TemporaryDirectory() as name:
        settings = {"max_queued_jobs": 2 * CLIENTS, "jobs_per_worker": CLIENTS}
        with serving(Path(name), **settings) as (url, _):
            asyncio.run(load(url, clips, CLIENTS, 10.0))
            before = own_memory()
            for label, clients in (("at capacity", CLIENTS), ("four times", 4 * CLIENTS)):
                results[label] = asyncio.run(load(url, clips, clients, arguments.seconds))
                print(label, results[label])
            results["GB before and after"] = [before, own_memory()]
    results["server : engine"] = results["at capacity"]["audio s/s"] / results["engine, audio s/s"]
    results["goodput at four times : at capacity"] = (
        results["four times"]["audio s/s"] / results["at capacity"]["audio s/s"]
    )
    print({key: value for key, value in results.items() if not isinstance(value, dict)})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
