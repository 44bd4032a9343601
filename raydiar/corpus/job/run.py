"""The corpus job: a manifest in, a dataset of diarizations, or detections, out.

The output is the checkpoint: a job that was stopped or killed is continued by running it again,
and one that has nothing left to do never starts Ray.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from raydiar.audio.isolation import IsolatedDecoder
from raydiar.clustering import PLDA
from raydiar.corpus.hashes import is_member
from raydiar.corpus.inputs.manifest import RECORDING_FIELDS, read_manifest
from raydiar.corpus.inputs.plan import Plan, write_plan
from raydiar.corpus.inputs.shard_record import ShardLog, ShardRecord
from raydiar.corpus.inputs.sources import write_manifest
from raydiar.corpus.job.bookkeeping import (
    agreed_schema,
    check_paths,
    finish,
    folder_of,
    locked,
    new_run,
    recorded,
    scratch,
)
from raydiar.corpus.job.decoding import Decode
from raydiar.corpus.job.detecting import Detect
from raydiar.corpus.job.keeping import Keep, ReadKept
from raydiar.corpus.job.stages import Resolve, Write
from raydiar.corpus.output import dataset, delta
from raydiar.corpus.output.kept import check_made_by, plan_kept, prepare, read_schema
from raydiar.corpus.watch.progress import FailureLimit, RunSummary
from raydiar.corpus.watch.record import versions
from raydiar.corpus.watch.reporting import Reporter, print_line
from raydiar.devices import parse_device
from raydiar.errors import ConfigError, ManifestError
from raydiar.failures import recordings_error
from raydiar.naming import public_uri
from raydiar.pipelines.config import LocalPipeline, PipelineConfig
from raydiar.pipelines.config_file import load_config
from raydiar.pipelines.detector import Detector, LocalDetector
from raydiar.storage.folder import PRIVATE, Folder
from raydiar.weights import SEGMENTATION_3_0, Weights

MODELS = f"{PRIVATE}/models"
LISTING = f"{PRIVATE}/manifest.parquet"


def diarize_corpus(
    manifest: str | None,
    output: str,
    pipeline: str | PipelineConfig | None = None,
    *,
    source: str | None = None,
    device: str = "auto",
    num_actors: int | str | None = None,
    max_failures: int = 500,
    retry_errors: str | None = None,
    reprocess: bool = False,
    keep_local: str | None = None,
    decode_time_limit: float = 120.0,
    price: float | None = None,
    table: str | None = None,
    token: str | None = None,
    report: Callable[[str], None] | None = None,
) -> RunSummary:
    """Diarize every recording of a manifest, or source, that has no row in the output yet.

    Parameters
    ----------
    manifest : str or None
        See `raydiar.corpus.inputs.manifest.read_manifest`.
    output : str
        Folder or fsspec URI of the diarization dataset, new or of an earlier run.
    pipeline : str or PipelineConfig, optional
        See `raydiar.pipelines.config_file.load_config`.
    source : str, optional
        Instead of a manifest, what to make one of: see `raydiar.corpus.inputs.sources.list_audio`.
        It is listed anew in every run, and the listing kept with the output.
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
    price : float, optional
        What one inference actor (a GPU, or the CPUs of one) costs an hour, in any currency: the
        cost of an hour of audio is then told with the progress.
    table : str, optional
        "delta": commit what the job leaves to a Delta Lake table in the output. An output that is
        one stays one without being asked.
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
        If the machines or their operator failed; run it again to go on.
    """

    def localize() -> LocalPipeline:
        config = pipeline
        if not isinstance(config, PipelineConfig):
            config = load_config(config, token=token)
        return config.localize(token)

    return _run(
        manifest,
        output,
        localize,
        source=source,
        device=device,
        num_actors=num_actors,
        max_failures=max_failures,
        retry_errors=retry_errors,
        reprocess=reprocess,
        keep_local=keep_local,
        decode_time_limit=decode_time_limit,
        price=price,
        table=table,
        report=report,
    )


def detect_corpus(
    task: str,
    manifest: str | None,
    output: str,
    segmentation: Weights | str | None = None,
    *,
    source: str | Sequence[str] | None = None,
    fast: bool = False,
    parameters: Mapping[str, Any] | None = None,
    device: str = "auto",
    num_actors: int | str | None = None,
    max_failures: int = 500,
    retry_errors: str | None = None,
    reprocess: bool = False,
    decode_time_limit: float = 120.0,
    price: float | None = None,
    table: str | None = None,
    token: str | None = None,
    report: Callable[[str], None] | None = None,
) -> RunSummary:
    """Detect speech, overlapped speech or changes of speakers, without the cost of embeddings.

    In every recording of a manifest, or source, that has no row in the output yet. Rows are those
    of `raydiar.corpus.output.detections`.

    Parameters
    ----------
    task : str
        "speech", "overlap" or "changes".
    manifest, output
        See `diarize_corpus`.
    segmentation : Weights or str, optional
        A network, or a pipeline that holds one: path, repository or URI; embedded by default.
    source : str or sequence of str, optional
        Instead of a manifest, one source or several.
    fast, parameters
        See `raydiar.pipelines.detector.Detector`.
    device, num_actors, max_failures, retry_errors, reprocess, decode_time_limit, price, table
        See `diarize_corpus`.
    token, report
        See `diarize_corpus`.

    Raises
    ------
    ManifestError, ConfigError, WeightsNotFound, CheckpointError, OutputError, JobFailed
        As `diarize_corpus`.
    """
    if not isinstance(segmentation, Weights):
        segmentation = SEGMENTATION_3_0 if segmentation is None else Weights(segmentation)
    detector = Detector(task, segmentation, fast, parameters or {})
    return _run(
        manifest,
        output,
        lambda: detector.localize(token),
        source=source,
        device=device,
        num_actors=num_actors,
        max_failures=max_failures,
        retry_errors=retry_errors,
        reprocess=reprocess,
        decode_time_limit=decode_time_limit,
        price=price,
        table=table,
        report=report,
    )


def _run(
    manifest: str | None,
    output: str,
    localize: Callable[[], LocalPipeline | LocalDetector],
    *,
    source: str | Sequence[str] | None,
    device: str,
    num_actors: int | str | None,
    max_failures: int,
    retry_errors: str | None,
    reprocess: bool,
    decode_time_limit: float,
    price: float | None,
    table: str | None,
    report: Callable[[str], None] | None,
    keep_local: str | None = None,
) -> RunSummary:
    """What `diarize_corpus` and `detect_corpus` do with what `localize` brings here."""
    if (manifest is None) == (not source):
        raise ManifestError("give either a manifest (--manifest) or a source of audio (--input)")
    if retry_errors not in (None, "retryable", "all"):
        raise ConfigError(f"retry_errors must be retryable or all, not {retry_errors!r}")
    _check_table(table)
    device = parse_device(device, of_cluster=True)
    sources = [source] if isinstance(source, str) else source or []
    for one in sources:
        check_paths(input=one)
    check_paths(manifest=manifest, output=output, keep_local=keep_local)
    folder = folder_of(output)
    listing = f"{folder.uri.rstrip('/')}/{LISTING}"
    told = public_uri(manifest or listing)
    summary = RunSummary(new_run(), told, public_uri(folder.uri), versions=versions())
    if price is not None and not 0 <= price < math.inf:
        raise ConfigError(f"price must be 0 or more an hour, not {price}")
    summary.price = price
    recordings = None if manifest is None else read_manifest(manifest, count_channels)
    weights = localize()
    with locked(folder, summary.run, report or print_line):
        if recordings is None:
            write_manifest(sources, listing, without=folder.uri)
            recordings = read_manifest(listing, count_channels)
        schema = agreed_schema(folder, summary.run, recordings.carried, weights, reprocess)
        commit = delta.committer(folder, summary.run, schema, table)
        keep = None
        if keep_local is not None:
            kept = folder_of(keep_local)
            keep = Keep(kept, summary.run, prepare(kept, recordings.schema, weights))
        before = dataset.Inventory.read(folder)
        done = before.done
        if retry_errors:
            again = dataset.failed(folder, before, only_retryable=retry_errors == "retryable")
            done = done[~is_member(done, again)]
        shards = ShardLog(folder, summary.run, ShardRecord.load(folder))
        # which members of shards failed shows only in the shards
        read = ShardRecord() if retry_errors == "all" else shards.record
        with scratch(folder, summary.run):
            plan = write_plan(recordings, done, folder, summary.run, read)
            with recorded(folder, summary, plan, before, schema) as record:
                if plan.num_recordings or plan.num_shards:
                    job = _Job(folder, summary.run, plan, weights, schema, done, shards)
                    decode = Decode(time_limit=decode_time_limit)
                    with Reporter(summary, record, report):
                        say = report or print_line
                        _process(job, decode, keep, summary, device, num_actors, max_failures, say)
                commit(finish(folder, summary.run, before, plan, shards))
    return summary


def resolve_corpus(
    kept: str,
    output: str,
    pipeline: str | PipelineConfig | None = None,
    *,
    max_failures: int = 500,
    table: str | None = None,
    token: str | None = None,
    report: Callable[[str], None] | None = None,
) -> RunSummary:
    """Cluster again, with other parameters, what `diarize_corpus` kept with `keep_local`.

    Needs neither GPU nor audio. Recordings of which there is a row in the output are left out.

    Parameters
    ----------
    kept : str
        Folder or fsspec URI of LocalSpeakers.
    output, pipeline, max_failures, table, token, report
        See `diarize_corpus`. The networks of the pipeline must be those of the LocalSpeakers.

    Raises
    ------
    OutputError
        Also if there are no LocalSpeakers, or they are of another pipeline.
    ConfigError, WeightsNotFound, CheckpointError, JobFailed
    """
    _check_table(table)
    check_paths(kept=kept, output=output)
    source, folder = folder_of(kept), folder_of(output)
    told = public_uri(source.uri)
    summary = RunSummary(new_run(), told, public_uri(folder.uri), versions=versions())
    kept_schema = read_schema(source)
    if not isinstance(pipeline, PipelineConfig):
        pipeline = load_config(pipeline, token=token)
    weights = pipeline.localize(token)
    check_made_by(source, kept_schema, weights)
    recording = kept_schema.field("recording").type
    carried = pa.schema([f for f in recording if f.name not in RECORDING_FIELDS.names])
    with locked(folder, summary.run, report or print_line):
        schema = agreed_schema(folder, summary.run, carried, weights)
        commit = delta.committer(folder, summary.run, schema, table)
        before = dataset.Inventory.read(folder)
        with scratch(folder, summary.run):
            plan = plan_kept(source, before.done, folder, summary.run)
            with recorded(folder, summary, plan, before, schema) as record:
                if plan.num_recordings:
                    job = _Job(folder, summary.run, plan, weights, schema)
                    with Reporter(summary, record, report):
                        _resolve(job, ReadKept(source), summary, max_failures)
                commit(finish(folder, summary.run, before, plan))
    return summary


def _check_table(table: str | None) -> None:
    if table not in (None, *delta.FORMS):
        raise ConfigError(f"table must be one of {', '.join(delta.FORMS)}, not {table!r}")


def count_channels(uri: str) -> int | None:
    """Channels of a recording; None if its header cannot be read, which decoding will explain."""
    if not hasattr(_threads, "decoder"):
        _threads.decoder = IsolatedDecoder()
    try:
        return _threads.decoder.probe(uri).num_channels
    except Exception as error:
        recordings_error(error)  # raises what the machine caused
        return None


_threads = threading.local()  # a decoder serves one thread at a time


@dataclass(frozen=True)
class _Job:
    output: Folder
    run: str
    plan: Plan
    weights: LocalPipeline | LocalDetector
    schema: pa.Schema
    done: np.ndarray | None = None
    shards: ShardLog | None = None

    def resolve(self) -> Resolve | Detect:
        if isinstance(self.weights, LocalDetector):
            task, values = self.weights.detector.task, self.weights.values
            return Detect(task, values, dataset.pipeline_of(self.schema), self.schema)
        config = self.weights.config
        plda = PLDA.load(self.weights.plda) if self.weights.plda else None
        pipeline = dataset.pipeline_of(self.schema)
        return Resolve(
            config.clustering,
            plda,
            config.min_duration_off,
            pipeline,
            self.schema,
            config.counting,
        )

    def write(self) -> Write:
        return Write(self.output, self.run, self.schema)


def _process(
    job: _Job,
    decode: Decode,
    keep: Keep | None,
    summary: RunSummary,
    device: str,
    num_actors: int | str | None,
    max_failures: int,
    report: Callable[[str], None],
) -> None:
    """Run the graph of `diarize_corpus` and count its receipts."""
    # Ray is not imported where there is nothing to do
    from raydiar.corpus.job.attempts import Notices
    from raydiar.corpus.job.graph import coordinator, job_graph
    from raydiar.corpus.job.placement import connected, is_alone, place
    from raydiar.corpus.job.reservations import release_dead

    with connected():
        release_dead()
        placement = place(device, num_actors, report)
        summary.device, summary.placement = placement.device, vars(placement)
        summary.begin_processing()
        report(str(placement))
        weights = job.weights
        if not is_alone():
            # Other nodes may join at any time, whose disks hold nothing of this one's. Once, by the
            # driver: a thousand of them must not ask the Hub or the package index.
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
            with job.shards, Notices(actor, summary.notices, report) as notices:
                _count(graph, summary, max_failures, job.shards, notices.pass_on)


def _resolve(job: _Job, read: ReadKept, summary: RunSummary, max_failures: int) -> None:
    """Run the graph of `resolve_corpus` and count its receipts."""
    from raydiar.corpus.job.graph import resolve_graph
    from raydiar.corpus.job.placement import connected
    from raydiar.corpus.job.reservations import release_dead

    with connected():
        release_dead()
        summary.device = "cpu"
        summary.begin_processing()
        graph = resolve_graph(job.plan, job.output, read, job.resolve(), job.write())
        _count(graph, summary, max_failures)


def _count(
    graph,
    summary: RunSummary,
    max_failures: int,
    shards: ShardLog | None = None,
    listen: Callable[[], None] = lambda: None,
) -> None:
    from raydiar.corpus.job.graph import receipts_of
    from raydiar.corpus.watch.metrics import JobMetrics
    from raydiar.corpus.watch.pools import PoolWatch

    limit, metrics = FailureLimit(max_failures), JobMetrics(summary.output)
    watch = PoolWatch(graph, summary, lambda: metrics.watch(summary))
    with watch, closing(receipts_of(graph)) as receipts:
        for receipt in receipts:
            listen()
            summary.add(receipt)
            metrics.add(receipt)
            if shards is not None:
                shards.add(receipt)
                summary.num_shards_read = shards.num_read
            limit.add(receipt)
