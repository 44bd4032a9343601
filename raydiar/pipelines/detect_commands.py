"""`raydiar detect …`: where somebody speaks, where several do, where speakers change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from raydiar.devices import parse_device
from raydiar.errors import ConfigError
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
PipelineName = Annotated[
    str | None,
    typer.Option(
        "--pipeline",
        help="A detection pipeline: Hub repository, directory, config or bundle; default embedded.",
    ),
]
Segmentation = Annotated[
    str | None,
    typer.Option(help="Instead of a pipeline, its network: Hub repository, directory or file."),
]
Fast = Annotated[
    bool,
    typer.Option("--fast", help="Look twice at each instant, not ten times: five times as fast."),
]
Format = Annotated[FormatName, typer.Option(help="How to write the regions.")]
MinOn = Annotated[
    float | None, typer.Option(help="Leave out regions shorter than so many seconds.")
]
MinOff = Annotated[float | None, typer.Option(help="Fill gaps shorter than so many seconds.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another parameter; may be repeated.", metavar="NAME=VALUE"),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Token = Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")]


@app.command()
def speech(
    files: Files,
    format: Format = FormatName.rttm,
    min_duration_on: MinOn = None,
    min_duration_off: MinOff = None,
    parameters: Parameters = None,
    fast: Fast = False,
    pipeline: PipelineName = None,
    segmentation: Segmentation = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Print where somebody speaks in each FILE."""
    made = _Detector("speech", pipeline, segmentation, fast, device, token)
    _regions(made, files, format, _values(parameters, min_duration_on, min_duration_off))


@app.command()
def overlap(
    files: Files,
    format: Format = FormatName.rttm,
    min_duration_on: MinOn = None,
    min_duration_off: MinOff = None,
    parameters: Parameters = None,
    fast: Fast = False,
    pipeline: PipelineName = None,
    segmentation: Segmentation = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Print where two people or more speak at once in each FILE."""
    made = _Detector("overlap", pipeline, segmentation, fast, device, token)
    _regions(made, files, format, _values(parameters, min_duration_on, min_duration_off))


@app.command()
def changes(
    files: Files,
    parameters: Parameters = None,
    fast: Fast = False,
    pipeline: PipelineName = None,
    segmentation: Segmentation = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Print when speakers change in each FILE: its name and seconds, a line each."""
    made = _Detector("changes", pipeline, segmentation, fast, device, token)
    failed: list = []
    for name, segments in _results(made, files, _values(parameters), failed):
        for segment in list(segments)[1:]:
            print(f"{name}\t{segment.start:.3f}", flush=True)
    _finish(failed)


def _values(
    settings: list[str] | None, on: float | None = None, off: float | None = None
) -> dict[str, Any]:
    """Hyper-parameters that were given; all others keep their published values."""
    durations = {"min_duration_on": on, "min_duration_off": off}
    given = {name: value for name, value in durations.items() if value is not None}
    if not settings:
        return given
    from raydiar.pipelines.config_file import parse_values

    return given | parse_values(settings)


@dataclass(frozen=True)
class _Detector:
    """The pipeline that a command asks for."""

    task: str
    pipeline: str | None
    segmentation: str | None
    fast: bool
    device: str
    token: str | None

    def make(self):
        device = parse_device(self.device)  # before torch is loaded, let alone weights
        from raydiar import pipelines
        from raydiar.inference.devices import torch_device
        from raydiar.pipelines.detector import PIPELINES

        kind = getattr(pipelines, PIPELINES[self.task])
        place = torch_device(device)
        if self.pipeline is None:
            return kind(self.segmentation, fast=self.fast, device=place, token=self.token)
        if self.segmentation is not None or self.fast:
            raise ConfigError("--pipeline says what the network and its step are: leave them out")
        return kind.from_pretrained(self.pipeline, token=self.token).to(place)


def _regions(made: _Detector, files: list[str], format: str, values: dict[str, Any]) -> None:
    from raydiar.diarization import Turn, from_turns

    failed: list = []

    def outputs() -> Iterator:
        for name, regions in _results(made, files, values, failed):
            turns = [
                Turn(segment.start, segment.end, label)
                for segment, _, label in regions.itertracks(yield_label=True)
            ]
            yield from_turns(name, turns)

    FORMATS[format].write(outputs(), sys.stdout)
    _finish(failed)


def _results(
    made: _Detector, files: list[str], values: dict[str, Any], failed: list
) -> Iterator[tuple]:
    """Name and result of each file; those that cannot be read are told, and added to `failed`."""
    from raydiar.pipelines.inputs import find_inputs

    parse_device(made.device)

    def report(file, error) -> None:
        failed.append(file)
        print(f"raydiar: {error}", file=sys.stderr)

    inputs = find_inputs(files, on_error=report)
    if not inputs:
        return
    detector = made.make().instantiate(values)
    named = [one.as_file() for one in inputs]
    for file, result in detector(named, on_error=report):
        yield file["uri"], result


def _finish(failed: list) -> None:
    if failed:
        print(f"raydiar: {len(failed)} files failed", file=sys.stderr)
        raise typer.Exit(1)
