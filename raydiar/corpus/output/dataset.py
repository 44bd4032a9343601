"""The diarization dataset: Parquet files of one row per recording, which are also the checkpoint.

Rows of status "ok" and "error" lie in files of their own, `ok-<run>-<task>.parquet` and
`error-<run>-<task>.parquet`, and files never change: an "ok" row of a recording overrules its
"error" rows, the oldest "ok" row all others, the newest "error" row older ones (it is what a retry
found), and the end of a job rewrites overruled rows away. Names of runs sort by time. `<task>` is
a hash of the recordings in the file, so that a write task that is run twice publishes the same
file twice.

What overrules what depends on the names of files alone, and what is left of a rewritten file is
published, before the old one is deleted, under a name that overrules it (`rewritten_name`). So the
file that counts for a recording is only ever deleted once one that overrules it is there, however
many runs clean up at the same time, each from what it saw, and wherever one of them sleeps.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.shard_record import ShardRecord
from raydiar.corpus.output.row_index import FEW_FILES, IndexedFile, read_index
from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.errors import OutputError
from raydiar.failures import retrying
from raydiar.naming import printable, public_uri, without_secrets
from raydiar.storage.folder import PRIVATE, Folder, usable
from raydiar.storage.lock import check_lock

SCHEMA_FILE = f"{PRIVATE}/schema.parquet"
SCHEMA_VERSION = 2
"""Of the columns that are raydiar's own: 2 brought `warnings`. Columns are added, never changed."""

_PIPELINE_KEY = b"raydiar.pipeline"
_VERSION_KEY = b"raydiar.schema"
_FILES_AHEAD = 8  # of a dataset that is streamed
_ATTEMPTS = 5
_FILE_NAME = re.compile(r"(ok|error)-.+\.parquet")

TURNS = pa.list_(
    pa.struct(
        [
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("speaker", pa.string()),
            ("confidence", pa.float32()),
        ]
    )
)
ERROR = pa.struct(
    [
        ("type", pa.string()),
        ("message", pa.string()),
        ("retryable", pa.bool_()),
        ("attempt", pa.int32()),
    ]
)
PIPELINE = pa.struct(
    [
        ("fingerprint", pa.string()),
        ("segmentation", pa.string()),
        ("embedding", pa.string()),
        ("embedding_mode", pa.string()),
        ("parameters", pa.string()),
        ("raydiar", pa.string()),
    ]
)
REQUESTED = pa.struct(
    [
        ("duration", pa.float64()),
        ("num_speakers", pa.int32()),
        ("min_speakers", pa.int32()),
        ("max_speakers", pa.int32()),
    ]
)


def dataset_schema(
    dimension: int, carried: pa.Schema | None = None, pipeline: dict | None = None
) -> pa.Schema:
    """Schema of a dataset.

    Parameters
    ----------
    dimension : int
        Of voiceprints.
    carried : pyarrow.Schema, optional
        Columns of the manifest that come last.
    pipeline : dict, optional
        The `pipeline` column that all its rows share, kept as metadata.
    """
    speakers = pa.list_(
        pa.struct(
            [
                ("speaker", pa.string()),
                ("speech_seconds", pa.float64()),
                ("embedding_seconds", pa.float64()),
                ("num_embeddings", pa.int32()),
                ("embedding", pa.list_(pa.float32(), dimension)),
            ]
        )
    )
    schema = pa.schema(
        [
            pa.field("recording_id", pa.string(), nullable=False),
            pa.field("uri", pa.string(), nullable=False),
            pa.field("channel", pa.int32()),  # null: all of them, mixed
            pa.field("start", pa.float64()),  # of an excerpt on the file's timeline, in seconds
            pa.field("duration", pa.float64()),  # processed, in seconds; null in error rows
            pa.field("status", pa.string(), nullable=False),
            pa.field("error", ERROR),
            pa.field("num_speakers", pa.int32()),
            pa.field("turns", TURNS),
            pa.field("exclusive_turns", TURNS),
            pa.field("speakers", speakers),
            pa.field("clustering", pa.string()),
            pa.field("warnings", pa.list_(pa.string())),  # what its user should know
            pa.field("pipeline", PIPELINE, nullable=False),
            pa.field("requested", REQUESTED, nullable=False),
            *(carried or ()),
        ],
        metadata={_VERSION_KEY: str(SCHEMA_VERSION)},
    )
    return with_pipeline(schema, pipeline) if pipeline else schema


def with_pipeline(schema: pa.Schema, pipeline: dict) -> pa.Schema:
    """The schema of a dataset that keeps, as metadata, the `pipeline` that all its rows share."""
    return schema.with_metadata(
        {_VERSION_KEY: str(SCHEMA_VERSION), _PIPELINE_KEY: json.dumps(pipeline)}
    )


