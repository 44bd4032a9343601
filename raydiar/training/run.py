"""A run from its folder: begin or go on, step by step, until it is done.

One loop for a laptop and for each worker under Ray: `train` is the former, and what
`raydiar.training.ray` calls in its workers is `train` too, with a strategy and an environment.
Validation and checkpoints hang on steps, not on epochs, which may last for days.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from raydiar.errors import ConfigError
from raydiar.training.config import TrainingConfig
from raydiar.training.exporting import describe, to_safetensors
from raydiar.training.folder import RunFolder, temporary_folder
from raydiar.training.loader import Batches, Share
from raydiar.training.module import TrainingModule
from raydiar.training.tasks import Task


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    folder : str
    steps : int
    loss : float
        Mean of the last logged steps.
    best : dict or None
        Row of the best validation.
    wait_share : float
        Of the time of all steps: spent waiting for windows.
    windows_per_second : float
    stopped_early : bool
    """

    folder: str
    steps: int
    loss: float
    best: dict[str, float] | None
    wait_share: float
    windows_per_second: float
    stopped_early: bool = False


def train(
    model,
    task: Task,
    folder: str | os.PathLike,
    config: TrainingConfig | None = None,
    *,
    device: str = "auto",
    rank: int = 0,
    num_workers: int = 1,
    trainer_options: dict[str, Any] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    quiet: bool = False,
    about: dict[str, Any] | None = None,
    holder: str | None = None,
) -> Outcome:
    """Train a network, or go on where the folder's newest checkpoint stands.

    Parameters
    ----------
    model : nn.Module
        Changed in place; at the end it holds the weights that were validated best.
    task : Task
        Knows its data.
    folder : str or path
        Local or any storage.
    config : TrainingConfig
    device : str
        "auto", "cuda" or "cpu".
    rank, num_workers : int
        Which worker this is, of how many that share every batch.
    trainer_options : dict, optional
        For Lightning's trainer: strategy and environment of a cluster.
    on_step : callable, optional
        Called on every worker with the step and its numbers at each checkpoint.
    quiet : bool
        Print nothing.
    about : dict, optional
        What else the folder shall say of the run; `data` is compared when a run goes on.
    holder : str, optional
        Name under which the folder's lock is held: nothing is published once it names another, as
        when workers outlive their driver and the run was started again.

    Returns
    -------
    outcome : Outcome

    Raises
    ------
    TrainingError
        If the loss is no number any more, naming the recordings; or if the folder holds another
        run.
    ConfigError, ManifestError
    """
    config = config or TrainingConfig()
    if config.micro_batch < num_workers:
        raise ConfigError(
            f"{config.batch_size} windows a step, in {config.accumulate} parts, are too few for "
            f"{num_workers} workers: raise batch_size, or accumulate less"
        )
    task.setup()
    module = TrainingModule(model, task, config)
    run = RunFolder(os.fspath(folder), holder)
    if rank == 0:
        run.begin(_about(module, about))
    with temporary_folder() as scratch:
        resumed = run.newest(scratch)
        first = resumed[0] if resumed else 0
        if rank == 0:
            run.publish_workers(num_workers, first)
        control = _Control(run, task, config, first, num_workers, rank, on_step, quiet)
        if first < config.max_steps and not control.was_stopped:
            _fit(module, task, config, control, resumed, device, trainer_options)
    if rank == 0:
        control.finish(module)
    _take_best(module, run)
    return control.outcome()


def _fit(module, task, config, control, resumed, device, options) -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    trainer = L.Trainer(
        max_steps=config.max_steps,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.gradient_clip or None,
        precision={"float32": "32-true", "bfloat16": "bf16-mixed"}[config.precision],
        callbacks=[control],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        **{"accelerator": _accelerator(device), "devices": 1, **(options or {})},
    )
    batches = Batches(
        task.source,
        Share(config.micro_batch, control.rank, control.num_workers),
        task.collate,
        first_batch=control.first_step * config.accumulate,
        num_threads=config.num_threads,
        stop=config.max_steps * config.accumulate,
    )
    control.batches = batches
    with warnings.catch_warnings():
        # Lightning's advice is about loaders and checkpoints of its own
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", message=".*(?:dataloader|LeafSpec|lr_scheduler).*")
        path = resumed[1] if resumed else None
        trainer.fit(module, batches, ckpt_path=path, weights_only=True if path else None)


