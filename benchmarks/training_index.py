"""The index of 10,000 h of labels: how large it is, and how long a worker takes to start with it.

python benchmarks/training_index.py --hours 10000

The RTTMs of VoxConverse are repeated under other names until they are so many hours. No audio is
read: the manifest states the lengths.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raydiar.diarization import read_rttm
from raydiar.training.index import build_index

SHARED = Path(__file__).resolve().parents[2] / "shared"
# what a worker does before its first batch, but for the network and the audio
WORKER = """
import resource, sys, time
import raydiar.training.index, raydiar.training.sources, raydiar.training.labels
begun = time.perf_counter()
index = raydiar.training.index.TrainingIndex(sys.argv[1])
source = raydiar.training.sources.RecordedWindows(index, 10.0)
for number in range(1000):
    recording, start = source.draw(number)
    index.turns(recording)
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - begun, memory)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=10_000)
    parser.add_argument("--json")
    arguments = parser.parse_args()
    labels = sorted((SHARED / "labels/voxconverse-dev").glob("*.rttm"))
    lengths = {path: next(iter(read_rttm(path).values())).duration + 1 for path in labels}
    with tempfile.TemporaryDirectory() as folder:
        manifest, seconds, number = Path(folder) / "m.csv", 0.0, 0
        with open(manifest, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["uri", "rttm", "seconds", "language"])
            while seconds < 3600 * arguments.hours:
                path = labels[number % len(labels)]
                uri = f"s3://recordings/{number:07d}/{path.stem}.wav"
                writer.writerow([uri, path, lengths[path], "en" if number % 3 else "de"])
                seconds, number = seconds + lengths[path], number + 1
        begun = time.perf_counter()
        index = build_index(str(manifest), Path(folder) / "index")
        built = time.perf_counter() - begun
        size = sum(path.stat().st_size for path in (Path(folder) / "index").iterdir())
        command = [sys.executable, "-c", WORKER, str(Path(folder) / "index")]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        start, memory = map(float, said.split())
        command[2] = (
            WORKER.partition("begun")[0]
            + "print(0, resource.getrusage("
            + ("resource.RUSAGE_SELF).ru_maxrss / 1024)")
        )
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        memory -= float(said.split()[1])
        begun = time.perf_counter()
        speakers = index.max_speakers(10.0)
        estimated = time.perf_counter() - begun
        found = {
            "hours": index.seconds / 3600,
            "recordings": len(index),
            "turns": index.num_turns,
            "build_seconds": built,
            "megabytes": size / 1e6,
            "worker_start_seconds": start,
            "worker_megabytes": memory,
            "max_speakers": speakers,
            "max_speakers_seconds": estimated,
        }
    for name, value in found.items():
        print(f"{name:22} {value:,.2f}" if isinstance(value, float) else f"{name:22} {value:,}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
