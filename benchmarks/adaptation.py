"""Fine-tune segmentation-3.0 on conversations that are made while training, and measure it apart.

python benchmarks/adaptation.py --minutes 5 --training far-field
python benchmarks/adaptation.py --minutes 40 --training all --into .bench/adaptation

Voices, turn structures, rooms and noises of the measured conversations are heard in training
nowhere, and compressed ones went through real encoders, which training only imitates. AMI clips are
real meetings, of which training hears nothing. What is measured on `development` voices chooses
the network; `test` is looked at once, at the end.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import time
from pathlib import Path

import av
import numpy as np
import torch

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.diarization import read_rttm
from raydiar.evaluation.diarization import diarization_errors, total_errors
from raydiar.models import Model
from raydiar.pipelines import Pipeline
from raydiar.pipelines.config import DEFAULT
from raydiar.simulation import Room, SimulationParameters, Simulator, read_structures
from raydiar.training.augmentation import Augmentation, telephone
from raydiar.training.config import TrainingConfig
from raydiar.training.exporting import load_trained, write_folder
from raydiar.training.folder import RunFolder
from raydiar.training.labels import FrameGrid, frame_labels
from raydiar.training.metrics import count_errors
from raydiar.training.run import train
from raydiar.training.sources import SimulatedWindows
from raydiar.training.tasks import SpeakerDiarization

SHARED = Path(__file__).resolve().parents[2] / "shared"
SEED = 20261125
CONDITIONS = ("clean", "far-field", "telephone", "compressed")
# (codec, container, bit rate): what people send, from good to bad
CODECS = (("libopus", "ogg", 8000), ("libmp3lame", "mp3", 16000), ("libopus", "ogg", 12000))


def parts(items: list, seed: int, shares=(0.7, 0.1)) -> tuple[list, list, list]:
    """Training, development and test, by lot."""
    order = np.random.default_rng(seed).permutation(len(items))
    first = round(shares[0] * len(items))
    second = first + max(1, round(shares[1] * len(items)))
    return tuple(
        [items[i] for i in order[a:b]] for a, b in ((0, first), (first, second), (second, None))
    )


class Material:
    """Everything that conversations are made of, in three parts that share nothing."""

    def __init__(self):
        with open(SHARED / "audio/librispeech/utterances.tsv") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        by_voice: dict[str, list] = {}
        for row in rows:
            by_voice.setdefault(row["speaker"], []).append(
                decode(SHARED / "audio/librispeech" / row["path"])
            )
        self.voices = [
            {name: by_voice[name] for name in part} for part in parts(sorted(by_voice), SEED)
        ]
        structures = read_structures(sorted((SHARED / "labels/voxconverse-dev").glob("*.rttm")))
        self.structures = parts(structures, SEED + 1)
        rooms = [Room([decode(path)]) for path in sorted((SHARED / "noise/rir").iterdir())]
        self.rooms = parts(rooms, SEED + 2, (0.6, 0.15))
        noises = [decode(path) for path in sorted((SHARED / "noise/background").iterdir())]
        self.noises = parts(noises, SEED + 3, (0.6, 0.15))

    def simulator(self, part: int, condition: str, duration: float, speakers) -> Simulator:
        far = {"reverb_probability": 1.0, "noise_probability": 1.0, "snr": (5.0, 20.0)}
        options = {
            "clean": {"reverb_probability": 0.0, "noise_probability": 0.0},
            "far-field": far,
            "telephone": {"reverb_probability": 0.0, "noise_probability": 0.5, "snr": (10.0, 30.0)},
            "compressed": {
                "reverb_probability": 0.5,
                "noise_probability": 0.5,
                "snr": (10.0, 30.0),
            },
            "all": {"reverb_probability": 0.6, "noise_probability": 0.7, "snr": (5.0, 30.0)},
        }[condition]
        parameters = SimulationParameters(
            duration=(duration, duration), speakers=speakers, min_speech=0.3, **options
        )
        return Simulator(
            self.voices[part],
            self.structures[part],
            self.rooms[part],
            self.noises[part],
            parameters,
        )

    def conversations(self, part: int, condition: str, number: int, duration=60.0) -> list:
        """(uri, samples, turns) of held-out conversations."""
        simulator = self.simulator(part, condition, duration, (2, 4))
        made = []
        for n in range(number):
            seed = [SEED, part, CONDITIONS.index(condition), n]
            one = simulator.simulate(seed, uri=f"{condition}-{n}")
            made.append((one.uri, worsened(one.samples, condition, n), one.turns))
        return made


def worsened(samples: np.ndarray, condition: str, number: int) -> np.ndarray:
    if condition == "telephone":
        wave = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
        return (telephone(wave)[0].numpy() * 32767).round().astype(np.int16)
    if condition == "compressed":
        return coded(samples, *CODECS[number % len(CODECS)])
    return samples


def coded(samples: np.ndarray, codec: str, container: str, bit_rate: int) -> np.ndarray:
    """Through a real encoder and back, as long as before."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        stream = output.add_stream(codec, rate=SAMPLE_RATE, layout="mono")
        stream.bit_rate = bit_rate
        resampler = av.AudioResampler(stream.format.name, "mono", SAMPLE_RATE)
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        for one in [*resampler.resample(frame), None]:
            output.mux(stream.encode(one))
    sink.seek(0)
    back = decode(sink)[: len(samples)]
    return np.pad(back, (0, len(samples) - len(back)))


