"""Small labelled conversations, and a network that learns them in seconds."""

import csv
from pathlib import Path

import numpy as np

from raydiar.audio import SAMPLE_RATE
from raydiar.diarization import Turn
from raydiar.simulation import SimulationParameters, Simulator, TurnStructure
from raydiar.training import Recipe, TrainingConfig

TINY = {
    "sincnet": {"stride": 10},
    "lstm": {"hidden_size": 16, "num_layers": 1},
    "linear": {"hidden_size": 16, "num_layers": 1},
}
"""Hyper-parameters of a PyanNet of 45,000 parameters."""


def voice(pitch: float, seed: int, seconds: float = 6.0) -> np.ndarray:
    """(num_samples,) int16: a buzz of its own pitch under syllables."""
    rng = np.random.default_rng(seed)
    at = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * pitch * (at + 0.002 * np.sin(2 * np.pi * 3 * at))
    tones = sum(np.sin(n * phase) / n for n in range(1, 9))
    syllables = 0.3 + np.abs(np.sin(2 * np.pi * 4 * at + rng.uniform(0, 6)))
    return np.rint(6000 * tones * syllables).clip(-32768, 32767).astype(np.int16)


def people(number: int = 4) -> dict[str, list[np.ndarray]]:
    return {
        f"person{n}": [voice(90 * 1.35**n, 10 * n + take) for take in range(2)]
        for n in range(number)
    }


def structure(num_speakers: int = 3, duration: float = 120.0, seed: int = 0) -> TurnStructure:
    rng = np.random.default_rng(seed)
    turns, now = [], 0.3
    while now < duration - 4:
        end = now + rng.uniform(0.4, 3.0)
        turns.append(Turn(round(now, 3), round(end, 3), f"spk{rng.integers(num_speakers)}"))
        now = max(now + 0.2, end + rng.uniform(-0.6, 0.8))
    return TurnStructure("real", duration, tuple(turns))


def simulator(duration: float, speakers=(1, 2), **options) -> Simulator:
    options = {"reverb_probability": 0.0, "noise_probability": 0.0, "min_speech": 0.2} | options
    parameters = SimulationParameters(duration=(duration, duration), speakers=speakers, **options)
    structures = [structure(count, seed=count) for count in (2, 3)]
    return Simulator(people(), structures, parameters=parameters)


def write_conversations(
    folder: Path, number: int = 4, duration: float = 8.0, first: int = 0, **columns
) -> Path:
    """wav and RTTM of conversations, and the manifest that names them."""
    made = simulator(duration, (1, 2) if duration <= 10 else (2, 3))
    rows = []
    for n in range(first, first + number):
        audio, labels = made.simulate(n, uri=f"talk{n}").write(folder)
        row = {"uri": audio.name, "rttm": labels.name}
        rows.append(row | {name: values[n % len(values)] for name, values in columns.items()})
    return write_manifest(folder / f"manifest{first}.csv", rows)


def write_manifest(path: Path, rows: list[dict]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def small_recipe(folder: Path) -> Recipe:
    manifest = write_conversations(folder, 3)
    return Recipe(
        "segmentation",
        str(manifest),
        validate=str(manifest),
        architecture="PyanNet",
        hyper_parameters=TINY,
        task={"duration": 2.0, "max_speakers_per_chunk": 2},
        training=TrainingConfig(
            max_steps=12,
            batch_size=5,
            learning_rate=1e-4,  # rounding errors stay small
            checkpoint_every=2,
            validate_every=6,
            log_every=1,
        ),
    )
