"""Voice activity detection against the default diarization, and against pyannote.audio's own.

Same machine, threads, weights and recording, taking turns. `exact` looks at each instant ten
times, as pyannote.audio does; `fast` twice.

    python benchmarks/detection.py [--quick] [--seconds 600] [--repeats 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from engine import conversation
from peer import Worker, pyannote_python
from pyannote.metrics.detection import DetectionErrorRate

from raydiar import hub
from raydiar.diarization import read_rttm
from raydiar.weights import SEGMENTATION_3_0


def speech(text: str):
    """Regions of an RTTM as an Annotation."""
    with tempfile.NamedTemporaryFile("w", suffix=".rttm") as file:
        file.write(text)
        file.flush()
        return read_rttm(file.name)["clip"].speaker_diarization


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    parser.add_argument("--seconds", type=int, default=600, help="of the recording")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    seconds, repeats = (30, 1) if arguments.quick else (arguments.seconds, arguments.repeats)
    weights = str(hub.fetch(SEGMENTATION_3_0.uri))
    workers = {
        "pyannote": Worker(
            pyannote_python(), "vad_worker.py", ["pyannote", weights], arguments.threads
        )
    }
    for side in ("exact", "fast", "diarization"):
        workers[side] = Worker(sys.executable, "vad_worker.py", [side], arguments.threads)
    path = conversation(seconds)
    runs: dict[str, list[dict]] = {side: [] for side in workers}
    for number in range(repeats):
        for side, worker in workers.items():
            runs[side].append(worker.run(path))
            print(f"  run {number + 1}: {side} {runs[side][-1]['seconds']:.1f} s", flush=True)
    for worker in workers.values():
        worker.close()
    medians = {side: median(run["seconds"] for run in runs[side]) for side in runs}
    reference = speech(runs["pyannote"][0]["rttm"])
    result = {"audio_seconds": seconds, "threads": arguments.threads, "median_seconds": medians}
    for side in ("exact", "fast"):
        error = DetectionErrorRate()(reference, speech(runs[side][0]["rttm"]))
        result[side] = {
            "times_diarization": medians["diarization"] / medians[side],
            "times_pyannote": medians["pyannote"] / medians[side],
            "difference_to_pyannote": error,
        }
        print(
            f"  {side}: {result[side]['times_diarization']:.1f} x as fast as the diarization, "
            f"{result[side]['times_pyannote']:.1f} x as pyannote.audio; {error:.2%} other regions"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
