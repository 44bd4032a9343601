"""Rewrite a network for inference: same function, fewer passes over memory."""

from __future__ import annotations

from torch import nn


def optimize_for_inference(model: nn.Module) -> nn.Module:
    return model
