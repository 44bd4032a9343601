"""A recipe on Ray Train's workers: the only file of this room that knows Ray.

Ray starts the workers, joins them into a process group, replaces those that die, and resizes the
group where its size is elastic. Checkpoints are ours: a run's folder is all that it needs, so a
run that began on 64 GPUs goes on in one process, and the other way round. Each (re)start of the
group reads the newest whole checkpoint, and samples are numbered over all workers: a group of
another size divides the next batch, and draws none again.
"""

from __future__ import annotations

import os
import time
from typing import Any

from raydiar.errors import TrainingError
from raydiar.storage.folder import Folder
from raydiar.training.recipe import Recipe


def train_on_ray(
    recipe: Recipe,
    folder: str,
    *,
    workers: int | tuple[int, int],
    device: str = "auto",
    cpus_per_worker: float = 1,
    max_failures: int = 8,
    resize_interval: float = 60.0,
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
        Times that workers may die.
    resize_interval : float, seconds
        Between looks at whether an elastic group can grow.

    Raises
    ------
    TrainingError
        If a worker failed, with what it said.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    begun = not ray.is_initialized()
    if begun:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=True)
    try:
        use_gpu = device == "cuda" or (
            device == "auto" and ray.cluster_resources().get("GPU", 0) > 0
        )
        scaling: dict[str, Any] = {"num_workers": workers}
        if isinstance(workers, tuple):
            scaling["elastic_resize_monitor_interval_s"] = resize_interval
        where = Folder(folder)
        storage: dict[str, Any] = {"storage_path": where.path("_raydiar/ray")}
        if not where.is_local:
            import pyarrow.fs

            handler = pyarrow.fs.FSSpecHandler(where.fs)
            storage["storage_filesystem"] = pyarrow.fs.PyFileSystem(handler)
        else:
            storage["storage_path"] = os.path.abspath(storage["storage_path"])
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "recipe": recipe,
                "folder": os.path.abspath(folder) if where.is_local else folder,
                "device": "cuda" if use_gpu else "cpu",
                "threads": max(1, int(cpus_per_worker)),
            },
            scaling_config=ScalingConfig(
                use_gpu=use_gpu,
                resources_per_worker={"CPU": cpus_per_worker} | _gpu(use_gpu),
                **scaling,
            ),
            run_config=RunConfig(
                name=f"train-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
                failure_config=FailureConfig(max_failures=max_failures),
                **storage,
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise TrainingError(f"training on Ray failed: {_innermost(error)}") from error
    finally:
        if begun:
            ray.shutdown()


def _gpu(use_gpu: bool) -> dict[str, float]:
    return {"GPU": 1} if use_gpu else {}


def _innermost(error: BaseException) -> str:
    """What the worker itself said, without Ray's frames around it."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        error = failure
        break
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _worker(options: dict[str, Any]) -> None:
    """What every worker of the group runs."""
    import ray.train
    import torch
    from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment

    from raydiar.training.run import train

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
    )
