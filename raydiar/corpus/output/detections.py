"""Datasets of detections: speech, overlapped speech, or changes of speakers.

All that `dataset` says of files and precedence holds here too; only the columns differ. A row has
`regions`, or `changes` where these were looked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raydiar.corpus.output import dataset
from raydiar.errors import ManifestError

LABELS = {"speech": "SPEECH", "overlap": "OVERLAP"}
"""What regions are called where turns have a speaker."""
REGIONS = pa.list_(pa.struct([("start", pa.float64()), ("end", pa.float64())]))
PIPELINE = pa.struct(
    [
        ("fingerprint", pa.string()),
        ("task", pa.string()),
        ("segmentation", pa.string()),
        ("parameters", pa.string()),
        ("raydiar", pa.string()),
    ]
)
REQUESTED = pa.struct([("duration", pa.float64())])


def detection_schema(carried: pa.Schema, pipeline: dict) -> pa.Schema:
    """Schema of a dataset of detections.

    Parameters
    ----------
    carried : pyarrow.Schema
        Columns of the manifest that come last.
    pipeline : dict
        The `pipeline` column that all its rows share: what `LocalDetector.describe` gives.

    Raises
    ------
    ManifestError
        If a carried column is named like one of these.
    """
    if pipeline["task"] == "changes":
        found = [pa.field("changes", pa.list_(pa.float64()))]  # s, on the file's timeline
    else:
        found = [
            pa.field("regions", REGIONS),
            pa.field("region_seconds", pa.float64()),  # of all of them together
        ]
    columns = [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("channel", pa.int32()),  # null: all of them, mixed
        pa.field("start", pa.float64()),  # of an excerpt on the file's timeline, in seconds
        pa.field("duration", pa.float64()),  # processed, in seconds; null in error rows
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", dataset.ERROR),
        *found,
        pa.field("warnings", pa.list_(pa.string())),
        pa.field("pipeline", PIPELINE, nullable=False),
        pa.field("requested", REQUESTED, nullable=False),
    ]
    own = {column.name for column in columns}
    if taken := [name for name in carried.names if name.lower() in own]:
        raise ManifestError(
            f"column {taken[0]!r} of the manifest collides with one of the output's; rename it"
        )
    return dataset.with_pipeline(pa.schema([*columns, *carried]), pipeline)


def ok_row(
    recording: dict,
    duration: float,
    found: np.ndarray,
    pipeline: dict,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Row of a recording that was looked at.

    Parameters
    ----------
    recording : dict
        Its row of the manifest.
    duration : float, s
    found : (num_regions, 2) or (num_changes,) float64
        Starts and ends, or times, in seconds from the start of the excerpt; the row has them on the
        timeline of the file.
    pipeline : dict
    warnings : sequence of str
        Of decoding.
    """
    row = dataset.base_row(recording, pipeline, warnings)
    placed = found + (recording["start"] or 0.0)
    row |= {"duration": duration, "status": "ok"}
    if found.ndim == 1:
        return row | {"changes": placed.tolist()}
    regions = [{"start": start, "end": end} for start, end in placed.tolist()]
    return row | {"regions": regions, "region_seconds": float(np.diff(found).sum())}


def open(output: str) -> dataset.DiarizationDataset:
    """Open a dataset of detections, as `dataset.open` does one of diarizations.

    Raises
    ------
    OutputError
        If there is none.
    """
    return dataset.open(output, tasks=(*LABELS, "changes"))
