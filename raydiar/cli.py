"""`raydiar …`: a thin shell over the library."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from contextlib import nullcontext
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated

import typer

from raydiar.corpus.commands import app as corpus
from raydiar.errors import RaydiarError
from raydiar.evaluation.commands import evaluate
from raydiar.formats import CSV_COLUMNS
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
app.command()(evaluate)


class Format(StrEnum):
    rttm = "rttm"
    json = "json"
    csv = "csv"


@app.command()
def diarize(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE…", help="Audio or video: paths or URIs.")
    ],
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
    import torch

    from raydiar.pipelines import Pipeline, ProgressHook

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    diarizer = Pipeline.from_pretrained(pipeline, token=token).to(device)
    failed = []

    def report(file, error) -> None:
        failed.append(file)
        print(f"raydiar: {error}", file=sys.stderr)

    write = {Format.rttm: _write_rttm, Format.json: _write_json, Format.csv: _write_csv}[format]
    with ProgressHook(transient=True) if sys.stderr.isatty() else nullcontext() as hook:
        results = diarizer(
            _named(files),
            num_speakers=num_speakers,
            min_speakers=min_speakers,
            max_speakers=max_speakers,
            hook=hook,
            on_error=report,
        )
        write(_with_warnings(output for _, output in results))
    if failed:
        print(f"raydiar: {len(failed)} of {len(files)} files failed", file=sys.stderr)
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


def _named(files: list[str]) -> list[dict]:
    """Files with names that RTTM can hold and that tell them apart."""
    names = [re.sub(r"\s+", "_", PurePosixPath(file).stem) or "recording" for file in files]
    times = Counter(names)
    seen: Counter[str] = Counter()
    named = []
    for file, name in zip(files, names, strict=True):
        seen[name] += 1
        uri = f"{name}-{seen[name]}" if times[name] > 1 else name
        named.append({"audio": file, "uri": uri})
    return named


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
    """Run the command line; errors that a user can put right are one line, not a traceback."""
    try:
        app()
    except RaydiarError as error:
        print(f"raydiar: {error}", file=sys.stderr)
        sys.exit(2)
