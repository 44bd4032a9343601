"""An index of regions and turns that is mapped into memory, so that a worker starts in no time.

Four Arrow files: recordings, regions (what is labelled and long enough to draw a window from),
turns in the order of their recordings, and speakers. Ten thousand hours of conversation are four
million turns: 100 MB, of which a worker touches what it draws.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raydiar.errors import ManifestError
from raydiar.training.labels import FrameGrid, frame_labels
from raydiar.training.manifest import LabelledRecording, read_any
from raydiar.training.shards import Place

_BATCH_TURNS = 1 << 18
_WINDOWS = 10_000  # that tell how many speakers a window has
_FILES = ("recordings", "regions", "turns", "speakers")
_TURNS = pa.schema([("start", pa.float64()), ("end", pa.float64()), ("speaker", pa.int32())])
_REGIONS = pa.schema(
    [("recording", pa.int32()), ("start", pa.float64()), ("duration", pa.float64())]
)


def build_index(source, folder: str | Path, *, scope: str = "file") -> TrainingIndex:
    """Write the index of a training manifest or protocol into a folder, and open it.

    Parameters
    ----------
    source
        What `raydiar.training.manifest.read_any` takes.
    folder : str or Path
        Local, made if absent; an index that is there is replaced.
    scope : str
        Where a label means the same person: "file", or "global".

    Raises
    ------
    ManifestError
        If the manifest or a label file cannot be used, or no recording has a header that says how
        long it is.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    builder = _Builder(folder, scope)
    skipped = []
    for recording in read_any(source):
        if recording.duration is None:
            skipped.append(recording.problem)
            continue
        builder.add(recording)
    builder.close(skipped)
    index = TrainingIndex(folder)
    if not len(index):
        raise ManifestError(
            "there is no recording to learn from"
            + (f"; the first that cannot be read: {skipped[0]}" if skipped else "")
        )
    return index


class _Builder:
    def __init__(self, folder: Path, scope: str):
        if scope not in ("file", "global"):
            raise ManifestError(f'a scope is "file" or "global", not {scope!r}')
        self.folder, self.scope = folder, scope
        self.recordings: list[dict[str, Any]] = []
        self.regions: list[tuple[int, float, float]] = []
        self.speakers: dict[str, int] = {}
        self.names: list[tuple[str, int]] = []
        self.sink = pa.OSFile(str(folder / "turns.arrow"), "wb")
        self.turns = pa.ipc.new_file(self.sink, _TURNS)
        self.num_turns = 0
        self.waiting: list[pa.RecordBatch] = []

    def add(self, recording: LabelledRecording) -> None:
        number = len(self.recordings)
        local: dict[str, int] = self.speakers if self.scope == "global" else {}
        speakers = []
        for label in recording.speakers:
            if label not in local:
                local[label] = len(self.names)
                self.names.append((label, -1 if self.scope == "global" else number))
            speakers.append(local[label])
        real = recording.ends > recording.starts
        order = np.argsort(recording.starts[real], kind="stable")
        columns = [
            pa.array(recording.starts[real][order]),
            pa.array(recording.ends[real][order]),
            pa.array(np.array(speakers, np.int32)[real][order], pa.int32()),
        ]
        self.waiting.append(pa.RecordBatch.from_arrays(columns, schema=_TURNS))
        first, self.num_turns = self.num_turns, self.num_turns + int(real.sum())
        if sum(map(len, self.waiting)) >= _BATCH_TURNS:
            self._flush()
        for start, end in recording.regions:
            end = min(end, recording.duration)
            if end > start:
                self.regions.append((number, start, end - start))
        self.recordings.append(
            {
                **recording.carried,
                "recording_id": recording.recording_id,
                "uri": recording.uri,
                "channel": recording.channel,
                "offset": recording.place and recording.place[0],
                "num_bytes": recording.place and recording.place[1],
                "seconds": recording.duration,
                "first_turn": first,
                "last_turn": self.num_turns,
            }
        )

    def _flush(self) -> None:
        if self.waiting:
            table = pa.Table.from_batches(self.waiting).combine_chunks()
            self.turns.write_table(table)
            self.waiting.clear()

    def close(self, skipped: list[str]) -> None:
        self._flush()
        self.turns.close()
        self.sink.close()
        names = list(dict.fromkeys(name for row in self.recordings for name in row))
        columns = {name: [row.get(name) for row in self.recordings] for name in names}
        _write(self.folder / "recordings.arrow", pa.table(columns))
        columns = list(zip(*self.regions, strict=True)) or [[], [], []]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _REGIONS, strict=True)]
        _write(self.folder / "regions.arrow", pa.Table.from_arrays(arrays, schema=_REGIONS))
        labels, owners = zip(*self.names, strict=True) if self.names else ((), ())
        speakers = {
            "label": pa.array(labels, pa.string()),
            "recording": pa.array(owners, pa.int32()),
        }
        _write(self.folder / "speakers.arrow", pa.table(speakers))
        about = {"version": 1, "scope": self.scope, "skipped": skipped}
        (self.folder / "index.json").write_text(json.dumps(about, indent=2))


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


