"""What `make bench` runs: each benchmark in a process of its own, results in `.bench/results`.

python benchmarks/run.py                 all of them (an hour on two cores)
python benchmarks/run.py resnet34 memory
python benchmarks/run.py --quick         a small version of each, to see that they work
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / ".bench/results"

# name: command, and what makes it small
BENCHMARKS = {
    "resnet34": (["engine.py", "resnet34"], ["--quick"]),
    "campplus": (["engine.py", "campplus"], ["--quick"]),
    "detection": (["detection.py"], ["--quick"]),
    "inference_parity": (["inference_parity.py"], ["--quick"]),
    "memory": (["memory.py"], ["--quick"]),
    "ray_overhead": (["ray_overhead.py"], ["--quick"]),
    "clips": (["clips.py"], ["--quick"]),
    "nodes": (["nodes.py"], ["--quick"]),
    "resolve_long": (["resolve_long.py"], ["--hours", "0.5"]),
    "streaming": (["streaming.py"], ["--quick"]),
    "scale": (["scale.py"], ["--quick"]),
    "fuzz": (["fuzz.py"], ["--seconds", "20"]),
    "decoding": (["decoding.py"], ["--minutes", "0.5", "--repeats", "1"]),
    "verification": (["verification.py"], ["--people", "20"]),
    "voiceprints": (["voiceprints.py"], ["--voices", "20000", "--queries", "100"]),
    "serving": (["serving.py"], ["--seconds", "10", "--rounds", "1"]),
    "serving_faults": (["serving_faults.py"], ["--seconds", "20"]),
    "serving_tenants": (["serving_tenants.py"], ["--seconds", "20"]),
    "evaluation": (["evaluation.py"], ["--recordings", "12"]),
    "kills": (["kills.py"], ["--quick"]),
    "training": (["training.py"], ["--quick"]),
    "training_index": (["training_index.py"], ["--hours", "100"]),
    "exports": (["exports.py"], []),
    "elastic": (["elastic.py"], []),
    "listing": (["listing.py"], ["--rows", "20000"]),
    "linking": (["linking.py"], ["--people", "8", "--conversations", "6"]),
    "linking_scale": (["linking_scale.py"], ["--voices", "3000"]),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"unknown benchmarks {sorted(unknown)}; choose among {', '.join(BENCHMARKS)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in arguments.names or BENCHMARKS:
        (script, *options), quick = BENCHMARKS[name]
        command = [sys.executable, HERE / script, *options, "--json", RESULTS / f"{name}.json"]
        print(f"==> {name}", flush=True)
        begun = time.monotonic()
        if subprocess.run(command + quick * arguments.quick).returncode:
            failed.append(name)
        print(f"    took {time.monotonic() - begun:.0f} s\n", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
