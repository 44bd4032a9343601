"""Decode damaged, truncated and contradictory files of every container for ten minutes.

Each must end in samples or in one of our errors, within its time and 1.2 times its PCM in memory.
Files that do not are kept, and the exit status is 1. The tests do the same for half a minute.

    python benchmarks/fuzz.py [--seconds 600] [--seed N] [--keep FOLDER] [--json FILE]
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from audio_fuzz import fuzz


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument(
        "--seed", type=int, default=time.time_ns(), help="default: another each time"
    )
    parser.add_argument("--keep", type=Path, default=Path(".bench/fuzz"), help="for faulty files")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(Path(folder), arguments.seconds, arguments.seed)
    print(f"seed {arguments.seed}: {report.num_files} files, the slowest {report.slowest:.1f} s")
    for outcome, count in report.outcomes.most_common():
        print(f"{count:8}  {outcome}")
    for number, (fault, content) in enumerate(report.faults):
        arguments.keep.mkdir(parents=True, exist_ok=True)
        path = arguments.keep / f"{arguments.seed}-{number}"
        path.write_bytes(content)
        print(f"FAULT {fault}\n      {path}")
    if arguments.json:
        row = {
            "seed": arguments.seed,
            "files": report.num_files,
            "outcomes": report.outcomes,
            "slowest_seconds": report.slowest,
            "faults": [fault for fault, _ in report.faults],
        }
        arguments.json.write_text(json.dumps(row, indent=2) + "\n")
    return bool(report.faults)


if __name__ == "__main__":
    sys.exit(main())