def _accelerator(device: str) -> str:
    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"device is auto, cuda or cpu, not {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("no CUDA device here: take --device cpu, or auto")
    return "gpu" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _about(module: TrainingModule, about: dict[str, Any] | None) -> dict[str, Any]:
    from raydiar import __version__

    task = module.task
    return {
        "raydiar": __version__,
        "task": type(task).__name__,
        "monitor": task.monitor,
        "mode": task.mode,
        "network": describe(module.model),
        "config": module.config.to_dict(),
        "started": time.time(),
        "data": None,
        **(about or {}),
    }


def _take_best(module: TrainingModule, run: RunFolder) -> None:
    """Leave the network with the weights that the run would hand out."""
    from safetensors.torch import load

    try:
        state = load(run.folder.read("best.safetensors"))
    except FileNotFoundError:
        return
    module.model.load_state_dict(state)
    module.model.eval()


class _Control(L.Callback):
    """Moving average, validation, logs, checkpoints and early stopping, after each step."""

    def __init__(self, run, task, config, first_step, num_workers, rank, on_step, quiet):
        self.run, self.task, self.config = run, task, config
        self.first_step, self.num_workers, self.rank = first_step, num_workers, rank
        self.on_step, self.quiet = on_step, quiet
        self.batches: Batches | None = None
        self.steps_log = [row for row in run.rows("log") if row["step"] <= first_step]
        self.validation = [row for row in run.rows("validation") if row["step"] <= first_step]
        self.step = first_step
        self.stopped_early = False
        self._loss = [0.0, 0.0]
        self._begun = self._since = time.perf_counter()
        self._waited = self._waited_before = 0.0
        self._total_steps, self._board = 0, None

    # -- what is known -------------------------------------------------------------------------

    @property
    def best(self) -> dict[str, float] | None:
        measured = [row for row in self.validation if self.task.monitor in row]
        pick = min if self.task.mode == "min" else max
        return pick(measured, key=lambda row: row[self.task.monitor], default=None)

    @property
    def was_stopped(self) -> bool:
        """Whether the best validation lies too far back."""
        if not self.config.patience or not self.validation:
            return False
        since = [row for row in self.validation if row["step"] > self.best["step"]]
        return len(since) >= self.config.patience

    # -- Lightning's hooks ---------------------------------------------------------------------

    def on_train_start(self, trainer, module) -> None:
        self._begun = self._since = time.perf_counter()
        if self.first_step and not self.quiet and self.rank == 0:
            print(f"goes on from step {self.first_step}")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        total, count = module.last_loss
        self._loss[0] += float(total)
        self._loss[1] += float(count)
        if trainer.global_step == self.step:
            return  # more batches make this step
        self.step = step = trainer.global_step
        self._total_steps += 1
        if module.average is not None:
            module.average.update(module.model)
        config = self.config
        last = step >= config.max_steps
        if step % config.log_every == 0 or last:
            self._log(trainer, module)
        if self.task.validation_source is not None and (step % config.validate_every == 0 or last):
            self._validate(trainer, module)
            if self.was_stopped:
                self.stopped_early = trainer.should_stop = True
                if step % config.log_every:
                    self._log(trainer, module)
        if step % config.checkpoint_every == 0 or last or trainer.should_stop:
            self._checkpoint(trainer, module)

    def _log(self, trainer, module) -> None:
        sums = torch.tensor(self._loss, dtype=torch.float64, device=module.device)
        total, count = module.sum_over_workers(sums).tolist()
        now = time.perf_counter()
        spent = max(now - self._since, 1e-9)
        waited = self.batches.waited - self._waited_before
        since = self.steps_log[-1]["step"] if self.steps_log else 0
        row = {
            "step": self.step,
            "loss": total / max(count, 1e-8),
            "learning_rate": max(group["lr"] for group in trainer.optimizers[0].param_groups),
            "windows_per_second": (self.step - max(since, self.first_step))
            * self.config.batch_size
            / spent,
            "wait_share": waited / spent,
            "time": time.time(),
        }
        self.steps_log.append(row)
        self._loss = [0.0, 0.0]
        self._waited += waited
        self._since, self._waited_before = now, self.batches.waited
        if self.rank == 0:
            self.run.publish_rows("log", self.steps_log)
            self._to_board(row, trainer)
            self._say(
                f"step {self.step}/{self.config.max_steps}  loss {row['loss']:.4f}  "
                f"lr {row['learning_rate']:.2g}  {row['windows_per_second']:.1f} windows/s  "
                f"waits {100 * row['wait_share']:.0f} %"
            )

    def _validate(self, trainer, module) -> None:
        begun = time.perf_counter()
        metrics = module.evaluate(self._validation_batches())
        row = {"step": self.step, **metrics, "time": time.time()}
        self.validation.append(row)
        self._since += time.perf_counter() - begun  # validation is no step
        if self.rank == 0:
            if self.best is row:
                self.run.publish_best(to_safetensors(module.model, module.answer()))
            self.run.publish_rows("validation", self.validation)
            self._to_board(row, trainer)
            said = "  ".join(f"{name[4:]} {value:.4f}" for name, value in metrics.items())
            self._say(f"step {self.step}  validation: {said}")

    def _validation_batches(self):
        source, micro = self.task.validation_source, self.config.micro_batch
        mine = range(self.rank, len(source), self.num_workers)
        size = max(1, micro // self.num_workers)
        listed = _Listed(source, mine)
        return Batches(
            listed,
            _Parts(len(mine), size),
            self.task.collate,
            num_threads=self.config.num_threads,
            stop=-(-len(mine) // size),
        )

    def _checkpoint(self, trainer, module) -> None:
        with temporary_folder() as scratch:
            path = os.path.join(scratch, "whole.ckpt")
            trainer.save_checkpoint(path)
            if self.rank == 0:
                if self.task.validation_source is None:
                    self.run.publish_best(to_safetensors(module.model, module.answer()))
                self.run.publish_checkpoint(self.step, path, self.config.keep)
        trainer.strategy.barrier("checkpoint")
        if self.on_step is not None:
            numbers = {**(self.steps_log[-1] if self.steps_log else {})}
            numbers |= self.validation[-1] if self.validation else {}
            self.on_step(self.step, numbers)

    def _to_board(self, row: dict[str, float], trainer) -> None:
        if not self.run.folder.is_local:
            return
        if self._board is None:
            from tensorboardX import SummaryWriter

            path = os.path.join(self.run.folder.path(), "tensorboard")
            self._board = SummaryWriter(path, purge_step=self.first_step + 1)
        for name, value in row.items():
            if name not in ("step", "time"):
                self._board.add_scalar(name, value, int(row["step"]))
        self._board.flush()

    def _say(self, text: str) -> None:
        if self.quiet:
            return
        share = self.step / self.config.max_steps
        bar = "█" * round(20 * share) + "░" * (20 - round(20 * share))
        print(f"{bar} {text}" if sys.stdout.isatty() else text, flush=True)

    # -- the end -------------------------------------------------------------------------------

    def finish(self, module) -> None:
        if self._board is not None:
            self._board.close()
        end = {"finished": True, "step": self.step, "stopped_early": self.stopped_early}
        self.run.publish("end.json", json.dumps(end).encode())

    def outcome(self) -> Outcome:
        spent = max(time.perf_counter() - self._begun, 1e-9)
        return Outcome(
            folder=self.run.uri,
            steps=self.step,
            loss=self.steps_log[-1]["loss"] if self.steps_log else math.nan,
            best=self.best,
            wait_share=(self.batches.waited / spent) if self.batches else 0.0,
            windows_per_second=self._total_steps * self.config.batch_size / spent,
            stopped_early=self.stopped_early,
        )


@dataclass(frozen=True)
class _Listed:
    """Some windows of a source, counted from 0."""

    source: Any
    numbers: range

    def example(self, index: int):
        return self.source.example(self.numbers[index])


@dataclass(frozen=True)
class _Parts:
    """Consecutive parts of `total` windows, the last may be smaller."""

    total: int
    size: int

    def indices(self, batch: int) -> range:
        return range(batch * self.size, min(self.total, (batch + 1) * self.size))
