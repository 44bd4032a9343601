"""The step that is repeated: a Lightning module around a network and a task."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import lightning as L
import torch
from torch import nn

from raydiar.errors import TrainingError
from raydiar.training.config import TrainingConfig
from raydiar.training.parameters import (
    MovingAverage,
    check_names,
    fit_to,
    frozen_parts,
    is_frozen,
    parameter_groups,
)
from raydiar.training.tasks import Task


class TrainingModule(L.LightningModule):
    """A network that learns a task.

    Parameters
    ----------
    model : nn.Module
        Changed in place: its last layer if the task asks for another width.
    task : Task
    config : TrainingConfig

    Attributes
    ----------
    loss_func : nn.Module or None
        With parameters of its own, where the task's loss has some.
    average : MovingAverage or None
    """

    def __init__(self, model: nn.Module, task: Task, config: TrainingConfig):
        super().__init__()
        self.model = fit_to(model, task.specifications)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            self.model.requires_grad_(True)
        self.task, self.config = task, config
        self.loss_func = task.attach(self.model)
        check_names(self.model, config.freeze, "freeze")
        if not config.unfreeze_every:
            for name, parameter in self.model.named_parameters():
                if is_frozen(name, config.freeze):
                    parameter.requires_grad_(False)
        self.average = MovingAverage(self.model, config.ema) if config.ema else None
        self._counts: list[torch.Tensor] = []

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.model(waveforms)

    # -- training ------------------------------------------------------------------------------

    def configure_optimizers(self):
        groups = parameter_groups(self.model, self.loss_func, self.config)
        optimizer = torch.optim.AdamW(
            groups, lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.config.factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def frozen(self) -> tuple[str, ...]:
        return frozen_parts(self.config, self.global_step)

    def on_train_batch_start(self, batch, batch_idx: int) -> None:
        # dropout depends on the step, not on what was drawn before: a run that goes on is the same
        torch.manual_seed(_seed(self.config.seed, self.global_step, batch_idx, self.global_rank))
        self.task.at_step(self.global_step)
        self.model.train()
        for name, module in self.model.named_modules():
            if name and is_frozen(name, self.frozen()):
                module.eval()  # also the statistics of batch norms stay

    def training_step(self, batch, batch_idx: int) -> torch.Tensor:
        batch = as_batch(batch)
        waveforms = batch["X"]
        if self.task.augmentation is not None and "index" in batch:
            with torch.autocast(waveforms.device.type, enabled=False), torch.no_grad():
                waveforms = self.task.augmentation(waveforms[:, 0], batch["index"])[:, None]
        total, count = self.task.loss(self.model(waveforms), batch)
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {float(total)} at step {self.global_step}, for windows of: "
                f"{', '.join(batch.get('names', ['(no names)']))}. Lower the learning rate, or "
                "look at these recordings with `raydiar train check`"
            )
        # shares may be unequal: each worker's sum over all workers' count, times the number that
        # the gradients will be divided by
        world = self.trainer.world_size
        everyone = self.sum_over_workers(count.detach().clone()) if world > 1 else count
        loss = total * world / everyone.clamp(min=1e-8)
        self.last_loss = (total.detach(), count.detach())
        return loss

    def on_after_backward(self) -> None:
        if self.config.unfreeze_every and (parts := self.frozen()):
            for name, parameter in self.model.named_parameters():
                if is_frozen(name, parts):
                    parameter.grad = None

    def sum_over_workers(self, value: torch.Tensor) -> torch.Tensor:
        if self.trainer.world_size == 1:
            return value
        return self.trainer.strategy.reduce(value, reduce_op="sum")

    # -- validation ----------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, batches: Iterable) -> dict[str, float]:
        """Metrics over batches, of which each worker brings its own share.

        The moving average is measured, where there is one.
        """
        training = self.model.training
        self.model.eval()
        if self.average is not None:
            self.average.swap(self.model)
        try:
            counts = self._count(batches)
        finally:
            if self.average is not None:
                self.average.swap(self.model)
            self.model.train(training)
        return counts

    def _count(self, batches: Iterable) -> dict[str, float]:
        losses, counts = torch.zeros(2, dtype=torch.float64), []
        for batch in batches:
            batch = self.trainer.strategy.batch_to_device(as_batch(batch))
            with self.trainer.precision_plugin.forward_context():
                output = self.model(batch["X"])
                total, count = self.task.loss(output, batch)
            losses += torch.tensor([float(total), float(count)], dtype=torch.float64)
            counts.append(self.task.count(output, batch).double().cpu())
            if not self.task.gathers:
                counts = [sum(counts)]
        losses = self.sum_over_workers(losses.to(self.device)).cpu()
        found = {"val_loss": float(losses[0] / losses[1].clamp(min=1e-8))}
        return {**found, **self.task.metrics(self._of_all_workers(counts))}

    def _of_all_workers(self, counts: list[torch.Tensor]) -> torch.Tensor:
        if self.trainer.world_size > 1:
            # as objects: workers have different numbers of windows, some none
            everyone: list = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(everyone, counts)
            counts = [part for parts in everyone for part in parts]
        return torch.cat(counts) if self.task.gathers else sum(counts)

    def validation_step(self, batch, batch_idx: int) -> None:
        """For Lightning's own loop, with loaders that a caller brings."""
        batch = as_batch(batch)
        output = self.model(batch["X"])
        total, count = self.task.loss(output, batch)
        counts = self.task.count(output, batch).double().cpu()
        self._counts = (
            [*self._counts, counts] if self.task.gathers else [sum([*self._counts, counts])]
        )
        self.log("val_loss", total / count, prog_bar=True, batch_size=len(batch["X"]))

    def on_validation_epoch_end(self) -> None:
        if self._counts:
            self.log_dict(self.task.metrics(self._of_all_workers(self._counts)))
        self._counts = []

    # -- checkpoints ---------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average is not None:
            checkpoint["moving_average"] = {
                "weights": self.average.weights,
                "steps": self.average.steps,
            }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average is not None and "moving_average" in checkpoint:
            kept = checkpoint["moving_average"]
            self.average.weights, self.average.steps = kept["weights"], kept["steps"]

    def answer(self) -> dict[str, torch.Tensor]:
        """State dict of the network to be used: the moving average, where there is one."""
        state = {name: one.detach().cpu().clone() for name, one in self.model.state_dict().items()}
        if self.average is not None:
            state |= {name: value.cpu().clone() for name, value in self.average.weights.items()}
        return state


def as_batch(batch) -> dict[str, Any]:
    """A batch as loaders of all kinds give it: {"X", "y", …}, or a pair of the two."""
    if isinstance(batch, dict):
        return batch
    waveforms, labels, *_ = batch
    return {"X": waveforms, "y": labels}


def _seed(*parts: int) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "little")
