"""The Ray job against the in-process engine on the same 20 recordings. Goal: less than 10 % more.

All sides process one recording, then all of them: the difference is the work after start-up. One
actor has as many threads as the in-process engine; two actors have half of them each, and a pack
for every two recordings, since there must be work for both.

    python benchmarks/ray_overhead.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from statistics import median

import ray
import soundfile
import torch
from engine import conversation
from peer import BENCH

from raydiar import Pipeline
from raydiar.corpus.job.run import diarize_corpus


def make_recordings(count: int) -> list[Path]:
    """Recordings of 15 to 45 s."""
    samples, _ = soundfile.read(conversation(count * 30), dtype="int16")
    folder = BENCH / "recordings"
    folder.mkdir(exist_ok=True)
    paths, start = [], 0
    for number in range(count):
        length = (15 + 30 * number // max(1, count - 1)) * 16000
        paths.append(folder / f"{number:02d}.wav")
        soundfile.write(paths[-1], samples[start : start + length], 16000)
        start += length
    return paths


def run_job(paths: list[Path], num_actors: int = 1) -> float:
    """Seconds that a job takes on a Ray that runs already."""
    home = BENCH / "job"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    manifest = home / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"uri": str(path)}) + "\n" for path in paths))
    begun = time.perf_counter()
    diarize_corpus(
        str(manifest), str(home / "out"), num_actors=num_actors, report=lambda line: None
    )
    return time.perf_counter() - begun


def run_engine(pipeline, paths: list[Path]) -> float:
    begun = time.perf_counter()
    for _ in pipeline([str(path) for path in paths]):
        pass
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three recordings, once")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    paths = make_recordings(3 if arguments.quick else 20)
    torch.set_num_threads(arguments.threads)
    pipeline = Pipeline.from_pretrained()
    run_engine(pipeline, paths[:1])
    ray.init(
        "local",
        num_cpus=arguments.threads + 1,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    sides = {
        "in process": lambda p: run_engine(pipeline, p),
        "Ray job": run_job,
        "two actors": lambda p: run_job(p, num_actors=2),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(1 if arguments.quick else 3):
        for side, run in sides.items():
            startup, whole = run(paths[:1]), run(paths)
            seconds[side].append(whole - startup)
            print(f"  run {number + 1}: {side} {whole:.1f} s, {startup:.1f} s of it start-up")
    ray.shutdown()
    medians = {side: median(values) for side, values in seconds.items()}
    overhead = medians["Ray job"] / medians["in process"] - 1
    audio_seconds = sum(soundfile.info(path).duration for path in paths[1:])
    for side, value in medians.items():
        print(f"  {side:10} {value:7.1f} s after start-up for {audio_seconds:.0f} s of audio")
    print(f"  overhead of the Ray job: {overhead:+.1%}")
    print(f"  two actors: {medians['two actors'] / medians['Ray job']:.2f} x the time of one")
    if arguments.json:
        result = {
            "benchmark": "ray_overhead",
            "audio_seconds": audio_seconds,
            "threads": arguments.threads,
            "seconds": seconds,
            "overhead": overhead,
        }
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
