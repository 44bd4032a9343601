"""Three sets of simulated conversations that share nothing, to tune, to choose, and to report on.

    python benchmarks/resolving_sets.py make --into .bench/resolving
    python benchmarks/resolving_sets.py infer tune --into .bench/resolving

`make` writes each set (over 3 h) with its RTTM and a manifest for `raydiar ablate` and the like.
`infer` runs the networks once and keeps what they say; run again, it goes on. Voices, turn
structures, rooms, noises, tunes and codecs are each in one set only.
"""

from __future__ import annotations

import argparse
import csv
import io
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.diarization import Turn, read_rttm
from raydiar.errors import SimulationError
from raydiar.local_speakers import LocalSpeakers
from raydiar.simulation import Room, SimulationParameters, Simulator, read_structures

SHARED = Path(__file__).resolve().parents[2] / "shared"
SEED = 20261126
SETS = ("tune", "choose", "report")
CONDITIONS = ("near", "far-field", "telephone", "music", "compressed")
SPEAKERS = (2, 5, 3, 6, 4, 7, 2, 8, 3, 5, 4, 6)  # of the conversations of a condition
# codec, container, bit rate: one telephone and one web codec a set
PHONES = (("pcm_mulaw", "wav", 0), ("pcm_alaw", "wav", 0), ("libopencore_amrnb", "amr", 7950))
CODECS = (("libopus", "ogg", 12000), ("libmp3lame", "mp3", 16000), ("aac", "adts", 20000))


def shares(items: list, number: int) -> list[list]:
    """Three parts by lot, as equal as can be."""
    order = np.random.default_rng([SEED, number]).permutation(len(items))
    return [[items[i] for i in order[part::3]] for part in range(3)]


class Material:
    """Everything that conversations are made of, in three parts."""

    def __init__(self):
        with open(SHARED / "audio/librispeech/utterances.tsv") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        by_voice: dict[str, list] = {}
        for row in rows:
            path = SHARED / "audio/librispeech" / row["path"]
            by_voice.setdefault(row["speaker"], []).append(decode(path))
        self.voices = [{v: by_voice[v] for v in part} for part in shares(sorted(by_voice), 0)]
        structures = read_structures(sorted((SHARED / "labels/voxconverse-dev").glob("*.rttm")))
        self.structures = shares(structures, 1)
        rooms = [Room([decode(path)]) for path in sorted((SHARED / "noise/rir").iterdir())]
        self.rooms = shares(rooms, 2)
        noises = [decode(path) for path in sorted((SHARED / "noise/background").iterdir())]
        self.noises = shares(noises, 3)
        self.tunes = [[tune([SEED, part, n]) for n in range(4)] for part in range(3)]

    def simulator(self, part: int, condition: str, low: float, high: float) -> Simulator:
        options = {
            "near": {"reverb_probability": 0.3, "noise_probability": 0.5, "snr": (15.0, 30.0)},
            "far-field": {"reverb_probability": 1.0, "noise_probability": 1.0, "snr": (5.0, 20.0)},
            "telephone": {"reverb_probability": 0.0, "noise_probability": 0.5, "snr": (10.0, 30.0)},
            "music": {"reverb_probability": 0.3, "noise_probability": 1.0, "snr": (5.0, 20.0)},
            "compressed": {"reverb_probability": 0.5, "noise_probability": 0.5, "snr": (10.0, 30)},
        }[condition]
        noises = self.tunes if condition == "music" else self.noises
        parameters = SimulationParameters(duration=(low, high), min_speech=2.0, **options)
        return Simulator(
            self.voices[part], self.structures[part], self.rooms[part], noises[part], parameters
        )


