"""How much a job holds in memory, however long it runs and whatever comes last.

Real decoding, clustering, writing and transport; inference is a sleep that gives LocalSpeakers of
the true size, since hundreds of hours through real networks take days without a GPU.

    python benchmarks/streaming.py [--quick] [--json FILE]

- 200, then 2,000 recordings of 10 min through two actors: peak bytes in the object store. Goal:
  they do not grow with the number of recordings.
- A recording of 24 h that comes last, after 100 of 10 min: peak resident memory of each stage's
  processes, and how long the other actor has nothing to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import ray
from peer import BENCH
from ray._private.internal_api import node_stats

from raydiar.corpus.job import graph, stages
from raydiar.corpus.job.attempts import Attempts
from raydiar.corpus.job.run import diarize_corpus
from raydiar.inference.batches import Slice
from raydiar.local_speakers import LocalSpeakers
from raydiar.windows import WindowGrid

SPEED = 5000.0  # of the inference that is slept, in seconds of audio a second
DIMENSION = 192


class SleepingInference(stages.LocalInferenceStage):
    """Gives LocalSpeakers of two people who take turns, and notes when it was busy."""

    def __init__(self, pipeline, device, num_threads, coordinator):
        self._attempts, self._failure = Attempts(coordinator), None
        self._inference = SimpleNamespace(grid=WindowGrid())
        threading.Thread(target=stages._end_with, args=(coordinator,), daemon=True).start()
        self._busy = (BENCH / "busy" / f"{os.getpid()}.jsonl").open("a")

    def _run(self, sources):
        found = []
        for source in sources:
            begun = time.time()
            samples = source.samples if isinstance(source, Slice) else source
            samples.max(initial=0)  # reads it, as networks would
            time.sleep(len(samples) / 16000 / SPEED)
            found.append(
                of_part(source) if isinstance(source, Slice) else local_speakers(len(source))
            )
            self._busy.write(json.dumps([begun, time.time(), len(samples)]) + "\n")
            self._busy.flush()
        return found


def of_part(part: Slice) -> LocalSpeakers:
    num_samples = part.num_samples or part.first_sample + len(part.samples)
    local = local_speakers(num_samples, part.num_windows)
    owners = local.owners + np.int32([part.first_window, 0])
    return replace(local, owners=owners, first_window=part.first_window)


def local_speakers(num_samples: int, num_windows: int | None = None) -> LocalSpeakers:
    grid = WindowGrid()
    num_windows = num_windows or grid.num_windows(num_samples)
    random = np.random.default_rng(num_samples)
    active = np.zeros((num_windows, grid.num_frames, 3), bool)
    active[:, : grid.num_frames // 2, 0] = True
    active[:, grid.num_frames // 2 :, 1] = True
    owners = np.stack([np.arange(num_windows).repeat(2), np.tile([0, 1], num_windows)], axis=1)
    voices = random.standard_normal((2, DIMENSION))
    embeddings = voices[owners[:, 1]] + 0.3 * random.standard_normal((len(owners), DIMENSION))
    return LocalSpeakers(
        num_samples=num_samples,
        activity=np.packbits(active.reshape(num_windows, -1), axis=1),
        posteriors=active.astype(np.uint8) * 255,
        embeddings=embeddings.astype(np.float32),
        owners=owners.astype(np.int32),
    )


def noise(seconds: float) -> Path:
    """A WAV file of faint noise; one that long is mostly a hole in the disk."""
    import soundfile

    path = BENCH / f"noise-{seconds:.0f}s.wav"
    if not path.exists():
        block = np.random.default_rng(0).integers(-300, 300, 16000 * 60, np.int16)
        with soundfile.SoundFile(path, "w", 16000, 1, "PCM_16") as file:
            for _ in range(int(seconds // 60)):
                file.write(block)
    return path


class Watch:
    """Samples the object store and the memory of Ray's processes while a job runs."""

    def __init__(self):
        self.store = self.spilled = 0
        self.resident: Counter[str] = Counter()
        [node] = ray.nodes()
        self._raylet = node["NodeManagerAddress"], node["NodeManagerPort"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.2):
            stats = node_stats(*self._raylet, include_memory_info=False).store_stats
            self.store = max(self.store, stats.object_store_bytes_used)
            self.spilled = stats.spilled_bytes_total
            for name, size in anonymous_memory():
                self.resident[name] = max(self.resident[name], size)


def anonymous_memory() -> list[tuple[str, int]]:
    """Bytes of their own, without mapped object store, of the processes that run stages."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "cmdline").read_text().rstrip("\0").split("\0")[0]
            status = (folder / "status").read_text()
        except OSError:
            continue
        stage = next((s for s in ("Decode", "Inference", "Resolve", "Write") if s in name), None)
        if stage is None and "raydiar" in name:
            stage = "decoder child"
        if stage and "RssAnon:" in status:
            found.append((stage, 1024 * int(status.split("RssAnon:")[1].split()[0])))
    return found


def run(name: str, rows: list[dict]) -> dict:
    home = BENCH / "streaming"
    shutil.rmtree(home, ignore_errors=True)
    shutil.rmtree(BENCH / "busy", ignore_errors=True)
    home.mkdir(parents=True)
    (BENCH / "busy").mkdir()
    manifest = home / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    begun = time.time()
    with Watch() as watch:
        summary = diarize_corpus(
            str(manifest), str(home / "out"), num_actors=2, report=lambda line: None
        )
    assert summary.num_ok == len(rows), summary
    result = {
        "benchmark": "streaming",
        "run": name,
        "recordings": len(rows),
        "audio_hours": summary.audio_seconds / 3600,
        "seconds": time.time() - begun,
        "peak_store_bytes": watch.store,
        "spilled_bytes": watch.spilled,
        "peak_anonymous_bytes": dict(watch.resident),
        **waiting(),
    }
    print(
        f"  {name}: {result['audio_hours']:.0f} h in {result['seconds']:.0f} s; object store at "
        f"most {watch.store / 1e9:.2f} GB, spilled {watch.spilled / 1e9:.2f} GB"
    )
    for stage, size in sorted(watch.resident.items()):
        print(f"    {stage}: at most {size / 1e6:.0f} MB of its own in one process")
    print(f"    one actor idle at the end for {result['idle_at_end_seconds']:.1f} s")
    return result


def waiting() -> dict[str, float]:
    """How much earlier one actor was done for good than the other."""
    ends = []
    for file in (BENCH / "busy").glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        ends += [max(end for _, end, _ in lines)] if lines else []
    return {"idle_at_end_seconds": max(ends) - min(ends)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of it")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    graph.LocalInferenceStage = SleepingInference
    part = 10 if arguments.quick else 1
    short, long = noise(600), noise(86400 // part)
    ray.init(
        "local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )
    few = [{"uri": str(short), "recording_id": f"{n}", "duration": 600} for n in range(200 // part)]
    many = [
        {"uri": str(short), "recording_id": f"{n}", "duration": 600} for n in range(2000 // part)
    ]
    results = [run(f"{len(rows)} recordings of 10 min", rows) for rows in (few, many)]
    last = [*few[: len(few) // 2], {"uri": str(long), "duration": 86400 // part}]
    results.append(run(f"a recording of {24 / part:g} h after {len(few) // 2} of 10 min", last))
    ray.shutdown()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
