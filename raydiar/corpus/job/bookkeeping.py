"""What surrounds the work of a run: its lock, its scratch folder, its record, the schema, the end.

The order matters: nothing is written before the lock is held, and a run is not done before every
recording has exactly one row.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from raydiar.corpus.hashes import is_member
from raydiar.corpus.inputs.packs import PACKS, PackPlan, pack_folder
from raydiar.corpus.inputs.shard_record import ShardLog
from raydiar.corpus.output import dataset
from raydiar.corpus.watch.progress import RunSummary
from raydiar.corpus.watch.record import write_record
from raydiar.errors import JobFailed, OutputError, RaydiarError
from raydiar.pipelines.config import LocalPipeline
from raydiar.storage.folder import TEMPORARY, Folder
from raydiar.storage.lock import OutputLock, check_lock


def folder_of(uri: str) -> Folder:
    return Folder(uri if "://" in uri else os.path.abspath(uri))


def new_run() -> str:
    # sorts by time, so that of two rows of a recording the older is kept
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@contextmanager
def locked(folder: Folder, run: str) -> Iterator[None]:
    try:
        with OutputLock(folder, run):
            yield
    except OSError as error:
        if isinstance(error, RaydiarError):
            raise
        raise OutputError(f"{folder.uri} cannot be used as output: {error}") from error


@contextmanager
def scratch(folder: Folder, run: str) -> Iterator[None]:
    """Leave nothing behind that only this run needed, or that killed ones left."""
    try:
        yield
    finally:
        folder.delete(pack_folder(run))
    for leftover in (PACKS, TEMPORARY):
        folder.delete(leftover)


@contextmanager
def recorded(
    folder: Folder,
    summary: RunSummary,
    plan: PackPlan,
    before: dataset.Inventory,
    schema: pa.Schema,
) -> Iterator[Callable[[], None]]:
    """Keep the record of a run up to date; one that finds nothing to do leaves none.

    Gives a function that writes it once more.
    """
    summary.num_recordings = plan.num_recordings + plan.num_done
    summary.num_done_before = plan.num_done
    summary.num_shards = plan.num_shards
    done_again = is_member(plan.hashes, before.done).sum()
    summary.num_rows_before = len(before.done) - int(done_again)
    summary.planned_seconds, summary.planned_exactly = plan.seconds, plan.exact

    def write() -> None:
        summary.tick()
        if summary.num_shards or summary.num_recordings > summary.num_done_before:
            write_record(folder, summary, dataset.pipeline_of(schema))

    write()
    try:
        yield write
    except BaseException:
        summary.state = "stopped"
        with suppress(OSError):  # what stopped the run may be that nothing can be written
            write()
        raise
    summary.state = "done"
    write()


def agreed_schema(
    folder: Folder, carried: pa.Schema, weights: LocalPipeline, reprocess: bool = False
) -> pa.Schema:
    """Schema of the output, which its first run fixes; columns that came later are added.

    Raises
    ------
    OutputError
        If the output was made by another pipeline, or has a carried column of another type.
    """
    pipeline = weights.describe()
    schema = dataset.read_schema(folder)
    if reprocess and schema and dataset.pipeline_of(schema)["fingerprint"] != weights.fingerprint:
        dataset.delete_rows(folder)
        schema = None
    if schema is None:
        schema = dataset.dataset_schema(weights.dimension, carried, pipeline)
        dataset.write_schema(folder, schema)
        return schema
    made_by = dataset.pipeline_of(schema)
    if made_by["fingerprint"] != pipeline["fingerprint"]:
        changed = [key for key in made_by if made_by[key] != pipeline[key] and key != "fingerprint"]
        raise OutputError(
            f"{folder.uri} was made by another pipeline (fingerprint {made_by['fingerprint']}, "
            f"now {pipeline['fingerprint']}; different: {', '.join(changed) or 'numerics'}). "
            "Choose another output, or delete its rows and do them again with --reprocess."
        )
    for column in carried:
        if column.name in schema.names and schema.field(column.name).type != column.type:
            raise OutputError(
                f"{folder.uri} holds the column {column.name!r} as "
                f"{schema.field(column.name).type}, the manifest as {column.type}. "
                "Convert it, or choose another output."
            )
    now = dataset.extended(schema, dataset.dataset_schema(weights.dimension, carried, pipeline))
    if now != schema:
        dataset.write_schema(folder, now)
    return now


def finish(
    folder: Folder,
    run: str,
    before: dataset.Inventory,
    plan: PackPlan,
    shards: ShardLog | None = None,
) -> None:
    """Leave exactly one row a recording, to any reader."""
    after = dataset.Inventory.read(folder, known=before)
    written = after.of_run(run)
    planned = is_member(written, plan.hashes)
    missing = len(plan.hashes) - np.sum(planned)
    if shards is not None:
        if shards.num_read < plan.num_shards:
            unread = plan.num_shards - shards.num_read
            raise JobFailed(f"{unread} shards were not read to their end; run the job again")
        missing += shards.num_rows - np.sum(~planned)
    if missing:
        raise JobFailed(f"{missing} recordings were left without a row; run the job again")
    check_lock(folder, run)
    dataset.remove_overruled(folder, run, after)
