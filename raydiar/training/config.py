"""Everything that decides a training run, beside its data; kept with its output."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from raydiar.errors import ConfigError


@dataclass(frozen=True)
class TrainingConfig:
    """
    Attributes
    ----------
    max_steps : int
        Of the optimizer.
    batch_size : int
        Windows a step, of all workers and accumulated batches together.
    accumulate : int
        Batches whose gradients make one step.
    learning_rate : float
        Of AdamW.
    weight_decay : float
    layer_decay : float
        By which the learning rate falls from one layer to the one before it; 1: all alike.
    learning_rates : dict
        Factors by names of parts of the network ("wav2vec": 0.05), on top of the others.
    warmup_steps : int
        In which the learning rate rises from zero along a line.
    schedule : str
        After that: "cosine" (down to a hundredth), or "constant".
    gradient_clip : float
        Norm; 0 for none.
    precision : str
        "float32" or "bfloat16" (autocast).
    ema : float
        Decay of the moving average of weights that is validated and exported; 0 for none.
    freeze : tuple of str
        Parts of the network that are not trained.
    unfreeze_every : int
        Steps after which the last frozen part is trained too, and so on; 0: never.
    seed : int
    checkpoint_every, validate_every, log_every : int
        Steps.
    keep : int
        Checkpoints that are kept, beside the best.
    patience : int
        Validations without a better one after which training stops; 0: never.
    num_threads : int
        That read windows, in each worker.
    """

    max_steps: int = 1000
    batch_size: int = 32
    accumulate: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    learning_rates: dict[str, float] | None = None
    warmup_steps: int = 0
    schedule: str = "cosine"
    gradient_clip: float = 5.0
    precision: str = "float32"
    ema: float = 0.0
    freeze: tuple[str, ...] = ()
    unfreeze_every: int = 0
    seed: int = 0
    checkpoint_every: int = 100
    validate_every: int = 100
    log_every: int = 10
    keep: int = 2
    patience: int = 0
    num_threads: int = 2

    def __post_init__(self):
        named = [self.freeze] if isinstance(self.freeze, str) else self.freeze or ()
        object.__setattr__(self, "freeze", tuple(named))
        for name in ("learning_rate", "weight_decay", "layer_decay", "gradient_clip", "ema"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
                raise ConfigError(f"{name} is a number, not {value!r}")
        if self.weight_decay < 0 or self.gradient_clip < 0:
            raise ConfigError("weight_decay and gradient_clip are 0 or more")
        rates = self.learning_rates or {}
        if not isinstance(rates, dict) or not all(
            isinstance(r, int | float) for r in rates.values()
        ):
            raise ConfigError(f"learning_rates are numbers by part of the network, not {rates!r}")
        least = {"max_steps": 1, "batch_size": 1, "accumulate": 1, "keep": 1, "num_threads": 1}
        least |= {"checkpoint_every": 1, "validate_every": 1, "log_every": 1, "patience": 0}
        least |= {"warmup_steps": 0, "unfreeze_every": 0, "seed": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ConfigError(f"{name} is a whole number from {lowest}, not {value!r}")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning_rate must be positive, not {self.learning_rate!r}")
        if self.schedule not in ("cosine", "constant"):
            raise ConfigError(f"schedule is cosine or constant, not {self.schedule!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(f"precision is float32 or bfloat16, not {self.precision!r}")
        if not 0 <= self.ema < 1 or not 0 < self.layer_decay <= 1:
            raise ConfigError("ema lies in [0, 1), layer_decay in (0, 1]")
        if self.batch_size % self.accumulate:
            raise ConfigError(
                f"a batch of {self.batch_size} cannot be made of {self.accumulate} equal ones: "
                "choose a batch_size that accumulate divides"
            )

    @property
    def micro_batch(self) -> int:
        """Windows of all workers in one pass."""
        return self.batch_size // self.accumulate

    def factor(self, step: int) -> float:
        """Of the learning rate at a step."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "constant":
            return 1.0
        span = max(1, self.max_steps - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
