"""Full float32 while the engine computes, whatever the program around it has allowed.

TF32 keeps 10 bits of mantissa, and bfloat16 7: not the float32 that parity is stated in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_KINDS = (
    *(torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn),
    *(torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn),
)
_lock = threading.Lock()
_inside = 0
_before: list[str] = []


@contextmanager
def float32_numerics() -> Iterator[None]:
    """No reduced precision inside the block; afterwards all is as it was.

    The settings are those of the process. With several threads, the first that enters keeps what
    it finds, and the last that leaves restores it.
    """
    global _inside, _before
    with _lock:
        if _inside == 0:
            _before = [kind.fp32_precision for kind in _KINDS]
            for kind in _KINDS:
                kind.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for kind, precision in zip(_KINDS, _before, strict=True):
                    kind.fp32_precision = precision
