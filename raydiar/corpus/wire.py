"""How packs travel between the stages of a job: PCM and LocalSpeakers as Arrow values.

Arrow's buffers go through Ray's object store without being pickled, and are read back as views:
the PCM of an hour (115 MB) reaches the inference actor without one copy of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from raydiar.local_speakers import LocalSpeakers
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


def pcm_from_arrow(value: pa.LargeBinaryScalar, num_samples: Sequence[int]) -> list[np.ndarray]:
    """Samples of each recording, as read-only views: list of (num_samples,) int16."""
    samples = np.frombuffer(value.as_buffer(), np.int16)
    return np.split(samples, np.cumsum(num_samples)[:-1]) if len(num_samples) else []


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


def local_speakers_from_arrow(value: pa.StructScalar) -> LocalSpeakers | None:
    """The LocalSpeakers of a `LOCAL_SPEAKERS` value, as views of its memory."""
    if not value.is_valid:
        return None
    grid = WindowGrid(**value["grid"].as_py())
    num_speakers, dimension = value["num_speakers"].as_py(), value["dimension"].as_py()

    def array(name: str, dtype, *shape: int) -> np.ndarray:
        return np.frombuffer(value[name].as_buffer(), dtype).reshape(shape)

    num_bytes = -(-grid.num_frames * num_speakers // 8)
    return LocalSpeakers(
        num_samples=value["num_samples"].as_py(),
        activity=array("activity", np.uint8, -1, num_bytes),
        posteriors=array("posteriors", np.uint8, -1, grid.num_frames, num_speakers),
        embeddings=array("embeddings", np.float32, -1, dimension),
        owners=array("owners", np.int32, -1, 2),
        num_speakers=num_speakers,
        first_window=value["first_window"].as_py(),
        grid=grid,
    )
