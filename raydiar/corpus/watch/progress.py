"""What a run has done so far: counts for the log, for run.json, and for the limit on failures.

How much audio a corpus holds is known beforehand only where its manifest states all seconds. Else
it is told, as is the time left, from what the recordings and shards so far turned out to hold.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

from raydiar.errors import JobFailed

RECENT = 1000  # recordings that the limit on failures looks back on
FIRST = 20  # recordings that, if storage refuses them all, show that it refuses everything
_REFUSED = "StorageDenied"
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
    num_rows_before : int
        Recordings that the output held then and that this run does not do again, of this manifest
        or another.
    num_shards, num_shards_read : int
        Shards that this run has to read, and has read and written.
    num_ok : int
        Recordings diarized by this run.
    errors : Counter
        Error rows written by this run, by type.
    audio_seconds : float
        Diarized by this run.
    num_shard_rows : int
        Rows that this run wrote of shards.
    stated_seconds, stated_seconds_done : float
        What this run has to do, and what of it is done, as far as the manifest states seconds.
    stated_all : bool
        Whether it states those of every recording.
    begun, updated : str
        When the run began, and when these numbers were true: ISO 8601, UTC.
    wall_seconds, processing_seconds : float
        Since the run began, and since the cluster was at hand.
    step_seconds : Counter
        Spent in each step, summed over processes.
    queues : dict
        Packs that wait now before each stage.
    num_actors, num_busy_actors : int
        Inference actors now, and those of them that have a pack.
    actor_seconds, waiting_seconds : float
        Time of all inference actors, and of it that without a pack.
    price : float or None
        Of one actor an hour, in any currency: of a GPU or the CPUs that it holds, with their share
        of the nodes.
    device : str
    placement : dict
        See `raydiar.corpus.job.placement.Placement`.
    notices : list of str
        What the user should hear of the machines: nodes that are left out.
    versions : dict
        Of raydiar, python, ray and torch.
    state : str
        "running", "done" or "stopped"
    """

    run: str
    manifest: str
    output: str
    num_recordings: int = 0
    num_done_before: int = 0
    num_rows_before: int = 0
    num_shards: int = 0
    num_shards_read: int = 0
    num_ok: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    audio_seconds: float = 0.0
    num_shard_rows: int = 0
    stated_seconds: float = 0.0
    stated_seconds_done: float = 0.0
    stated_all: bool = False
    begun: str = ""
    updated: str = ""
    wall_seconds: float = 0.0
    processing_seconds: float = 0.0
    step_seconds: Counter[str] = field(default_factory=Counter)
    queues: dict[str, int] = field(default_factory=dict)
    num_actors: int = 0
    num_busy_actors: int = 0
    actor_seconds: float = 0.0
    waiting_seconds: float = 0.0
    price: float | None = None
    device: str = ""
    placement: dict = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    state: str = "running"

    def __post_init__(self):
        self._begun_at, self._processing_at = time.monotonic(), None
        self.begun = self.begun or _now()

    @classmethod
    def from_record(cls, record: dict) -> RunSummary:
        """What `record` gave, as read from `run.json`."""
        known = {f.name: record[f.name] for f in fields(cls) if f.name in record}
        for name in ("errors", "step_seconds"):
            known[name] = Counter(known.get(name))
        return cls(**known)

    def record(self) -> dict:
        """All of it as JSON-able values."""
        # copied, since they may grow in another thread while they are written
        copies = {name: dict(getattr(self, name)) for name in ("errors", "step_seconds")}
        values = {f.name: copies.get(f.name, getattr(self, f.name)) for f in fields(self)}
        told = ("hours_per_hour", "wait_share", "cost", "cost_per_hour")
        return values | {name: getattr(self, name) for name in told}

    def begin_processing(self) -> None:
        self._processing_at = time.monotonic()

    def tick(self) -> None:
        """Bring the times up to date."""
        now, self.updated = time.monotonic(), _now()
        self.wall_seconds = now - self._begun_at
        if self._processing_at is not None:
            self.processing_seconds = now - self._processing_at

    @property
    def num_known(self) -> int:
        """Recordings that this run has to do."""
        return self.num_recordings - self.num_done_before

    @property
    def part_done(self) -> float:
        """Of the work of this run, from 0 to 1, by stated seconds or by recordings and shards."""
        if self.stated_all:
            return self.stated_seconds_done / self.stated_seconds if self.stated_seconds else 0.0
        outside = self.num_known - self.num_shard_rows
        done = self.num_processed - self.num_shard_rows + self.num_shards_read
        return min(1.0, done / (outside + self.num_shards)) if outside + self.num_shards else 0.0

    @property
    def known_seconds(self) -> float | None:
        """Audio that this run has to do; None if nothing tells yet."""
        if self.stated_all:
            # what a recording really lasted counts where it is known
            left = max(0.0, self.stated_seconds - self.stated_seconds_done)
            return self.audio_seconds + left
        return self.audio_seconds / self.part_done if self.part_done else None

    @property
    def speed(self) -> float:
        """Times real time."""
        return self.audio_seconds / self.processing_seconds if self.processing_seconds else 0.0

    @property
    def hours_per_hour(self) -> float:
        """Hours of audio that one hour of the cluster diarizes."""
        return self.speed

    @property
    def wait_share(self) -> float | None:
        """Share of the inference actors' time, hence of the GPUs', in which they had no pack."""
        return self.waiting_seconds / self.actor_seconds if self.actor_seconds else None

    @property
    def cost(self) -> float | None:
        """Of the inference actors so far; None without a price."""
        return None if self.price is None else self.price * self.actor_seconds / 3600

    @property
    def cost_per_hour(self) -> float | None:
        """Of one hour of audio; None without a price, and before anything is done."""
        if self.cost is None or not self.audio_seconds:
            return None
        return self.cost / (self.audio_seconds / 3600)

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before anything is done."""
        if not self.part_done:
            return None
        return self.processing_seconds * (1 - self.part_done) / self.part_done

    @property
    def num_errors(self) -> int:
        return self.errors.total()

    @property
    def num_processed(self) -> int:
        return self.num_ok + self.num_errors

    def saw_actors(self, running: int, busy: int, seconds: float) -> None:
        """Count how many inference actors there were for so long, and how many had a pack."""
        self.num_actors, self.num_busy_actors = running, busy
        self.actor_seconds += running * seconds
        self.waiting_seconds += (running - busy) * seconds

    def add(self, receipt: dict) -> None:
        """Count what a write task published (`stages.RECEIPT`)."""
        self.num_ok += receipt["ok"]
        self.errors.update(receipt["errors"])
        self.audio_seconds += receipt["audio_seconds"]
        self.stated_seconds_done += receipt["stated_seconds"]
        for part in receipt["shards"]:
            had_a_row = part["num_done"]
            self.num_shard_rows += part["num_rows"]
            self.num_recordings += part["num_rows"] + had_a_row
            self.num_done_before += had_a_row
        for step in STEPS:
            self.step_seconds[step] += sum(receipt[f"{step}_seconds"])

    def __str__(self) -> str:
        speed = self.audio_seconds / self.wall_seconds if self.wall_seconds else 0.0
        text = (
            f"{self.num_processed} recordings processed: {self.num_ok} ok, {self.num_errors} "
            f"errors; {self.num_done_before} of {self.num_recordings} were done before.\n"
            f"{self.audio_seconds / 3600:.2f} h of audio in {self.wall_seconds:.0f} s "
            f"({speed:.1f} x real time)"
        )
        if work := told_work(self):
            text += f"\n{work}"
        for kind, count in self.errors.most_common():
            text += f"\n  {count} x {kind}"
        return text


class FailureLimit:
    """Stops a job in which too many of the last 1,000 recordings failed.

    Or in which storage refused access to each of the first 20: that is one URL's failure no more.

    Parameters
    ----------
    most : int
        Failures among them that are still borne.
    """

    def __init__(self, most: int):
        self.most = most
        self._only_refused = True  # as far as the job has come
        self._recent: deque[str | None] = deque(maxlen=RECENT)

    def add(self, receipt: dict) -> None:
        """
        Raises
        ------
        JobFailed
        """
        self._recent.extend([None] * receipt["ok"] + receipt["errors"])
        failures = Counter(kind for kind in self._recent if kind)
        self._only_refused &= failures.keys() <= {_REFUSED} and None not in self._recent
        if self._only_refused and failures[_REFUSED] >= FIRST:
            raise JobFailed(
                f"the storage refused access to all of the first {failures[_REFUSED]} recordings. "
                "Check the credentials of the job's nodes; then do these again with "
                "--retry-errors."
            )
        if failures.total() > self.most:
            listed = ", ".join(f"{count} x {kind}" for kind, count in failures.most_common(3))
            raise JobFailed(
                f"{failures.total()} of the last {len(self._recent)} recordings failed ({listed}): "
                "something is wrong with more than single recordings. Their error rows are in the "
                "output; remove the cause, or allow more with --max-failures."
            )


def told_work(summary: RunSummary) -> str:
    """How busy the inference actors were and what an hour of audio costs; empty before that."""
    parts = []
    if summary.wait_share is not None:
        hours = summary.actor_seconds / 3600
        parts.append(f"{hours:,.2f} actor hours, {summary.wait_share:.0%} of them waiting")
    if summary.cost_per_hour is not None:
        parts.append(f"cost {summary.cost:,.4g}, {summary.cost_per_hour:.3g} an hour of audio")
    return "; ".join(parts)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
