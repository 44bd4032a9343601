"""What to process: the rows of a manifest, checked and made absolute as they stream by.

Values are checked in batches, column by column, a few microseconds a row, so that a manifest of
millions is read in seconds and a wrong value is still named by its line.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raydiar.corpus.hashes import hash_ids
from raydiar.corpus.inputs.shards import is_shard
from raydiar.errors import ManifestError
from raydiar.naming import local_path, public_uri
from raydiar.storage.tables import (
    Columns,
    CsvTable,
    JsonLinesTable,
    ParquetTable,
    Renamed,
    open_table,
)

RECORDING_FIELDS = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("start", pa.float64()),
        pa.field("duration", pa.float64()),
        pa.field("channel", pa.string()),  # a number, or "split" where no header told how many
        pa.field("num_speakers", pa.int32()),
        pa.field("min_speakers", pa.int32()),
        pa.field("max_speakers", pa.int32()),
        # of the whole file: hints, which change neither what is done nor how it is named
        pa.field("size", pa.int64()),  # bytes
        pa.field("seconds", pa.float64()),
    ]
)
NEMO = {"audio_filepath": "uri", "offset": "start"}
"""Columns of NeMo's manifests, and what they are called here; `duration` is the same."""

# the other columns of the diarization dataset: a carried column of one of these names would
# be ambiguous there
RESERVED = (
    *("status", "error", "turns", "exclusive_turns", "speakers", "clustering", "pipeline"),
    *("requested", "warnings"),
)


def default_id(
    uri: str, start: float | None = None, duration: float | None = None, channel: str | None = None
) -> str:
    """Name of a recording that its manifest does not name: `uri[#t=start,end][#channel=n]`.

    Without what opens a URL, so that one that is signed anew is the same recording.
    """
    name = public_uri(uri)
    if start is not None or duration is not None:
        end = "" if duration is None else f",{(start or 0.0) + duration:.10g}"
        name += f"#t={start or 0.0:.10g}{end}"
    return name if channel is None else f"{name}#channel={channel}"


def read_manifest(uri: str, probe: Callable[[str], int | None] | None = None) -> Manifest:
    """Open a manifest and check its columns; its rows are checked as `Manifest.batches` gives them.

    Parameters
    ----------
    uri : str
        A `.parquet` file or a directory of them, `.csv` or `.jsonl` (`.gz` and the like allowed),
        local or any fsspec URI. A manifest of NeMo (JSON Lines, also named `.json`) is taken as
        such: its `audio_filepath` and `offset` are our `uri` and `start`.
    probe : callable, optional
        Number of channels of an audio URI (None: its header cannot be read), to expand "split".

    Raises
    ------
    ManifestError
        If the manifest is missing or of no known format, has no `uri` column, or carries a column
        that is nested or named like a column of the diarization dataset.
    """
    table = open_table(uri)
    types = table.types(known=RECORDING_FIELDS.names)
    if "uri" not in types.names and "audio_filepath" in types.names:
        table = Renamed(table, NEMO)
        types = table.types(known=RECORDING_FIELDS.names)
    if "uri" not in types.names:
        raise ManifestError(f"{uri} has no column `uri`; it has: {', '.join(types.names) or None}")
    if len(set(types.names)) != len(types):
        raise ManifestError(f"{uri} has two columns of one name: {', '.join(types.names)}")
    carried = []
    # case aside, since SQL engines that read the output do not tell case apart
    taken = {name.lower() for name in (*RECORDING_FIELDS.names, *RESERVED)}
    for column in types:
        if column.name in RECORDING_FIELDS.names:
            continue
        if column.name.lower() in taken:
            raise ManifestError(
                f"{uri}: column {column.name!r} collides with one of the output's; rename it"
            )
        carried.append(column.with_type(pa.string()) if pa.types.is_null(column.type) else column)
    return Manifest(uri, pa.schema([c.with_nullable(True) for c in carried]), table, probe)


