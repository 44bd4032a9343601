"""Search with every voiceprint of a dataset at once, into a Parquet table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import open as fsspec_open

from raydiar.voiceprints.reading import read_voiceprints
from raydiar.voiceprints.searchable import SearchableIndex
from raydiar.voiceprints.verification import Calibration

HITS = pa.schema(
    [
        ("query_recording_id", pa.string()),
        ("query_speaker", pa.string()),
        ("rank", pa.int32()),  # from 1
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("speaker", pa.string()),
        ("score", pa.float32()),
        ("probability", pa.float64()),  # null without a calibration
    ]
)
_BATCH = 1024


def search_dataset(
    index: SearchableIndex,
    queries: str,
    output: str,
    k: int = 10,
    *,
    calibration: Calibration | None = None,
    prior: float = 0.5,
    **options,
) -> int:
    """Search with all voiceprints of a diarization dataset; a voice is no hit of itself.

    Parameters
    ----------
    queries : str
        Folder of the dataset.
    output : str
        Parquet file to write, of schema `HITS`; path or fsspec URI.
    options
        As in `SearchableIndex.neighbors`.

    Returns
    -------
    num_queries : int
    """
    number = 0
    with fsspec_open(output, "wb") as sink, pq.ParquetWriter(sink, HITS) as writer:
        for found in read_voiceprints(queries, index.generation):
            for start in range(0, len(found.vectors), _BATCH):
                ids = found.ids.slice(start, _BATCH)
                vectors = found.vectors[start : start + _BATCH]
                scores, hits = index.neighbors(vectors, k + 1, **options)
                writer.write_table(_table(index, ids, scores, hits, k, calibration, prior))
                number += len(vectors)
    return number


def _table(index, ids: pa.Table, scores, hits, k, calibration, prior) -> pa.Table:
    rows, places = np.nonzero(hits >= 0)
    scores = scores[rows, places]
    columns = ["recording_id", "uri", "speaker"]
    found = index.columns(hits[rows, places], columns)
    asked = ids.select(["recording_id", "speaker"]).take(rows)
    own = np.array(
        [
            a == b
            for a, b in zip(
                asked.to_pylist(), found.select(asked.column_names).to_pylist(), strict=True
            )
        ],
        bool,
    )
    ranks = _ranks(rows[~own])
    keep = np.flatnonzero(~own)[ranks <= k]
    probabilities = pa.nulls(len(keep), pa.float64())
    if calibration is not None:
        probabilities = pa.array(calibration.probability(scores[keep], prior))
    asked, found = asked.take(keep), found.take(keep)
    arrays = [*asked.columns, pa.array(ranks[ranks <= k], pa.int32()), *found.columns]
    return pa.table([*arrays, pa.array(scores[keep], pa.float32()), probabilities], schema=HITS)


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Place of each hit among those of its query, from 1; `rows` never fall."""
    starts = np.flatnonzero(np.append(True, rows[1:] != rows[:-1]))[: len(rows)]
    lengths = np.diff(np.append(starts, len(rows)))
    return np.arange(len(rows)) - np.repeat(starts, lengths) + 1
