"""Diarization datasets of voices made for tests: their spread is that of LibriSpeech readers.

Voiceprints of the default embedding have between people a variance over some 70 dimensions, and
within a person a fifth of that: cosines of about 0.8 within, and 0.06 ± 0.1 between.
"""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raydiar.corpus.inputs.manifest import RECORDING_FIELDS
from raydiar.corpus.output import dataset
from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.storage.folder import Folder
from raydiar.voiceprints.verification import Calibration

DIMENSION = 192
PIPELINE = dict.fromkeys(dataset.PIPELINE.names, "x") | {
    "embedding": "e" * 64,
    "embedding_mode": "cut",
}
# of the voiceprints of `PIPELINE`
CALIBRATION = Calibration(
    embedding="e" * 64,
    embedding_mode="cut",
    scoring="cosine",
    method="logistic",
    scores=(0.0, 1.0),
    ratios=(-20.0, 20.0),
    thresholds=(0.2, 0.6),
    false_accept_rates=(0.1, 0.0001),
)
CARRIED = pa.schema([("language", pa.string()), ("episode", pa.int64())])


@dataclass
class Voices:
    """People, and voiceprints of them on different days; `spread` 1 as of read speech."""

    num_people: int
    seed: int = 0
    spread: float = 1.0
    means: np.ndarray = field(init=False)

    def __post_init__(self):
        self._rng = np.random.default_rng(self.seed)
        self._within = self._axes(30) * np.float32(0.44 * self.spread)
        people = self._rng.standard_normal((self.num_people, DIMENSION), np.float32)
        self.means = 0.86 * people @ self._axes(35) + 0.25 / np.sqrt(DIMENSION)

    def _axes(self, decay: float) -> np.ndarray:
        rotation = np.linalg.qr(self._rng.standard_normal((DIMENSION, DIMENSION)))[0]
        variances = np.exp(-np.arange(DIMENSION) / decay)
        scales = np.sqrt(variances / variances.sum())
        return (scales[:, None] * rotation).astype(np.float32)

    def say(self, people: np.ndarray) -> np.ndarray:
        """A raw voiceprint of each of `people`: (num_people, dimension) float32, length 6."""
        noise = self._rng.standard_normal((len(people), DIMENSION), np.float32)
        vectors = self.means[people] + noise @ self._within
        return 6 * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def diarized(name: str, vectors: np.ndarray, seconds: list[float] | None = None) -> Diarization:
    """A recording in which speaker n says its turn from second 20 n on, for `seconds[n]`."""
    seconds = seconds or [10.0] * len(vectors)
    turns, speakers = [], []
    for number, (vector, length) in enumerate(zip(vectors, seconds, strict=True)):
        label = f"SPEAKER_{number:02d}"
        turns.append(Turn(20.0 * number, 20.0 * number + length, label, 0.9))
        speakers.append(Speaker(label, length, length, max(1, int(length)), vector))
    return Diarization(name, 20.0 * len(turns), tuple(turns), tuple(turns), tuple(speakers))


def write_dataset(
    path, recordings: list[Diarization], *, pipeline: dict = PIPELINE, files: int = 1, **carried
) -> str:
    """Publish recordings as a diarization dataset of some files; gives its path."""
    folder = Folder(str(path))
    schema = dataset.dataset_schema(DIMENSION, CARRIED, pipeline)
    dataset.write_schema(folder, schema)
    rows = []
    for number, recording in enumerate(recordings):
        row = dict.fromkeys(RECORDING_FIELDS.names)
        row |= {"recording_id": recording.uri, "uri": f"s3://audio/{recording.uri}.mp3"}
        row |= {"language": "en", "episode": number} | carried
        rows.append(dataset.ok_row(row, recording, pipeline))
    for part in np.array_split(np.arange(len(rows)), files):
        table = pa.Table.from_pylist([rows[number] for number in part], schema)
        dataset.publish_rows(folder, "run1", "ok", table)
    return folder.uri


def conversations(
    voices: Voices, number: int, *, speakers: int = 2, prefix: str = "recording", seed: int = 0
) -> tuple[list[Diarization], np.ndarray]:
    """Recordings of different people each, and who they are: (number, speakers) int."""
    rng = np.random.default_rng(seed)
    people = np.stack(
        [rng.choice(voices.num_people, speakers, replace=False) for _ in range(number)]
    )
    vectors = voices.say(people.ravel()).reshape(number, speakers, DIMENSION)
    made = [diarized(f"{prefix}-{n:04d}", vectors[n]) for n in range(number)]
    return made, people
