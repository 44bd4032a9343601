"""What `make demo` runs: a small corpus of real conversation through the corpus job.

Thirty seconds of two people talking, with labels, come from the PyPI wheel of pyannote.audio; they
are stored as a corpus would have them (wav, mp3, telephone, excerpts, and a file that is broken).
At the end the same voices are found across the recordings.
With `--audio DIR` the same job runs on a folder of your own.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import av
import numpy as np
from pyannote.core import Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from rich.console import Console
from rich.table import Table

from raydiar import audio, hub
from raydiar.corpus import dataset, diarize_corpus
from raydiar.corpus.inputs.sources import write_manifest
from raydiar.diarization import Diarization, read_rttm
from raydiar.voiceprints import builder
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.linking import link_into
from raydiar.voiceprints.tables import people_table
from raydiar.voiceprints.verification import default_calibration

SAMPLE = "pypi://pyannote.audio==4.0.7/pyannote/audio/sample/sample"
console = Console(highlight=False)


def encode(samples: np.ndarray, path: Path, codec: str, sample_rate: int) -> None:
    """Write 16 kHz mono int16 samples with another codec and sample rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=sample_rate, layout="mono")
        resampler = av.AudioResampler(stream.codec_context.format, "mono", sample_rate)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = 16000
        for source in (frame, None):
            for converted in resampler.resample(source):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def make_corpus(folder: Path) -> Path:
    """Store the sample in several forms; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    conversation = folder / "conversation.wav"
    shutil.copyfile(hub.fetch(f"{SAMPLE}.wav"), conversation)
    samples = audio.decode(conversation)
    encode(samples, folder / "conversation.mp3", "mp3", 44100)
    encode(samples, folder / "telephone.wav", "pcm_mulaw", 8000)
    (folder / "broken.mp3").write_bytes(b"this was a recording once " * 100)
    rows = [
        {"uri": "conversation.wav", "recording_id": "conversation.wav"},
        {"uri": "conversation.mp3", "recording_id": "conversation.mp3"},
        {"uri": "telephone.wav", "recording_id": "telephone.wav"},
        {"uri": "conversation.wav", "recording_id": "excerpt 5-17 s", "start": 5, "duration": 12},
        {"uri": "conversation.mp3", "recording_id": "excerpt 16-30 s", "start": 16, "duration": 14},
        {"uri": "broken.mp3", "recording_id": "broken.mp3"},
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def show_turns(output: Diarization, limit: int = 40) -> None:
    table = Table(title=f"Who spoke when in {output.uri}", title_justify="left")
    for column in ("start (s)", "end (s)", "speaker", "confidence"):
        table.add_column(column, justify="left" if column == "speaker" else "right")
    for turn in output.turns[:limit]:
        table.add_row(
            f"{turn.start:.2f}", f"{turn.end:.2f}", turn.speaker, f"{turn.confidence:.2f}"
        )
    console.print(table)
    if len(output.turns) > limit:
        console.print(f"… and {len(output.turns) - limit} more turns")


def show_recordings(rows: list[dict], reference: Diarization | None) -> None:
    table = Table(title="Recordings", title_justify="left")
    for column in ("recording", "seconds", "speakers", "speech of each (s)"):
        table.add_column(column, justify="left" if column == "recording" else "right")
    if reference is not None:
        table.add_column("DER", justify="right")
    for row in rows:
        output = dataset.to_diarization(row)
        speech = " ".join(f"{speaker.speech_seconds:.1f}" for speaker in output.speakers)
        cells = [output.uri, f"{output.duration:.1f}", str(output.num_speakers), speech]
        if reference is not None:
            start = row["start"] or 0.0
            rate = DiarizationErrorRate()(
                reference.speaker_diarization,
                output.speaker_diarization,
                uem=Timeline([Segment(start, start + output.duration)]),
            )
            cells.append(f"{rate:.1%}")
        table.add_row(*cells)
    console.print(table)
    if reference is not None:
        console.print("DER: diarization error rate against the label, overlap scored, no collar\n")


def show_errors(rows: list[dict]) -> None:
    console.print("Error rows")
    for row in rows:
        console.print(f"  {row['recording_id']}: {row['error']['type']}")
        console.print(f"    {row['error']['message']}\n", soft_wrap=True)


def link_voices(output: Path, into: Path) -> None:
    console.print("==> Finding every voice again: who are the people of this corpus?")
    where = into / f"{output.name}-voiceprints"
    shutil.rmtree(where, ignore_errors=True)
    builder.build(str(where), [str(output)], report=print)
    index = VoiceprintIndex.open(str(where))
    generation = index.generation
    calibration = default_calibration(generation.embedding, generation.embedding_mode)
    people = into / f"{output.name}-people"
    shutil.rmtree(people, ignore_errors=True)
    linking = link_into(str(people), index, calibration, report=print)
    print(people_table(linking.identities))
    console.print(f"Every voice and its person, in Parquet: {people.resolve()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audio", help="folder of your own recordings")
    parser.add_argument("--into", type=Path, default=Path("demo-output"))
    arguments = parser.parse_args()
    if arguments.audio:
        output = arguments.into / "own"
        manifest = arguments.into / "own-manifest.parquet"
        count = write_manifest(arguments.audio, str(manifest))
        console.print(f"==> {count} recordings in {arguments.audio}")
        reference = None
    else:
        output = arguments.into / "dataset"
        shutil.rmtree(output, ignore_errors=True)
        console.print("==> Making a small corpus of real conversation")
        manifest = make_corpus(arguments.into / "corpus")
        [reference] = read_rttm(hub.fetch(f"{SAMPLE}.rttm")).values()
    console.print("==> Running the corpus job on a local Ray")
    summary = diarize_corpus(str(manifest), str(output))
    console.print(f"{summary}\n")

    rows = dataset.open(str(output)).to_table().sort_by("recording_id").to_pylist()
    done = [row for row in rows if row["status"] == "ok"]
    if done:
        first = next((row for row in done if row["recording_id"] == "conversation.wav"), done[0])
        show_turns(dataset.to_diarization(first))
        show_recordings(done, reference)
    if failed := [row for row in rows if row["status"] == "error"]:
        show_errors(failed)
    console.print(f"The dataset, one row a recording, in Parquet: {output.resolve()}\n")
    if done:
        link_voices(output, arguments.into)
    console.print("Your own recordings: make demo AUDIO=/path/to/folder")


if __name__ == "__main__":
    main()
