"""A corpus job for `benchmarks/kills.py`, which kills, stops and wakes it.

Takes JSON: manifest, output; and optionally `silence` (of the lock, in s), `clock` (s by which this
machine's clock is wrong), `pause` (s that inference takes longer, a pack), `stop_at` (the step of
the end of the run, counted from 1, before which this process stops itself), `log` (a line a step).
"""

import json
import os
import signal
import sys
import time

asked = json.loads(sys.argv[1])
now = time.time
time.time = lambda: now() + asked.get("clock", 0.0)

from raydiar.corpus.job import bookkeeping, decoding, graph, run  # noqa: E402
from raydiar.corpus.job.stages import LocalInferenceStage  # noqa: E402
from raydiar.storage import lock  # noqa: E402
from raydiar.storage.folder import Folder  # noqa: E402

lock.SILENCE = asked.get("silence", lock.SILENCE)
decoding.PACK_SECONDS = 5.0  # so that a job of seconds has a middle


class SlowInference(LocalInferenceStage):
    def __call__(self, pack):
        time.sleep(asked.get("pause", 0.0))
        return super().__call__(pack)


def stopping(call):
    """Let this process stop before its n-th step, as SIGSTOP from outside would."""

    def step(folder, *arguments, **options):
        if counted["on"]:
            counted["steps"] += 1
            if counted["steps"] == asked.get("stop_at"):
                print("stopped before", call.__name__, *arguments[:1], flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
        return call(folder, *arguments, **options)

    return step


counted = {"on": False, "steps": 0}
finish = run.finish


def finish_counted(*arguments, **options):
    counted["on"] = True
    result = finish(*arguments, **options)
    return result


if asked.get("pause"):
    graph.LocalInferenceStage = SlowInference
if "stop_at" in asked:
    for name in ("read", "publish", "replace", "remove", "delete", "versions", "list"):
        setattr(Folder, name, stopping(getattr(Folder, name)))
    run.finish = finish_counted
    lock.OutputLock._renew = lambda self: self._released.wait()  # would be a step at any time
print("begins", flush=True)
summary = run.diarize_corpus(asked["manifest"], asked["output"], device="cpu", num_actors=1)
print("ended", json.dumps({"processed": summary.num_processed, "steps": counted["steps"]}))
assert bookkeeping.finish is finish
