"""The device of this process, checked against the GPUs that it has."""

from __future__ import annotations

import torch

from raydiar.devices import parse_device
from raydiar.errors import ConfigError


def torch_device(device: str | torch.device) -> torch.device:
    """The device that a name means here; "auto" is the first GPU where there is one.

    Raises
    ------
    ConfigError
        If raydiar does not run on such a device, or this machine has none.
    """
    name = parse_device(device)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    found = torch.device(name)
    if found.type == "cuda":
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not num_gpus:
            raise ConfigError(f"no CUDA device here: cannot run on {name}; use cpu, or auto")
        if (found.index or 0) >= num_gpus:
            raise ConfigError(f"no {name} here: the last of {num_gpus} GPUs is cuda:{num_gpus - 1}")
    return found
