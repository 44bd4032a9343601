"""How packs travel between the stages of a job: PCM and what is inferred as Arrow values.

Arrow's buffers go through Ray's object store without being pickled, and are read back as views:
the PCM of an hour (115 MB) reaches the inference actor without one copy of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from raydiar.local_speakers import LocalSpeakers
from raydiar.window_scores import WindowScores
from raydiar.windows import WindowGrid

GRID = pa.struct([(name, pa.int64()) for name in asdict(WindowGrid())])
LOCAL_SPEAKERS = pa.struct(
    [
        ("num_samples", pa.int64()),
        ("num_speakers", pa.int32()),
        ("first_window", pa.int64()),
        ("dimension", pa.int32()),
        ("grid", GRID),
        ("activity", pa.large_binary()),
        ("posteriors", pa.large_binary()),
        ("embeddings", pa.large_binary()),
        ("owners", pa.large_binary()),
    ]
)
WINDOW_SCORES = pa.struct(
    [
        ("num_samples", pa.int64()),
        ("first_window", pa.int64()),
        ("num_columns", pa.int32()),
        ("warm_up", pa.list_(pa.float64(), 2)),
        ("grid", GRID),
        ("scores", pa.large_binary()),
    ]
)


def pcm_to_arrow(recordings: Sequence[np.ndarray]) -> pa.Array:
    """One `large_binary` value that holds the samples of all recordings, one after another.

    Without a copy if there is but one recording, as there is in every long pack.

    Parameters
    ----------
    recordings : sequence of (num_samples,) int16
    """
    if len(recordings) == 1:
        pcm = np.ascontiguousarray(recordings[0])
    else:
        pcm = np.concatenate([np.empty(0, np.int16), *recordings])
    offsets = np.array([0, pcm.nbytes], np.int64)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(pcm)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers)


def pcm_from_arrow(pcm: pa.Array, num_samples: Sequence[int]) -> list[np.ndarray]:
    """Samples of each recording, views of one `large_binary`: list of (num_samples,) int16."""
    samples = _view(pcm, 0, np.int16)
    return np.split(samples, np.cumsum(num_samples)[:-1]) if len(num_samples) else []


def _view(values: pa.LargeBinaryArray, index: int, dtype) -> np.ndarray:
    """One value as an array on the memory of `values`; indexing those would copy it."""
    _, offsets, data = values.buffers()
    start, stop = np.frombuffer(offsets, np.int64)[values.offset + index :][:2]
    if start == stop:
        return np.empty(0, dtype)
    return np.frombuffer(data.slice(start, stop - start), dtype)


def local_speakers_to_arrow(recordings: Sequence[LocalSpeakers | None]) -> pa.Array:
    """One `LOCAL_SPEAKERS` value a recording; null for None."""
    rows = []
    for local in recordings:
        if local is None:
            rows.append(None)
            continue
        rows.append(
            {
                "num_samples": local.num_samples,
                "num_speakers": local.num_speakers,
                "first_window": local.first_window,
                "dimension": local.dimension,
                "grid": asdict(local.grid),
                "activity": local.activity.tobytes(),
                "posteriors": local.posteriors.tobytes(),
                "embeddings": np.ascontiguousarray(local.embeddings, np.float32).tobytes(),
                "owners": np.ascontiguousarray(local.owners, np.int32).tobytes(),
            }
        )
    return pa.array(rows, LOCAL_SPEAKERS)


def local_speakers_from_arrow(recordings: pa.StructArray) -> list[LocalSpeakers | None]:
    """Inverse of `local_speakers_to_arrow`; arrays are views of its memory."""
    return [
        _local_speakers(recordings, index) if valid else None
        for index, valid in enumerate(recordings.is_valid().to_pylist())
    ]


def _local_speakers(recordings: pa.StructArray, index: int) -> LocalSpeakers:
    scalars = {
        name: recordings.field(name)[index].as_py()
        for name in ("num_samples", "num_speakers", "first_window", "dimension", "grid")
    }
    grid, num_speakers = WindowGrid(**scalars.pop("grid")), scalars["num_speakers"]
    dimension = scalars.pop("dimension")
    num_bytes = -(-grid.num_frames * num_speakers // 8)

    def array(name: str, dtype, *shape: int) -> np.ndarray:
        return _view(recordings.field(name), index, dtype).reshape(-1, *shape)

    return LocalSpeakers(
        activity=array("activity", np.uint8, num_bytes),
        posteriors=array("posteriors", np.uint8, grid.num_frames, num_speakers),
        embeddings=array("embeddings", np.float32, dimension),
        owners=array("owners", np.int32, 2),
        grid=grid,
        **scalars,
    )


def window_scores_to_arrow(recordings: Sequence[WindowScores | None]) -> pa.Array:
    """One `WINDOW_SCORES` value a recording; null for None."""
    rows = [
        one
        and {
            "num_samples": one.num_samples,
            "first_window": one.first_window,
            "num_columns": one.scores.shape[-1],
            "warm_up": one.warm_up,
            "grid": asdict(one.grid),
            "scores": np.ascontiguousarray(one.scores, np.float32).tobytes(),
        }
        for one in recordings
    ]
    return pa.array(rows, WINDOW_SCORES)


def window_scores_from_arrow(recordings: pa.StructArray) -> list[WindowScores | None]:
    """Inverse of `window_scores_to_arrow`; arrays are views of its memory."""
    found: list[WindowScores | None] = []
    for index, valid in enumerate(recordings.is_valid().to_pylist()):
        if not valid:
            found.append(None)
            continue
        names = ("num_samples", "first_window", "num_columns", "warm_up", "grid")
        values = {name: recordings.field(name)[index].as_py() for name in names}
        grid = WindowGrid(**values.pop("grid"))
        shape = (-1, grid.num_frames, values.pop("num_columns"))
        scores = _view(recordings.field("scores"), index, np.float32).reshape(shape)
        warm_up = tuple(values.pop("warm_up"))
        found.append(WindowScores(scores=scores, grid=grid, warm_up=warm_up, **values))
    return found