def ok_row(
    recording: dict, diarization: Diarization, pipeline: dict, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Row of a diarized recording.

    Parameters
    ----------
    recording : dict
        Its row of the manifest.
    diarization : Diarization
        On the timeline of the excerpt; the row is on that of the file.
    pipeline : dict
        What `PipelineConfig.describe` gives.
    warnings : sequence of str
        Of decoding; those of the diarization follow.
    """
    placed = diarization.shifted(recording["start"] or 0.0)
    return base_row(recording, pipeline, (*warnings, *diarization.warnings)) | {
        "duration": placed.duration,
        "status": "ok",
        "num_speakers": placed.num_speakers,
        "turns": [_fields(turn, TURNS.value_type) for turn in placed.turns],
        "exclusive_turns": [_fields(turn, TURNS.value_type) for turn in placed.exclusive_turns],
        "speakers": [vars(speaker) for speaker in placed.speakers],
        "clustering": placed.clustering,
    }


def error_row(
    recording: dict, error: dict, pipeline: dict, warnings: Sequence[str] = ()
) -> dict[str, Any]:
    """Row of a recording that could not be processed; `error` has the fields of `ERROR`."""
    return base_row(recording, pipeline, warnings) | {"status": "error", "error": error}


def base_row(recording: dict, pipeline: dict, warnings: Sequence[str]) -> dict[str, Any]:
    """What a row says whatever became of its recording."""
    channel = recording["channel"]
    return recording | {
        "uri": public_uri(recording["uri"]),
        "channel": int(channel) if channel not in (None, "split") else None,
        "start": recording["start"] or 0.0,
        "pipeline": pipeline,
        "requested": {field.name: recording[field.name] for field in REQUESTED},
        "duration": None,
        "num_speakers": None,
        "warnings": [without_secrets(printable(warning)) for warning in warnings],
    }


def _fields(turn: Turn, type_: pa.StructType) -> dict:
    return {field.name: getattr(turn, field.name) for field in type_}


def to_diarization(row: dict) -> Diarization:
    """The Diarization that an "ok" row holds, on the file's timeline, named by `recording_id`."""
    speakers = []
    for speaker in row["speakers"]:
        embedding = speaker["embedding"]
        if embedding is not None:
            embedding = np.asarray(embedding, np.float32)
        speakers.append(Speaker(**{**speaker, "embedding": embedding}))
    return Diarization(
        uri=row["recording_id"],
        duration=row["duration"],
        turns=tuple(Turn(**turn) for turn in row["turns"]),
        exclusive_turns=tuple(Turn(**turn) for turn in row["exclusive_turns"]),
        speakers=tuple(speakers),
        clustering=row["clustering"],
        warnings=tuple(row.get("warnings") or ()),
    )


def publish_rows(output: Folder, run: str, status: str, rows: pa.Table) -> str:
    """Publish rows of one status as one file; returns its name."""
    name = f"{status}-{run}-{task_of(rows.column('recording_id').to_pylist())}.parquet"
    output.publish_table(name, rows)
    return name


def task_of(recording_ids: Sequence[str]) -> str:
    """Name of a write task, from what it writes: one that is run twice publishes one file."""
    return blake2b(np.sort(hash_ids(recording_ids)).tobytes(), digest_size=8).hexdigest()


# -- reading -----------------------------------------------------------------------------------


def open(output: str, tasks: Sequence[str] = ("diarization",)) -> DiarizationDataset:
    """Open the dataset in a folder, of a job that runs, was stopped or has ended.

    Parameters
    ----------
    output : str
    tasks : sequence of str
        What it may have been made for: "diarization", or what `detections` hold.

    Raises
    ------
    OutputError
        If no job has ever written there, or one of another task.
    """
    folder = Folder(output)
    schema = read_schema(folder)
    if schema is None:
        raise OutputError(f"{output} holds no diarization dataset")
    if (task := task_of_schema(schema)) not in tasks:
        wanted = "diarizations" if tasks == ("diarization",) else f"detections ({', '.join(tasks)})"
        raise OutputError(f"{output} holds rows of {task!r}, where {wanted} are needed")
    return DiarizationDataset(folder, schema)


def read_schema(output: Folder) -> pa.Schema | None:
    """Schema of an output, fixed by its first job but for columns that came later; None before it.

    Raises
    ------
    OutputError
        If a later version of raydiar wrote it.
    """
    if not output.exists(SCHEMA_FILE):
        return None
    schema = pq.read_schema(pa.BufferReader(output.read(SCHEMA_FILE)))
    version = version_of(schema)
    if version > SCHEMA_VERSION:
        raise OutputError(
            f"{output.uri} was written by a later raydiar (schema {version}, this one knows up to "
            f"{SCHEMA_VERSION}): upgrade raydiar"
        )
    return schema


def version_of(schema: pa.Schema) -> int:
    """Version of raydiar's own columns in a schema; 1 where it says nothing."""
    return int((schema.metadata or {}).get(_VERSION_KEY, b"1"))


def extended(schema: pa.Schema, wanted: pa.Schema) -> pa.Schema:
    """A schema with the columns that it lacks added at its end; rows that are there have nulls."""
    missing = [column for column in wanted if column.name not in schema.names]
    metadata = (schema.metadata or {}) | {_VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.schema([*schema, *missing], metadata=metadata)


def write_schema(output: Folder, schema: pa.Schema) -> None:
    output.publish_table(SCHEMA_FILE, schema.empty_table())


def pipeline_of(schema: pa.Schema) -> dict | None:
    """The pipeline that a dataset is made with; None if its schema does not say."""
    text = (schema.metadata or {}).get(_PIPELINE_KEY)
    return json.loads(text) if text else None


def task_of_schema(schema: pa.Schema) -> str:
    """What the jobs of a dataset were for: "diarization", or what was detected."""
    return (pipeline_of(schema) or {}).get("task", "diarization")


@dataclass(frozen=True)
class DiarizationDataset:
    """The rows of an output, exactly one per recording also while a job still writes.

    What it shows is fixed when it first looks at the files.
    """

    output: Folder
    schema: pa.Schema

    @cached_property
    def inventory(self) -> Inventory:
        return Inventory.read(self.output)

    def __len__(self) -> int:
        return int(sum(keep.sum() for keep in self.inventory.kept))

    def batches(self, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the rows, one batch a file; the next few files are read meanwhile."""

        wanted = self.schema.names if columns is None else list(columns)

        def read(name: str, keep: np.ndarray) -> list[pa.RecordBatch]:
            try:
                with self.output.open(name) as file:
                    parquet = pq.ParquetFile(file)
                    there = [column for column in wanted if column in parquet.schema_arrow.names]
                    table = parquet.read(there)
            except FileNotFoundError as error:
                raise OutputError(
                    f"{self.output.uri} was rewritten while it was read: {name} is gone. "
                    "Open it again."
                ) from error
            table = completed(table, pa.schema(map(self.schema.field, wanted)))
            return table.filter(pa.array(keep)).combine_chunks().to_batches()

        with ThreadPoolExecutor(_FILES_AHEAD) as threads:
            reading: deque[Future] = deque()
            for name, keep in zip(self.inventory.files, self.inventory.kept, strict=True):
                reading.append(threads.submit(read, name, keep))
                if len(reading) > _FILES_AHEAD:
                    yield from reading.popleft().result()
            while reading:
                yield from reading.popleft().result()

    def to_table(self, columns: Sequence[str] | None = None) -> pa.Table:
        schema = self.schema if columns is None else pa.schema(map(self.schema.field, columns))
        return pa.Table.from_batches(self.batches(columns), schema=schema)


def completed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with all columns of a schema; null where their file is older than the column."""
    for column in schema:
        if column.name not in rows.column_names:
            rows = rows.append_column(column, pa.nulls(len(rows), column.type))
    return rows.select(schema.names)


def in_precedence(names: Iterable[str]) -> list[str]:
    """Those names that are files of rows; of two rows of a recording, that of the first counts."""
    files = sorted(name for name in names if _FILE_NAME.fullmatch(name))
    errors = [name for name in files if name.startswith("error-")]
    return [name for name in files if name.startswith("ok-")] + errors[::-1]


@dataclass(frozen=True)
class Inventory:
    """Which recordings each file of an output holds.

    Attributes
    ----------
    files : tuple of str
        In order of precedence: "ok" by name, then "error" by name backwards.
    hashes : tuple of (num_rows,) S16
        Of the recording ids of each file, in row order.
    shards : (num_shards,) S16
        Sorted hashes of the shards that were read whole after all: their error rows are overruled.
    indexed : dict
        Each file as the index keeps it (`row_index`).
    """

    files: tuple[str, ...]
    hashes: tuple[np.ndarray, ...]
    shards: np.ndarray = field(default_factory=lambda: np.empty(0, "S16"))
    indexed: Mapping[str, IndexedFile] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, output: Folder, known: Inventory | None = None) -> Inventory:
        """Read the ids of all files of an output that neither its index nor `known` knows."""
        with usable(output):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return cls._read(output, known)
                except FileNotFoundError:  # rewritten by the end of a run since it was listed
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError

    @classmethod
    def _read(cls, output: Folder, known: Inventory | None) -> Inventory:
        versions = output.versions()
        files = in_precedence(versions)
        if known is None and len(files) > FEW_FILES:
            read = read_index(output, versions)
        else:
            read = dict(known.indexed) if known else {}

        def look_into(name: str) -> IndexedFile:
            if name in read and read[name].version == versions[name]:
                return read[name]
            with output.open(name) as file:
                ids = pq.read_table(file, columns=["recording_id"]).column(0)
            return IndexedFile(versions[name], hash_ids(ids.to_pylist()))

        with ThreadPoolExecutor(16) as threads:
            indexed = dict(zip(files, threads.map(look_into, files), strict=True))
        hashes = tuple(file.hashes for file in indexed.values())
        return cls(tuple(files), hashes, ShardRecord.load(output).whole, indexed)

    @cached_property
    def done(self) -> np.ndarray:
        """Sorted hashes of all recordings that have a row.

        Returns
        -------
        hashes : (num_recordings,) S16
        """
        hashes = np.unique(np.concatenate([np.empty(0, "S16"), *self.hashes]))
        return hashes[~is_member(hashes, self.shards)]

    def of_run(self, run: str) -> np.ndarray:
        """Sorted hashes of the recordings of which this run wrote a row, (num_recordings,) S16."""
        files = zip(self.files, self.hashes, strict=True)
        mine = [hashes for name, hashes in files if f"-{run}-" in name]
        return np.unique(np.concatenate([np.empty(0, "S16"), *mine]))

    @cached_property
    def kept(self) -> list[np.ndarray]:
        """Rows of each file that are not overruled, as (num_rows,) bool."""
        hashes = np.concatenate([np.empty(0, "S16"), *self.hashes])
        order = np.argsort(hashes, kind="stable")  # files stand in order of precedence
        ordered = hashes[order]
        keep = ~is_member(hashes, self.shards)
        keep[order[1:]] &= ordered[1:] != ordered[:-1]
        ends = np.cumsum([len(of_file) for of_file in self.hashes])
        return [keep[end - len(h) : end] for end, h in zip(ends, self.hashes, strict=True)]

    def count(self, status: str) -> int:
        """Recordings whose row has this status."""
        mine = (
            keep.sum()
            for name, keep in zip(self.files, self.kept, strict=True)
            if name.startswith(f"{status}-")
        )
        return int(sum(mine))


def failed(output: Folder, inventory: Inventory, only_retryable: bool = True) -> np.ndarray:
    """Recordings whose row is an error, of all kinds or only of those that time may heal.

    Returns
    -------
    hashes : (num_recordings,) S16
        Sorted.
    """
    found = [np.empty(0, "S16")]
    for name, hashes, keep in zip(inventory.files, inventory.hashes, inventory.kept, strict=True):
        if name.startswith("error-") and keep.any():
            if only_retryable:
                with output.open(name) as file:
                    errors = pq.read_table(file, columns=["error"]).column(0).combine_chunks()
                keep = keep & errors.field("retryable").to_numpy(zero_copy_only=False)
            found.append(hashes[keep])
    return np.sort(np.concatenate(found))


def delete_rows(output: Folder, run: str) -> None:
    """Delete all rows of a dataset, so that a kill leaves what it was; its schema stays.

    Raises
    ------
    OutputError
        If another run has taken the output over.
    """
    for name in in_precedence(output.list()):
        retrying(lambda: check_lock(output, run))
        output.delete(name)
    retrying(lambda: check_lock(output, run))
    ShardRecord().publish(output)


def remove_overruled(output: Folder, run: str, inventory: Inventory) -> int:
    """Rewrite files without their overruled rows, so that any Parquet reader sees one a recording.

    A kill between publishing the rest and deleting the old file leaves rows twice, equal ones,
    which `open` and the next run see through.

    Parameters
    ----------
    run : str
        Holds the lock of the output, which is looked at before each step.

    Returns
    -------
    num_rows : int
        Removed.

    Raises
    ------
    OutputError
        If another run has taken the output over.
    """
    removed = 0
    for name, keep in zip(inventory.files, inventory.kept, strict=True):
        if keep.all():
            continue
        retrying(lambda: check_lock(output, run))
        if keep.any():
            with output.open(name) as file:
                rest = pq.read_table(file).filter(pa.array(keep))
            ids = rest.column("recording_id").to_pylist()
            output.publish_table(rewritten_name([name], ids), rest)
            retrying(lambda: check_lock(output, run))
        output.delete(name)
        removed += int((~keep).sum())
    return removed


def rewritten_name(names: Sequence[str], recording_ids: Sequence[str]) -> str:
    """Name of the file that takes the place of others of one status, all of which it overrules.

    It stands under the run of that one of them which overrules the rest, with a mark before
    `<task>`: "." sorts before the digits of a hash, "z" after them, where error rows want it.
    """
    first = in_precedence(names)[0]
    head, _, task = first.removesuffix(".parquet").rpartition("-")
    mark = "." if first.startswith("ok-") else "z"
    marks = len(task) - len(task.lstrip(mark)) + 1
    return f"{head}-{mark * marks}{task_of(recording_ids)}.parquet"
