"""The loop of a worker; see `benchmarks/peer.py`."""

import json
import sys
import time
from collections.abc import Callable


def peak_rss_mb() -> float:
    """Largest resident set of this process so far, in MB."""
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def serve(diarize: Callable[[str], str]) -> None:
    """Answer each path on standard input with timings and the RTTM that `diarize` gives."""
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        begun = time.perf_counter()
        rttm = diarize(line.strip())
        seconds = time.perf_counter() - begun
        reply = {"seconds": seconds, "peak_rss_mb": peak_rss_mb(), "rttm": rttm}
        print(json.dumps(reply), flush=True)
