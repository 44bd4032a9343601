"""Where an output stands, of a job that runs or not, for whoever may read it.

Rows are counted in the dataset itself; rate and time left are the run's own, from `run.json`.
Nothing is written or locked. Files hold few rows each, so what costs time is opening them: all are
read at once in threads, and small ones of an object store with a single request.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydiar.corpus.hashes import hash_ids
from raydiar.corpus.output.dataset import Inventory, in_precedence, pipeline_of, read_schema
from raydiar.corpus.watch.progress import RunSummary, told_work
from raydiar.corpus.watch.record import read_record
from raydiar.corpus.watch.reporting import duration, hours
from raydiar.errors import OutputError
from raydiar.storage.folder import Folder
from raydiar.storage.lock import living_holder

_THREADS = 32
_ONE_REQUEST_BYTES = 2**21  # up to here a whole file costs no more than its footer and two columns


@dataclass(frozen=True)
class ErrorKind:
    """Error rows of one type, and the first of them.

    Attributes
    ----------
    type : str
    count : int
    retryable : int
        How many of them a retry may end.
    recording_id, message : str
        Of the first.
    """

    type: str
    count: int
    retryable: int
    recording_id: str
    message: str


@dataclass(frozen=True)
class Status:
    """Where an output stands.

    Attributes
    ----------
    output : str
    state : str
        "starting" (a run reads its manifest), "running", "done", "stopped" (by an error that the
        run reported), "killed" (it ended without a word), or "unknown" where no run left a record.
    num_ok, num_errors : int
        Recordings in the output.
    num_known : int or None
        Recordings in the output once the latest run has done all of its manifest.
    audio_seconds : float
        In the output.
    known_seconds : float or None
        In the output then; `known_exactly` says whether nothing of it is estimated.
    speed : float or None
        Of the latest run, in times real time.
    seconds_left : float or None
        Of a run that runs and has finished something.
    errors : tuple of ErrorKind
        Commonest first.
    fingerprint : str or None
        Of the pipeline that made the output.
    wait_share : float or None
        Of the latest run: share of the inference actors' time without a pack.
    queues : dict
        Packs that wait before each stage of a run that runs.
    cost, cost_per_hour : float or None
        Of the latest run, and of an hour of its audio, if it was told a price.
    work : str
        The same in words.
    run, manifest, updated : str or None
        The latest run, and when it last told of itself.
    """

    output: str
    state: str
    num_ok: int
    num_errors: int
    num_known: int | None
    audio_seconds: float
    known_seconds: float | None
    known_exactly: bool
    speed: float | None
    seconds_left: float | None
    errors: tuple[ErrorKind, ...]
    fingerprint: str | None
    wait_share: float | None
    queues: dict[str, int]
    cost: float | None
    cost_per_hour: float | None
    work: str
    run: str | None
    manifest: str | None
    updated: str | None

    @property
    def num_done(self) -> int:
        return self.num_ok + self.num_errors

    def to_dict(self) -> dict:
        return asdict(self)

    def __str__(self) -> str:
        state = self.state
        if self.run:
            speed = "" if self.speed is None else f", {self.speed:,.1f} x real time"
            state += f" (run {self.run}{speed})"
        if self.seconds_left is not None:
            state += f", ≈{duration(self.seconds_left)} left"
        of_known = "" if self.num_known is None else f" of {self.num_known:,}"
        known = self.known_seconds
        about = "" if self.known_exactly else "≈"
        of_hours = "" if known is None else f" of {about}{hours(known)}"
        lines = [
            self.output,
            f"state       {state}",
            f"recordings  {self.num_done:,}{of_known}: {self.num_ok:,} ok, "
            f"{self.num_errors:,} errors",
            f"audio       {hours(self.audio_seconds)}{of_hours} h",
            f"pipeline    {self.fingerprint}",
        ]
        if self.work:
            lines.append(f"work        {self.work}")
        if self.queues:
            waiting = ", ".join(f"{depth:,} {stage}" for stage, depth in self.queues.items())
            lines.append(f"queues      packs before {waiting}")
        if self.updated:
            lines.append(f"updated     {self.updated}")
        for kind in self.errors:
            again = f", {kind.retryable:,} of them retryable" if kind.retryable else ""
            lines.append(f"{kind.count:,} x {kind.type}{again}; the first:")
            lines.append(f"    {kind.recording_id}")
            lines += [f"    {line}" for line in kind.message.splitlines()]
        return "\n".join(lines)


def read_status(output: str) -> Status:
    """Ask an output where it stands.

    Parameters
    ----------
    output : str
        Folder or fsspec URI.

    Raises
    ------
    OutputError
        If no job has ever written there, or it changes all the time.
    """
    folder = Folder(output)
    schema = read_schema(folder)
    if schema is None:
        raise OutputError(f"{output} holds no diarization dataset")
    holder = living_holder(folder)  # first: a run that ends meanwhile has then said so
    record = read_record(folder)
    summary = None if record is None else RunSummary.from_record(record)
    state = _state(summary, holder)
    if state == "starting":
        summary = None  # what is on record is an earlier run's
    counted = _counted(folder, summary.run if summary else "")
    known = num_known = left = None
    if summary is not None:
        num_known = summary.num_rows_before + summary.num_known
        # rows of this run may be newer than its record; those of earlier runs are no estimates
        known = counted.audio_seconds
        if state != "done":
            of_run = summary.known_seconds
            to_come = 0.0 if of_run is None else max(0.0, of_run - counted.audio_seconds_of_run)
            known = None if of_run is None else known + to_come
        left = summary.seconds_left if state == "running" else None
    return Status(
        output=output,
        state=state,
        num_ok=counted.num_ok,
        num_errors=sum(kind.count for kind in counted.errors),
        num_known=num_known,
        audio_seconds=counted.audio_seconds,
        known_seconds=known,
        known_exactly=summary is not None and (summary.stated_all or state == "done"),
        speed=summary.speed if summary else None,
        seconds_left=left,
        errors=counted.errors,
        fingerprint=(pipeline_of(schema) or {}).get("fingerprint"),
        wait_share=summary.wait_share if summary else None,
        queues=summary.queues if summary and state == "running" else {},
        cost=summary.cost if summary else None,
        cost_per_hour=summary.cost_per_hour if summary else None,
        work=told_work(summary) if summary else "",
        run=summary.run if summary else holder,
        manifest=summary.manifest if summary else None,
        updated=summary.updated if summary else None,
    )


def _state(summary: RunSummary | None, holder: str | None) -> str:
    if holder is not None and (summary is None or summary.run != holder):
        return "starting"
    if summary is None:
        return "unknown"
    return "killed" if summary.state == "running" and holder is None else summary.state


@dataclass(frozen=True)
class _Counts:
    num_ok: int
    errors: tuple[ErrorKind, ...]
    audio_seconds: float
    audio_seconds_of_run: float


def _counted(folder: Folder, run: str) -> _Counts:
    """Count the rows that are not overruled."""
    for _ in range(5):
        try:
            return _counted_once(folder, run)
        except FileNotFoundError:
            continue  # the end of a job rewrote a file meanwhile
    raise OutputError(f"{folder.uri} changes while it is read; try again")


def _counted_once(folder: Folder, run: str) -> _Counts:
    sizes = folder.list()
    files = in_precedence(sizes)
    with ThreadPoolExecutor(_THREADS) as threads:
        tables = list(threads.map(lambda name: _read(folder, name, sizes[name]), files))
    hashes = tuple(hash_ids(table.column("recording_id").to_pylist()) for table in tables)
    num_ok, total, of_run = 0, 0.0, 0.0
    failed: list[pa.Table] = []
    for name, table, keep in zip(files, tables, Inventory(tuple(files), hashes).kept, strict=True):
        if name.startswith("error-"):
            failed.append(table.filter(pa.array(keep)))
            continue
        seconds = float(np.sum(table.column("duration").to_numpy()[keep]))
        num_ok += int(keep.sum())
        total += seconds
        of_run += seconds * name.startswith(f"ok-{run}-")
    return _Counts(num_ok, _kinds(failed), total, of_run)


def _read(folder: Folder, name: str, size: int) -> pa.Table:
    columns = ["recording_id", "error" if name.startswith("error-") else "duration"]
    if not folder.is_local and size <= _ONE_REQUEST_BYTES:
        return pq.ParquetFile(pa.BufferReader(folder.read(name))).read(columns)
    with folder.open(name) as file:
        return pq.ParquetFile(file).read(columns)


def _kinds(failed: list[pa.Table]) -> tuple[ErrorKind, ...]:
    counts: Counter[str] = Counter()
    retryable: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    for table in failed:
        ids, errors = table.column("recording_id"), table.column("error")
        kinds = pc.struct_field(errors, "type").to_pylist()
        again = pc.struct_field(errors, "retryable").to_pylist()
        for row, kind in enumerate(kinds):
            counts[kind] += 1
            retryable[kind] += bool(again[row])
            if kind not in first:
                first[kind] = (ids[row].as_py(), errors[row].as_py()["message"])
    return tuple(
        ErrorKind(kind, count, retryable[kind], *first[kind])
        for kind, count in counts.most_common()
    )
