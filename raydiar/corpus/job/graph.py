"""The job as a Ray Data graph: read packs, decode, local inference, resolve, write.

Short packs, long ones and shards are decoded in branches of their own, which then join.
Each operator takes one pack a call, except the last. Their CPUs differ from neighbour to
neighbour because Ray Data fuses neighbours with equal resources into one operator: decoding would
run inside the inference actors, which then wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.exceptions import RayError

from raydiar.audio import SAMPLE_RATE
from raydiar.corpus.inputs.packs import PackPlan
from raydiar.corpus.job.placement import Placement
from raydiar.corpus.job.shard_decoding import DecodeShard
from raydiar.corpus.job.stages import Coordinator, Decode, LocalInferenceStage, Resolve, Write
from raydiar.corpus.output.kept import Keep, ReadKept
from raydiar.errors import JobFailed, RaydiarError
from raydiar.storage.folder import Folder

MAX_FILES = 10_000  # of one run; a write leaves up to two
# PCM of long packs that may be decoded at a time: one of 24 h is 2.8 GB
LONG_BYTES_IN_FLIGHT = 8 * 2**30

_PACK = {"batch_size": 1, "batch_format": "pyarrow", "udf_modifying_row_count": False}


def job_context() -> DataContext:
    """Ray Data's settings for a job, which the graph must be made under."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # the newer reader starts an actor for every CPU to read the footers of files we just wrote
    context.use_datasource_v2 = False
    context.raise_original_map_exception = True  # so that its message reaches the user
    # a recording of 24 h may take longer than any time-out; stalls are reported by the job
    context.execution_no_progress_timeout_s = -1
    context.execution_options.preserve_order = False
    return context


@contextmanager
def coordinator() -> Iterator:
    """The `Coordinator` actor of a job, with which the job's inference actors end.

    Left to itself, Ray ends an actor when its last handle goes. Whoever keeps the exception of a
    failed job, as notebooks do, keeps frames of Ray Data that hold handles, and with them the GPUs.
    """
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    # every inference actor waits in one call for the end
    actor = ray.remote(Coordinator).options(max_concurrency=100_000, **lasting).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)


def job_graph(
    plan: PackPlan,
    output: Folder,
    decode: Decode,
    pipeline,
    resolve: Resolve,
    write: Write,
    placement: Placement,
    coordinator,
    keep: Keep | None = None,
    done: np.ndarray | None = None,
) -> Dataset:
    """The receipts of all packs of a plan, as a dataset that is not executed yet.

    Parameters
    ----------
    pipeline : LocalPipeline or PipelineConfig
        See `LocalInferenceStage`.
    keep : Keep, optional
    coordinator : handle of a `Coordinator` actor
    done : (num_done,) S16, optional
        Sorted hashes of the recordings that have a row; needed if the plan holds shards.
    """
    on_gpu = placement.device == "cuda"
    num_packs = plan.num_packs + plan.num_shard_packs
    actors = ActorPoolStrategy(
        min_size=min(placement.num_actors, num_packs),
        max_size=placement.max_actors,
        # the next pack is fetched while the networks run
        max_concurrent_calls_per_actor=2 if on_gpu else 1,
        # In the main thread, which loaded the networks: once two threads of a process have used
        # GNU OpenMP with more threads in all than there are cores, it sleeps at every barrier
        # instead of spinning, and an LSTM takes five times as long.
        enable_true_multi_threading=not on_gpu,
    )
    with DataContext.current(job_context()):
        decoded = _decoded(plan, output, decode, coordinator, done, 1.0 if on_gpu else 0.5)
        inferred = decoded.map_batches(
            LocalInferenceStage,
            fn_constructor_args=(pipeline, placement.device, placement.num_threads, coordinator),
            compute=actors,
            num_cpus=placement.num_threads,
            num_gpus=1 if on_gpu else 0,
            memory=placement.memory,
            **_PACK,
        )
        return _written(inferred, plan, keep, resolve, write)


def resolve_graph(
    plan: PackPlan, output: Folder, read: ReadKept, resolve: Resolve, write: Write
) -> Dataset:
    """The receipts of a job that clusters kept LocalSpeakers, not executed yet."""
    with DataContext.current(job_context()):
        packs = _packs(output, f"{plan.folder}/kept")
        return _written(packs.map_batches(read, num_cpus=0.5, **_PACK), plan, None, resolve, write)


def _written(
    inferred: Dataset, plan: PackPlan, keep: Keep | None, resolve: Resolve, write: Write
) -> Dataset:
    if keep is not None:
        inferred = inferred.map_batches(keep, num_cpus=0.5, **_PACK)  # fused with the next
    resolved = inferred.map_batches(resolve, num_cpus=0.5, **_PACK)
    return resolved.map_batches(
        write,
        batch_size=packs_per_write(plan.num_packs + plan.num_shard_packs),
        batch_format="pyarrow",
        num_cpus=0.25,
    )


def packs_per_write(num_packs: int) -> int:
    """Packs that become one file: one, until a run would leave more than `MAX_FILES`."""
    return max(1, -(-num_packs // (MAX_FILES // 2)))


def _decoded(
    plan: PackPlan, output: Folder, decode: Decode, coordinator, done, num_cpus: float
) -> Dataset:
    branches = []
    if plan.num_packs > plan.num_long:
        packs = _packs(output, f"{plan.folder}/short")
        branches.append(packs.map_batches(decode, num_cpus=num_cpus, **_PACK))
    if plan.num_long:
        # Rationed by their own number of tasks, and begun with the short ones: a long pack that
        # came last would keep one actor busy when all others have nothing left.
        largest = int(2 * SAMPLE_RATE * min(plan.longest_seconds, decode.max_duration))
        tasks = TaskPoolStrategy(size=max(1, LONG_BYTES_IN_FLIGHT // largest))
        packs = _packs(output, f"{plan.folder}/long")
        branches.append(packs.map_batches(decode, compute=tasks, num_cpus=num_cpus, **_PACK))
    if plan.num_shards:
        read = DecodeShard(decode, ray.put(done), coordinator)
        packs = _packs(output, f"{plan.folder}/shards")
        packs = packs.map_batches(read, batch_size=1, batch_format="pyarrow", num_cpus=num_cpus)
        branches.append(packs)
    return branches[0].union(*branches[1:]) if len(branches) > 1 else branches[0]


def _packs(output: Folder, folder: str) -> Dataset:
    # Rows of the manifest are so small that Ray Data would make one block, hence one task, of all
    # of them: every pack must become a block of its own.
    packs = ray.data.read_parquet(output.path(folder), filesystem=output.fs, num_cpus=0.25)
    return packs.repartition(target_num_rows_per_block=1)


def receipts_of(graph: Dataset) -> Iterator[dict]:
    """Execute a job's graph, giving its receipts as they come.

    Raises
    ------
    JobFailed
        If an exception left a stage, or Ray gave up on one.
    """
    batches = graph.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    try:
        for batch in batches:
            yield from batch.to_pylist()
    except RayError as error:
        raise JobFailed(
            f"the job stopped: {_cause(error)}\n"
            "What is done is in the output: run the job again to go on from there."
        ) from error


def _cause(error: BaseException) -> str:
    """What a stage raised, without what Ray and Ray Data wrap around it."""
    while (deeper := getattr(error, "cause", None) or error.__cause__) is not None:
        error = deeper
    message, _, _ = str(error).partition("\nFailed to apply UDF transform")
    return message if isinstance(error, RaydiarError) else f"{type(error).__name__}: {message}"
