"""Speaker verification with the default pipeline, and the calibration that raydiar ships.

Readers of LibriSpeech (`../shared/audio/librispeech`): five people with ten utterances each, 150
with one. Every utterance is cut in two halves; the second half is also worsened in five ways. A
target trial joins two halves of one utterance, or two utterances of one person; two people make a
non-target trial. Voiceprints come from the whole pipeline, as in a diarization dataset, told that
one person speaks. Prints a table; `--write` fits the shipped calibration anew.

    python benchmarks/verification.py [--people 155] [--write]
"""

import argparse
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from scipy.signal import butter, resample_poly, sosfiltfilt

from raydiar import Pipeline, audio
from raydiar.evaluation.verification import equal_error_rate, min_dcf
from raydiar.voiceprints import verification
from raydiar.voiceprints.verification import Calibration, cosine

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SHIPPED = Path(verification.__file__).parent / "calibrations" / "campplus-zh-en.json"
RATE = 16000
STATED = (0.1, 0.01, 0.001)


def telephone(samples: np.ndarray, _) -> np.ndarray:
    """8 kHz, 300 to 3,400 Hz."""
    narrow = resample_poly(samples.astype(float), 1, 2)
    band = butter(4, (300, 3400), "bandpass", fs=8000, output="sos")
    return resample_poly(sosfiltfilt(band, narrow), 2, 1)[: len(samples)]


