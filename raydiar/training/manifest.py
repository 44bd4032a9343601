"""What to learn from: recordings, who speaks when in them, and which part of them is labelled.

A training manifest is a table (CSV, JSON Lines or Parquet) with the columns `uri` and `rttm`;
`uem`, `recording_id`, `start`, `duration`, `channel` and `seconds` are known besides, and other
columns can be balanced over. A pyannote.database protocol is taken in its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np

from raydiar.audio import probe
from raydiar.errors import ManifestError, RaydiarError
from raydiar.storage.tables import open_table
from raydiar.training.shards import Place, opened, place_of

KNOWN = ("uri", "rttm", "uem", "recording_id", "start", "duration", "channel", "seconds")


@dataclass(frozen=True)
class LabelledRecording:
    """A recording with its reference.

    Attributes
    ----------
    recording_id, uri : str
    starts, ends : (num_turns,) float64, seconds
    speakers : list of str
    regions : list of (float, float), seconds
        Start and end of what is labelled: silence inside is silence, outside nothing is known.
    duration : float or None, seconds
        Of the file; None if its header could not be read, with the reason in `problem`.
    channel : int or None
    place : (int, int) or None
        Offset and length in bytes, of a recording in a tar shard.
    carried : dict
        Other columns of the manifest.
    """

    recording_id: str
    uri: str
    starts: np.ndarray = field(repr=False)
    ends: np.ndarray = field(repr=False)
    speakers: list[str] = field(repr=False)
    regions: list[tuple[float, float]]
    duration: float | None
    channel: int | None = None
    place: Place | None = None
    carried: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read_training_manifest(uri: str, *, threads: int = 16) -> Iterator[LabelledRecording]:
    """Stream the recordings of a training manifest, in its order.

    Raises
    ------
    ManifestError
        Naming the line or row of a missing or wrong value, or the label file that cannot be read.
    """
    table = open_table(uri)
    names = table.types(known=KNOWN).names
    for name in ("uri", "rttm"):
        if name not in names:
            raise ManifestError(
                f"{uri} has no column `{name}`: a training manifest has `uri` and `rttm`, "
                f"and this one has {', '.join(names) or 'none'}"
            )
    folder, _, _ = uri.rstrip("/").rpartition("/")
    if "://" not in uri:
        folder = os.path.abspath(folder)
    with ThreadPoolExecutor(threads) as pool:
        rows = _rows(table, folder)
        # a window of rows in flight: label files and headers are read from storage
        while batch := list(islice(rows, 16 * threads)):
            yield from pool.map(_labelled, batch)


def read_protocol(protocol, subset: str = "train") -> Iterator[LabelledRecording]:
    """The recordings of a pyannote.database protocol: `train`, `development` or `test`."""
    for file in getattr(protocol, subset)():
        annotation = file["annotation"]
        tracks = [(s.start, s.end, str(label)) for s, _, label in annotation.itertracks(True)]
        uri = str(file["audio"])
        place = place_of(uri)
        duration, problem = _length(uri, place)
        annotated = file.get("annotated") if hasattr(file, "get") else file["annotated"]
        regions = [(s.start, s.end) for s in annotated] if annotated else [(0.0, duration or 0.0)]
        carried = {
            key: file[key]
            for key in ("database", "domain", "subset")
            if key in file and isinstance(file[key], str)
        }
        yield LabelledRecording(
            str(file["uri"]),
            uri,
            np.array([t[0] for t in tracks], np.float64),
            np.array([t[1] for t in tracks], np.float64),
            [t[2] for t in tracks],
            regions,
            duration,
            None,
            place,
            carried,
            problem,
        )


def read_any(source, subset: str = "train") -> Iterable[LabelledRecording]:
    """A manifest's URI, a pyannote.database protocol, or recordings themselves."""
    if isinstance(source, str | os.PathLike):
        return read_training_manifest(os.fspath(source))
    if hasattr(source, subset):
        return read_protocol(source, subset)
    return source


# -- rows --------------------------------------------------------------------------------------


def _rows(table, folder: str) -> Iterator[dict]:
    for columns in table.batches():
        values = {
            "uri": columns.converted("uri", _text),
            "rttm": columns.converted("rttm", _text),
            "uem": columns.converted("uem", _text),
            "recording_id": columns.converted("recording_id", str),
            "start": columns.converted("start", _seconds),
            "duration": columns.converted("duration", _seconds),
            "seconds": columns.converted("seconds", _seconds),
            "channel": columns.converted("channel", _channel),
        }
        for name in ("uri", "rttm"):
            if None in values[name]:
                columns.refuse(name, values[name].index(None), "is missing")
        others = {
            name: columns.converted(name, lambda value: value)
            for name in columns.values
            if name not in KNOWN
        }
        for number in range(len(columns.positions)):
            row = {name: column[number] for name, column in values.items()}
            for name in ("uri", "rttm", "uem"):
                row[name] = row[name] and _absolute(row[name], folder)
            row["carried"] = {name: column[number] for name, column in others.items()}
            yield row


