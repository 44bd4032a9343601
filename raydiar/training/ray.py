"""A recipe on Ray Train's workers, and trials of it by Ray Tune: all that this room knows of Ray.

Ray starts the workers, joins them into a process group, and resizes the group where its size is
elastic. Checkpoints are ours: a run's folder is all that it needs, so a run that began on 64 GPUs
goes on in one process, and the other way round. Each (re)start of the group reads the newest whole
checkpoint, and samples are numbered over all workers: a group of another size divides the next
batch, and draws none again. Failures are counted here, too, since only the folder tells whether
anything was learnt between two of them.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from raydiar.errors import ConfigError, RaydiarError, StorageUnavailable, TrainingError
from raydiar.storage.folder import Folder
from raydiar.training.folder import RunFolder
from raydiar.training.recipe import Recipe
from raydiar.training.tuning import Range, give_up


def train_on_ray(
    recipe: Recipe,
    folder: str,
    *,
    workers: int | tuple[int, int],
    device: str = "auto",
    cpus_per_worker: float = 1,
    max_failures: int = 8,
    resize_interval: float = 60.0,
    holder: str | None = None,
) -> None:
    """Train on the Ray that runs, or on one that is started on this machine.

    Parameters
    ----------
    recipe : Recipe
        Whose indices `raydiar.training.recipe.prepare` has written below `folder`.
    folder : str
        That all workers reach.
    workers : int or (int, int)
        A tuple: elastic, between these.
    device : str
        "auto" takes a GPU for each worker if the cluster has any.
    cpus_per_worker : float
    max_failures : int
        Times that workers may die without a new checkpoint in between.
    resize_interval : float, seconds
        Between looks at whether an elastic group can grow.
    holder : str, optional
        Name under which this run holds the folder's lock: workers publish only while it does.

    Raises
    ------
    TrainingError
        If workers failed for good, with what they said.
    ConfigError
        If the Ray that is started here can never hold the workers.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    with connected() as ours:
        use_gpu = _use_gpu(device)
        each = {"CPU": cpus_per_worker} | ({"GPU": 1} if use_gpu else {})
        _check_room(workers, each, final=ours)
        where = Folder(folder)
        options = {
            "recipe": recipe,
            "folder": os.path.abspath(folder) if where.is_local else folder,
            "device": "cuda" if use_gpu else "cpu",
            "threads": max(1, int(cpus_per_worker)),
            "holder": holder,
        }
        scaling: dict[str, Any] = {
            "num_workers": workers,
            "use_gpu": use_gpu,
            "resources_per_worker": each,
        }
        if isinstance(workers, tuple):
            scaling["elastic_resize_monitor_interval_s"] = resize_interval
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        run = ray.remote(num_cpus=0, max_retries=0)(_fit).options(
            scheduling_strategy=here, runtime_env={"env_vars": _environment()}
        )
        failure = ray.get(run.remote(options, scaling, max_failures))
    if failure is not None:
        raise TrainingError(failure)


@contextmanager
def connected() -> Iterator[bool]:
    """Use the Ray that is there (in a job, or named by RAY_ADDRESS), or start one for the block.

    Gives whether it was started here.
    """
    import ray

    if ray.is_initialized():
        yield False
        return
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    quiet = {"logging_level": logging.WARNING, "log_to_driver": True}
    named = "RAY_ADDRESS" in os.environ
    if named:
        ray.init(**quiet)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init("local", **quiet)
    try:
        yield not named
    finally:
        ray.shutdown()


def _environment() -> dict[str, str]:
    """What processes of Ray Train must know, and find no other way.

    Ray Train watches its controller through the state API of whichever cluster it finds; on a
    machine with two clusters that may be the other one, where the controller is not, and then it
    takes the workers' resources away.
    """
    import ray

    return {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # lines would be printed twice
    }


def _use_gpu(device: str) -> bool:
    import ray

    has_gpu = ray.cluster_resources().get("GPU", 0) > 0
    return device == "cuda" or (device == "auto" and has_gpu)


