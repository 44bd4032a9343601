"""One immutable segment of an index, opened: vectors mapped from a file, ids, and a search.

Scores always come from the stored rows: IVF lists only propose candidates. A search through
1-bit RaBitQ codes therefore gives the same scores as an exact one, and misses at most neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, cached_property

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raydiar.errors import VoiceprintIndexError
from raydiar.storage.folder import Folder
from raydiar.voiceprints.codes import SCANNED, propose, read_codes
from raydiar.voiceprints.generation import ID_FIELDS, SegmentEntry

BLOCK = 65536
_GATHER_BYTES = 2**25
_SPARE = 16  # rows beyond the k best by FAISS's scores that are scored again
_ERROR = 1e-5  # of FAISS's scores at most: 192 products in float32
_GPU_MAX_K = 2048
# fewer allowed rows than this are compared one by one, rather than sought in the lists
_FEW = 20_000


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length, as contiguous float32: their products are cosines."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def best(scores: np.ndarray, ids: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest scores of each row, ties to the smaller id; -inf and -1 where there are fewer.

    Parameters
    ----------
    scores : (num_queries, num_found) float32
    ids : (num_queries, num_found) int64
        -1 where nothing was found.

    Returns
    -------
    scores : (num_queries, k) float32
    ids : (num_queries, k) int64
    """
    missing = max(0, k - scores.shape[1])
    scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    ids = np.pad(ids, ((0, 0), (0, missing)), constant_values=-1)
    scores = np.where(ids < 0, np.float32(-np.inf), scores)
    order = np.lexsort((ids, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


class Segment:
    """
    Parameters
    ----------
    folder : Folder
        Of the index.
    entry : SegmentEntry
    dimension : int

    Attributes
    ----------
    ids : (num_rows,) int64
    alive : (num_rows,) bool
        Not deleted.

    Raises
    ------
    VoiceprintIndexError
        If a file is missing, damaged, or not what the entry says.
    """

    def __init__(self, folder: Folder, entry: SegmentEntry, dimension: int):
        self.entry = entry
        self.dimension = dimension
        self._label = f"{folder.uri}/{entry.ids.name}"
        self._parquet = self._open_ids(folder)
        self.ids = self.column("id").to_numpy()
        # ids rise in nearly all segments: they were given in order
        self._order = None if np.all(np.diff(self.ids) > 0) else np.argsort(self.ids)
        ordered = self.ids if self._order is None else self.ids[self._order]
        if len(ordered) and (ordered[0] < 0 or np.any(np.diff(ordered) == 0)):
            raise VoiceprintIndexError(f"{self._label} is damaged: ids are negative or not unique")
        self.alive = self._open_deleted(folder)
        self._codes = self._open_codes(folder)
        self._rows, self._scales = self._open_vectors(folder)

    def __len__(self) -> int:
        return self.entry.num_rows

    # -- ids ---------------------------------------------------------------------------------

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Rows of ids, (num_ids,) int64; -1 where an id is not here."""
        if not len(self):
            return np.full(len(ids), -1)
        places = np.minimum(np.searchsorted(self.ids, ids, sorter=self._order), len(self) - 1)
        rows = places if self._order is None else self._order[places]
        return np.where(self.ids[rows] == ids, rows, -1)

    def column(self, name: str) -> pa.ChunkedArray:
        return self.table([name]).column(name)

    def table(self, columns: list[str] | None = None) -> pa.Table:
        """What is known of each row: `ID_FIELDS` and the carried columns."""
        try:
            return self._parquet.read(columns)
        except (pa.ArrowException, OSError) as error:
            raise VoiceprintIndexError(f"{self._label} is damaged: {error}") from error

    @cached_property
    def known(self) -> pa.Table:
        """All of `table`, kept in memory: hits are looked up at random."""
        return self.table()

    @cached_property
    def searched(self) -> np.ndarray:
        """Rows that a search sees by default: of recordings, alive, with enough speech.

        Returns
        -------
        rows : (num_rows,) bool
        """
        short = self.column("short").to_numpy()
        enrolled = self.column("name").is_valid().to_numpy()
        return self.alive & ~short & ~enrolled

    # -- vectors -----------------------------------------------------------------------------

    def vectors(self, rows: np.ndarray | slice) -> np.ndarray:
        """Unit vectors of rows.

        Returns
        -------
        vectors : (..., dimension) float32
            With the shape of `rows` in front.
        """
        if self._rows is None:
            rows = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
            flat = np.ascontiguousarray(rows, np.int64).ravel()
            found = unit_vectors(self._codes.reconstruct_batch(flat))
            return found.reshape(*rows.shape, self.dimension)
        if self._scales is None:
            return self._rows[rows]
        return self._rows[rows] * self._scales[rows][..., None]

    def blocks(self, allowed: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Stream (row numbers, unit vectors), of `allowed` rows only."""
        if allowed is None or allowed.all():
            for start in range(0, len(self), BLOCK):
                stop = min(start + BLOCK, len(self))
                yield np.arange(start, stop), self.vectors(slice(start, stop))
            return
        rows = np.flatnonzero(allowed)
        for start in range(0, len(rows), BLOCK):
            yield rows[start : start + BLOCK], self.vectors(rows[start : start + BLOCK])

    # -- search ------------------------------------------------------------------------------

    def search(
        self,
        queries: np.ndarray,
        k: int,
        allowed: np.ndarray,
        *,
        exact: bool = False,
        probes: int | None = None,
        candidates: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nearest voiceprints by cosine.

        Parameters
        ----------
        queries : (num_queries, dimension) float32
            Unit vectors.
        k : int
        allowed : (num_rows,) bool
        exact : bool
            Compare with every row, whatever the segment's kind.
        probes, candidates : int, optional
            See `SegmentEntry`.

        Returns
        -------
        scores : (num_queries, k) float32
            Falling; -inf where there are fewer than k.
        ids : (num_queries, k) int64
            -1 where there are fewer than k.
        """
        if exact or self._codes is None or allowed.sum() < self._few:
            return self._scan(queries, k, allowed)
        number = min(max(k, candidates or self.entry.candidates), len(self))
        rows = propose(self._codes, queries, number, allowed, probes or self.entry.probes)
        scores, ids = best(_cosines(queries, rows, self.vectors), self._ids_of(rows), k)
        # where a filter leaves out just what is like the query, a scan proposes too little
        poor = np.flatnonzero((rows >= 0).sum(axis=1) < min(number, allowed.sum()) / 2)
        if len(poor) and self.entry.kind == SCANNED:
            scores[poor], ids[poor] = self._scan(queries[poor], k, allowed)
        return scores, ids

    @property
    def _few(self) -> int:
        """Rows that are compared with all sooner than chosen from."""
        return max(_FEW, len(self) // 50)

    def _scan(self, queries, k, allowed):
        scores = np.empty((len(queries), 0), np.float32)
        ids = np.empty((len(queries), 0), np.int64)
        for rows, vectors in self.blocks(allowed):
            found = _nearest(queries, np.ascontiguousarray(vectors), self.ids[rows], k)
            scores, ids = (np.hstack(pair) for pair in zip((scores, ids), found, strict=True))
            scores, ids = best(scores, ids, k)
        return best(scores, ids, k)

    def _ids_of(self, rows: np.ndarray) -> np.ndarray:
        return np.where(rows < 0, -1, self.ids[np.maximum(rows, 0)])

    # -- opening -----------------------------------------------------------------------------

    def _open_ids(self, folder: Folder) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(self.entry.ids.local(folder), memory_map=True)
            schema = file.schema_arrow
        except (pa.ArrowException, OSError) as error:
            raise VoiceprintIndexError(f"{self._label} is no Parquet file: {error}") from error
        fits = all(
            f.name in schema.names and schema.field(f.name).type == f.type for f in ID_FIELDS
        )
        if not fits or file.metadata.num_rows != len(self):
            raise VoiceprintIndexError(
                f"{self._label} is damaged: it has {file.metadata.num_rows} rows of columns "
                f"{schema.names}, not {len(self)} of {ID_FIELDS.names} and more"
            )
        return file

    def _open_deleted(self, folder: Folder) -> np.ndarray:
        alive = np.ones(len(self), bool)
        if self.entry.deleted is not None:
            path = self.entry.deleted.local(folder)
            rows = np.fromfile(path, "<i8")
            if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
                raise VoiceprintIndexError(f"{path} is damaged: it deletes rows that are not there")
            alive[rows] = False
        return alive

    def _open_vectors(self, folder: Folder):
        stored = self.entry.vectors
        if stored is None:
            return None, None
        path = stored.local(folder)
        shape = (len(self), self.dimension)
        width = 4 * self.dimension if stored.suffix == "f32" else 4 + self.dimension
        if stored.num_bytes != len(self) * width:
            raise VoiceprintIndexError(
                f"{path} is damaged: {stored.num_bytes:,} bytes are not {len(self):,} voiceprints "
                f"of {width} bytes"
            )
        if stored.suffix == "f32":
            return np.memmap(path, "<f4", "r", shape=shape), None
        scales = np.memmap(path, "<f4", "r", shape=shape[:1])
        return np.memmap(path, "i1", "r", offset=4 * len(self), shape=shape), scales

    def _open_codes(self, folder: Folder):
        if self.entry.codes is None:
            return None
        path = self.entry.codes.local(folder)
        return read_codes(path, self.entry.kind, self.dimension, len(self))


def has_gpu() -> bool:
    return faiss.get_num_gpus() > 0


def _nearest(
    queries: np.ndarray, vectors: np.ndarray, ids: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Like `best` of the scores of all vectors."""
    number = min(k + _SPARE, len(vectors))
    rough, rows = knn(queries, vectors, number)
    scores, found = best(_cosines(queries, rows, vectors.__getitem__), ids[rows], k)
    if number < len(vectors):
        # voices that are there many times: what FAISS left out may be as good
        for query in np.flatnonzero(rough[:, -1] >= scores[:, -1] - _ERROR):
            close = np.flatnonzero(vectors @ queries[query] >= scores[query, -1] - _ERROR)[None]
            exact = _cosines(queries[query, None], close, vectors.__getitem__)
            scores[query], found[query] = best(exact, ids[close], k)
    return scores, found


def _cosines(
    queries: np.ndarray, rows: np.ndarray, vectors: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Scores of some rows for each query, whose bits depend on the two voiceprints alone.

    BLAS adds in an order that changes with the numbers of threads and of queries, so that an
    index, its shards and a larger batch would differ in the last bit, and in the order of ties.

    Parameters
    ----------
    queries : (num_queries, dimension) float32
    rows : (num_queries, num_rows) int64
    vectors : callable
        Gives the unit vectors of rows.

    Returns
    -------
    scores : (num_queries, num_rows) float32
        Of any value where a row is -1.
    """
    scores = np.empty(rows.shape, np.float32)
    step = max(1, _GATHER_BYTES // (max(1, rows.shape[1]) * queries.shape[1] * 4))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found = vectors(np.maximum(rows[part], 0))
        scores[part] = np.einsum("qcd,qd->qc", found, queries[part])
    return scores


def knn(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and rows of the k nearest of all `vectors`; on a GPU if there is one."""
    if has_gpu() and k <= _GPU_MAX_K:
        metric = faiss.METRIC_INNER_PRODUCT
        return faiss.knn_gpu(_gpu(), queries, vectors, k, metric=metric)
    return faiss.knn(queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)


@cache
def _gpu():
    return faiss.StandardGpuResources()  # takes GPU memory: once a process
