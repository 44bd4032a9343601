"""The engine against pyannote.audio 4.0.7: same machine, threads and weights, taking turns.

`resnet34`: the reference ResNet34 with segmentation-3.0 on a 60 s clip. Expected from counting
work: at least 2.5 times faster, since its trunk runs once per window instead of three times.
`campplus`: the default pipeline on 10 min, against pyannote's 3.1 pipeline with a CAM++ adapter.

    python benchmarks/engine.py resnet34 [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median

import numpy as np
import soundfile
from peer import BENCH, PLDA, RESNET34, SHARED, Worker, pyannote_python
from pyannote.metrics.diarization import DiarizationErrorRate

from raydiar import audio, hub
from raydiar.diarization import read_rttm
from raydiar.pipelines.config import DEFAULT

SAMPLE = "pypi://pyannote.audio==4.0.7/pyannote/audio/sample/sample.wav"


def conversation(seconds: float) -> Path:
    """Real conversation of any length: clips of meetings one after the other, again and again."""
    clips = sorted((SHARED / "audio/ami-clips").glob("*.flac")) or [hub.fetch(SAMPLE)]
    samples = np.concatenate([audio.decode(clip) for clip in clips])
    repeats = int(np.ceil(seconds * 16000 / len(samples)))
    path = BENCH / f"conversation-{seconds:g}s.wav"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.tile(samples, repeats)[: int(seconds * 16000)], 16000)
    return path


def difference(tmp: Path, one: str, other: str) -> float:
    """Diarization error rate of one RTTM against the other."""
    outputs = []
    for name, text in (("one", one), ("other", other)):
        (tmp / f"{name}.rttm").write_text(text)
        outputs.append(read_rttm(tmp / f"{name}.rttm")["clip"].speaker_diarization)
    return DiarizationErrorRate()(*outputs)


def compare(name: str, seconds: float, repeats: int, threads: int) -> dict:
    segmentation = str(hub.fetch(DEFAULT.segmentation.uri))
    theirs = [segmentation, str(RESNET34), str(PLDA)]
    ours = [str(RESNET34)]
    if name == "campplus":
        theirs += ["--campplus", str(hub.fetch(DEFAULT.embedding.uri))]
        ours = []
    workers = {
        "pyannote": Worker(pyannote_python(), "pyannote_worker.py", theirs, threads),
        "raydiar": Worker(sys.executable, "raydiar_worker.py", ours, threads),
    }
    path = conversation(seconds)
    runs: dict[str, list[dict]] = {side: [] for side in workers}
    for number in range(repeats):
        for side, worker in workers.items():
            runs[side].append(worker.run(path))
            print(f"  run {number + 1}: {side} {runs[side][-1]['seconds']:.1f} s", flush=True)
    for worker in workers.values():
        worker.close()
    medians = {side: median(run["seconds"] for run in runs[side]) for side in runs}
    result = {
        "benchmark": name,
        "audio_seconds": seconds,
        "threads": threads,
        "ratio": medians["pyannote"] / medians["raydiar"],
        "der_between": difference(BENCH, runs["pyannote"][-1]["rttm"], runs["raydiar"][-1]["rttm"]),
    }
    for side in runs:
        result[side] = {
            "seconds": [run["seconds"] for run in runs[side]],
            "median_seconds": medians[side],
            "real_time_factor": medians[side] / seconds,
            "peak_rss_mb": runs[side][-1]["peak_rss_mb"],
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=["resnet34", "campplus"])
    parser.add_argument("--quick", action="store_true", help="one short run of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not RESNET34.is_file() or not PLDA.is_dir():
        print(f"  skipped: needs {RESNET34.name} and a PLDA (pyannote asks for one), in {SHARED}")
        return
    seconds = {"resnet34": 60, "campplus": 600}[arguments.name]
    if arguments.quick:
        result = compare(arguments.name, 20, 1, arguments.threads)
    else:
        result = compare(arguments.name, seconds, 3, arguments.threads)
    for side in ("pyannote", "raydiar"):
        figures = result[side]
        print(
            f"  {side:9} {figures['median_seconds']:8.1f} s   real-time factor "
            f"{figures['real_time_factor']:.3f}   peak RSS {figures['peak_rss_mb']:.0f} MB"
        )
    print(f"  raydiar is {result['ratio']:.2f} x as fast; DER between: {result['der_between']:.2%}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
