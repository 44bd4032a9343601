"""The job as a Ray Data graph: plan, decode, local inference, join, resolve, write.

One line of operators, each of which takes one row a call, a pack from decoding on, except the last.
Every row is a block of its own: Ray Data would gather small ones, and a task would then begin with
several packs while others have none. CPUs differ from neighbour to neighbour because Ray Data fuses
neighbours with equal resources into one operator: decoding would run inside the inference actors,
which then wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, TaskPoolStrategy
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydiar.audio import SAMPLE_RATE
from raydiar.corpus.inputs.plan import Plan
from raydiar.corpus.job.attempts import Coordinator
from raydiar.corpus.job.decoding import Decode, DecodePortion
from raydiar.corpus.job.detecting import Detect, SegmentationStage
from raydiar.corpus.job.joining import Join
from raydiar.corpus.job.keeping import Keep, ReadKept, ReadRows
from raydiar.corpus.job.placement import Placement
from raydiar.corpus.job.pool import follow_cluster
from raydiar.corpus.job.portions import ReadPlan, portion_load
from raydiar.corpus.job.quiet import ByValue
from raydiar.corpus.job.reservations import execution_name
from raydiar.corpus.job.stages import LocalInferenceStage, Resolve, Write
from raydiar.corpus.job.waiting import CHEAP_CPUS, bound_waiting
from raydiar.errors import JobFailed, RaydiarError
from raydiar.pipelines.detector import Detector, LocalDetector
from raydiar.storage.folder import Folder

MAX_FILES = 10_000  # of one run; a write leaves up to two
_AFTER = 2 * CHEAP_CPUS  # what joins, keeps and resolves is fused
_AFTER_TASKS = 64  # of clusters that grow, as many as one driver can feed
_READERS = 2  # tasks that read the plan, each of which gives hundreds of portions a second
_SLOTS_TO_COME = 256  # on a cluster that grows, where nobody knows
_ROW = {"batch_size": 1, "batch_format": "pyarrow"}
_PACK = {**_ROW, "udf_modifying_row_count": False}


def job_context(plan: Plan) -> DataContext:
    """Ray Data's settings for a job, which the graph must be made under."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # a row is a block
    context.raise_original_map_exception = True  # so that its message reaches the user
    # a recording of 24 h may take longer than any time-out; stalls are reported by the job
    context.execution_no_progress_timeout_s = -1
    context.execution_options.preserve_order = False
    bound_waiting(context, 2 * packs_per_write(plan.most_packs))
    return context


@contextmanager
def coordinator() -> Iterator:
    """The `Coordinator` actor of a job, with which the job's inference actors end.

    Left to itself, Ray ends an actor when its last handle goes. Whoever keeps the exception of a
    failed job, as notebooks do, keeps frames of Ray Data that hold handles, and with them the GPUs.
    """
    lasting = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    # beside the driver, with whose node the job ends in any case
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    lasting["scheduling_strategy"] = here
    # every inference actor waits in one call for the end
    actor = ray.remote(Coordinator).options(max_concurrency=100_000, **lasting).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)


def job_graph(
    plan: Plan,
    output: Folder,
    decode: Decode,
    pipeline,
    resolve: Resolve | Detect,
    write: Write,
    placement: Placement,
    coordinator,
    keep: Keep | None = None,
    done: np.ndarray | None = None,
) -> Dataset:
    """The receipts of all packs of a plan, as a dataset that is not executed yet.

    Parameters
    ----------
    pipeline : LocalPipeline or PipelineConfig, LocalDetector or Detector
        See `LocalInferenceStage` and `SegmentationStage`.
    resolve : Resolve or Detect
    keep : Keep, optional
    coordinator : handle of a `Coordinator` actor
    done : (num_done,) S16, optional
        Sorted hashes of the recordings that have a row; needed if the plan holds shards.
    """
    on_gpu = placement.device == "cuda"
    actors = ActorPoolStrategy(
        # what has no node yet waits for one, and makes an autoscaler bring it
        min_size=max(1, min(placement.num_actors, plan.most_packs)),
        max_size=placement.max_actors,
        # the next pack is fetched while the networks run
        max_concurrent_calls_per_actor=2 if on_gpu else 1,
        # In the main thread, which loaded the networks: once two threads of a process have used
        # GNU OpenMP with more threads in all than there are cores, it sleeps at every barrier
        # instead of spinning, and an LSTM takes five times as long.
        enable_true_multi_threading=not on_gpu,
    )
    load = portion_load(plan.load, _num_slots(placement))
    done = ray.put(done) if plan.num_shards else None
    if on_gpu:  # which many of are fed by one driver: fewer, larger packs
        decode = replace(decode, pack_seconds=2 * decode.pack_seconds)
    context = job_context(plan)
    follow_cluster(context, placement, plan.most_packs)
    with DataContext.current(context):
        portions = _files(plan).map_batches(
            ReadPlan(output, plan.folder, load), compute=_readers(plan), num_cpus=CHEAP_CPUS, **_ROW
        )
        decoded = portions.map_batches(
            DecodePortion(decode, done, coordinator),
            num_cpus=1.0 if on_gpu else 0.5,
            memory=_decode_memory(plan, decode, placement),
            **_ROW,
        )
        detects = isinstance(pipeline, Detector | LocalDetector)
        inferred = decoded.map_batches(
            SegmentationStage if detects else LocalInferenceStage,
            fn_constructor_args=(
                pipeline,
                placement.device,
                placement.num_threads,
                ByValue(coordinator),
            ),
            compute=actors,
            num_cpus=placement.num_threads,
            num_gpus=1 if on_gpu else 0,
            memory=placement.memory,
            **_PACK,
        )
        after = {"num_cpus": _AFTER, "compute": _after_tasks(placement)}
        joined = inferred.map_batches(Join(output, plan.folder), **after, **_PACK)
        if keep is not None:
            joined = joined.map_batches(keep, **after, **_PACK)
        return _written(joined, plan, resolve, write, **after)


