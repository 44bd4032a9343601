"""Scoring of VoxConverse's 216 references against perturbed copies: ours beside pyannote.metrics.

Both give DER with its parts, JER, speech detection and purity and coverage of changes; ours also
overlap and speaker counts. Says the largest difference between the two. Prints one JSON line.

    python benchmarks/evaluation.py [--recordings 216]
"""

import argparse
import json
import random
import sys
import time
import warnings
from pathlib import Path

from pyannote.metrics.detection import DetectionErrorRate
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate
from pyannote.metrics.segmentation import SegmentationPurityCoverageFMeasure

from raydiar.diarization import read_rttm
from raydiar.evaluation.diarization import diarization_errors

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from test_evaluation import KINDS, annotation, perturbed

SHARED = Path(__file__).resolve().parents[2] / "shared"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=216)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="'uem' was approximated")
    rng = random.Random(0)
    files = sorted((SHARED / "labels/voxconverse-dev").glob("*.rttm"))[: arguments.recordings]
    seconds, largest, hours = {"raydiar": 0.0, "pyannote.metrics": 0.0}, 0.0, 0.0
    for number, file in enumerate(files):
        [found] = read_rttm(file).values()
        reference = list(found.turns)
        hypothesis = perturbed(reference, KINDS[number % len(KINDS)], rng)
        ref, hyp = annotation(reference), annotation(hypothesis)
        begun = time.perf_counter()
        ours = diarization_errors(reference, hypothesis)
        between = time.perf_counter()
        der = DiarizationErrorRate()(ref, hyp, detailed=True)
        jer = JaccardErrorRate()(ref, hyp)
        speech = DetectionErrorRate()(ref, hyp, detailed=True)
        changes = SegmentationPurityCoverageFMeasure()(ref, hyp, detailed=True)
        seconds["raydiar"] += between - begun
        seconds["pyannote.metrics"] += time.perf_counter() - between
        hours += ours.evaluated / 3600
        largest = max(
            largest,
            abs(der["diarization error rate"] - ours.diarization_error_rate),
            abs(jer - ours.jaccard_error_rate),
            abs(speech["detection error rate"] - ours.detection_error_rate),
            abs(changes["pty intersection duration"] - ours.purity_sum),
            abs(changes["cvg intersection duration"] - ours.coverage_sum),
        )
    result = {
        "recordings": len(files),
        "hours": round(hours, 2),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "times_as_fast": round(seconds["pyannote.metrics"] / seconds["raydiar"], 1),
        "largest_difference": largest,
    }
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
