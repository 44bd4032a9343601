"""Search with every voiceprint of a dataset at once, into a Parquet table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.core import open as fsspec_open

from raydiar.voiceprints.evidence import Evidence
from raydiar.voiceprints.reading import read_voiceprints
from raydiar.voiceprints.search import meaning, nearest_in_recordings, prior_for
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
    calibration: Calibration | Evidence | None = None,
    prior: float | None = None,
    **options,
) -> int:
    """Search with all voiceprints of a diarization dataset, in other recordings than their own.

    Of each recording that is found, the voice that is most like is one hit.

    Parameters
    ----------
    queries : str
        Folder of the dataset.
    output : str
        Parquet file to write, of schema `HITS`; path or fsspec URI.
    prior : float, optional
        As in `raydiar.voiceprints.search.search`.
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
                own = ids["recording_id"].to_pylist()
                scores, hits = nearest_in_recordings(index, vectors, k, own, **options)
                writer.write_table(_table(index, ids, scores, hits, calibration, prior))
                number += len(vectors)
    return number


def _table(index, ids: pa.Table, scores, hits, calibration, prior) -> pa.Table:
    rows, places = np.nonzero(hits >= 0)
    scores = scores[rows, places]
    found = index.columns(hits[rows, places], ["recording_id", "uri", "speaker", "seconds"])
    asked = ids.select(["recording_id", "speaker"]).take(rows)
    probabilities = pa.nulls(len(rows), pa.float64())
    if calibration is not None:
        prior = prior_for(index, calibration) if prior is None else prior
        seconds = found["seconds"].to_numpy()
        probabilities = pa.array(meaning(calibration, scores, prior, seconds))
    found = found.drop_columns("seconds")
    arrays = [*asked.columns, pa.array(places + 1, pa.int32()), *found.columns]
    return pa.table([*arrays, pa.array(scores, pa.float32()), probabilities], schema=HITS)