@dataclass(frozen=True)
class TrainingIndex:
    """An index that `build_index` has written, mapped into memory; cheap to send to a process."""

    folder: Path

    def __getstate__(self):
        return {"folder": self.folder}  # maps are opened again where the index arrives

    def __setstate__(self, state):
        object.__setattr__(self, "folder", state["folder"])

    def __len__(self) -> int:
        return self._table("recordings").num_rows

    def _table(self, name: str) -> pa.Table:
        path = Path(self.folder) / f"{name}.arrow"
        try:
            return pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except (OSError, pa.ArrowInvalid) as error:
            raise ManifestError(f"{path} is no training index: {error}") from error

    @cached_property
    def about(self) -> dict[str, Any]:
        return json.loads((Path(self.folder) / "index.json").read_text())

    @property
    def scope(self) -> str:
        return self.about["scope"]

    @property
    def skipped(self) -> list[str]:
        """Why recordings were left out, one line each."""
        return self.about["skipped"]

    @cached_property
    def recordings(self) -> pa.Table:
        return self._table("recordings")

    @cached_property
    def labels(self) -> list[str]:
        """Names of the speakers, by number."""
        return self._table("speakers").column("label").to_pylist()

    @cached_property
    def regions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(num_regions,) recording (int32), start and duration (float64, s) of labelled regions."""
        table = self._table("regions")
        return tuple(_numpy(table, name) for name in ("recording", "start", "duration"))

    @cached_property
    def _turns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = self._table("turns")
        return tuple(_numpy(table, name) for name in ("start", "end", "speaker"))

    @cached_property
    def _bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return _numpy(self.recordings, "first_turn"), _numpy(self.recordings, "last_turn")

    @property
    def num_turns(self) -> int:
        return len(self._turns[0])

    @property
    def seconds(self) -> float:
        """Of labelled audio."""
        return float(self.regions[2].sum())

    def uri(self, recording: int) -> str:
        return self.recordings.column("uri")[recording].as_py()

    def recording_id(self, recording: int) -> str:
        return self.recordings.column("recording_id")[recording].as_py()

    def channel(self, recording: int) -> int | None:
        return self.recordings.column("channel")[recording].as_py()

    def place(self, recording: int) -> Place | None:
        """Where in its shard a recording lies; None for a file of its own."""
        if "offset" not in self.recordings.column_names:
            return None
        offset, size = (
            self.recordings.column(name)[recording].as_py() for name in ("offset", "num_bytes")
        )
        return None if offset is None else (offset, size)

    def turns(self, recording: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(num_turns,) start, end (s) and speaker of a recording's turns, by start."""
        first, last = (int(bound[recording]) for bound in self._bounds)
        return tuple(column[first:last] for column in self._turns)

    def max_speakers(self, duration: float, percentile: float = 97.0) -> int:
        """How many speakers nearly all windows of `duration` s have at most; 2 or more.

        pyannote's estimate: the 97th percentile over windows that hop by a quarter. Of more than
        10,000 of them so many are looked at, evenly spread: each worker does this when it starts.
        """
        hop = duration / 4
        recordings, starts, durations = self.regions
        usable = np.flatnonzero(durations >= duration - 1e-9)
        ends = np.cumsum(np.floor((durations[usable] - duration + 1e-9) / hop).astype(int) + 1)
        total = int(ends[-1]) if len(ends) else 0
        if not total:
            return 2
        windows = np.unique(np.linspace(0, total - 1, min(total, _WINDOWS)).round().astype(int))
        grid = FrameGrid(int(duration / 0.1), 0.1, 0.1)
        counts = []
        for window, place in zip(
            windows, np.searchsorted(ends, windows, side="right"), strict=True
        ):
            region = usable[place]
            at = starts[region] + hop * (window - (ends[place - 1] if place else 0))
            turns = self.turns(int(recordings[region]))
            counts.append(frame_labels(*turns, at, duration, grid).shape[1])
        return max(2, int(np.ceil(np.percentile(counts, percentile))))


def _numpy(table: pa.Table, name: str) -> np.ndarray:
    """A column without a copy, where it is one chunk."""
    column = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0).to_numpy(zero_copy_only=True)
    return column.to_numpy()


def windows_of(index: TrainingIndex, duration: float) -> list[tuple[int, float]]:
    """(recording, start) of windows that follow each other without a gap: for validation."""
    windows = []
    for recording, start, length in zip(*index.regions, strict=True):
        count = int((length + 1e-6) // duration)
        windows += [(int(recording), float(start) + n * duration) for n in range(count)]
    return windows


def balance_groups(index: TrainingIndex, columns: Iterable[str]) -> np.ndarray:
    """(num_recordings,) int: number of the combination of values that a recording has.

    Raises
    ------
    ManifestError
        If the manifest had no such column.
    """
    names = list(columns)
    for name in names:
        if name not in index.recordings.column_names:
            raise ManifestError(
                f"cannot balance over {name!r}: the manifest has no such column, only "
                f"{', '.join(index.recordings.column_names)}"
            )
    values = zip(*(index.recordings.column(name).to_pylist() for name in names), strict=True)
    numbers: dict[tuple, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)
