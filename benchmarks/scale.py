"""What one driver can feed: packs and recordings a second through the graph, and its memory.

The graph, its driver, its plan, its files and its rows are real. Decoding, networks and clustering
are left out, and every second of audio is a thousandth of one, so that a 2-core machine is busy
with nothing but the graph: what comes out is the bound that the driver sets to a cluster of any
size, not the speed of anything else.

    python benchmarks/scale.py [--packs N] [--quick] [--json FILE]

- clips: 30 s each, 60 in a pack of half an hour.
- podcasts: an hour each, a pack of its own, and one file of 24 h among them, which goes in parts.
- slow: clips before inference that sleeps: how many blocks wait before each stage. The bound is
  `raydiar.corpus.job.waiting`'s.
"""

from __future__ import annotations

import argparse
import json
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from peer import BENCH
from streaming import local_speakers

from raydiar.audio.parts import PartedPcm
from raydiar.audio.pcm import PcmBuffer
from raydiar.corpus.job import decoding, graph, run, stages, waiting
from raydiar.corpus.output import dataset
from raydiar.local_speakers import LocalSpeakers

SHRUNK = 1000  # all times and sizes of audio are divided by this
LENGTHS = {"clip": 30.0, "podcast": 3600.0, "day": 86400.0}  # s
SIZES = {"clip": 480_000, "podcast": 57_600_000, "day": 1_382_400_000}  # bytes, at 128 kbit/s


@dataclass(frozen=True)
class NoDecode(decoding.Decode):
    """Gives silence of the length that the name of a recording says."""

    def _decode(self, recording: dict, source):
        kind = recording["recording_id"].partition("-")[0]
        found = []
        pcm = PartedPcm(PcmBuffer(), self.cut, lambda *part: found.append((*part, False, [])))
        pcm.append(np.zeros(int(16 * LENGTHS[kind]), np.int16))
        return [*found, (pcm.kept.samples(), pcm.given, True, [])]


class NoInference(stages.LocalInferenceStage):
    """Gives the same small LocalSpeakers for everything, after a sleep."""

    sleep = 0.0  # s a pack

    def __init__(self, pipeline, device, num_threads, coordinator):
        self._coordinator = coordinator
        threading.Thread(target=stages._end_with, args=(coordinator,), daemon=True).start()
        self._one = local_speakers(16000)

    def __call__(self, table: pa.Table) -> pa.Table:
        pack = stages.Pack(table)
        time.sleep(self.sleep)
        if (part := pack.part) is None:
            found = [self._one] * pack.num_recordings
        else:
            found = [self._part(part)]
        return pack.with_local_speakers(found, pack.errors(), self.sleep).table

    def _part(self, part: dict) -> LocalSpeakers:
        one = self._one
        fields = {name: getattr(one, name) for name in ("activity", "posteriors", "embeddings")}
        place = {"num_samples": part["num_samples"] or part["stop"], "first_window": part["index"]}
        return LocalSpeakers(**fields, owners=one.owners + np.int32([part["index"], 0]), **place)


@dataclass(frozen=True)
class NoResolve(stages.Resolve):
    """Rows without turns."""

    def _row(self, recording, error, warnings, local) -> dict:
        failed = {"type": "Nothing", "message": "", "retryable": False, "attempt": 1}
        return dataset.error_row(recording, failed, self.pipeline)


class Watched(waiting.BoundedWaiting):
    """Notes how much waited before each stage at most."""

    peak: ClassVar[Counter[str]] = Counter()

    def _is_full(self, op) -> bool:
        blocks = self._topology[op].total_enqueued_output_blocks()
        for following in op.output_dependencies:
            blocks += following.internal_input_queue_num_blocks()
            name = following.name
            Watched.peak[name] = max(Watched.peak[name], blocks)
        return super()._is_full(op)


def write_manifest(path: Path, kinds: dict[str, int]) -> None:
    names = [f"{kind}-{n}" for kind, count in kinds.items() for n in range(count)]
    sizes = [SIZES[kind] for kind, count in kinds.items() for _ in range(count)]
    uris = [f"/nowhere/{name}.mp3" for name in names]
    pq.write_table(pa.table({"uri": uris, "recording_id": names, "size": sizes}), path)


def run_job(name: str, kinds: dict[str, int], sleep: float = 0.0) -> dict:
    home = BENCH / "scale"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    write_manifest(home / "m.parquet", kinds)
    Watched.peak.clear()
    NoInference.sleep = sleep
    told: list[tuple[float, int, float, float]] = []  # time, packs, MB and CPU s of the driver
    packs = 0
    receipts_of = graph.receipts_of

    def counted(dataset):
        nonlocal packs
        for receipt in receipts_of(dataset):
            packs += len(receipt["decode_seconds"])
            told.append((time.perf_counter(), packs, resident(), time.process_time()))
            yield receipt

    graph.receipts_of = counted
    try:
        planned = time.perf_counter()
        summary = run.diarize_corpus(
            str(home / "m.parquet"),
            str(home / "out"),
            num_actors=2,
            max_failures=10**9,
            report=lambda line: None,
        )
        whole = time.perf_counter() - planned
    finally:
        graph.receipts_of = receipts_of
    assert summary.num_processed == sum(kinds.values()), summary
    # from the first receipt on: what starts processes is not what feeds them
    (begun, before, _, idle), (ended, after, _, busy) = told[0], told[-1]
    rate = (after - before) / max(ended - begun, 1e-9)
    cpu = (busy - idle) / max(after - before, 1)
    hours = sum(LENGTHS[kind] * count for kind, count in kinds.items()) / 3600
    rows = sum(kinds.values())
    result = {
        "benchmark": "scale",
        "run": name,
        "recordings": rows,
        "packs": packs,
        "seconds": whole,
        "packs_per_second": rate,
        "driver_cpu_seconds_per_pack": cpu,
        "recordings_per_second": rate * rows / packs,
        "times_real_time": rate * hours * 3600 / packs,
        "driver_mb": [told[0][2], told[-1][2]],
        "files": len(list((home / "out").glob("*.parquet"))),
        "waiting": dict(Watched.peak),
    }
    print(
        f"  {name}: {packs:,} packs of {rows:,} recordings in {whole:.0f} s: {rate:.0f} packs/s, "
        f"{result['recordings_per_second']:,.0f} recordings/s, "
        f"{result['times_real_time']:,.0f} x real time; {result['files']:,} files\n"
        f"    driver: {told[0][2]:.0f} to {told[-1][2]:.0f} MB, {1000 * cpu:.1f} ms of CPU a pack"
    )
    print(f"    waited at most: {result['waiting']}", flush=True)
    return result


def resident() -> float:
    """MB of this process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--packs", type=int, default=10_000, help="of clips, and of podcasts")
    parser.add_argument("--quick", action="store_true", help="300 packs of each")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    packs = 300 if arguments.quick else arguments.packs
    graph.LocalInferenceStage, run.Resolve, run.Decode = NoInference, NoResolve, NoDecode
    waiting.BoundedWaiting = Watched
    decoding.PACK_SECONDS, decoding.MOST_SECONDS = 1800 / SHRUNK, 7200 / SHRUNK
    decoding.PART_SECONDS, decoding.OVERLAP_SECONDS = 3600 / SHRUNK, 60 / SHRUNK
    ray.init(
        "local", num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False
    )
    results = [
        run_job("podcasts, one of 24 h", {"podcast": packs // 2, "day": 1}),
        run_job("clips", {"clip": 60 * packs}),
        run_job("clips before slow inference", {"clip": 60 * packs // 10}, sleep=0.05),
    ]
    ray.shutdown()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