def mp3(samples: np.ndarray, _) -> np.ndarray:
    """Through MP3 at 32 kbit/s."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("mp3", rate=RATE, layout="mono")
        stream.codec_context.bit_rate = 32000
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        for each in (frame, None):
            container.mux(stream.encode(each))
    file.seek(0)
    return audio.decode(file)


def noise(samples: np.ndarray, number: int) -> np.ndarray:
    """Background noise at 10 dB below the speech."""
    files = sorted((SHARED / "noise" / "background").iterdir())
    background = audio.decode(str(files[number % len(files)])).astype(float)
    start = np.random.default_rng(number).integers(len(background))
    background = np.resize(np.roll(background, -start), len(samples))
    power = np.mean(samples.astype(float) ** 2) / 10 / max(np.mean(background**2), 1e-9)
    return samples + np.sqrt(power) * background


def cut(seconds: float):
    def middle(samples: np.ndarray, _) -> np.ndarray:
        start = max(0, (len(samples) - round(seconds * RATE)) // 2)
        return samples[start : start + round(seconds * RATE)]

    return middle


CONDITIONS = {
    "clean": lambda samples, _: samples,
    "telephone band": telephone,
    "mp3 at 32 kbit/s": mp3,
    "noise at 10 dB": noise,
    "3 s": cut(3.0),
    "1 s": cut(1.0),
}


@dataclass(frozen=True)
class Voices:
    """Voiceprints, and of whom, of which utterance, of which part of it and how worsened."""

    embeddings: np.ndarray
    people: np.ndarray
    utterances: np.ndarray
    parts: np.ndarray
    conditions: np.ndarray
    seconds: np.ndarray
    missing: int


def clips(num_people: int) -> Iterator[tuple[tuple[str, str, str, str], np.ndarray]]:
    files = sorted((SHARED / "audio" / "librispeech").glob("*/*.flac"))
    people = sorted({file.parent.name for file in files})[:num_people]
    for number, file in enumerate(f for f in files if f.parent.name in people):
        samples = audio.decode(str(file))
        half = len(samples) // 2
        who = (file.parent.name, file.stem)
        yield (*who, "whole", "clean"), samples
        yield (*who, "first", "clean"), samples[:half]
        for name, worsen in CONDITIONS.items():
            worse = np.clip(np.rint(worsen(samples[half:], number)), -32768, 32767)
            yield (*who, "second", name), worse.astype(np.int16)


def embed(num_people: int) -> Voices:
    pipeline = Pipeline.from_pretrained()
    made = list(clips(num_people))
    files = [
        {"uri": "/".join(key), "waveform": samples[None] / np.float32(32768), "sample_rate": RATE}
        for key, samples in made
    ]
    keys, vectors, seconds = [], [], []
    for (key, _), (_, output) in zip(made, pipeline(files, num_speakers=1), strict=True):
        for speaker in output.speakers:
            if speaker.embedding is not None:
                keys.append(key)
                vectors.append(speaker.embedding)
                seconds.append(speaker.embedding_seconds)
    return Voices(np.stack(vectors), *np.array(keys).T, np.array(seconds), len(made) - len(keys))


def trials(voices: Voices, first: np.ndarray, second: np.ndarray | None = None):
    """All pairs of different speech: indices, scores, and which are of one person."""
    a, b = np.triu_indices(len(voices.people), 1)
    chosen = first[a] & first[b]
    if second is not None:
        chosen = (first[a] & second[b]) | (second[a] & first[b])
    a, b = a[chosen], b[chosen]
    parts = voices.parts
    halves = (parts[a] != parts[b]) & (parts[a] != "whole") & (parts[b] != "whole")
    other_speech = (voices.utterances[a] != voices.utterances[b]) | halves
    a, b = a[other_speech], b[other_speech]
    scores = cosine(voices.embeddings[a], voices.embeddings[b])
    return a, b, scores, voices.people[a] == voices.people[b]


def table(voices: Voices) -> list[dict]:
    whole, start = voices.parts == "whole", voices.parts == "first"
    names, counts = np.unique(voices.people[whole], return_counts=True)
    ten = np.isin(voices.people, names[counts > 1])
    cases = {"50 utterances of 5 people": (whole & ten, None)} | {
        f"two halves of 150, one {name}": (
            start & ~ten,
            (voices.conditions == name) & ~ten & ~start & ~whole,
        )
        for name in CONDITIONS
    }
    rows = []
    for name, chosen in cases.items():
        _, _, scores, same = trials(voices, *chosen)
        row = {"trials": name, "same person": int(same.sum()), "different": int((~same).sum())}
        if same.any() and not same.all():
            row["EER"] = equal_error_rate(scores, same)[0]
            row["minDCF"] = min_dcf(scores, same)
            row["mean score"] = float(scores[same].mean())
        rows.append(row)
    return rows


def held_out(voices: Voices, scored, num_splits: int = 20) -> list[dict]:
    """Stated false-accept rates against those of people that the fit has not seen."""
    a, b, scores, same = scored
    people = np.unique(voices.people)
    found = {rate: [] for rate in STATED}
    for seed in range(num_splits):
        fitted = np.random.default_rng(seed).permutation(people)[: len(people) // 2]
        inside = np.isin(voices.people, fitted)
        fit, check = inside[a] & inside[b], ~inside[a] & ~inside[b]
        calibration = Calibration.fit(scores[fit], same[fit], embedding="", embedding_mode="")
        for rate in STATED:
            accepted = scores[check & ~same] >= calibration.threshold(rate)
            found[rate].append(float(accepted.mean()))
    return [
        {"stated": rate, "median": float(np.median(rates)), "worst": [min(rates), max(rates)]}
        for rate, rates in found.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=155)
    parser.add_argument("--write", action="store_true", help="the calibration into the package")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (SHARED / "audio" / "librispeech").is_dir():
        sys.exit("no ../shared/audio/librispeech beside this checkout: nothing to measure")
    cache = ROOT / ".bench" / f"verification-{arguments.people}.npz"
    if cache.is_file():
        with np.load(cache) as arrays:
            voices = Voices(**arrays)
    else:
        voices = embed(arguments.people)
        cache.parent.mkdir(exist_ok=True)
        np.savez(cache, **vars(voices))
    everything = np.ones(len(voices.people), bool)
    scored = trials(voices, everything)
    results = {"trials": table(voices), "false accepts": held_out(voices, scored)}
    results["no voiceprint"] = int(voices.missing)
    for group in ("trials", "false accepts"):
        for row in results[group]:
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    print(f"{voices.missing} clips are too short for a voiceprint")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    if arguments.write:
        pipeline = Pipeline.from_pretrained().describe()
        calibration = Calibration.fit(
            scored[2],
            scored[3],
            embedding=pipeline["embedding"],
            embedding_mode=pipeline["embedding_mode"],
            fitted={
                "data": "LibriSpeech (CC BY 4.0), read English: 5 people with ten utterances, "
                "150 with one; whole, in halves, and second halves through the telephone band, "
                "MP3 at 32 kbit/s, noise at 10 dB and cut to 3 s",
                "embedding": "CAM++ zh-en, voiceprints of the embedded default pipeline",
                "people": len(np.unique(voices.people)),
                "voiceprints": len(voices.people),
                "seconds of speech, 5th to 95th percentile": [
                    round(x, 1) for x in np.percentile(voices.seconds, (5, 95)).tolist()
                ],
                "by": "benchmarks/verification.py --write",
                "held-out people, stated to found false-accept rate": {
                    str(row["stated"]): round(row["median"], 5) for row in results["false accepts"]
                },
            },
        )
        SHIPPED.write_text(calibration.to_json() + "\n")
        print(f"wrote {SHIPPED.name}")


if __name__ == "__main__":
    main()