def ami_clips() -> list:
    clips = []
    for path in sorted((SHARED / "audio/ami-clips").glob("trn*.flac")):
        [reference] = read_rttm(path.with_suffix(".rttm")).values()
        clips.append((path.stem, decode(path), reference.turns))
    return clips


@torch.no_grad()
def segmentation_error(model, recordings) -> float:
    """Error rate over frames of windows of 10 s that follow each other."""
    model = model.eval()
    grid = FrameGrid(
        model.num_frames(160000), model.frame_step / SAMPLE_RATE, model.frame_duration / SAMPLE_RATE
    )
    task = SpeakerDiarization(max_speakers_per_chunk=3)
    counts = torch.zeros(4, dtype=torch.float64)
    for _, samples, turns in recordings:
        starts = np.array([turn.start for turn in turns])
        ends = np.array([turn.end for turn in turns])
        _, speakers = np.unique([turn.speaker for turn in turns], return_inverse=True)
        first = range(0, len(samples) - 160000 + 1, 160000)
        windows = np.stack([samples[at : at + 160000] for at in first]).astype(np.float32) / 32768
        labels = [
            frame_labels(starts, ends, speakers, at / SAMPLE_RATE, 10.0, grid, 3) for at in first
        ]
        output = model(torch.from_numpy(windows)[:, None])
        active = task.mapping(output)[output.argmax(-1)]
        counts += count_errors(active, torch.from_numpy(np.stack(labels)))[0]
    return float(counts[:3].sum() / counts[3])


def pipeline_error(pipeline, recordings) -> float:
    errors = []
    for uri, samples, turns in recordings:
        wave = torch.from_numpy(samples.astype(np.float32) / 32768)[None]
        found = pipeline({"waveform": wave, "sample_rate": SAMPLE_RATE, "uri": uri})
        errors.append(diarization_errors(turns, found.turns))
    return total_errors(errors).diarization_error_rate


def measure(model, folder: Path, held_out: dict[str, list]) -> dict[str, dict[str, float]]:
    write_folder(model, folder)
    pipeline = Pipeline.from_pretrained(folder)
    found = {
        name: {"segmentation": segmentation_error(model, recordings)}
        for name, recordings in held_out.items()
    }
    print(folder.name, "segmentation", found, flush=True)
    for name, recordings in held_out.items():
        found[name]["pipeline"] = pipeline_error(pipeline, recordings)
        print(folder.name, name, found[name], flush=True)
    return found


class Development:
    """Windows of development voices under every condition, in turns."""

    duration = 10.0

    def __init__(self, material: Material, conditions, number: int):
        self.number, self.conditions = number, conditions
        self.sources = [
            SimulatedWindows(material.simulator(1, one, 10.0, (1, 3)), 10.0, SEED + 9)
            for one in conditions
        ]

    def __len__(self) -> int:
        return self.number

    def example(self, index: int):
        from dataclasses import replace

        which = index % len(self.sources)
        example = self.sources[which].example(index)
        samples = worsened(example.samples, self.conditions[which], index // len(self.sources))
        return replace(example, samples=samples)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--training", default="far-field", choices=["far-field", "all"])
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, about")
    parser.add_argument("--steps", type=int, help="instead of --minutes")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--conversations", type=int, default=10, help="of a minute, a condition")
    parser.add_argument("--into", default=".bench/adaptation")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--measure-only", action="store_true", help="what --into has learnt so far")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    material = Material()
    chosen = CONDITIONS if arguments.training == "all" else ("far-field",)
    model = Model.from_pretrained(DEFAULT.segmentation.uri)
    source = SimulatedWindows(material.simulator(0, arguments.training, 10.0, (1, 3)), 10.0, SEED)
    augmentation = Augmentation(
        telephone_probability=0.3 if arguments.training == "all" else 0.0,
        codec_probability=0.3 if arguments.training == "all" else 0.0,
        seed=SEED,
    )
    task = SpeakerDiarization(
        source,
        validation=Development(material, chosen, 64),
        max_speakers_per_chunk=3,
        augmentation=augmentation,
    )
    steps = arguments.steps or max(10, round(arguments.minutes * 60 / (0.3 * arguments.batch_size)))
    config = TrainingConfig(
        max_steps=steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        warmup_steps=min(20, steps // 5),
        freeze=("sincnet",),
        ema=0.99,
        checkpoint_every=25,
        validate_every=50,
        log_every=5,
        seed=SEED,
        num_threads=1,
    )
    begun = time.monotonic()
    if arguments.measure_only:
        model = load_trained(arguments.into)
    else:
        train(model, task, arguments.into, config, device="cpu")
    spent = time.monotonic() - begun
    steps = RunFolder(arguments.into).status()["step"]
    print(f"trained {steps} steps in {spent / 60:.1f} min", flush=True)
    held_out = {one: material.conversations(2, one, arguments.conversations) for one in CONDITIONS}
    held_out["AMI clips"] = ami_clips()
    before = measure(
        Model.from_pretrained(DEFAULT.segmentation.uri), Path(arguments.into) / "before", held_out
    )
    after = measure(model, Path(arguments.into) / "after", held_out)
    print(f"{'':12} {'segmentation error':>22} {'pipeline DER':>20}")
    for name in held_out:
        old, new = before[name], after[name]
        print(
            f"{name:12} {100 * old['segmentation']:9.2f} → {100 * new['segmentation']:5.2f} %"
            f" {100 * old['pipeline']:11.2f} → {100 * new['pipeline']:5.2f} %"
        )
    if arguments.json:
        result = {"steps": steps, "seconds": spent, "before": before, "after": after}
        Path(arguments.json).write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
