"""Which parameters are trained, how fast, and which network answers for them when it is judged."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from raydiar.errors import ConfigError
from raydiar.models.specifications import Specifications
from raydiar.training.config import TrainingConfig


def fit_to(model: nn.Module, specifications: Specifications) -> nn.Module:
    """Make a network answer another task; layers that fit it are kept.

    Only the classifier depends on the task. It is drawn anew, with a warning, where the number of
    outputs changes.
    """
    before = model.classifier.out_features if hasattr(model, "classifier") else None
    model.specifications = specifications
    if before is not None and before != specifications.num_outputs:
        warnings.warn(
            f"the task has {specifications.num_outputs} outputs, the network {before}: its last "
            "layer is trained from scratch",
            stacklevel=2,
        )
    if hasattr(model, "setup"):
        model.setup()
    elif before is not None and before != specifications.num_outputs:
        model.classifier = nn.Linear(model.classifier.in_features, specifications.num_outputs)
    return model


def check_names(model: nn.Module, names, what: str) -> None:
    """Raise unless each name is the beginning of a parameter's.

    Raises
    ------
    ConfigError
    """
    known = [name for name, _ in model.named_parameters()]
    for name in names:
        if not any(one == name or one.startswith(f"{name}.") for one in known):
            parts = dict.fromkeys(one.partition(".")[0] for one in known)
            raise ConfigError(f"{what}: the network has no part {name!r}; it has {list(parts)}")


def _belongs(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def frozen_parts(config: TrainingConfig, step: int) -> tuple[str, ...]:
    """Parts that are not trained at a step; the last named is the first to be."""
    if not config.unfreeze_every:
        return config.freeze
    remaining = len(config.freeze) - step // config.unfreeze_every
    return config.freeze[: max(0, remaining)]


def is_frozen(name: str, parts: tuple[str, ...]) -> bool:
    return any(_belongs(name, part) for part in parts)


def parameter_groups(
    model: nn.Module, loss: nn.Module | None, config: TrainingConfig
) -> list[dict]:
    """Groups for an optimizer, one per learning rate.

    Parts of the network are its children in their order; the last learns at the full rate, each
    before it `layer_decay` times as fast as the next.
    """
    check_names(model, config.learning_rates or {}, "learning_rates")
    children = [
        name for name, child in model.named_children() if next(child.parameters(), None) is not None
    ]
    rates: dict[float, list] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        top = name.partition(".")[0]
        place = children.index(top) if top in children else len(children) - 1
        rate = config.learning_rate * config.layer_decay ** (len(children) - 1 - place)
        for part, factor in (config.learning_rates or {}).items():
            if _belongs(name, part):
                rate *= factor
        rates.setdefault(rate, []).append(parameter)
    if loss is not None and (own := list(loss.parameters())):
        rates.setdefault(config.learning_rate, []).extend(own)
    return [{"params": params, "lr": rate} for rate, params in sorted(rates.items())]


class MovingAverage:
    """Exponential moving average of a network's weights.

    The decay grows from 0.1 to its value over the first steps, so that the first weights, which
    are no better than chance, are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self.weights = {name: value.detach().clone() for name, value in _floats(model)}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in _floats(model):
            self.weights[name] = self.weights[name].to(value.device).lerp_(value, 1 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchange the network's weights and the averages; twice leaves all as it was."""
        for name, value in _floats(model):
            kept = value.detach().clone()
            value.copy_(self.weights[name])
            self.weights[name] = kept
        model.train(model.training)  # forgets what was computed from the weights


def _floats(model: nn.Module):
    for name, value in model.state_dict(keep_vars=True).items():
        if value.is_floating_point():
            yield name, value.data
