"""Peak memory of a long recording in one process. Goal: 4 h in less than 2.5 GB.

python benchmarks/memory.py [--hours 4] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from engine import conversation
from peer import Worker


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hours", type=float, default=4.0)
    parser.add_argument("--quick", action="store_true", help="three minutes instead")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    hours = 0.05 if arguments.quick else arguments.hours
    worker = Worker(sys.executable, "raydiar_worker.py", [], arguments.threads)
    run = worker.run(conversation(3600 * hours))
    worker.close()
    result = {
        "benchmark": "memory",
        "audio_seconds": 3600 * hours,
        "seconds": run["seconds"],
        "real_time_factor": run["seconds"] / (3600 * hours),
        "peak_rss_mb": run["peak_rss_mb"],
        "num_turns": run["rttm"].count("\n"),
    }
    print(
        f"  {hours:g} h in {run['seconds']:.0f} s (real-time factor "
        f"{result['real_time_factor']:.3f}), peak RSS {run['peak_rss_mb']:.0f} MB, "
        f"{result['num_turns']} turns"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
