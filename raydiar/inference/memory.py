"""Batches that do not fit into memory, done in parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from raydiar.failures import is_out_of_memory

Items = TypeVar("Items", bound=Sequence)
Result = TypeVar("Result")


def in_parts(run: Callable[[Items], Result], items: Items) -> list[Result]:
    """Results of running on all items together or, where memory does not suffice, on halves.

    Parameters
    ----------
    run : callable
        Takes a part of `items`; must leave nothing behind when memory runs out.
    items : sequence, or tensor, that can be sliced

    Raises
    ------
    Exception
        Whatever `run` raises; for want of memory only when it does so for a single item.
    """
    try:
        return [run(items)]
    except Exception as error:
        if len(items) < 2 or not is_out_of_memory(error):
            raise
    # not in the handler, where the exception keeps what the attempt had allocated
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    middle = len(items) // 2
    return in_parts(run, items[:middle]) + in_parts(run, items[middle:])
