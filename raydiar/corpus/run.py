"""The corpus job: a manifest in, a diarization dataset out.

The output is the checkpoint: a job that was stopped or killed is continued by running it again,
and one that has nothing left to do never starts Ray.
"""

from __future__ import annotations

import os
import secrets
import threading
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
from raydiar.corpus.kept import Keep, ReadKept, check_made_by, prepare, read_schema, write_plan
from raydiar.corpus.lock import OutputLock, check_lock
from raydiar.corpus.manifest import RECORDING_FIELDS, read_manifest
from raydiar.corpus.packs import PACKS, PackPlan, pack_folder, write_packs
from raydiar.corpus.progress import FailureLimit, RunSummary
from raydiar.corpus.record import versions, write_record
from raydiar.corpus.reporting import Reporter, print_line
from raydiar.corpus.shard_record import ShardLog, ShardRecord
from raydiar.corpus.sources import write_manifest
from raydiar.corpus.stages import Decode, Resolve, Write
from raydiar.errors import ConfigError, JobFailed, ManifestError, OutputError, RaydiarError
from raydiar.isolation import IsolatedDecoder
from raydiar.pipelines.config import LocalPipeline, PipelineConfig
from raydiar.pipelines.config_file import load_config

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
    retry_errors: str | None = None,
    reprocess: bool = False,
    keep_local: str | None = None,
    decode_time_limit: float = 120.0,
    token: str | None = None,
    report: Callable[[str], None] | None = None,
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
    retry_errors : str, optional
        Do again the recordings of the manifest whose row is an error: "retryable" ones (storage
        did not answer, say), or "all", for which all shards are read again.
    reprocess : bool
        If another pipeline made the output, delete its rows and begin anew.
    keep_local : str, optional
        Folder or fsspec URI in which LocalSpeakers are kept, for `resolve_corpus`.
    decode_time_limit : float, s
        A recording whose decoding takes longer, beyond a tenth of its duration, has stalled.
    token : str, optional
        Of Hugging Face, for gated weights.
    report : callable, optional
        Takes a line of progress every half minute. By default a terminal shows one line that is
        kept up to date, and anything else gets them printed.

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
    if retry_errors not in (None, "retryable", "all"):
        raise ConfigError(f"retry_errors must be retryable or all, not {retry_errors!r}")
    folder = _folder(output)
    listing = f"{folder.uri.rstrip('/')}/{LISTING}"
    summary = RunSummary(_new_run(), manifest or listing, folder.uri, versions=versions())
    recordings = None if manifest is None else read_manifest(manifest, count_channels)
    if not isinstance(pipeline, PipelineConfig):
        pipeline = load_config(pipeline, token=token)
    weights = pipeline.localize(token)
    with _locked(folder, summary.run):
        if recordings is None:
            write_manifest(source, listing, without=folder.uri)
            recordings = read_manifest(listing, count_channels)
        schema = _agreed_schema(folder, recordings.carried, weights, reprocess)
        keep = None
        if keep_local is not None:
            kept = _folder(keep_local)
            keep = Keep(kept, summary.run, prepare(kept, recordings.schema, weights))
        before = dataset.Inventory.read(folder)
        done = before.done
        if retry_errors:
            again = dataset.failed(folder, before, only_retryable=retry_errors == "retryable")
            done = done[~dataset.is_done(done, again)]
        shards = ShardLog(folder, summary.run, ShardRecord.load(folder))
        # which members of shards failed shows only in the shards
        read = ShardRecord() if retry_errors == "all" else shards.record
        with _scratch(folder, summary.run):
            plan = write_packs(recordings, done, folder, summary.run, read)
            with _recorded(folder, summary, plan, before, schema) as record:
                if plan.num_recordings or plan.num_shards:
                    job = _Job(folder, summary.run, plan, weights, schema, done, shards)
                    decode = Decode(time_limit=decode_time_limit)
                    with Reporter(summary, record, report):
                        say = report or print_line
                        _process(job, decode, keep, summary, device, num_actors, max_failures, say)
                _finish(folder, summary.run, before, plan, shards)
    return summary


