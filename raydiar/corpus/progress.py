"""What a run has done so far: counts for the log, for run.json, and for the limit on failures."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from raydiar.errors import JobFailed

RECENT = 1000  # recordings that the limit on failures looks back on
STEPS = ("decode", "inference", "resolve")


@dataclass
class RunSummary:
    """What a run did.

    Attributes
    ----------
    run, manifest, output : str
    num_recordings : int
        In the manifest, and in its shards as far as these have been read.
    num_done_before : int
        How many of these had a row when the run began.
    num_shards, num_shards_read : int
        Shards that this run has to read, and has read and written.
    num_ok : int
        Recordings diarized by this run.
    errors : Counter
        Error rows written by this run, by type.
    audio_seconds, wall_seconds : float
    step_seconds : Counter
        Spent in each step, summed over processes.
    device : str
    state : str
        "running", "done" or "stopped"
    """

    run: str
    manifest: str
    output: str
    num_recordings: int = 0
    num_done_before: int = 0
    num_shards: int = 0
    num_shards_read: int = 0
    num_ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0
    step_seconds: Counter[str] = field(default_factory=Counter)
    device: str = ""
    state: str = "running"

    @property
    def num_errors(self) -> int:
        return self.errors.total()

    @property
    def num_processed(self) -> int:
        return self.num_ok + self.num_errors

    def add(self, receipt: dict) -> None:
        """Count what a write task published (`stages.RECEIPT`)."""
        self.num_ok += receipt["ok"]
        self.errors.update(receipt["errors"])
        self.audio_seconds += receipt["audio_seconds"]
        for part in receipt["shards"]:
            had_a_row = part["num_done"] or 0
            self.num_recordings += part["num_rows"] + had_a_row
            self.num_done_before += had_a_row
        for step in STEPS:
            self.step_seconds[step] += receipt[f"{step}_seconds"]

    def __str__(self) -> str:
        speed = self.audio_seconds / self.wall_seconds if self.wall_seconds else 0.0
        text = (
            f"{self.num_processed} recordings processed: {self.num_ok} ok, {self.num_errors} "
            f"errors; {self.num_done_before} of {self.num_recordings} were done before.\n"
            f"{self.audio_seconds / 3600:.2f} h of audio in {self.wall_seconds:.0f} s "
            f"({speed:.1f} x real time)"
        )
        for kind, count in self.errors.most_common():
            text += f"\n  {count} x {kind}"
        return text


class FailureLimit:
    """Stops a job in which too many of the last 1,000 recordings failed.

    Parameters
    ----------
    most : int
        Failures among them that are still borne.
    """

    def __init__(self, most: int):
        self.most = most
        self._recent: deque[str | None] = deque(maxlen=RECENT)

    def add(self, receipt: dict) -> None:
        """
        Raises
        ------
        JobFailed
        """
        self._recent.extend([None] * receipt["ok"] + receipt["errors"])
        failures = Counter(kind for kind in self._recent if kind)
        if failures.total() > self.most:
            listed = ", ".join(f"{count} x {kind}" for kind, count in failures.most_common(3))
            raise JobFailed(
                f"{failures.total()} of the last {len(self._recent)} recordings failed ({listed}): "
                "something is wrong with more than single recordings. Their error rows are in the "
                "output; mend the cause, or allow more with --max-failures."
            )


class Reporter:
    """Reports a running job in a line now and then, and says so when nothing finishes.

    Parameters
    ----------
    summary : RunSummary
        Read, never written.
    report : callable
        Takes a line.
    every : float, s
    """

    def __init__(self, summary: RunSummary, report: Callable[[str], None], every: float = 30.0):
        self.summary, self.report, self.every = summary, report, every
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Reporter:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        begun = last_change = time.monotonic()
        last = 0
        while not self._ended.wait(self.every):
            now, done = time.monotonic(), self.summary.num_processed
            if done != last:
                last, last_change = done, now
            self.report(self._line(now - begun, now - last_change))

    def _line(self, elapsed: float, quiet: float) -> str:
        summary = self.summary
        known = summary.num_recordings - summary.num_done_before
        line = (
            f"{summary.num_processed} of {known} recordings, "
            f"{summary.audio_seconds / 3600:.2f} h, {summary.audio_seconds / elapsed:.1f} x real "
            f"time, {summary.num_errors} errors"
        )
        if summary.num_shards:
            line += f", {summary.num_shards_read} of {summary.num_shards} shards"
        # nothing but long recordings explains this; Ray Data's own time-out would end the job
        return line if quiet < 600 else f"{line}; nothing finished for {quiet / 60:.0f} min"
