"""LocalSpeakers kept by a job, so that clustering can be done again without GPU and audio.

A tenth of the PCM in size. One Parquet file a pack, `local-<run>-<task>.parquet`; of a recording
that was done twice, after a kill or on retry, the newest counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.packs import UNKNOWN_SECONDS, PackPlan, pack_folder
from raydiar.corpus.inputs.shard_record import SHARD
from raydiar.corpus.output import dataset
from raydiar.corpus.wire import LOCAL_SPEAKERS, local_speakers_from_arrow
from raydiar.errors import OutputError
from raydiar.local_speakers import LocalSpeakers
from raydiar.naming import public_uri
from raydiar.pipelines.config import LocalPipeline
from raydiar.storage.folder import PRIVATE, Folder

_SCHEMA_FILE = f"{PRIVATE}/local.parquet"
_MADE_BY = b"raydiar.local"
_FILE_NAME = re.compile(r"local-.+\.parquet")
_FILES = 1000  # of a plan, in one Parquet file


def made_by(weights: LocalPipeline) -> dict:
    """What LocalSpeakers depend on: the pipeline without what only clustering needs."""
    parameters = dict(weights.parameters)
    for name in ("clustering", "min_duration_off"):
        parameters.pop(name)
    return {
        "segmentation": weights.hashes["segmentation"],
        "embedding": weights.hashes["embedding"],
        "embedding_mode": weights.embedding_mode,
        **parameters,
    }


def prepare(kept: Folder, recording: pa.Schema, weights: LocalPipeline) -> pa.Schema:
    """Fix what a folder of LocalSpeakers holds, or check that it is this.

    Parameters
    ----------
    recording : pyarrow.Schema
        Of a row of the manifest.

    Returns
    -------
    schema : pyarrow.Schema
        Of its files.

    Raises
    ------
    OutputError
        If it holds those of another pipeline, or of a manifest with other columns.
    """
    schema = pa.schema(
        [
            ("recording_id", pa.string()),
            ("recording", pa.struct(list(recording))),
            ("local_speakers", LOCAL_SPEAKERS),
        ],
        metadata={_MADE_BY: json.dumps(made_by(weights), sort_keys=True)},
    )
    if not kept.exists(_SCHEMA_FILE):
        kept.publish_table(_SCHEMA_FILE, schema.empty_table())
    found = read_schema(kept)
    check_made_by(kept, found, weights)
    if found != schema:
        raise OutputError(f"{kept.uri} keeps recordings with other columns; choose another folder")
    return schema


def read_schema(kept: Folder) -> pa.Schema:
    """
    Raises
    ------
    OutputError
        If nothing was ever kept there.
    """
    if not kept.exists(_SCHEMA_FILE):
        raise OutputError(f"{kept.uri} holds no LocalSpeakers; a job keeps them with --keep-local")
    return pq.read_schema(pa.BufferReader(kept.read(_SCHEMA_FILE)))


def check_made_by(kept: Folder, schema: pa.Schema, weights: LocalPipeline) -> None:
    """
    Raises
    ------
    OutputError
        If the LocalSpeakers were made by other networks, or otherwise than this pipeline would.
    """
    there, here = json.loads(schema.metadata[_MADE_BY]), made_by(weights)
    if there != here:
        changed = ", ".join(sorted(key for key in here if there.get(key) != here[key]))
        raise OutputError(f"{kept.uri} holds LocalSpeakers of another pipeline: other {changed}")


@dataclass(frozen=True)
class Keep:
    """Stage that publishes the LocalSpeakers of a pack, and hands the pack on.

    Before its rows: whatever has a row of status "ok" is kept.
    """

    kept: Folder
    run: str
    schema: pa.Schema = field(repr=False)

    def __call__(self, pack: pa.Table) -> pa.Table:
        local = pack.column("local_speakers").chunk(0).flatten()
        found = local.is_valid()
        recordings = pack.column("recordings").chunk(0).flatten().filter(found)
        ids = recordings.field("recording_id")
        if len(ids):
            told = _without_secrets(recordings)
            table = pa.table([ids, told, local.filter(found)], schema=self.schema)
            task = dataset.task_of(ids.to_pylist())
            self.kept.publish_table(f"local-{self.run}-{task}.parquet", table)
        return pack


def _without_secrets(recordings: pa.StructArray) -> pa.StructArray:
    """Rows of a manifest with URIs that may be kept."""
    fields = list(recordings.type)
    values = recordings.flatten()
    place = recordings.type.get_field_index("uri")
    values[place] = pa.array(map(public_uri, values[place].to_pylist()), pa.string())
    return pa.StructArray.from_arrays(values, fields=fields)


def write_plan(kept: Folder, done: np.ndarray, output: Folder, run: str) -> PackPlan:
    """Plan the clustering of all kept recordings that are not done: each file is a pack.

    Parameters
    ----------
    done : (num_done,) S16
        Sorted hashes of the recordings that have a row.
    """
    files = sorted((n for n in kept.list() if _FILE_NAME.fullmatch(n)), reverse=True)
    with ThreadPoolExecutor(16) as threads:
        hashes = list(threads.map(lambda name: _hashes_of(kept, name), files))
    everything = np.concatenate([np.empty(0, "S16"), *hashes])
    _, newest = np.unique(everything, return_index=True)
    wanted = np.zeros(len(everything), bool)
    wanted[newest] = ~is_member(everything[newest], done)
    ends = np.cumsum([len(of_file) for of_file in hashes])
    plan = []
    for name, end, of_file in zip(files, ends, hashes, strict=True):
        rows = np.flatnonzero(wanted[end - len(of_file) : end])
        if len(rows):
            seconds = UNKNOWN_SECONDS * len(rows)  # nothing else of them was read
            plan.append(
                {"pack": len(plan), "seconds": seconds, "file": name, "rows": rows.tolist()}
            )
    for first in range(0, len(plan), _FILES):
        table = pa.Table.from_pylist(plan[first : first + _FILES])
        name = f"{pack_folder(run)}/kept/{first // _FILES:06d}.parquet"
        output.publish_table(name, table)
    return PackPlan(
        folder=pack_folder(run),
        num_recordings=int(wanted.sum()),
        num_packs=len(plan),
        num_long=0,
        longest_seconds=0.0,
        num_done=int(len(newest) - wanted.sum()),
        seconds=UNKNOWN_SECONDS * int(wanted.sum()),
        exact=False,
        hashes=np.sort(everything[wanted]),
    )


@dataclass(frozen=True)
class ReadKept:
    """Stage that reads a planned pack as local inference once gave it."""

    kept: Folder

    def __call__(self, plan: pa.Table) -> pa.Table:
        [row] = plan.to_pylist()
        with self.kept.open(row["file"]) as file:
            table = pq.read_table(file).take(row["rows"]).combine_chunks()
        one = pa.array([0, len(table)], pa.int32())
        nobody = pa.nulls(len(table), dataset.ERROR)
        return pa.table(
            {
                "pack": pa.array([row["pack"]]),
                "seconds": pa.array([row["seconds"]]),
                "recordings": pa.ListArray.from_arrays(one, table.column("recording").chunk(0)),
                "errors": pa.ListArray.from_arrays(one, nobody),
                "local_speakers": pa.ListArray.from_arrays(
                    one, table.column("local_speakers").chunk(0)
                ),
                "shard": pa.nulls(1, SHARD),
                "decode_seconds": pa.array([0.0]),
                "inference_seconds": pa.array([0.0]),
            }
        )


def _hashes_of(kept: Folder, name: str) -> np.ndarray:
    with kept.open(name) as file:
        return hash_ids(pq.read_table(file, columns=["recording_id"]).column(0).to_pylist())


def read_local_speakers(kept: Folder) -> Iterator[tuple[dict, LocalSpeakers]]:
    """All kept recordings, each once: its row of the manifest, and its LocalSpeakers.

    Raises
    ------
    OutputError
        If nothing was ever kept there.
    """
    read_schema(kept)
    seen: set[str] = set()
    for name in sorted((n for n in kept.list() if _FILE_NAME.fullmatch(n)), reverse=True):
        with kept.open(name) as file:
            table = pq.read_table(file)
        for batch in table.to_batches(max_chunksize=64):
            found = local_speakers_from_arrow(batch.column("local_speakers"))
            recordings = batch.column("recording").to_pylist()
            for recording, local in zip(recordings, found, strict=True):
                if recording["recording_id"] not in seen:
                    seen.add(recording["recording_id"])
                    yield recording, local
