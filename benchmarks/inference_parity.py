"""Inference against pyannote.audio 4.0.7, called as a black box: the largest difference.

segmentation-3.0 on the AMI clips, windows every 0.5 s and 1 s: decisions of each window,
aggregated speech, and log-probabilities.

    python benchmarks/inference_parity.py [--quick]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from peer import SHARED, Worker, pyannote_python

from raydiar import Inference, hub
from raydiar.weights import SEGMENTATION_3_0

ATOL = 1e-4


def ours(weights: Path, clip: Path, step: float) -> dict[str, np.ndarray]:
    joined = Inference(
        weights, step=step, pre_aggregation_hook=lambda s: np.max(s, axis=-1, keepdims=True)
    )
    raw = Inference(weights, step=step, skip_conversion=True, skip_aggregation=True)
    return {
        "windows": Inference(weights, step=step)(clip).data,
        "joined": joined(clip).data,
        "raw": raw(clip).data,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one clip, windows every 1 s")
    arguments = parser.parse_args()
    weights = hub.fetch(SEGMENTATION_3_0.uri)
    clips = sorted((SHARED / "audio/ami-clips").glob("trn*.flac"))
    steps = [1.0] if arguments.quick else [0.5, 1.0]
    worker = Worker(pyannote_python(), "inference_worker.py", [str(weights)], os.cpu_count())
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for clip in clips[:1] if arguments.quick else clips:
            for step in steps:
                into = Path(scratch) / f"{clip.stem}-{step}.npz"
                worker.run(f"{clip}|{into}|{step}")
                theirs = np.load(into)
                for name, scores in ours(weights, clip, step).items():
                    difference = float(np.abs(scores - theirs[name]).max())
                    worst = max(worst, difference)
                    print(f"  {clip.stem} every {step} s, {name}: {difference:.1e}", flush=True)
    worker.close()
    print(f"  largest difference: {worst:.1e} (at most {ATOL:g} is wanted)")
    return 0 if worst <= ATOL else 1


if __name__ == "__main__":
    sys.exit(main())
