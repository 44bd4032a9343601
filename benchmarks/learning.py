"""What small networks learn here from nothing, on voices that they have never heard.

python benchmarks/learning.py embedding --steps 300
python benchmarks/learning.py segmentation --steps 300

Run again with the same --into, it goes on with what was learnt. `embedding`: an x-vector on 120 of
the voices of LibriSpeech, equal error rate on 30 others. `segmentation`: a small PyanNet on
two-speaker conversations made while training, error rate on voices and turn structures of others.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch
from adaptation import SEED, SHARED, Material

from raydiar.models import Model
from raydiar.training.config import TrainingConfig
from raydiar.training.folder import RunFolder
from raydiar.training.recipe import Recipe
from raydiar.training.run import train
from raydiar.training.sources import SimulatedWindows
from raydiar.training.starting import start
from raydiar.training.tasks import SpeakerDiarization

SMALL = {
    "sincnet": {"stride": 10},
    "lstm": {"hidden_size": 64, "num_layers": 2},
    "linear": {"hidden_size": 64, "num_layers": 1},
}


def write_voices(folder: Path) -> tuple[Path, Path]:
    """Manifests of 120 people to learn from, and of 30 others."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(SHARED / "audio/librispeech/utterances.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    people = sorted({row["speaker"] for row in rows})
    order = np.random.default_rng(SEED).permutation(len(people))
    parts = {"train": order[:120], "others": order[120:150]}
    for name, chosen in parts.items():
        wanted = {people[number] for number in chosen}
        lines = ["uri,rttm,seconds"]
        for row in rows:
            if row["speaker"] in wanted:
                path = SHARED / "audio/librispeech" / row["path"]
                rttm = folder / f"{path.stem}.rttm"
                rttm.write_text(
                    f"SPEAKER {path.stem} 1 0.000 {float(row['seconds']):.3f} <NA> <NA> "
                    f"voice{row['speaker']} <NA> <NA>\n"
                )
                lines.append(f"{path},{rttm},{row['seconds']}")
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    return folder / "train.csv", folder / "others.csv"


def learn_embedding(into: Path, steps: int) -> dict[str, float]:
    manifest, others = write_voices(into / "labels")
    recipe = Recipe(
        "embedding",
        str(manifest),
        validate=str(others),
        architecture="XVectorSincNet",
        hyper_parameters={"dimension": 128},
        task={"duration": 3.0, "margin": 11.5, "margin_steps": 200},
        training=TrainingConfig(
            max_steps=steps,
            batch_size=32,
            learning_rate=1e-3,
            schedule="constant",
            checkpoint_every=25,
            validate_every=25,
            seed=SEED,
        ),
    )
    before = measured_before(recipe, into / "before")
    start(recipe, into / "run", device="cpu")
    return {"before": before, "after": RunFolder(str(into / "run")).status()["best_validation"]}


def measured_before(recipe: Recipe, folder: Path) -> dict[str, float]:
    """One step so small that nothing is learnt: the validation of the network as it is made."""
    if not (folder / "end.json").exists():
        still = recipe.with_training(max_steps=1, learning_rate=1e-12)
        start(still, folder, device="cpu", quiet=True)
    return RunFolder(str(folder)).status()["best_validation"]


class Held:
    """Windows of others' voices on others' turns."""

    def __init__(self, material: Material, number: int):
        self.source = SimulatedWindows(simulator(material, 2), 5.0, SEED + 5)
        self.duration, self.number = 5.0, number

    def __len__(self) -> int:
        return self.number

    def example(self, index: int):
        return self.source.example(index)


def simulator(material: Material, part: int):
    return material.simulator(part, "clean", 5.0, (2, 2))


def learn_segmentation(into: Path, steps: int) -> dict[str, float]:
    material = Material()
    source = SimulatedWindows(simulator(material, 0), 5.0, SEED)
    options = {"duration": 5.0, "max_speakers_per_chunk": 2}
    config = TrainingConfig(
        max_steps=steps,
        batch_size=32,
        learning_rate=3e-3,
        warmup_steps=20,
        schedule="constant",
        ema=0.98,
        checkpoint_every=25,
        validate_every=25,
        seed=SEED,
    )
    found = {}
    for name, folder, chosen in (
        ("before", into / "before", TrainingConfig(max_steps=1, batch_size=2, learning_rate=1e-12)),
        ("after", into / "run", config),
    ):
        torch.manual_seed(SEED)
        task = SpeakerDiarization(source, validation=Held(material, 128), **options)
        model = Model.custom("PyanNet", **SMALL)
        train(model, task, folder, chosen, device="cpu", quiet=name == "before")
        found[name] = RunFolder(str(folder)).status()["best_validation"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["embedding", "segmentation"])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--into")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    into = Path(arguments.into or f".bench/learning-{arguments.what}").resolve()
    learn = learn_embedding if arguments.what == "embedding" else learn_segmentation
    begun = time.monotonic()
    found = learn(into, arguments.steps)
    metric = "val_eer" if arguments.what == "embedding" else "val_der"
    print(
        f"{arguments.what}: {metric[4:]} {100 * found['before'][metric]:.1f} % before, "
        f"{100 * found['after'][metric]:.1f} % after {found['after']['step']:.0f} steps "
        f"({time.monotonic() - begun:.0f} s in this run)"
    )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
