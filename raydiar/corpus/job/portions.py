"""The first stage: a file of the plan becomes portions, what one decode task takes on.

There are several for every slot where audio is decoded, so that none waits long for the last, and
one fills a pack where there is enough to do.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.corpus.inputs.plan import LOAD
from raydiar.failures import retrying
from raydiar.storage.folder import Folder

# Numbers of portions and packs say where they come from, so that a task that is run again gives
# the same: 2^15 portions a file, 2^24 packs a portion.
_PORTION_BITS, _PACK_BITS = 15, 24
_PER_SLOT = 4


def portion_load(load: float, num_slots: int) -> float:
    """The load of a portion, in decode tasks, that gives every slot a few of them, at most 1."""
    return min(1.0, load / (_PER_SLOT * num_slots))


def pack_number(portion: int, place: int) -> int:
    """Number of a pack, from that of its portion and its place in it."""
    return portion << _PACK_BITS | place


@dataclass(frozen=True)
class ReadPlan:
    """Cut the rows of a file of the plan into portions.

    Parameters
    ----------
    output : Folder
    folder : str
        Of the plan.
    load : float
        Of a portion; a row whose own is larger is a portion of its own.
    """

    output: Folder
    folder: str
    load: float

    def __call__(self, file: pa.Table) -> Iterator[pa.Table]:
        [[number], [name]] = (file.column(column).to_pylist() for column in ("number", "name"))
        data = retrying(lambda: self.output.read(f"{self.folder}/{name}"))
        rows = pq.read_table(io.BytesIO(data)).combine_chunks()
        loads = rows.column(LOAD).to_numpy()
        recordings = pa.StructArray.from_arrays(
            [column.chunk(0) for column in rows.drop_columns([LOAD]).columns],
            fields=list(rows.drop_columns([LOAD]).schema),
        )
        for place, (start, stop) in enumerate(_cut(loads, self.load)):
            portion = recordings.take(pa.array(range(start, stop)))  # not a view of all rows
            yield pa.table(
                {
                    "portion": pa.array([number << _PORTION_BITS | place], pa.int64()),
                    "recordings": pa.ListArray.from_arrays([0, len(portion)], portion),
                }
            )


def _cut(loads: np.ndarray, limit: float) -> Iterator[tuple[int, int]]:
    """Consecutive rows of together about the limit: first row, and first of the next."""
    start, total = 0, 0.0
    for row, load in enumerate(loads.tolist()):
        if row > start and total + load > limit * (1 + 1e-6):
            yield start, row
            start, total = row, 0.0
        total += load
    if len(loads) > start:
        yield start, len(loads)