@dataclass(frozen=True)
class Manifest:
    """An opened manifest.

    Attributes
    ----------
    uri : str
    carried : pyarrow.Schema
        Columns that raydiar does not know and hands on to the output.
    """

    uri: str
    carried: pa.Schema
    table: CsvTable | JsonLinesTable | ParquetTable | Renamed = field(repr=False)
    probe: Callable[[str], int | None] | None = field(default=None, repr=False)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*RECORDING_FIELDS, *self.carried])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Stream the recordings with `schema`: ids filled in, URIs absolute, "split" expanded.

        A relative URI is taken from the folder that the manifest lies in. A recording to split
        whose header cannot be read stays one row: decoding will tell what is wrong with it.

        Raises
        ------
        ManifestError
            Naming the line (CSV, JSON Lines) or row (Parquet) and column of a bad value.
        """
        folder = _folder_of(self.uri)
        for columns in self.table.batches():
            yield self._expanded(self._checked(columns, folder))

    def _checked(self, columns: Columns, folder: str) -> pa.RecordBatch:
        values: dict[str, list] = {
            name: columns.converted(name, convert) for name, convert in _CONVERTERS.items()
        }
        if None in values["uri"]:
            columns.refuse("uri", values["uri"].index(None), "is missing")
        _check_speakers(columns, values)
        values["uri"] = [_absolute(uri, folder) for uri in values["uri"]]
        place = zip(*(values[n] for n in ("uri", "start", "duration", "channel")), strict=True)
        values["recording_id"] = [
            default_id(*where) if given is None else given
            for given, where in zip(values["recording_id"], place, strict=True)
        ]
        arrays = [pa.array(values[column.name], column.type) for column in RECORDING_FIELDS]
        arrays += [columns.typed(column) for column in self.carried]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _expanded(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        channels = batch.column("channel").to_pylist()
        if "split" not in channels or self.probe is None:
            return batch
        rows = batch.to_pylist()
        # the channels of a shard's members are counted when it is read
        split = [
            n for n, row in enumerate(rows) if channels[n] == "split" and not is_shard(row["uri"])
        ]
        with ThreadPoolExecutor(8) as threads:  # waiting for storage, not computing
            counts = threads.map(self.probe, [rows[number]["uri"] for number in split])
            found = dict(zip(split, counts, strict=True))
        expanded = []
        for number, row in enumerate(rows):
            if not found.get(number):
                expanded.append(row)
                continue
            stem = row["recording_id"].removesuffix("#channel=split")
            for channel in range(found[number]):
                name = f"{stem}#channel={channel}"
                expanded.append({**row, "recording_id": name, "channel": str(channel)})
        return pa.RecordBatch.from_pylist(expanded, schema=self.schema)


def check_unique(manifest: Manifest, hashes: np.ndarray) -> None:
    """Raise unless every recording id of a manifest is unique.

    Parameters
    ----------
    manifest : Manifest
    hashes : (num_recordings,) S16
        Of all its ids; only if some repeat is the manifest read again, to name them.

    Raises
    ------
    ManifestError
        Naming the first ten duplicates, in the order of the manifest.
    """
    ordered = np.sort(hashes)
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(repeated):
        return
    names: dict[str, None] = {}
    for batch in manifest.batches():
        ids = batch.column("recording_id").to_pylist()
        names |= dict.fromkeys(ids[n] for n in np.flatnonzero(np.isin(hash_ids(ids), repeated)))
        if len(names) >= 10:
            break
    listed = "\n  ".join(list(names)[:10])
    raise ManifestError(
        f"{manifest.uri} holds {len(repeated)} recording ids more than once; the first:\n"
        f"  {listed}\nRemove the repeated rows, or give each its own `recording_id`: URLs that "
        "differ in their query only count as one recording."
    )


# -- values ------------------------------------------------------------------------------------


def _text(value) -> str:
    if not isinstance(value, str):
        raise TypeError("expected text")
    return value


def _name(value) -> str:
    # databases number their recordings
    return str(value) if type(value) is int else _text(value)


def _folder_of(manifest: str) -> str:
    """Where relative URIs of a manifest begin."""
    if (path := local_path(manifest)) is not None:
        return os.path.dirname(os.path.abspath(path))
    if manifest.lower().startswith(("http://", "https://")):
        manifest = re.split(r"[?#]", manifest, maxsplit=1)[0]
    return manifest.rstrip("/").rpartition("/")[0]


def _absolute(uri: str, folder: str) -> str:
    if "://" in uri or os.path.isabs(uri):
        return uri
    return f"{folder}/{uri.removeprefix('./')}"


def _number(value, least: float, unit: str, most: float = math.inf) -> float:
    if isinstance(value, bool):
        raise TypeError(f"expected {unit}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"expected {unit}") from None
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError(f"expected {unit}")
    return number


def _whole(value, least: int, most: int = 2**31 - 1) -> int:
    unit = f"a whole number from {least}"
    number = _number(value, least, unit, most)
    if number != int(number):
        raise ValueError(f"expected {unit}")
    return int(number)


def _duration(value) -> float:
    seconds = _number(value, 0.0, "seconds")
    if not seconds:
        raise ValueError("expected more than 0 s")
    return seconds


def _channel(value) -> str | None:
    if value in ("mix", "split"):
        return None if value == "mix" else value
    try:
        return str(_whole(value, 0))
    except (ValueError, TypeError):
        raise ValueError('expected a channel number from 0, "mix" or "split"') from None


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "uri": _text,
    "recording_id": _name,
    "start": lambda value: _number(value, 0.0, "seconds, 0 or more"),
    "duration": _duration,
    "channel": _channel,
    "num_speakers": lambda value: _whole(value, 1),
    "min_speakers": lambda value: _whole(value, 1),
    "max_speakers": lambda value: _whole(value, 1),
    "size": lambda value: _whole(value, 0, 2**62),
    "seconds": _duration,
}


def _check_speakers(columns: Columns, values: dict[str, list]) -> None:
    names = ("num_speakers", "min_speakers", "max_speakers")
    for number, asked in enumerate(zip(*(values[name] for name in names), strict=True)):
        exactly, least, most = asked
        low, high = least or 1, most or math.inf
        if low > high or not low <= (exactly or low) <= high:
            name = "num_speakers" if exactly else "min_speakers"
            columns.refuse(
                name, number, f"contradicts its row: num {exactly}, min {least}, max {most}"
            )