def resolve_graph(
    plan: Plan, output: Folder, read: ReadKept, resolve: Resolve, write: Write
) -> Dataset:
    """The receipts of a job that clusters kept LocalSpeakers, not executed yet."""
    with DataContext.current(job_context(plan)):
        packs = _files(plan).map_batches(
            ReadRows(output, plan.folder), compute=_readers(plan), num_cpus=CHEAP_CPUS, **_ROW
        )
        kept = packs.map_batches(read, num_cpus=0.5, **_PACK)
        return _written(kept, plan, resolve, write, num_cpus=1.0)


def _readers(plan: Plan) -> TaskPoolStrategy:
    return TaskPoolStrategy(size=min(_READERS, len(plan.files)))


def _files(plan: Plan) -> Dataset:
    files = [{"number": number, "name": name} for number, name in enumerate(plan.files)]
    return ray.data.from_items(files, override_num_blocks=len(files))


def _after_tasks(placement: Placement) -> TaskPoolStrategy:
    """Tasks of the stages after inference.

    A number, since Ray Data keeps a tenth of all CPUs for each stage that sets no bound to its
    tasks, and as much again in what it shares out: decoding and inference would do without them.
    """
    most = max(2, int(ray.cluster_resources().get("CPU", 0)) // 4)
    grows = placement.max_actors is None or placement.max_actors > placement.num_actors
    return TaskPoolStrategy(size=max(most, _AFTER_TASKS) if grows else most)


def _written(
    packs: Dataset,
    plan: Plan,
    resolve: Resolve | Detect,
    write: Write,
    num_cpus: float,
    compute: TaskPoolStrategy | None = None,
) -> Dataset:
    resolved = packs.map_batches(resolve, num_cpus=num_cpus, compute=compute, **_PACK)
    return resolved.map_batches(
        write,
        batch_size=packs_per_write(plan.most_packs),
        batch_format="pyarrow",
        num_cpus=CHEAP_CPUS,
        compute=compute,
    )


def packs_per_write(num_packs: int) -> int:
    """Packs that become one file: one, until a run would leave more than `MAX_FILES`."""
    return max(1, -(-num_packs // (MAX_FILES // 2)))


def _decode_memory(plan: Plan, decode: Decode, placement: Placement) -> float | None:
    """Bytes that a decode task asks for: the PCM of the longest recording that may come to it.

    Of one that goes in parts, what it holds at a time: as much as stays whole, and two parts. No
    more than half of what a node has, or it could never run. None where memory is what keeps
    inference actors apart, which leaves a node one CPU to decode on, and where no node is yet.
    """
    nodes = [n["Resources"] for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    if placement.memory or not nodes:
        return None
    longest = min(decode.max_duration, plan.longest or decode.max_duration)
    held = decode.most_seconds + 2 * decode.part_seconds
    pcm = 2.0 * SAMPLE_RATE * min(max(longest, decode.most_seconds), held)
    return min(pcm, min(node.get("memory", 0.0) for node in nodes) / 2) or None


def _num_slots(placement: Placement) -> int:
    """Places where decoding may go on at a time, of nodes that may still come as well."""
    num_cpus = max(1, int(ray.cluster_resources().get("CPU", 0)))
    if placement.device == "cpu":  # decoding waits for the networks
        return placement.max_actors or max(num_cpus, _SLOTS_TO_COME)
    # GPUs wait for decoding, so every CPU should have work
    more = placement.max_actors is None or placement.max_actors > placement.num_actors
    return max(num_cpus, _SLOTS_TO_COME) if more else num_cpus


def receipts_of(graph: Dataset) -> Iterator[dict]:
    """Execute a job's graph, giving its receipts as they come.

    Raises
    ------
    JobFailed
        If an exception left a stage, or Ray gave up on one.
    """
    graph.set_name(execution_name())
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
        if type(deeper).__name__ == "SystemException":  # by which Ray Data marks errors of its own
            break
        error = deeper
    message, _, _ = str(error).partition("\nFailed to apply UDF transform")
    return message if isinstance(error, RaydiarError) else f"{type(error).__name__}: {message}"