def tune(seed) -> np.ndarray:
    """(num_samples,) float32: 40 s of chords, a melody and a beat, made of nothing."""
    rng = np.random.default_rng(seed)
    beat = 60 / rng.uniform(70, 140)
    root = 110 * 2 ** (rng.integers(12) / 12)
    scale = np.array([0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.5 else [0, 2, 3, 5, 7, 8, 10])
    overtones = np.arange(1, 9)
    strengths = overtones ** -rng.uniform(0.8, 2.0) * rng.uniform(0.3, 1, len(overtones))
    out = np.zeros(40 * SAMPLE_RATE, np.float32)

    def add(samples: np.ndarray, at: float) -> None:
        first = int(at * SAMPLE_RATE)
        samples = samples[: len(out) - first]
        out[first : first + len(samples)] += samples

    def note(degree: int, seconds: float, octave: int) -> np.ndarray:
        hertz = root * 2 ** (octave + degree // 7 + scale[degree % 7] / 12)
        times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        heard = overtones * hertz < SAMPLE_RATE / 2
        waves = np.sin(2 * np.pi * hertz * overtones[heard, None] * times)
        fade = np.minimum(1, times / 0.01) * np.exp(-times / seconds)
        return (strengths[heard] @ waves * fade).astype(np.float32)

    for number in range(int(40 / beat)):
        at = number * beat
        if number % 4 == 0:
            degree = int(rng.choice([0, 3, 4, 5]))
            for step in (0, 2, 4):
                add(0.5 * note(degree + step, 4 * beat, 0), at)
        if rng.random() < 0.8:
            add(0.6 * note(degree + int(rng.choice([0, 2, 4, 1, 7])), beat, 1), at)
        length = SAMPLE_RATE // 10
        hit = rng.normal(size=length) * np.exp(-np.arange(length) / (SAMPLE_RATE * 0.02))
        add((0.4 if number % 2 else 0.8) * hit.astype(np.float32), at)
    return out / np.abs(out).max()


def coded(samples: np.ndarray, codec: str, container: str, bit_rate: int, rate: int) -> np.ndarray:
    """Through a real encoder and back, as long as before."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        if bit_rate:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(
            stream.format.name, "mono", rate, frame_size=stream.codec_context.frame_size or 0
        )
        frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        frame.sample_rate = SAMPLE_RATE
        for one in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(one))
    sink.seek(0)
    back = decode(sink)
    delay = _delay(samples, back)
    back = back[delay : delay + len(samples)]
    return np.pad(back, (0, len(samples) - len(back)))


def _delay(samples: np.ndarray, back: np.ndarray) -> int:
    """Samples by which a coder is late, which would move every label."""
    length = min(len(samples), len(back), 30 * SAMPLE_RATE)
    one, other = (np.fft.rfft(x[:length].astype(np.float64), 2 * length) for x in (samples, back))
    match = np.fft.irfft(one.conj() * other)[: SAMPLE_RATE // 4]
    return int(np.argmax(np.abs(match)))


def worsened(samples: np.ndarray, condition: str, part: int) -> np.ndarray:
    if condition == "telephone":
        return coded(samples, *PHONES[part], 8000)
    if condition == "compressed":
        return coded(samples, *CODECS[part], SAMPLE_RATE)
    return samples


def make(into: Path, repeats: int = 1) -> None:
    material = Material()
    for part, name in enumerate(SETS):
        folder = into / name
        folder.mkdir(parents=True, exist_ok=True)
        rows, seconds = [], 0.0
        simulators = {
            (condition, many): material.simulator(
                part, condition, *((150.0, 300.0) if many else (60.0, 240.0))
            )
            for condition in CONDITIONS
            for many in (False, True)
        }
        for number in range(len(SPEAKERS) * repeats):
            for place, condition in enumerate(CONDITIONS):
                speakers = SPEAKERS[(number + place) % len(SPEAKERS)]
                simulator = simulators[condition, speakers > 4]
                one = _simulated(simulator, part, place, number, speakers, condition)
                one = replace(one, samples=worsened(one.samples, condition, part))
                wav, rttm = one.write(folder)
                rows.append((one.uri, wav.name, rttm.name, one.duration))
                seconds += one.duration
        with open(folder / "manifest.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["recording_id", "uri", "rttm", "seconds"])
            writer.writerows(rows)
        print(f"{name}: {len(rows)} conversations, {seconds / 3600:.2f} h", flush=True)


def _simulated(simulator, part, place, number, speakers, condition):
    voices = sorted(simulator.voices)
    for attempt in range(50):  # not every length has a stretch with so many people
        seed = [SEED, part, place, number, attempt]
        cast = np.random.default_rng(seed).choice(voices, speakers, replace=False).tolist()
        try:
            return simulator.simulate(seed, cast, uri=f"{condition}-{number:02d}-{speakers}")
        except SimulationError:
            continue
    raise SimulationError(f"no stretch with {speakers} people among the structures of set {part}")


def infer(
    into: Path, name: str, first: int | None = None, threads: int = 1, embed: bool = True
) -> None:
    """Keep, of each recording of a set, scores of the powerset and LocalSpeakers.

    Without embeddings it takes a quarter of the time: enough for what counting does.
    """
    import torch

    from raydiar.inference.embedder import Request
    from raydiar.pipelines.config import DEFAULT
    from raydiar.pipelines.speaker_diarization import local_inference

    torch.set_num_threads(threads)
    inference = local_inference(DEFAULT.localize())
    segmenter = inference._segmenter
    model, scores = segmenter.model, []

    def kept(windows):
        found = model(windows)
        scores.append(found.to(torch.float16).cpu().numpy())
        return found

    segmenter.model = kept
    if not embed:
        empty = (inference.dimension,)
        inference._embedder.submit = lambda batch, masks, active: Request(
            np.full((int(active.sum()), *empty), np.nan, np.float32), missing=0
        )
    folder = into / f"{name}-{'local' if embed else 'heard'}"
    folder.mkdir(exist_ok=True)
    if name == "clips":
        paths = sorted((SHARED / "audio/ami-clips").glob("*.flac"))
    else:
        with open(into / name / "manifest.csv") as file:
            paths = [into / name / row["uri"] for row in csv.DictReader(file)]
    for path in paths[:first]:
        target = folder / f"{path.stem}.npz"
        if target.exists() or (into / f"{name}-local" / target.name).exists():
            continue
        begun = time.monotonic()
        scores.clear()
        [local] = inference([decode(path)])
        temporary = target.with_suffix(".part")
        with open(temporary, "wb") as file:
            np.savez_compressed(
                file,
                num_samples=local.num_samples,
                activity=local.activity,
                posteriors=local.posteriors,
                embeddings=local.embeddings,
                owners=local.owners,
                scores=np.concatenate(scores),
            )
        temporary.rename(target)
        spent = time.monotonic() - begun
        print(f"{path.stem}: {local.duration:.0f} s in {spent:.1f} s", flush=True)


def read(
    into: Path, name: str, kind: str = "local"
) -> list[tuple[str, LocalSpeakers, np.ndarray, tuple[Turn, ...]]]:
    """(name, LocalSpeakers, log-probabilities, true turns) of every recording that was inferred."""
    found = []
    for path in sorted((into / f"{name}-{kind}").glob("*.npz")):
        audio = SHARED / "audio/ami-clips" if name == "clips" else into / name
        [reference] = read_rttm(audio / f"{path.stem}.rttm").values()
        with np.load(path) as kept:
            columns = {key: kept[key] for key in kept.files}
        scores = columns.pop("scores")
        columns["num_samples"] = int(columns["num_samples"])
        found.append((path.stem, LocalSpeakers(**columns), scores, reference.turns))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["make", "infer"])
    parser.add_argument("name", nargs="?", choices=[*SETS, "clips"])
    parser.add_argument("--into", type=Path, default=Path(".bench/resolving"))
    parser.add_argument("--first", type=int, help="recordings of the set; all conditions in turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-embeddings", action="store_true", help="segmentation only")
    arguments = parser.parse_args()
    if arguments.what == "make":
        make(arguments.into)
    else:
        embed = not arguments.no_embeddings
        infer(arguments.into, arguments.name, arguments.first, arguments.threads, embed)


if __name__ == "__main__":
    main()
