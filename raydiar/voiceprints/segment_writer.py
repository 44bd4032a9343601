"""Writing one segment: rows pass through a file on this machine, so that memory stays constant.

The kind follows from the number of rows. Exact search reads 768 bytes a voiceprint of 192
dimensions, about 10 ms a query for 100,000 of them. Above, 1-bit RaBitQ codes in inverted lists
(40 bytes) find candidates, and int8 rows (196 bytes) score them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.errors import ConfigError
from raydiar.storage.folder import TEMPORARY, Folder
from raydiar.voiceprints.codes import CANDIDATES, SCANNED, default_probes, make_codes
from raydiar.voiceprints.generation import KINDS, SegmentEntry, StoredFile
from raydiar.voiceprints.segments import BLOCK


@dataclass(frozen=True)
class Layout:
    """How segments are made.

    Attributes
    ----------
    kind : str
        "exact", "pq-fastscan", "ivf-rabitq", "ivf-sq8", or "auto": exact up to `exact_limit`
        rows, pq-fastscan above.
    exact_limit : int
    segment_rows : int
        Rows of a segment at most: 1 GB of memory and disk while it is made.
    num_lists : int, optional
        Of an IVF segment; by default about twice the square root of its rows, a power of two.
    probes, candidates : int, optional
        See `SegmentEntry`. By default what it takes to find 99 of 100 neighbours among voices:
        300 candidates of pq-fastscan; of ivf-rabitq 2,000 and 35 % of the lists, for voices fill
        many dimensions.
    """

    kind: str = "auto"
    exact_limit: int = 100_000
    segment_rows: int = 1_000_000
    num_lists: int | None = None
    probes: int | None = None
    candidates: int | None = None

    def __post_init__(self):
        if self.kind not in ("auto", *KINDS):
            raise ConfigError(f"unknown kind of index {self.kind!r}: choose auto or one of {KINDS}")
        for name in ("exact_limit", "segment_rows", "num_lists", "probes", "candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")

    def choose(self, num_rows: int) -> tuple[str, str]:
        """The kind for so many rows, and why."""
        if self.kind != "auto":
            return self.kind, "as asked"
        if num_rows <= self.exact_limit:
            return "exact", f"{num_rows:,} voiceprints, up to {self.exact_limit:,} are compared all"
        return SCANNED, f"{num_rows:,} voiceprints, more than {self.exact_limit:,}"


@contextmanager
def scratch_folder(folder: Folder) -> Iterator[Path]:
    """A folder of this machine that goes away; where that can be, its files can be moved in."""
    where = None
    if folder.is_local:
        where = folder.path(TEMPORARY)
        Path(where).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=where, prefix="segment-") as scratch:
        yield Path(scratch)


class SegmentWriter:
    """Collects rows and ends in the entry of a segment; use inside a `with` block.

    Parameters
    ----------
    folder : Folder
        Of the index.
    dimension : int
    layout : Layout
    report : callable, optional
        Told in a line what is chosen.
    """

    def __init__(
        self,
        folder: Folder,
        dimension: int,
        layout: Layout,
        report: Callable[[str], None] = lambda line: None,
    ):
        self._folder, self._dimension = folder, dimension
        self._layout, self._report = layout, report
        self._ids: list[pa.Table] = []
        self.num_rows = 0

    def __enter__(self) -> SegmentWriter:
        self._stack = ExitStack()
        self._scratch = self._stack.enter_context(scratch_folder(self._folder))
        self._path = self._scratch / "vectors"
        self._file = self._stack.enter_context(self._path.open("wb"))
        return self

    def __exit__(self, *_) -> None:
        self._stack.close()

    def write(self, ids: pa.Table, vectors: np.ndarray) -> None:
        """Add rows.

        Parameters
        ----------
        ids : Table
            `ID_FIELDS` and carried columns, the same in every call.
        vectors : (num_rows, dimension) float32
            Unit vectors.
        """
        self._ids.append(ids)
        self._file.write(np.ascontiguousarray(vectors, "<f4").data)
        self.num_rows += len(vectors)

    def finish(self) -> SegmentEntry:
        """Store the files."""
        self._file.close()
        kind, reason = self._layout.choose(self.num_rows)
        self._report(f"{kind}: {reason}")
        scratch = self._scratch
        ids = pa.concat_tables(self._ids)
        pq.write_table(ids, scratch / "ids", compression="zstd", row_group_size=BLOCK)
        stored = StoredFile.store(self._folder, scratch / "ids", "parquet")
        if kind == "exact":
            vectors = StoredFile.store(self._folder, self._path, "f32")
            return SegmentEntry(kind, self.num_rows, stored, vectors)
        vectors = np.memmap(self._path, "<f4", "r", shape=(self.num_rows, self._dimension))
        index = make_codes(kind, vectors, self._layout.num_lists, self._report)
        faiss.write_index(index, str(scratch / "codes"))
        rows = None
        if kind != "ivf-sq8":  # whose codes are rows of int8
            _write_int8(vectors, scratch / "rows")
            rows = StoredFile.store(self._folder, scratch / "rows", "int8")
        return SegmentEntry(
            kind,
            self.num_rows,
            stored,
            rows,
            StoredFile.store(self._folder, scratch / "codes", "faiss"),
            probes=self._layout.probes or default_probes(index),
            candidates=self._layout.candidates or CANDIDATES[kind],
        )


def _write_int8(vectors: np.ndarray, path: Path) -> None:
    """Scales as float32, then rows as int8: the largest component of a row becomes 127.

    A row's scale makes its product with the voiceprint 1. What rounding leaves is then at right
    angles to the voiceprint, where it hurts the scores of near queries least.
    """
    scales = np.empty(len(vectors), "<f4")
    with path.open("wb") as file:
        file.seek(scales.nbytes)
        for start in range(0, len(vectors), BLOCK):
            block = vectors[start : start + BLOCK]
            rows = np.rint(block * (127 / np.abs(block).max(axis=1, keepdims=True)))
            scales[start : start + BLOCK] = 1 / (rows * block).sum(axis=1)
            file.write(rows.astype("i1").data)
        file.seek(0)
        file.write(scales.data)
