"""A corpus job for `benchmarks/kills.py`, which kills, stops and wakes it.

Takes JSON: manifest, output; and optionally `silence` (of the lock, in s), `clock` (s by which this
machine's clock is wrong), `pause` (s that inference takes, a pack), `gate` (a file that inference
waits for), `stop_at` (the step of the end of the run, counted from 1, before which this process
stops itself). `tiny` is a pickled pipeline and what its networks say of a recording, which stands
for them: nothing here loads torch.
"""

import json
import os
import pickle
import signal
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

asked = json.loads(sys.argv[1])

from raydiar.corpus.job import bookkeeping, decoding, run  # noqa: E402
from raydiar.corpus.job.stages import LocalInferenceStage  # noqa: E402
from raydiar.pipelines.config import PipelineConfig  # noqa: E402
from raydiar.storage import folder, lock  # noqa: E402
from raydiar.storage.folder import Folder  # noqa: E402


class WrongClock(datetime):
    @classmethod
    def now(cls, zone=None):
        return datetime.now(zone) + timedelta(seconds=asked["clock"])


if asked.get("clock"):  # wherever the job asks what time it is
    bookkeeping.datetime = WrongClock
    folder.time = SimpleNamespace(time=lambda: time.time() + asked["clock"])
lock.SILENCE = asked.get("silence", lock.SILENCE)
decoding.PACK_SECONDS = 5.0  # so that a job of seconds has a middle


class TinyInference(LocalInferenceStage):
    """In place of the networks, what they said of such a recording."""

    def __init__(self, *arguments, **options):
        from raydiar.corpus.job import stages

        stages._load = lambda *_: (lambda recordings: [said] * len(recordings), None)
        super().__init__(*arguments, **options)

    def __call__(self, pack):
        time.sleep(asked.get("pause", 0.0))
        while "gate" in asked and not Path(asked["gate"]).exists():
            time.sleep(0.05)
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
    return finish(*arguments, **options)


pipeline, said = pickle.loads(Path(asked["tiny"]).read_bytes())
process = run._process


def process_without_networks(*arguments):
    from raydiar.corpus.job import graph  # brings Ray, which a run without work does not need

    graph.LocalInferenceStage = TinyInference
    process(*arguments)


run._process = process_without_networks
PipelineConfig.localize = lambda self, token=None: pipeline
if "stop_at" in asked:
    for name in ("read", "publish", "replace", "remove", "delete", "versions", "list"):
        setattr(Folder, name, stopping(getattr(Folder, name)))
    run.finish = finish_counted
    lock.OutputLock._renew = lambda self: self._released.wait()  # would be a step at any time
print("begins", flush=True)
summary = run.diarize_corpus(asked["manifest"], asked["output"], device="cpu", num_actors=1)
print("ended", json.dumps({"processed": summary.num_processed, "steps": counted["steps"]}))
