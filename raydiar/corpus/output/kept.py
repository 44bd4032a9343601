"""LocalSpeakers kept by a job, so that clustering can be done again without GPU and audio.

A tenth of the PCM in size. One Parquet file a pack, `local-<run>-<task>.parquet`; of a recording
that was done twice, after a kill or on retry, the newest counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.plan import Plan, plan_folder
from raydiar.corpus.wire import LOCAL_SPEAKERS, local_speakers_from_arrow
from raydiar.errors import OutputError
from raydiar.local_speakers import LocalSpeakers
from raydiar.pipelines.config import LocalPipeline
from raydiar.storage.folder import PRIVATE, Folder

_SCHEMA_FILE = f"{PRIVATE}/local.parquet"
_MADE_BY = b"raydiar.local"
_FILE_NAME = re.compile(r"local-.+\.parquet")
_FILES = 1000  # of a plan, in one Parquet file


def made_by(weights: LocalPipeline) -> dict:
    """What LocalSpeakers depend on: the pipeline without what only clustering needs."""
    parameters = dict(weights.parameters)
    for name in ("clustering", "min_duration_off", "counting"):
        parameters.pop(name, None)
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


def plan_kept(kept: Folder, done: np.ndarray, output: Folder, run: str) -> Plan:
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
            plan.append({"pack": len(plan), "file": name, "rows": rows.tolist()})
    names = []
    for first in range(0, len(plan), _FILES):
        names.append(f"kept-{first // _FILES:06d}.parquet")
        table = pa.Table.from_pylist(plan[first : first + _FILES])
        output.publish_table(f"{plan_folder(run)}/{names[-1]}", table)
    return Plan(
        folder=plan_folder(run),
        files=tuple(names),
        num_recordings=int(wanted.sum()),
        num_done=int(len(newest) - wanted.sum()),
        hashes=np.sort(everything[wanted]),
        most_packs=len(plan),
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