def _labelled(row: dict) -> LabelledRecording:
    uri, wanted = row["uri"], row["recording_id"]
    stem = PurePosixPath(uri.partition("?")[0]).name
    stem = stem[: -len(PurePosixPath(stem).suffix)] if PurePosixPath(stem).suffix else stem
    turns = _pick(read_turns(row["rttm"]), row["rttm"], wanted, stem)
    place = place_of(uri)
    duration, problem = (row["seconds"], None) if row["seconds"] else _length(uri, place)
    start = row["start"] or 0.0
    end = start + row["duration"] if row["duration"] else (duration or np.inf)
    if row["uem"]:
        regions = _pick(read_regions(row["uem"]), row["uem"], wanted, stem)
        regions = [(max(a, start), min(b, end)) for a, b in regions if min(b, end) > max(a, start)]
    else:
        regions = [(start, end if np.isfinite(end) else start)]
    return LabelledRecording(
        wanted or stem,
        uri,
        np.array([turn[0] for turn in turns], np.float64),
        np.array([turn[1] for turn in turns], np.float64),
        [turn[2] for turn in turns],
        regions,
        duration,
        row["channel"],
        place,
        row["carried"],
        problem,
    )


def _length(uri: str, place: Place | None) -> tuple[float | None, str | None]:
    """Seconds of a recording by its header, or why they are not known."""
    try:
        with opened(uri, place) as source:
            duration = probe(source).duration
    except RaydiarError as error:
        return None, str(error)
    if duration is None:
        return None, f"{uri}: its header states no duration; give `seconds` in the manifest"
    return duration, None


def _pick(found: dict[str, list], path: str, wanted: str | None, stem: str) -> list:
    """What a label file says of one recording."""
    for name in (wanted, stem):
        if name in found:
            return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    if not found:
        return []
    raise ManifestError(
        f"{path} labels {len(found)} recordings, but none is called {wanted or stem}: "
        "name it in the manifest's column `recording_id`"
    )


@lru_cache(maxsize=256)
def read_turns(path: str) -> dict[str, list[tuple[float, float, str]]]:
    """(start, end, speaker) of every recording in an RTTM file, local or on any storage.

    Raises
    ------
    ManifestError
        Naming the line that is not RTTM.
    """
    turns: dict[str, list] = {}
    for number, line in enumerate(_lines(path), 1):
        parts = line.split()
        if not parts or parts[0] != "SPEAKER":
            continue
        try:
            start, duration, speaker = float(parts[3]), float(parts[4]), parts[7]
        except (IndexError, ValueError):
            raise ManifestError(f"{path}, line {number} is not RTTM: {line.strip()!r}") from None
        turns.setdefault(parts[1], []).append((start, start + duration, speaker))
    return turns


@lru_cache(maxsize=256)
def read_regions(path: str) -> dict[str, list[tuple[float, float]]]:
    """(start, end) of the labelled regions of every recording in a UEM file.

    Raises
    ------
    ManifestError
        Naming the line that is not UEM.
    """
    regions: dict[str, list] = {}
    for number, line in enumerate(_lines(path), 1):
        parts = line.split()
        if not parts or parts[0].startswith(";"):
            continue
        try:
            start, end = float(parts[2]), float(parts[3])
        except (IndexError, ValueError):
            raise ManifestError(f"{path}, line {number} is not UEM: {line.strip()!r}") from None
        regions.setdefault(parts[0], []).append((start, end))
    return regions


def _lines(path: str) -> list[str]:
    try:
        with fsspec.open(path, "rt", encoding="utf-8-sig") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        raise ManifestError(f"there is no label file at {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read as labels: {error}") from error


def _text(value) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _seconds(value) -> float:
    number = float(value)
    if not 0 <= number < np.inf:
        raise ValueError("expected seconds, 0 or more")
    return number


def _channel(value) -> int | None:
    if value == "mix":
        return None
    number = int(value)
    if number < 0:
        raise ValueError('expected a channel number from 0, or "mix"')
    return number


def _absolute(uri: str, folder: str) -> str:
    if "://" in uri or os.path.isabs(uri):
        return uri
    return f"{folder}/{uri.removeprefix('./')}"
