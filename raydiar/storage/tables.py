"""Raw columns of a table in Parquet, CSV or JSON Lines, streamed, each row with its place.

Nothing is interpreted here but types: CSV has none, so its values stay text exactly as written
("007" is not 7); JSON Lines are read once before, since a type may show only in the last line.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NoReturn

import fsspec
import pyarrow as pa
import pyarrow.dataset
from fsspec.core import url_to_fs

from raydiar.errors import ManifestError
from raydiar.naming import local_path, public_uri
from raydiar.storage.streams import as_given

BATCH = 8192
_COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd"}
_NOT_OF_TYPE = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError)


def open_table(uri: str) -> ParquetTable | CsvTable | JsonLinesTable:
    """Open a table by the ending of its name; a directory is taken for Parquet files.

    Raises
    ------
    ManifestError
        If there is nothing at `uri`, or nothing of a known format.
    """
    if (local := local_path(uri)) is not None:
        uri = local
    fs, path = _found(uri)
    if not fs.exists(path):
        raise ManifestError(f"there is no manifest at {uri}")
    stem, suffix = os.path.splitext(public_uri(uri).partition("#")[0].lower())
    if suffix in _COMPRESSIONS:
        suffix = os.path.splitext(stem)[1]
    if suffix in (".parquet", ".pq") or fs.isdir(path):
        return ParquetTable(uri)
    if suffix == ".csv":
        return CsvTable(uri)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return JsonLinesTable(uri)
    raise ManifestError(f"cannot tell the format of {uri}: name it .parquet, .csv or .jsonl")


def _found(uri: str):
    uri, options = as_given(uri)
    return url_to_fs(uri, **options)


@dataclass(frozen=True)
class Columns:
    """Raw columns of some consecutive rows.

    Attributes
    ----------
    table : str
        URI, for messages.
    unit : str
        What `positions` count: "line" or "row".
    positions : sequence of int, from 1
    values : dict of list or pyarrow.Array
    """

    table: str
    unit: str
    positions: Sequence[int]
    values: dict[str, Any]

    def refuse(self, name: str, number: int, why: str) -> NoReturn:
        place = f"{self.unit} {self.positions[number]}"
        raise ManifestError(f"{self.table}, {place}: column {name!r} {why}")

    def converted(self, name: str, convert: Callable[[Any], Any]) -> list:
        """Values of a column through `convert`; None where missing.

        Raises
        ------
        ManifestError
            Naming the place of a value on which `convert` raises ValueError or TypeError.
        """
        column = self.values.get(name)
        if column is None:
            return [None] * len(self.positions)
        if isinstance(column, pa.Array):
            column = column.to_pylist()
        converted = []
        for value in column:
            try:
                converted.append(None if _missing(value) else convert(value))
            except (ValueError, TypeError, OverflowError) as error:
                self.refuse(name, len(converted), f"is {value!r}: {error}")
        return converted

    def typed(self, column: pa.Field) -> pa.Array:
        """Values of a column as they are; nulls where there is none.

        Raises
        ------
        ManifestError
            Naming the place of a value that is not of the column's type.
        """
        values = self.values.get(column.name)
        if values is None:
            return pa.nulls(len(self.positions), column.type)
        if isinstance(values, pa.Array):
            return values.cast(column.type)
        try:
            return pa.array(values, column.type)
        except _NOT_OF_TYPE:
            for number, value in enumerate(values):
                try:
                    pa.scalar(value, column.type)
                except _NOT_OF_TYPE:
                    self.refuse(column.name, number, f"is {value!r}, not {column.type}")
            raise


def _missing(value) -> bool:
    # NaN: pandas stores an integer column with gaps as floats
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _open_text(uri: str):
    _, suffix = os.path.splitext(public_uri(uri).partition("#")[0].lower())
    uri, options = as_given(uri)
    return fsspec.open(
        uri,
        "rt",
        encoding="utf-8-sig",
        newline="",
        compression=_COMPRESSIONS.get(suffix),
        expand=False,  # brackets in a name that is there are no pattern
        **options,
    )


@dataclass(frozen=True)
class CsvTable:
    uri: str

    def types(self, known: Collection[str] = ()) -> pa.Schema:
        with _open_text(self.uri) as file:
            return pa.schema([(name, pa.string()) for name in next(csv.reader(file), [])])

    def batches(self) -> Iterator[Columns]:
        with _open_text(self.uri) as file:
            reader = csv.reader(file)
            names = next(reader, [])
            rows = self._rows(reader, len(names))
            while batch := list(islice(rows, BATCH)):
                lines, values = zip(*batch, strict=True)
                columns = map(list, zip(*values, strict=True))
                yield Columns(self.uri, "line", lines, dict(zip(names, columns, strict=True)))

    def _rows(self, reader, num_columns: int) -> Iterator[tuple[int, list[str | None]]]:
        for row in reader:
            if not row:
                continue
            if len(row) != num_columns:
                raise ManifestError(
                    f"{self.uri}, line {reader.line_num}: "
                    f"{len(row)} values for {num_columns} columns"
                )
            yield reader.line_num, [value or None for value in row]


@dataclass(frozen=True)
class JsonLinesTable:
    uri: str

    def types(self, known: Collection[str] = ()) -> pa.Schema:
        """Types of all columns; those of `known` ones, which may be mixed, are left null."""
        types: dict[str, pa.DataType] = {}
        for line, row in self._rows():
            for name, value in row.items():
                seen = types.setdefault(name, pa.null())
                if value is None or name in known:
                    continue
                found = _JSON_TYPES.get(type(value))
                if found is None:
                    raise ManifestError(
                        f"{self.uri}, line {line}: column {name!r} is nested; "
                        "carried columns must be flat"
                    )
                if seen in (pa.null(), found):
                    types[name] = found
                elif {seen, found} == {pa.int64(), pa.float64()}:
                    types[name] = pa.float64()
                else:
                    raise ManifestError(
                        f"{self.uri}, line {line}: column {name!r} is {value!r}, but {seen} before"
                    )
        return pa.schema(types.items())

    def batches(self) -> Iterator[Columns]:
        rows = self._rows()
        while batch := list(islice(rows, BATCH)):
            names = dict.fromkeys(name for _, row in batch for name in row)
            values = {name: [row.get(name) for _, row in batch] for name in names}
            yield Columns(self.uri, "line", [line for line, _ in batch], values)

    def _rows(self) -> Iterator[tuple[int, dict]]:
        with _open_text(self.uri) as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    row = json.loads(text)
                except json.JSONDecodeError as error:
                    raise ManifestError(f"{self.uri}, line {line} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise ManifestError(f"{self.uri}, line {line} is not a JSON object")
                yield line, row


_JSON_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True)
class ParquetTable:
    uri: str

    def types(self, known: Collection[str] = ()) -> pa.Schema:
        """Types of all columns.

        Raises
        ------
        ManifestError
            If a column that is not `known` is nested.
        """
        fields = []
        for column in self._dataset().schema:
            type_ = column.type
            if pa.types.is_dictionary(type_):
                type_ = type_.value_type
            if pa.types.is_nested(type_) and column.name not in known:
                raise ManifestError(
                    f"{self.uri}: column {column.name!r} is {type_}; carried columns must be flat"
                )
            fields.append(pa.field(column.name, type_))
        return pa.schema(fields)

    def batches(self) -> Iterator[Columns]:
        first = 1
        for batch in self._dataset().to_batches(batch_size=BATCH):
            positions = range(first, first + len(batch))
            first += len(batch)
            values = dict(zip(batch.schema.names, batch.columns, strict=True))
            yield Columns(self.uri, "row", positions, values)

    def _dataset(self) -> pyarrow.dataset.Dataset:
        fs, path = _found(self.uri)
        try:
            return pyarrow.dataset.dataset(path, format="parquet", filesystem=fs)
        except (pa.ArrowInvalid, OSError) as error:
            raise ManifestError(f"{self.uri} cannot be read as Parquet: {error}") from error


@dataclass(frozen=True)
class Renamed:
    """A table of which some columns go by another name."""

    table: CsvTable | JsonLinesTable | ParquetTable
    names: Mapping[str, str]

    def types(self, known: Collection[str] = ()) -> pa.Schema:
        mixed = {old for old, new in self.names.items() if new in known}
        types = self.table.types(known={*known, *mixed})
        return pa.schema([column.with_name(self._name(column.name)) for column in types])

    def batches(self) -> Iterator[Columns]:
        for columns in self.table.batches():
            values = {self._name(name): column for name, column in columns.values.items()}
            yield replace(columns, values=values)

    def _name(self, name: str) -> str:
        return self.names.get(name, name)
