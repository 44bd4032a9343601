"""Linking, from audio on: simulated conversations, the corpus job, an index, identities.

Voices of LibriSpeech on the turns of VoxConverse, in real rooms and noise; each person in several
conversations, of 2 to 6 people. What each heard speaker really is, is read off the labels.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from pyannote.metrics.diarization import DiarizationErrorRate
from rich import print

from raydiar import audio
from raydiar.corpus.job.run import diarize_corpus
from raydiar.corpus.output import dataset
from raydiar.diarization import Diarization
from raydiar.evaluation.linking import linking_scores
from raydiar.simulation import (
    Room,
    SimulationParameters,
    Simulator,
    plan_people,
    read_structures,
)
from raydiar.voiceprints import builder
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.linking import LinkingParameters, link
from raydiar.voiceprints.verification import default_calibration

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
SPEAKERS = (2, 6)


def simulator(parameters: SimulationParameters) -> Simulator:
    voices = {
        folder.name: [partial(audio.decode, str(file)) for file in sorted(folder.glob("*.flac"))]
        for folder in sorted((SHARED / "audio" / "librispeech").iterdir())
        if folder.is_dir()
    }
    rooms = [Room([mono(file)]) for file in sorted((SHARED / "noise" / "rir").iterdir())]
    noises = [
        partial(audio.decode, str(file))
        for file in sorted((SHARED / "noise" / "background").iterdir())
    ]
    structures = read_structures(sorted((SHARED / "labels" / "voxconverse-dev").glob("*.rttm")))
    return Simulator(voices, structures, rooms, noises, parameters)


def mono(file: Path) -> np.ndarray:
    return audio.decode(str(file), channel=0).astype(np.float32)


def make_corpus(folder: Path, num_people: int, num_conversations: int) -> dict[str, Diarization]:
    """Write conversations; returns their labels by recording."""
    made = simulator(SimulationParameters(duration=(40.0, 60.0), speakers=SPEAKERS))
    # those with most utterances first
    people = sorted(made.voices, key=lambda person: (-len(made.voices[person]), person))
    plan = plan_people(people[:num_people], num_conversations, SPEAKERS)
    labels, rows = {}, []
    for number, cast in enumerate(plan):
        conversation = made.simulate(number, cast, uri=f"conversation-{number:03d}")
        conversation.write(folder)
        labels[conversation.uri] = conversation.diarization
        uri = f"{conversation.uri}.wav"
        rows.append({"uri": uri, "recording_id": conversation.uri})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return labels


def who(output: Diarization, label: Diarization) -> dict[str, str]:
    """The person who speaks alone most in each speaker's turns, of which voiceprints are made."""
    true, found = label.speaker_diarization, output.speaker_diarization
    overlap = true.get_overlap()
    people = {
        speaker: true.argmax(found.label_timeline(speaker).extrude(overlap))
        for speaker in found.labels()
    }
    return {speaker: person for speaker, person in people.items() if person is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=155)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not (SHARED / "audio" / "librispeech").is_dir():
        sys.exit("no ../shared/audio/librispeech beside this checkout: nothing to measure")
    where = ROOT / ".bench" / "linking"
    shutil.rmtree(where, ignore_errors=True)
    (where / "corpus").mkdir(parents=True)
    labels = make_corpus(where / "corpus", arguments.people, arguments.conversations)
    begun = time.monotonic()
    summary = diarize_corpus(str(where / "corpus" / "manifest.jsonl"), str(where / "dataset"))
    print(str(summary))
    results = {"seconds of the job": time.monotonic() - begun, "cases": {}}
    truth, unheard, error_rate = {}, 0, DiarizationErrorRate()
    for row in dataset.open(str(where / "dataset")).to_table().to_pylist():
        output = dataset.to_diarization(row)
        for speaker, person in who(output, labels[row["recording_id"]]).items():
            truth[row["recording_id"], speaker] = person
        label = labels[row["recording_id"]]
        error_rate(label.speaker_diarization, output.speaker_diarization)
        unheard += sum(speaker.embedding is None for speaker in output.speakers)
    spoken = sum(len(label.labels()) for label in labels.values())
    print(f"{spoken} voices spoke; {len(truth)} were heard, {unheard} of them without voiceprint")
    results["DER"] = abs(error_rate)
    print(f"DER {results['DER']:.1%}")
    builder.build(str(where / "index"), [str(where / "dataset")])
    index = VoiceprintIndex.open(str(where / "index"))
    generation = index.generation
    calibration = default_calibration(generation.embedding, generation.embedding_mode)
    for name, parameters in {
        "default": LinkingParameters(),
        "without the rule of one recording": LinkingParameters(one_recording=False),
        "probability 0.5": LinkingParameters(probability=0.5),
    }.items():
        linked = link(index, calibration, parameters)
        rows = [
            row
            for row in linked.identities.to_pylist()
            if (row["recording_id"], row["speaker"]) in truth
        ]
        people = [truth[row["recording_id"], row["speaker"]] for row in rows]
        scores = linking_scores([row["identity"] for row in rows], people)
        results["cases"][name] = {"threshold": linked.threshold, **asdict(scores)}
        long = [number for number, row in enumerate(rows) if not row["short"]]
        scores = linking_scores([rows[n]["identity"] for n in long], [people[n] for n in long])
        results["cases"][f"{name}, of enough speech"] = asdict(scores)
    for name, case in results["cases"].items():
        print(name, {k: round(v, 3) for k, v in case.items()})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
