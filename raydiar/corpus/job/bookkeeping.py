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
from raydiar.corpus.inputs.plan import PLANS, Plan, plan_folder
from raydiar.corpus.inputs.shard_record import ShardLog
from raydiar.corpus.output import dataset, detections
from raydiar.corpus.output.row_index import update_index
from raydiar.corpus.watch.progress import RunSummary
from raydiar.corpus.watch.record import write_record
from raydiar.errors import ConfigError, JobFailed, OutputError, RaydiarError
from raydiar.failures import retrying
from raydiar.pipelines.config import LocalPipeline
from raydiar.pipelines.detector import LocalDetector
from raydiar.storage.folder import TEMPORARY, Folder, usable
from raydiar.storage.lock import OutputLock, check_lock


def folder_of(uri: str) -> Folder:
    return Folder(uri if "://" in uri else os.path.abspath(uri))


def check_paths(**paths: str | None) -> None:
    """Refuse relative paths where they would mean Ray's copy of a submitted folder.

    Parameters
    ----------
    paths : str or None
        By the names that the command line gives them.

    Raises
    ------
    ConfigError
    """
    if "_ray_pkg_" not in os.getcwd():
        return
    for name, path in paths.items():
        if path is not None and "://" not in path and not os.path.isabs(path):
            raise ConfigError(
                f"--{name.replace('_', '-')} {path}: a job that was submitted with --working-dir "
                "runs in Ray's own copy of that folder, which is deleted some time after and is "
                "another one on every node. Give a URI (s3://…), or an absolute path that all "
                "nodes share."
            )


def new_run() -> str:
    # sorts by time, so that of two rows of a recording the older is kept
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@contextmanager
def locked(folder: Folder, run: str, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock of an output.

    Raises
    ------
    OutputError
        If another run holds it, or the output cannot be used.
    JobFailed
        For an OSError of what is done meanwhile that nothing told better.
    """
    with OutputLock(folder, run, say=say):
        try:
            yield
        except OSError as error:
            if isinstance(error, RaydiarError):
                raise
            raise JobFailed(
                f"the job stopped: {type(error).__name__}: {error}\n"
                "What is done is in the output: run the job again to go on from there."
            ) from error


@contextmanager
def scratch(folder: Folder, run: str) -> Iterator[None]:
    """Leave nothing behind that only this run needed, or that killed ones left."""
    try:
        yield
    finally:
        with suppress(Exception):  # an error of the run is worth more; the next run sweeps
            folder.delete(plan_folder(run))
    with usable(folder):
        check_lock(folder, run)
        # those of older runs only: should this one be asleep by now, others have begun since
        for older in folder.folders(PLANS):
            if older < run:
                folder.delete(f"{PLANS}/{older}")
        folder.delete_empty(PLANS)
        folder.delete(TEMPORARY)


@contextmanager
def recorded(
    folder: Folder,
    summary: RunSummary,
    plan: Plan,
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
    summary.stated_seconds, summary.stated_all = plan.seconds, plan.exact

    def write() -> None:
        summary.tick()
        if summary.num_shards or summary.num_recordings > summary.num_done_before:
            write_record(folder, summary, dataset.pipeline_of(schema))

    with usable(folder):
        write()
    try:
        yield write
    except BaseException:
        summary.state = "stopped"
        with suppress(Exception):  # what stopped the run may be that nothing can be written
            write()
        raise
    summary.state = "done"
    with usable(folder):
        write()


def agreed_schema(
    folder: Folder,
    run: str,
    carried: pa.Schema,
    weights: LocalPipeline | LocalDetector,
    reprocess: bool = False,
) -> pa.Schema:
    """Schema of the output, which its first run fixes; columns that came later are added.

    Raises
    ------
    OutputError
        If the output was made by another pipeline, has a carried column of another type, or if
        another run has taken it over.
    """
    pipeline = weights.describe()
    if isinstance(weights, LocalDetector):
        wanted = detections.detection_schema(carried, pipeline)
    else:
        wanted = dataset.dataset_schema(weights.dimension, carried, pipeline)
    with usable(folder):
        schema = dataset.read_schema(folder)
        made_by = schema and dataset.pipeline_of(schema)
        if schema and (task := dataset.task_of_schema(schema)) != dataset.task_of_schema(wanted):
            # not even to be reprocessed: what is there took longer than a slip of the keyboard
            raise OutputError(
                f"{folder.uri} holds rows of {task!r}, and this job makes those of "
                f"{dataset.task_of_schema(wanted)!r}: choose another output"
            )
        if reprocess and schema and made_by["fingerprint"] != weights.fingerprint:
            dataset.delete_rows(folder, run)
            schema = None
        if schema is None:
            # in place of an older one: a schema that is deleted might be the next run's already
            _write_schema(folder, run, wanted)
            return wanted
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
    now = dataset.extended(schema, wanted)
    if now != schema:
        _write_schema(folder, run, now)
    return now


def _write_schema(folder: Folder, run: str, schema: pa.Schema) -> None:
    # a run that fell asleep after it read the schema must not undo what has been added since
    retrying(lambda: check_lock(folder, run))
    dataset.write_schema(folder, schema)


def finish(
    folder: Folder,
    run: str,
    before: dataset.Inventory,
    plan: Plan,
    shards: ShardLog | None = None,
) -> dataset.Inventory:
    """Leave exactly one row a recording, to any reader; gives what there is then."""
    with usable(folder):
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
        if dataset.remove_overruled(folder, run, after):
            after = dataset.Inventory.read(folder, known=after)
        update_index(folder, after.indexed)
    return after
