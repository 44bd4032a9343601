"""The corpus job: a manifest in, a diarization dataset out.

The output is the checkpoint: a job that was stopped or killed is continued by running it again,
and one that has nothing left to do never starts Ray.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from raydiar.clustering import PLDA
from raydiar.corpus import dataset
from raydiar.corpus.failures import MACHINE, blame
from raydiar.corpus.folder import PRIVATE, TEMPORARY, Folder
from raydiar.corpus.lock import OutputLock, check_lock
from raydiar.corpus.manifest import read_manifest
from raydiar.corpus.packs import PACKS, PackPlan, pack_folder, write_packs
from raydiar.corpus.progress import FailureLimit, Reporter, RunSummary
from raydiar.corpus.shard_record import ShardLog, ShardRecord
from raydiar.corpus.sources import write_manifest
from raydiar.corpus.stages import Decode, Resolve, Write
from raydiar.errors import JobFailed, ManifestError, OutputError, RaydiarError
from raydiar.isolation import IsolatedDecoder
from raydiar.pipelines.config import LocalPipeline, PipelineConfig
from raydiar.pipelines.config_file import load_config

RUN_FILE = f"{PRIVATE}/run.json"
MODELS = f"{PRIVATE}/models"
LISTING = f"{PRIVATE}/manifest.parquet"


def diarize_corpus(
    manifest: str | None,
    output: str,
    pipeline: str | PipelineConfig | None = None,
    *,
    source: str | None = None,
    device: str = "auto",
    num_actors: int | None = None,
    max_failures: int = 500,
    token: str | None = None,
    report: Callable[[str], None] = print,
) -> RunSummary:
    """Diarize every recording of a manifest, or source, that has no row in the output yet.

    Parameters
    ----------
    manifest : str or None
        See `raydiar.corpus.manifest.read_manifest`.
    output : str
        Folder or fsspec URI of the diarization dataset, new or of an earlier run.
    pipeline : str or PipelineConfig, optional
        See `raydiar.pipelines.config_file.load_config`.
    source : str, optional
        Instead of a manifest, what to make one of: see `raydiar.corpus.sources.list_audio`. It is
        listed anew in every run, and the listing kept with the output.
    device : str
        "cuda", "cpu", or "auto": CUDA if the Ray cluster has, or can grow to, a GPU.
    num_actors : int, optional
        Inference actors; by default one a GPU, or as many as the CPUs hold.
    max_failures : int
        The job stops when more than this many of the last 1,000 recordings failed.
    token : str, optional
        Of Hugging Face, for gated weights.
    report : callable
        Takes a line of progress now and then.

    Raises
    ------
    ManifestError, ConfigError, WeightsNotFound, CheckpointError
        Before any work.
    OutputError
        If another run is writing the output, it cannot be written, or it was made by another
        pipeline or with other columns.
    JobFailed
        If the machines or their operator are to blame; run it again to go on.
    """
    if (manifest is None) == (source is None):
        raise ManifestError("give either a manifest (--manifest) or a source of audio (--input)")
    folder = Folder(output if "://" in output else os.path.abspath(output))
    listing = f"{folder.uri.rstrip('/')}/{LISTING}"
    summary = RunSummary(_new_run(), manifest or listing, folder.uri)
    begun = time.monotonic()
    recordings = None if manifest is None else read_manifest(manifest, count_channels)
    if not isinstance(pipeline, PipelineConfig):
        pipeline = load_config(pipeline, token=token)
    weights = pipeline.localize(token)
    with _locked(folder, summary.run):
        if recordings is None:
            write_manifest(source, listing, without=folder.uri)
            recordings = read_manifest(listing, count_channels)
        schema = _agreed_schema(folder, recordings.carried, weights)
        before = dataset.Inventory.read(folder)
        shards = ShardLog(folder, summary.run, ShardRecord.load(folder))
        try:
            plan = write_packs(recordings, before.done, folder, summary.run, shards.record)
            summary.num_recordings = plan.num_recordings + plan.num_done
            summary.num_done_before = plan.num_done
            summary.num_shards = plan.num_shards
            with _recorded(folder, summary, schema, begun):
                if plan.num_recordings or plan.num_shards:
                    job = _Job(folder, summary.run, plan, weights, schema, before.done, shards)
                    with Reporter(summary, report):
                        _process(job, summary, device, num_actors, max_failures, report)
                if shards.num_read < plan.num_shards:
                    unread = plan.num_shards - shards.num_read
                    raise JobFailed(f"{unread} shards were not read; run the job again")
                _finish(folder, summary.run, before, plan.num_recordings + shards.num_rows)
        finally:
            folder.delete(pack_folder(summary.run))
        for leftover in (PACKS, TEMPORARY):  # of killed runs
            folder.delete(leftover)
    return summary


def count_channels(uri: str) -> int | None:
    """Channels of a recording; None if its header cannot be read, which decoding will explain."""
    if not hasattr(_threads, "decoder"):
        _threads.decoder = IsolatedDecoder()
    try:
        return _threads.decoder.probe(uri).num_channels
    except Exception as error:
        if blame(error) == MACHINE:
            raise
        return None


_threads = threading.local()  # a decoder serves one thread at a time


@dataclass(frozen=True)
class _Job:
    output: Folder
    run: str
    plan: PackPlan
    weights: LocalPipeline
    schema: pa.Schema
    done: np.ndarray
    shards: ShardLog


def _process(
    job: _Job,
    summary: RunSummary,
    device: str,
    num_actors: int | None,
    max_failures: int,
    report: Callable[[str], None],
) -> None:
    """Run the graph and count its receipts."""
    # Ray is not imported where there is nothing to do
    from raydiar.corpus.cluster import connected, place, spans_nodes
    from raydiar.corpus.graph import coordinator, job_graph, receipts_of

    limit = FailureLimit(max_failures)
    with connected():
        placement = place(device, num_actors)
        summary.device = placement.device
        report(str(placement))
        weights = job.weights
        if spans_nodes():
            # once, by the driver: a thousand nodes must not ask the Hub or the package index
            weights = weights.mirror(f"{job.output.uri}/{MODELS}").config
        config = job.weights.config
        plda = PLDA.load(job.weights.plda) if job.weights.plda else None
        pipeline = dataset.pipeline_of(job.schema)
        resolve = Resolve(config.clustering, plda, config.min_duration_off, pipeline, job.schema)
        write = Write(job.output, job.run, job.schema)
        to_rows = (weights, resolve, write, placement)
        with coordinator() as actor:
            graph = job_graph(job.plan, job.output, Decode(), *to_rows, actor, job.done)
            with job.shards, closing(receipts_of(graph)) as receipts:
                for receipt in receipts:
                    summary.add(receipt)
                    job.shards.add(receipt)
                    summary.num_shards_read = job.shards.num_read
                    limit.add(receipt)


def _new_run() -> str:
    # sorts by time, so that of two rows of a recording the older is kept
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


@contextmanager
def _locked(folder: Folder, run: str) -> Iterator[None]:
    try:
        with OutputLock(folder, run):
            yield
    except OSError as error:
        if isinstance(error, RaydiarError):
            raise
        raise OutputError(f"{folder.uri} cannot be used as output: {error}") from error


@contextmanager
def _recorded(
    folder: Folder, summary: RunSummary, schema: pa.Schema, begun: float
) -> Iterator[None]:
    """Keep `run.json` up to date about a run; one that finds nothing to do leaves no record."""

    def write(state: str) -> None:
        summary.state = state
        summary.wall_seconds = time.monotonic() - begun
        if summary.num_shards or summary.num_recordings > summary.num_done_before:
            record = vars(summary) | {"pipeline": dataset.pipeline_of(schema)}
            folder.publish(RUN_FILE, json.dumps(record, indent=2).encode())

    write("running")
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what stopped the run may be that nothing can be written
            write("stopped")
        raise
    write("done")


def _agreed_schema(folder: Folder, carried: pa.Schema, weights: LocalPipeline) -> pa.Schema:
    """Schema of the output, which its first run fixes.

    Raises
    ------
    OutputError
        If the output was made by another pipeline, or cannot take a carried column.
    """
    pipeline = weights.describe()
    schema = dataset.read_schema(folder)
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
            "Choose another output."
        )
    for column in carried:
        if column.name not in schema.names:
            raise OutputError(
                f"{folder.uri} was made without the column {column.name!r} that the manifest "
                "carries. Leave it out, or choose another output."
            )
        if schema.field(column.name).type != column.type:
            raise OutputError(
                f"{folder.uri} holds the column {column.name!r} as "
                f"{schema.field(column.name).type}, the manifest as {column.type}. "
                "Convert it, or choose another output."
            )
    return schema


def _finish(folder: Folder, run: str, before: dataset.Inventory, num_recordings: int) -> None:
    """Leave exactly one row a recording, to any reader."""
    after = dataset.Inventory.read(folder, known=before)
    missing = len(before.done) + num_recordings - len(after.done)
    if missing:
        raise JobFailed(f"{missing} recordings were left without a row; run the job again")
    check_lock(folder, run)
    dataset.remove_overruled(folder, run, after)
