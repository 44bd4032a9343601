"""Batches read ahead by threads, and how long the network waited for them.

Threads, not processes: decoding, resampling and convolution leave Python's lock, nothing is copied
between processes, and nothing is forked beside Ray or CUDA.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raydiar.training.sources import Source


@dataclass(frozen=True)
class Share:
    """Which samples of every batch are this worker's.

    Samples of batch n are the numbers from `n * batch_size` on; worker r of w takes every w-th.

    Attributes
    ----------
    batch_size : int
        Of all workers together.
    rank, num_workers : int
    """

    batch_size: int
    rank: int = 0
    num_workers: int = 1

    def indices(self, batch: int) -> range:
        first = batch * self.batch_size
        return range(first + self.rank, first + self.batch_size, self.num_workers)


class Batches:
    """An endless sequence of this worker's shares of batches, from `first_batch` on.

    Parameters
    ----------
    source : Source
    share : Share
    collate : callable
        From a list of examples to a batch.
    first_batch : int or callable
        A callable is asked when iteration begins: a checkpoint is restored by then.
    num_threads : int
    ahead : int
        Batches that are read before they are wanted.
    stop : int, optional
        Batch before which the sequence ends.

    Attributes
    ----------
    waited : float
        Seconds for which the consumer waited, in all.
    """

    def __init__(
        self,
        source: Source,
        share: Share,
        collate: Callable[[list], Any],
        *,
        first_batch: int | Callable[[], int] = 0,
        num_threads: int = 2,
        ahead: int = 2,
        stop: int | None = None,
    ):
        self.source, self.share, self.collate = source, share, collate
        self.first_batch, self.num_threads, self.ahead, self.stop = (
            first_batch,
            num_threads,
            ahead,
            stop,
        )
        self.waited = 0.0

    def __iter__(self) -> Iterator[Any]:
        number = self.first_batch() if callable(self.first_batch) else self.first_batch
        pending: deque[list] = deque()
        pool = ThreadPoolExecutor(max(1, self.num_threads), thread_name_prefix="windows")
        try:
            while True:
                while len(pending) <= self.ahead and (self.stop is None or number < self.stop):
                    indices = self.share.indices(number)
                    pending.append([pool.submit(self.source.example, index) for index in indices])
                    number += 1
                if not pending:
                    return
                begun = time.perf_counter()
                batch = self.collate([future.result() for future in pending.popleft()])
                self.waited += time.perf_counter() - begun
                yield batch
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
