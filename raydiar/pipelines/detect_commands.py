"""`raydiar detect …`: where somebody speaks, where several do, where speakers change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer

from raydiar.devices import parse_device
from raydiar.formats import FORMATS

app = typer.Typer(
    help="Find speech, overlapped speech, or changes of speakers, without diarizing.",
    no_args_is_help=True,
)

FormatName = StrEnum("FormatName", list(FORMATS))

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILE…", help="Audio or video: paths, URIs, folders, globs; - is stdin."
    ),
]
Segmentation = Annotated[
    str | None, typer.Option(help="Hub repository, directory or file; default embedded.")
]
Fast = Annotated[
    bool,
    typer.Option("--fast", help="Look twice at each instant, not ten times: five times as fast."),
]
Format = Annotated[FormatName, typer.Option(help="How to write the regions.")]
MinOn = Annotated[float, typer.Option(help="Leave out regions shorter than so many seconds.")]
MinOff = Annotated[float, typer.Option(help="Fill gaps shorter than so many seconds.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Token = Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")]


@app.command()
def speech(
    files: Files,
    format: Format = FormatName.rttm,
    min_duration_on: MinOn = 0.0,
    min_duration_off: MinOff = 0.0,
    fast: Fast = False,
    segmentation: Segmentation = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Print where somebody speaks in each FILE."""
    durations = {"min_duration_on": min_duration_on, "min_duration_off": min_duration_off}
    _regions("VoiceActivityDetection", files, format, durations, fast, segmentation, device, token)


@app.command()
def overlap(
    files: Files,
    format: Format = FormatName.rttm,
    min_duration_on: MinOn = 0.0,
    min_duration_off: MinOff = 0.0,
    fast: Fast = False,
    segmentation: Segmentation = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Print where two people or more speak at once in each FILE."""
    durations = {"min_duration_on": min_duration_on, "min_duration_off": min_duration_off}
    _regions(
        "OverlappedSpeechDetection", files, format, durations, fast, segmentation, device, token
    )


@app.command()
def changes(
    files: Files,
    fast: Fast = False,
    segmentation: Segmentation = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Print when speakers change in each FILE: its name and seconds, a line each."""
    failed: list = []
    for name, segments in _results(
        "SpeakerChangeDetection", files, {}, fast, segmentation, device, token, failed
    ):
        for segment in list(segments)[1:]:
            print(f"{name}\t{segment.start:.3f}", flush=True)
    _finish(failed)


def _regions(kind, files, format, durations, fast, segmentation, device, token) -> None:
    from raydiar.diarization import Turn, from_turns

    failed: list = []

    def outputs() -> Iterator:
        for name, regions in _results(
            kind, files, durations, fast, segmentation, device, token, failed
        ):
            turns = [
                Turn(segment.start, segment.end, label)
                for segment, _, label in regions.itertracks(yield_label=True)
            ]
            yield from_turns(name, turns)

    FORMATS[format].write(outputs(), sys.stdout)
    _finish(failed)


def _results(
    kind, files, parameters, fast, segmentation, device, token, failed: list
) -> Iterator[tuple]:
    """Name and result of each file; those that cannot be read are told, and added to `failed`."""
    from raydiar.pipelines.inputs import find_inputs

    device = parse_device(device)  # before torch is loaded, let alone weights

    def report(file, error) -> None:
        failed.append(file)
        print(f"raydiar: {error}", file=sys.stderr)

    inputs = find_inputs(files, on_error=report)
    if not inputs:
        return
    from raydiar import pipelines
    from raydiar.inference.devices import torch_device

    place = torch_device(device)
    detector = getattr(pipelines, kind)(segmentation, fast=fast, device=place, token=token)
    if parameters:
        detector.instantiate(parameters)
    named = [one.as_file() for one in inputs]
    for file, result in detector(named, on_error=report):
        yield file["uri"], result


def _finish(failed: list) -> None:
    if failed:
        print(f"raydiar: {len(failed)} files failed", file=sys.stderr)
        raise typer.Exit(1)
