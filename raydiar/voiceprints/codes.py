"""Codes of voiceprints: what a search of a large segment scans before it computes scores.

A product quantizer's 4-bit codes are compared sixteen at a time in the registers of the CPU
(André, Kermarrec and Le Scouarnec, "Cache locality is not enough", VLDB 2015), which makes a scan
of all codes quicker than a walk through inverted lists: voices fill so many dimensions that a
third of all lists would have to be visited. Inverted lists remain for who wants them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np

from raydiar.errors import ConfigError, VoiceprintIndexError

SCANNED = "pq-fastscan"
"""The kind of codes that are all scanned; the others lie in inverted lists."""

CANDIDATES = {SCANNED: 300, "ivf-rabitq": 2000, "ivf-sq8": 1}
"""Rows per query whose scores are computed: what finds 99 of 100 of the ten nearest voices."""

_TYPES = {
    SCANNED: faiss.IndexPQFastScan,
    "ivf-rabitq": faiss.IndexIVFRaBitQ,
    "ivf-sq8": faiss.IndexIVFScalarQuantizer,
}
_BLOCK = 65_536
_POINTS = 65_536  # to train a product quantizer on
_POINTS_PER_LIST = 64  # to train lists on; FAISS asks for at least 39
_PROBED = 0.35  # of the lists
_LANES = 32  # rows of a block of codes


def make_codes(
    kind: str, vectors: np.ndarray, num_lists: int | None, report: Callable[[str], None]
):
    """Train and fill a FAISS index.

    Parameters
    ----------
    kind : str
        "pq-fastscan", "ivf-rabitq" or "ivf-sq8".
    vectors : (num_rows, dimension) float32
        Unit vectors.
    num_lists : int, optional
        By default about twice the square root of the rows, a power of two.
    report : callable

    Returns
    -------
    codes : faiss.Index
    """
    index = _scanned(vectors) if kind == SCANNED else _listed(kind, vectors, num_lists, report)
    for start in range(0, len(vectors), _BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
    return index


def default_probes(index) -> int:
    """Lists to visit: as many as find 99 of 100 of the ten nearest voices."""
    return math.ceil(_PROBED * index.nlist) if isinstance(index, faiss.IndexIVF) else 0


def _sample(vectors: np.ndarray, number: int) -> np.ndarray:
    chosen = np.random.default_rng(0).permutation(len(vectors))[:number]
    return np.ascontiguousarray(vectors[np.sort(chosen)])


def _scanned(vectors: np.ndarray):
    dimension = vectors.shape[1]
    if dimension % 2:
        raise ConfigError(f"voiceprints of {dimension} dimensions cannot be coded in pairs")
    # two dimensions a code of 4 bits; all its 16 values need examples, however few rows there are
    index = faiss.IndexPQFastScan(dimension, dimension // 2, 4, faiss.METRIC_INNER_PRODUCT)
    sample = _sample(vectors, _POINTS)
    index.train(np.resize(sample, (max(len(sample), 1024), dimension)))
    return index


def _listed(kind: str, vectors: np.ndarray, num_lists: int | None, report):
    num_rows, dimension = vectors.shape
    number = num_lists or 2 ** round(math.log2(2 * math.sqrt(num_rows)))
    number = min(number, max(1, num_rows // 39))
    report(f"training {number:,} lists for {num_rows:,} voiceprints")
    sample = _sample(vectors, number * _POINTS_PER_LIST)
    # Means, not unit vectors, as centroids: what is left of a voiceprint once its list's is
    # taken away is a fifth shorter, and so is the error of its code.
    clusters = faiss.Kmeans(dimension, number, niter=10, seed=0, gpu=faiss.get_num_gpus() > 0)
    clusters.train(sample)
    centroids = faiss.IndexFlatL2(dimension)
    centroids.add(clusters.centroids)
    if kind == "ivf-rabitq":
        index = faiss.IndexIVFRaBitQ(centroids, dimension, number, faiss.METRIC_L2)
    else:
        code = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(centroids, dimension, number, code)
    index.train(sample)
    return index


def read_codes(path: Path, kind: str, dimension: int, num_rows: int):
    """Open codes that may come from an untrusted place.

    Raises
    ------
    VoiceprintIndexError
        If they are not the codes of so many rows.
    """
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    except (RuntimeError, MemoryError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise VoiceprintIndexError(f"{path} is no FAISS index: {line}") from error
    if type(index) is not _TYPES[kind] or (index.d, index.ntotal) != (dimension, num_rows):
        raise VoiceprintIndexError(
            f"{path} is damaged: it holds a {type(index).__name__} of {index.ntotal} vectors "
            f"of dimension {index.d}"
        )
    # the hash tells accident, not malice
    if kind == SCANNED:
        _check_scanned(index, path)
    else:
        _check_lists(index, path)
        index.parallel_mode = 3  # over queries and lists: all cores serve a single query
        if kind == "ivf-sq8":
            index.make_direct_map()
    return index


def _check_scanned(index, path: Path) -> None:
    """Sizes that the scan relies on, and no other implementation than the default one."""
    number = index.d // 2
    rows = -(-index.ntotal // _LANES) * _LANES
    pairs = number + number % 2
    fits = (
        (index.pq.d, index.pq.M, index.pq.nbits, index.pq.dsub) == (index.d, number, 4, 2)
        and index.pq.centroids.size() == 16 * index.d
        and (index.bbs, index.ntotal2, index.M2) == (_LANES, rows, pairs)
        and index.codes.size() == rows * pairs // 2
    )
    if not fits:
        raise VoiceprintIndexError(f"{path} is damaged: its codes are not those of its rows")
    index.implem = index.qbs = 0


def _check_lists(index, path: Path) -> None:
    """Every row must stand in the lists once."""
    seen = np.zeros(index.ntotal, bool)
    for number in range(index.nlist):
        size = index.invlists.list_size(number)
        if size:
            rows = faiss.rev_swig_ptr(index.invlists.get_ids(number), size)
            if rows.min() < 0 or rows.max() >= index.ntotal:
                break
            seen[rows] = True
    if not seen.all():
        raise VoiceprintIndexError(f"{path} is damaged: its lists do not hold every row once")


def propose(
    index, queries: np.ndarray, number: int, allowed: np.ndarray, probes: int
) -> np.ndarray:
    """Rows to compute the scores of.

    Parameters
    ----------
    queries : (num_queries, dimension) float32
    number : int
        Rows a query.
    allowed : (num_rows,) bool
    probes : int
        Lists to visit, where there are lists.

    Returns
    -------
    rows : (num_queries, num_proposed) int64
        -1 where there are fewer.
    """
    if isinstance(index, faiss.IndexPQFastScan):
        # a scan cannot skip rows: it proposes so many more, and those not allowed are left out
        share = allowed.mean()
        wanted = number if share == 1 else math.ceil(1.2 * number / share)
        rows = index.search(queries, min(wanted, index.ntotal))[1]
        return rows if share == 1 else np.where((rows >= 0) & allowed[rows], rows, -1)
    selector = None
    if not allowed.all():
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
    parameters = faiss.SearchParametersIVF(sel=selector, nprobe=min(probes, index.nlist))
    return index.search(queries, number, params=parameters)[1]