def _check_room(workers: int | tuple[int, int], each: dict[str, float], final: bool) -> None:
    """Say how many workers there is room for now, where that is less than were asked for."""
    import ray

    least = workers[0] if isinstance(workers, tuple) else workers
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(
        min(int(node.get(name, 0) // amount) for name, amount in each.items() if amount)
        for node in nodes
    )
    if room >= least:
        return
    one = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
    if final:
        raise ConfigError(
            f"{least} workers of {one} each do not fit on this machine, which holds {room}: "
            "ask for fewer, or name a cluster by RAY_ADDRESS or `ray job submit`"
        )
    print(
        f"raydiar: {least} workers of {one} each were asked for, the cluster has room for {room}: "
        "training waits until it has grown",
        file=sys.stderr,
    )


def _fit(options: dict[str, Any], scaling: dict[str, Any], max_failures: int) -> str | None:
    """Train until it is done; or why it is not."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    where = Folder(options["folder"])
    storage: dict[str, Any] = {"storage_path": where.path("_raydiar/ray")}
    if not where.is_local:
        import pyarrow.fs

        handler = pyarrow.fs.FSSpecHandler(where.fs)
        storage["storage_filesystem"] = pyarrow.fs.PyFileSystem(handler)
    failures, reached = 0, _newest_step(options["folder"])
    while True:
        trainer = TorchTrainer(
            _worker,
            train_loop_config=options,
            scaling_config=ScalingConfig(**scaling),
            run_config=RunConfig(
                name=f"train-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{failures}",
                failure_config=FailureConfig(max_failures=0),
                **storage,
            ),
        )
        try:
            trainer.fit()
            return None
        except TrainingFailedError as error:
            cause = _cause(error)
        if isinstance(cause, RaydiarError) and not isinstance(cause, StorageUnavailable):
            return str(cause)  # it would happen again
        step = _newest_step(options["folder"])
        failures = 1 if step > reached else failures + 1
        reached = step
        if failures > max_failures:
            return f"training on Ray failed {failures} times without a step between: {_said(cause)}"
        print(f"a worker failed ({_said(cause)}); training goes on from step {step}", flush=True)


def _newest_step(folder: str) -> int:
    return max(RunFolder(folder).checkpoints(), default=0)


def _cause(error: BaseException) -> BaseException:
    """What a worker itself raised, without Ray's frames around it.

    When one worker fails, others fail with it: an error of ours says more than their broken pipes.
    """
    found = []
    failures = getattr(error, "worker_failures", None) or {0: error}
    for failure in failures.values():
        while (inner := _inner(failure)) is not None:
            failure = inner
        found.append(failure)
    ours = [one for one in found if isinstance(one, RaydiarError)]
    return (ours or found)[0]


def _inner(error: BaseException) -> BaseException | None:
    for name in ("_base_exc", "cause", "controller_failure", "__cause__"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            return inner
    return None


def _said(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__


def _worker(options: dict[str, Any]) -> None:
    """What every worker of the group runs."""
    import ray.train
    import torch
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from raydiar.training.run import train

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    torch.set_num_threads(options["threads"])
    context = ray.train.get_context()
    recipe: Recipe = options["recipe"]
    folder = options["folder"]
    model = recipe.model()
    task = recipe.open_task(folder, model)

    def report(step: int, numbers: dict[str, float]) -> None:
        ray.train.report({"step": step, **numbers})

    train(
        model,
        task,
        folder,
        recipe.training,
        device=options["device"],
        rank=context.get_world_rank(),
        num_workers=context.get_world_size(),
        trainer_options={
            "strategy": RayDDPStrategy(),
            "plugins": [RayLightningEnvironment()],
            "devices": "auto",
        },
        on_step=report,
        about=recipe.about(),
        holder=options["holder"],
    )


# -- trials ------------------------------------------------------------------------------------


def tune_on_ray(
    recipe: Recipe,
    folder: str,
    trials: int,
    space: Sequence[Range],
    *,
    device: str = "auto",
    at_once: int | None = None,
) -> None:
    """Run trials of a recipe by Ray Tune; those that fall behind are stopped (ASHA).

    Where parameters of the pipeline are tried, too, all run to their end: what a pipeline makes of
    a network is known only then.

    Parameters
    ----------
    recipe : Recipe
        Whose indices `raydiar.training.recipe.prepare` has written below `folder`.
    folder : str
        That all nodes reach; trial n is a run in `trials/000n`.
    trials : int
    space : sequence of Range
        What is drawn for a trial.
    device : str
        "auto" takes a GPU for each trial if the cluster has any.
    at_once : int, optional
        Trials at a time; by default as many as there are resources for.

    Raises
    ------
    TrainingError
        If a trial failed, with what it said.
    """
    from ray import tune
    from ray.tune.schedulers import AsyncHyperBandScheduler

    steps = recipe.training.max_steps
    monitor, mode = recipe.monitor()
    by_pipeline = any("." in one.name for one in space)
    falling_behind = AsyncHyperBandScheduler(
        time_attr="step", max_t=steps + 1, grace_period=max(1, steps // 4), reduction_factor=3
    )
    with connected():
        use_gpu = _use_gpu(device)
        where = Folder(folder)
        options = {
            "recipe": recipe,
            "folder": os.path.abspath(folder) if where.is_local else folder,
            "space": list(space),
            "device": "cuda" if use_gpu else "cpu",
            "monitor": monitor,
        }
        # Tune's own records are of this search only: what lasts lies in the trials' folders
        with tempfile.TemporaryDirectory(prefix="raydiar-tune-") as scratch:
            tuner = tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(_trial, options=options),
                    {"CPU": 1} | ({"GPU": 1} if use_gpu else {}),
                ),
                param_space={"trial": tune.grid_search(list(range(trials)))},
                tune_config=tune.TuneConfig(
                    metric=monitor,
                    mode=mode,
                    max_concurrent_trials=at_once,
                    scheduler=None if by_pipeline else falling_behind,
                ),
                run_config=tune.RunConfig(storage_path=scratch, name="trials", verbose=0),
            )
            results = tuner.fit()
        for error in results.errors:
            raise TrainingError(f"a trial failed: {_said(_cause(error))}")
        for trial in range(trials):
            give_up(folder, trial)


def _trial(config: dict[str, Any], options: dict[str, Any]) -> None:
    import torch
    from ray import tune

    from raydiar.training.tuning import drawn, run_trial

    torch.set_num_threads(1)
    recipe: Recipe = options["recipe"]
    values = drawn(options["space"], recipe.training.seed, config["trial"])
    print(f"trial {config['trial']}: {_listed(values)}", flush=True)

    def report(step: int, numbers: dict[str, float]) -> None:
        if options["monitor"] in numbers:  # a checkpoint may come before the first validation
            tune.report({**numbers, "step": step})

    run_trial(recipe, options["folder"], config["trial"], values, report, options["device"])


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
