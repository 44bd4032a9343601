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

import pyarrow as pa

from raydiar.clustering import PLDA
from raydiar.corpus import dataset
from raydiar.corpus.failures import MACHINE, blame
from raydiar.corpus.folder import PRIVATE, TEMPORARY, Folder
from raydiar.corpus.lock import OutputLock, check_lock
from raydiar.corpus.manifest import read_manifest
from raydiar.corpus.packs import PACKS, PackPlan, pack_folder, write_packs
from raydiar.corpus.progress import FailureLimit, RunSummary
from raydiar.corpus.record import versions, write_record
from raydiar.corpus.reporting import Reporter, print_line
from raydiar.corpus.stages import Decode, Resolve, Write
from raydiar.errors import JobFailed, OutputError, RaydiarError
from raydiar.isolation import IsolatedDecoder
from raydiar.pipelines.config import LocalPipeline, PipelineConfig
from raydiar.pipelines.config_file import load_config

MODELS = f"{PRIVATE}/models"


def diarize_corpus(
    manifest: str,
    output: str,
    pipeline: str | PipelineConfig | None = None,
    *,
    device: str = "auto",
    num_actors: int | None = None,
    max_failures: int = 500,
    token: str | None = None,
    report: Callable[[str], None] | None = None,
) -> RunSummary:
    """Diarize every recording of a manifest that has no row in the output yet.

    Parameters
    ----------
    manifest : str
        See `raydiar.corpus.manifest.read_manifest`.
    output : str
        Folder or fsspec URI of the diarization dataset, new or of an earlier run.
    pipeline : str or PipelineConfig, optional
        See `raydiar.pipelines.config_file.load_config`.
    device : str
        "cuda", "cpu", or "auto": CUDA if the Ray cluster has, or can grow to, a GPU.
    num_actors : int, optional
        Inference actors; by default one a GPU, or as many as the CPUs hold.
    max_failures : int
        The job stops when more than this many of the last 1,000 recordings failed.
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
    folder = Folder(output if "://" in output else os.path.abspath(output))
    summary = RunSummary(_new_run(), manifest, folder.uri, versions=versions())
    recordings = read_manifest(manifest, count_channels)
    if not isinstance(pipeline, PipelineConfig):
        pipeline = load_config(pipeline, token=token)
    weights = pipeline.localize(token)
    with _locked(folder, summary.run):
        schema = _agreed_schema(folder, recordings.carried, weights)
        before = dataset.Inventory.read(folder)
        try:
            plan = write_packs(recordings, before.done, folder, summary.run)
            summary.num_recordings = plan.num_recordings + plan.num_done
            summary.num_done_before, summary.num_rows_before = plan.num_done, len(before.done)
            summary.planned_seconds, summary.planned_exactly = plan.seconds, plan.exact
            with _recorded(folder, summary, schema) as record:
                if plan.num_recordings:
                    job = _Job(folder, summary.run, plan, weights, schema)
                    with Reporter(summary, record, report):
                        say = report or print_line
                        _process(job, summary, device, num_actors, max_failures, say)
                _finish(folder, summary.run, before, plan.num_recordings)
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
    from raydiar.corpus.metrics import JobMetrics

    limit = FailureLimit(max_failures)
    with connected():
        placement = place(device, num_actors)
        summary.device, summary.placement = placement.device, vars(placement)
        summary.begin_processing()
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
        metrics = JobMetrics(job.output.uri)
        with coordinator() as actor:
            graph = job_graph(
                job.plan, job.output, Decode(), weights, resolve, write, placement, actor
            )
            with closing(receipts_of(graph)) as receipts:
                for receipt in receipts:
                    summary.add(receipt)
                    metrics.add(receipt)
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
    folder: Folder, summary: RunSummary, schema: pa.Schema
) -> Iterator[Callable[[], None]]:
    """Keep the record of a run up to date; one that finds nothing to do leaves none.

    Gives a function that writes it once more.
    """

    def write() -> None:
        summary.tick()
        if summary.num_recordings > summary.num_done_before:
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
