"""The dataset in other forms: RTTM files, one CSV or JSON file, or a Parquet table of turns.

Recordings are streamed, a file of the dataset at a time. A single file is written whole on a local
disk and then published, so that a destination never holds half of it. Parquet keeps the times of
the dataset as they are, the text formats to the millisecond, as `raydiar diarize` prints them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raydiar.corpus.output import dataset, detections
from raydiar.diarization import Diarization, Turn
from raydiar.errors import OutputError
from raydiar.formats import CSV_COLUMNS
from raydiar.storage.folder import staged

TURNS_SCHEMA = pa.schema(
    [
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("start", pa.float64()),  # s, on the file's timeline
        ("end", pa.float64()),
        ("speaker", pa.string()),
        ("confidence", pa.float32()),
    ]
)
_ROW_GROUP = 200_000  # turns


@dataclass(frozen=True)
class Exported:
    """What an export did.

    Attributes
    ----------
    num_recordings : int
    num_errors : int
        Error rows, which are left out.
    """

    num_recordings: int
    num_errors: int


def export(output: str, form: str, destination: str, exclusive: bool = False) -> Exported:
    """Write the turns of a dataset, or the regions of one of detections, in another form.

    Parameters
    ----------
    output : str
        Folder or fsspec URI of a dataset; what it holds now is exported if a job still runs.
    form : str
        "rttm" (a folder of a file per recording, see `rttm_name`), "csv" (a line per turn), "json"
        (an array of a line per recording, in pyannote.audio's form) or "turns" (a Parquet table of
        a row per turn).
    destination : str
        Path or fsspec URI; what is there is replaced.
    exclusive : bool
        At most one speaker at a time. JSON holds both anyway.

    Raises
    ------
    OutputError
        If there is no dataset, or one of changes, which are no turns; if it changes while it is
        read; if the destination cannot be written.
    """
    opened = dataset.open(output, tasks=("diarization", *detections.LABELS))
    write = {"rttm": _write_rttm, "csv": _write_csv, "json": _write_json, "turns": _write_turns}
    counts = {"ok": 0, "error": 0}
    try:
        write[form](_ok_rows(opened, counts), destination, exclusive)
    except OSError as error:
        raise OutputError(f"{destination} cannot be written: {error}") from error
    return Exported(counts["ok"], counts["error"])


def rttm_name(recording_id: str) -> str:
    """File name of a recording in a folder of RTTM files.

    An id that is a plain name keeps it. Any other, such as a URI, gives the readable part of it
    and a hash of the whole, so that no two share a name.
    """
    if re.fullmatch(r"\w[\w.-]{0,99}", recording_id, re.ASCII) and not re.search(
        r"-[0-9a-f]{16}$", recording_id
    ):
        return f"{recording_id}.rttm"
    name = PurePosixPath(recording_id.partition("#")[0]).stem
    readable = re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII).lstrip(".-")[:80]
    digest = blake2b(recording_id.encode(), digest_size=8).hexdigest()
    return f"{readable or 'recording'}-{digest}.rttm"


def _ok_rows(
    opened: dataset.DiarizationDataset, counts: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    """Batches of the recordings that did not fail; every row is counted by its status."""
    columns = ["recording_id", "uri", "status", "duration"]
    label = detections.LABELS.get(dataset.task_of_schema(opened.schema))
    found = ["turns", "exclusive_turns"] if label is None else ["regions"]
    for batch in opened.batches([*columns, *found]):
        ok = pc.equal(batch.column("status"), "ok")
        num_ok = ok.true_count
        counts["ok"] += num_ok
        counts["error"] += len(batch) - num_ok
        if num_ok:
            batch = batch.filter(ok)
            yield batch if label is None else _as_turns(batch, label)


def _as_turns(batch: pa.RecordBatch, label: str) -> pa.RecordBatch:
    """Regions as turns of one speaker, who is called after what they are regions of."""
    regions = batch.column("regions")
    values = regions.flatten()
    fields = [pc.struct_field(values, name) for name in ("start", "end")]
    fields += [pa.repeat(label, len(values)), pa.nulls(len(values), pa.float32())]
    turns = pa.StructArray.from_arrays(fields, fields=list(dataset.TURNS.value_type))
    lengths = pa.array([0, *pc.list_value_length(regions).to_pylist()], pa.int32())
    lists = pa.ListArray.from_arrays(pc.cumulative_sum(lengths), turns)
    columns = {name: batch.column(name) for name in batch.schema.names if name != "regions"}
    return pa.RecordBatch.from_pydict({**columns, "turns": lists, "exclusive_turns": lists})


def _diarizations(batches: Iterable[pa.RecordBatch]) -> Iterator[Diarization]:
    for batch in batches:
        for row in batch.to_pylist():
            yield Diarization(
                uri=row["recording_id"],
                duration=row["duration"],
                turns=tuple(Turn(**turn) for turn in row["turns"]),
                exclusive_turns=tuple(Turn(**turn) for turn in row["exclusive_turns"]),
            )


def _write_rttm(batches: Iterator[pa.RecordBatch], destination: str, exclusive: bool) -> None:
    def publish(diarization: Diarization) -> None:
        name = rttm_name(diarization.uri)
        # RTTM ends a field at white space; of an id without any, the file holds the id itself
        uri = re.sub(r"\s", lambda space: quote(space[0]), diarization.uri)
        with staged(f"{destination.rstrip('/')}/{name}") as path:
            text = replace(diarization, uri=uri).to_rttm(exclusive)
            Path(path).write_text(text, encoding="utf-8")

    with ThreadPoolExecutor(16) as threads:
        for batch in batches:
            list(threads.map(publish, _diarizations([batch])))


def _write_csv(batches: Iterator[pa.RecordBatch], destination: str, exclusive: bool) -> None:
    with staged(destination) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for diarization in _diarizations(batches):
            writer.writerows(diarization.csv_rows(exclusive))


def _write_json(batches: Iterator[pa.RecordBatch], destination: str, exclusive: bool) -> None:
    with staged(destination) as path, open(path, "w", encoding="utf-8") as file:
        between = "[\n"
        for diarization in _diarizations(batches):
            document = {"uri": diarization.uri, **diarization.serialize()}
            file.write(between + json.dumps(document, ensure_ascii=False))
            between = ",\n"
        file.write("[]\n" if between == "[\n" else "\n]\n")


def _write_turns(batches: Iterator[pa.RecordBatch], destination: str, exclusive: bool) -> None:
    name = "exclusive_turns" if exclusive else "turns"
    waiting: list[pa.RecordBatch] = []
    with (
        staged(destination) as path,
        pq.ParquetWriter(path, TURNS_SCHEMA, compression="zstd") as writer,
    ):
        for batch in batches:
            turns = batch.column(name)
            recording = pc.list_parent_indices(turns)
            fields = turns.flatten()
            columns = [
                *(batch.column(column).take(recording) for column in ("recording_id", "uri")),
                *(pc.struct_field(fields, column) for column in TURNS_SCHEMA.names[2:]),
            ]
            waiting.append(pa.RecordBatch.from_arrays(columns, schema=TURNS_SCHEMA))
            if sum(map(len, waiting)) >= _ROW_GROUP:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
        writer.write_table(pa.Table.from_batches(waiting, TURNS_SCHEMA))
