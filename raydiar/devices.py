"""Which device is meant: one check for the command line, pipelines, jobs and servers."""

from __future__ import annotations

import re

from raydiar.errors import ConfigError

_HINTS = {"gpu": 'say "cuda"', "mps": "Apple GPUs are left out: nobody could compare numbers there"}


def parse_device(device, *, of_cluster: bool = False) -> str:
    """Name of a device: auto, cpu, cuda or, of one machine, cuda:1; checked without torch.

    Parameters
    ----------
    device : str or torch.device
    of_cluster : bool
        Of the nodes of a job, whose GPUs Ray numbers.

    Raises
    ------
    ConfigError
        For anything else.
    """
    name = str(device).strip().lower()
    if re.fullmatch(r"auto|cpu|cuda", name):
        return name
    if name == "cpu:0":
        return "cpu"
    if re.fullmatch(r"cuda:\d{1,4}", name):
        if not of_cluster:
            return name
        raise ConfigError(f"device {device!r}: a job is given GPUs by Ray; say auto, cuda or cpu")
    known = "auto, cuda or cpu" if of_cluster else "auto, cpu, cuda, or cuda:1 and the like"
    hint = f" ({_HINTS[name]})" if name in _HINTS else ""
    raise ConfigError(f"there is no device {str(device)!r}{hint}: choose {known}")
