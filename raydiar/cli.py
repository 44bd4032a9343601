"""`raydiar …`: a thin shell over the library."""

from __future__ import annotations

import csv
import json
import sys
import traceback
from contextlib import nullcontext
from enum import StrEnum
from typing import Annotated

import typer

from raydiar.corpus.commands import app as corpus
from raydiar.devices import parse_device
from raydiar.errors import RaydiarError
from raydiar.evaluation.commands import benchmark, evaluate, optimize
from raydiar.formats import CSV_COLUMNS
from raydiar.naming import without_secrets
from raydiar.pipelines.commands import app as models
from raydiar.serving.commands import app as serve
from raydiar.voiceprints.commands import app as voiceprint

app = typer.Typer(
    help="Who spoke when, and where else does this voice speak.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(corpus, name="corpus")
app.add_typer(models, name="models")
app.add_typer(serve, name="serve")
app.add_typer(voiceprint, name="voiceprint")
for command in (evaluate, benchmark, optimize):
    app.command()(command)


class Format(StrEnum):
    rttm = "rttm"
    json = "json"
    csv = "csv"


@app.command()
def diarize(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE…", help="Audio or video: paths, URIs, folders, globs; - is stdin."
        ),
    ],
    start: Annotated[float, typer.Option(help="Begin at this second of each FILE.")] = 0.0,
    duration: Annotated[
        float | None, typer.Option(help="Take so many seconds only; times stay the FILE's.")
    ] = None,
    num_speakers: Annotated[int | None, typer.Option(help="Exact number, if known.")] = None,
    min_speakers: Annotated[int | None, typer.Option(help="At least so many.")] = None,
    max_speakers: Annotated[int | None, typer.Option(help="At most so many.")] = None,
    format: Annotated[Format, typer.Option(help="How to write the turns.")] = Format.rttm,
    pipeline: Annotated[
        str | None, typer.Option(help="Hub repository, directory or config; default embedded.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
    token: Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")] = None,
) -> None:
    """Print who spoke when in each FILE."""
    from raydiar.clustering.parameters import speaker_bounds
    from raydiar.pipelines.files import check_excerpt
    from raydiar.pipelines.inputs import find_inputs

    # what can be wrong is told before torch is loaded, let alone weights
    device = parse_device(device)
    check_excerpt(start, duration, "--start and --duration")
    speaker_bounds(num_speakers, min_speakers, max_speakers)
    failed = []

    def report(file, error) -> None:
        failed.append(file)
        print(f"raydiar: {error}", file=sys.stderr)

    inputs = find_inputs(files, on_error=report)
    if inputs:
        from raydiar.inference.devices import torch_device
        from raydiar.pipelines import Pipeline, ProgressHook

        place = torch_device(device)
        diarizer = Pipeline.from_pretrained(pipeline, token=token).to(place)
        write = {Format.rttm: _write_rttm, Format.json: _write_json, Format.csv: _write_csv}[format]
        with ProgressHook(transient=True) if sys.stderr.isatty() else nullcontext() as hook:
            results = diarizer(
                [one.as_file(start, duration) for one in inputs],
                num_speakers=num_speakers,
                min_speakers=min_speakers,
                max_speakers=max_speakers,
                hook=hook,
                on_error=report,
            )
            write(_with_warnings(output for _, output in results))
    if failed:
        total = len(failed) + len(inputs) - sum(isinstance(file, dict) for file in failed)
        print(f"raydiar: {len(failed)} of {total} files failed", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def plan(
    hours: Annotated[float, typer.Option(help="Of audio, e.g. 1e6.")],
    cpus: Annotated[int, typer.Option(help="CPU cores of the cluster.")],
    gpu: Annotated[str | None, typer.Option(help="Kind, e.g. h100; without: CPUs only.")] = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")] = 1,
    bitrate: Annotated[str, typer.Option(help="Of the stored audio.")] = "64k",
    audio: Annotated[str, typer.Option(help="Its format: mp3, opus, 44k-128kbit.mp3, …")] = "mp3",
    embedding: Annotated[str, typer.Option(help="campplus or resnet34.")] = "campplus",
    rates: Annotated[
        str | None, typer.Option(help="JSON of another machine's rates (benchmarks/rates.py).")
    ] = None,
) -> None:
    """Estimate what a corpus takes on a cluster, with the arithmetic shown."""
    from raydiar.planning import make_plan, parse_bitrate, read_rates

    print(
        make_plan(
            hours,
            cpus,
            gpu,
            gpus,
            bitrate=parse_bitrate(bitrate),
            audio=audio,
            embedding=embedding,
            rates=read_rates(rates),
        )
    )


def _with_warnings(outputs):
    for output in outputs:
        for warning in output.warnings:
            print(f"raydiar: {output.uri}: {warning}", file=sys.stderr)
        yield output


def _write_rttm(outputs) -> None:
    for output in outputs:
        output.write_rttm(sys.stdout)
        sys.stdout.flush()


def _write_json(outputs) -> None:
    documents = [{"uri": output.uri, **output.serialize()} for output in outputs]
    json.dump(documents[0] if len(documents) == 1 else documents, sys.stdout, indent=2)
    print()


def _write_csv(outputs) -> None:
    writer = csv.writer(sys.stdout)
    writer.writerow(CSV_COLUMNS)
    for output in outputs:
        writer.writerows(output.csv_rows())


def main() -> None:
    """Run the command line; errors that a user can mend are one line, not a traceback."""
    sys.excepthook = _tell
    for stream in (sys.stdout, sys.stderr):  # names of files may be what no terminal can show
        stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except RaydiarError as error:
        print(f"raydiar: {error}", file=sys.stderr)
        sys.exit(2)


def _tell(kind, error, trace) -> None:
    """A traceback, of a bug, without what opens the URLs in it."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(without_secrets(text), end="", file=sys.stderr)
