"""Datasets without a job: rows as its write tasks publish them."""

import numpy as np
import pyarrow as pa

from raydiar.corpus.inputs.manifest import RECORDING_FIELDS
from raydiar.corpus.output import dataset
from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.storage.folder import Folder

CARRIED = pa.schema([("language", pa.string()), ("episode", pa.int64())])
SCHEMA = dataset.dataset_schema(4, CARRIED)
PIPELINE = dict.fromkeys(dataset.PIPELINE.names, "x")
ERROR = {"type": "AudioDecodeError", "message": "not audio", "retryable": False, "attempt": 1}


def recording(name: str, **values) -> dict:
    row = dict.fromkeys(RECORDING_FIELDS.names) | {"recording_id": name, "uri": name}
    return row | {"language": "en", "episode": 7} | values


def diarization(name: str) -> Diarization:
    turns = (Turn(0.5, 2.0, "SPEAKER_00", 0.75), Turn(1.5, 3.0, "SPEAKER_01", 0.5))
    speakers = (
        Speaker("SPEAKER_00", 1.5, 1.0, 2, np.arange(4, dtype=np.float32)),
        Speaker("SPEAKER_01", 1.5, 0.0, 0, None),  # never spoke alone: no voiceprint
    )
    return Diarization(name, 3.0, turns, turns[:1], speakers)


def publish(folder: Folder, run: str, status: str, *names: str, **values) -> str:
    rows = [
        dataset.ok_row(recording(name, **values), diarization(name), PIPELINE)
        if status == "ok"
        else dataset.error_row(recording(name, **values), ERROR, PIPELINE)
        for name in names
    ]
    return dataset.publish_rows(folder, run, status, pa.Table.from_pylist(rows, SCHEMA))