def resolve_corpus(
    kept: str,
    output: str,
    pipeline: str | PipelineConfig | None = None,
    *,
    max_failures: int = 500,
    token: str | None = None,
    report: Callable[[str], None] | None = None,
) -> RunSummary:
    """Cluster again, with other parameters, what `diarize_corpus` kept with `keep_local`.

    Needs neither GPU nor audio. Recordings of which there is a row in the output are left out.

    Parameters
    ----------
    kept : str
        Folder or fsspec URI of LocalSpeakers.
    output, pipeline, max_failures, token, report
        See `diarize_corpus`. The networks of the pipeline must be those of the LocalSpeakers.

    Raises
    ------
    OutputError
        Also if there are no LocalSpeakers, or they are of another pipeline.
    ConfigError, WeightsNotFound, CheckpointError, JobFailed
    """
    source, folder = _folder(kept), _folder(output)
    summary = RunSummary(_new_run(), source.uri, folder.uri, versions=versions())
    kept_schema = read_schema(source)
    if not isinstance(pipeline, PipelineConfig):
        pipeline = load_config(pipeline, token=token)
    weights = pipeline.localize(token)
    check_made_by(source, kept_schema, weights)
    recording = kept_schema.field("recording").type
    carried = pa.schema([f for f in recording if f.name not in RECORDING_FIELDS.names])
    with _locked(folder, summary.run):
        schema = _agreed_schema(folder, carried, weights)
        before = dataset.Inventory.read(folder)
        with _scratch(folder, summary.run):
            plan = write_plan(source, before.done, folder, summary.run)
            with _recorded(folder, summary, plan, before, schema) as record:
                if plan.num_recordings:
                    job = _Job(folder, summary.run, plan, weights, schema)
                    with Reporter(summary, record, report):
                        _resolve(job, ReadKept(source), summary, max_failures)
                _finish(folder, summary.run, before, plan)
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
    done: np.ndarray | None = None
    shards: ShardLog | None = None

    def resolve(self) -> Resolve:
        config = self.weights.config
        plda = PLDA.load(self.weights.plda) if self.weights.plda else None
        pipeline = dataset.pipeline_of(self.schema)
        return Resolve(config.clustering, plda, config.min_duration_off, pipeline, self.schema)

    def write(self) -> Write:
        return Write(self.output, self.run, self.schema)


def _process(
    job: _Job,
    decode: Decode,
    keep: Keep | None,
    summary: RunSummary,
    device: str,
    num_actors: int | None,
    max_failures: int,
    report: Callable[[str], None],
) -> None:
    """Run the graph of `diarize_corpus` and count its receipts."""
    # Ray is not imported where there is nothing to do
    from raydiar.corpus.cluster import connected, place, spans_nodes
    from raydiar.corpus.graph import coordinator, job_graph

    with connected():
        placement = place(device, num_actors)
        summary.device, summary.placement = placement.device, vars(placement)
        summary.begin_processing()
        report(str(placement))
        weights = job.weights
        if spans_nodes():
            # once, by the driver: a thousand nodes must not ask the Hub or the package index
            weights = weights.mirror(f"{job.output.uri}/{MODELS}").config
        with coordinator() as actor:
            graph = job_graph(
                job.plan,
                job.output,
                decode,
                weights,
                job.resolve(),
                job.write(),
                placement,
                actor,
                keep,
                job.done,
            )
            with job.shards:
                _count(graph, summary, max_failures, job.shards)


def _resolve(job: _Job, read: ReadKept, summary: RunSummary, max_failures: int) -> None:
    """Run the graph of `resolve_corpus` and count its receipts."""
    from raydiar.corpus.cluster import connected
    from raydiar.corpus.graph import resolve_graph

    with connected():
        summary.device = "cpu"
        summary.begin_processing()
        graph = resolve_graph(job.plan, job.output, read, job.resolve(), job.write())
        _count(graph, summary, max_failures)


def _count(graph, summary: RunSummary, max_failures: int, shards: ShardLog | None = None) -> None:
    from raydiar.corpus.graph import receipts_of
    from raydiar.corpus.metrics import JobMetrics

    limit, metrics = FailureLimit(max_failures), JobMetrics(summary.output)
    with closing(receipts_of(graph)) as receipts:
        for receipt in receipts:
            summary.add(receipt)
            metrics.add(receipt)
            if shards is not None:
                shards.add(receipt)
                summary.num_shards_read = shards.num_read
            limit.add(receipt)


def _folder(uri: str) -> Folder:
    return Folder(uri if "://" in uri else os.path.abspath(uri))


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
def _scratch(folder: Folder, run: str) -> Iterator[None]:
    """Leave nothing behind that only this run needed, or that killed ones left."""
    try:
        yield
    finally:
        folder.delete(pack_folder(run))
    for leftover in (PACKS, TEMPORARY):
        folder.delete(leftover)


@contextmanager
def _recorded(
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
    done_again = dataset.is_done(plan.hashes, before.done).sum()
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


def _agreed_schema(
    folder: Folder, carried: pa.Schema, weights: LocalPipeline, reprocess: bool = False
) -> pa.Schema:
    """Schema of the output, which its first run fixes.

    Raises
    ------
    OutputError
        If the output was made by another pipeline, or cannot take a carried column.
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


def _finish(
    folder: Folder,
    run: str,
    before: dataset.Inventory,
    plan: PackPlan,
    shards: ShardLog | None = None,
) -> None:
    """Leave exactly one row a recording, to any reader."""
    after = dataset.Inventory.read(folder, known=before)
    written = after.of_run(run)
    planned = dataset.is_done(written, plan.hashes)
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
