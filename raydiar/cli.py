"""`raydiar …`: a thin shell over the library."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import nullcontext
from enum import StrEnum
from typing import Annotated

import typer

from raydiar.corpus.commands import app as corpus
from raydiar.devices import parse_device
from raydiar.errors import ConfigError, RaydiarError
from raydiar.evaluation.commands import ablate, benchmark, evaluate, optimize
from raydiar.extras import explain
from raydiar.formats import FORMATS, Format
from raydiar.naming import without_secrets
from raydiar.pipelines.commands import app as models
from raydiar.pipelines.detect_commands import app as detect
from raydiar.serving.commands import app as serve
from raydiar.training.commands import app as train
from raydiar.voiceprints.commands import app as voiceprint

app = typer.Typer(
    help="Who spoke when, and where else does this voice speak.",
    no_args_is_help=True,
    epilog="Exit codes: 0 done; 1 the command failed, or some recordings did; 2 wrong arguments, "
    "or a set-up that lacks something.",
    pretty_exceptions_enable=False,
)
# how `--help` groups the commands
_FILES = "Recordings"
_CORPORA = "Corpora, voices, services"
_MODELS = "Networks, and how good they are"
_TOOLS = "Tools"


FormatName = StrEnum("FormatName", list(FORMATS))
_FORMAT_HELP = "; ".join(f"{format.name}: {format.about}" for format in FORMATS.values())

Pipeline = Annotated[
    str | None,
    typer.Option(
        help="Hub repository, directory, bundle, config, exact or soft; default embedded."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Token = Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")]
NumSpeakers = Annotated[int | None, typer.Option(help="Exact number, if known.")]
MinSpeakers = Annotated[int | None, typer.Option(help="At least so many.")]
MaxSpeakers = Annotated[int | None, typer.Option(help="At most so many.")]


@app.command(rich_help_panel=_FILES)
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
    num_speakers: NumSpeakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    format: Annotated[
        list[FormatName] | None,
        typer.Option(
            help=f"How to write the turns ({_FORMAT_HELP}). By default rttm; with --into rttm and "
            "json. May be repeated with --into."
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write a file per FILE and format there, folders kept."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="As clustering.threshold=0.6; may be repeated."
        ),
    ] = None,
    pipeline: Pipeline = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Print who spoke when in each FILE, or write it into a folder."""
    from raydiar.clustering.parameters import speaker_bounds
    from raydiar.pipelines.config_file import parse_settings
    from raydiar.pipelines.files import check_excerpt
    from raydiar.pipelines.inputs import find_inputs
    from raydiar.pipelines.results import ResultFolder

    # what can be wrong is told before torch is loaded, let alone weights
    device = parse_device(device)
    check_excerpt(start, duration, "--start and --duration")
    speaker_bounds(num_speakers, min_speakers, max_speakers)
    settings = parse_settings(parameters or [])
    formats = _formats(format or [], into)
    failed = []

    def report(file, error) -> None:
        failed.append(file)
        print(f"raydiar: {error}", file=sys.stderr)

    inputs = find_inputs(files, on_error=report)
    if inputs:
        if into is None and len(inputs) > 1:
            formats[0].check_several()
        folder = ResultFolder(into, formats, inputs) if into is not None else None
        diarizer = _load(pipeline, device, token, settings)
        from raydiar.pipelines import ProgressHook

        with ProgressHook(transient=True) if sys.stderr.isatty() else nullcontext() as hook:
            results = diarizer(
                [one.as_file(start, duration) for one in inputs],
                num_speakers=num_speakers,
                min_speakers=min_speakers,
                max_speakers=max_speakers,
                hook=hook,
                on_error=report,
            )
            outputs = _with_warnings(output for _, output in results)
            if folder is not None:
                folder.write(outputs)
            else:
                formats[0].write(outputs, sys.stdout)
    if failed:
        total = len(failed) + len(inputs) - sum(isinstance(file, dict) for file in failed)
        print(f"raydiar: {len(failed)} of {total} files failed", file=sys.stderr)
        raise typer.Exit(1)


@app.command(rich_help_panel=_FILES)
def plot(
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A recording to diarize, or an RTTM file.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Picture to write: .svg, or .png (matplotlib).")
    ],
    num_speakers: NumSpeakers = None,
    min_speakers: MinSpeakers = None,
    max_speakers: MaxSpeakers = None,
    pipeline: Pipeline = None,
    device: Device = "auto",
    token: Token = None,
) -> None:
    """Draw who spoke when: a line per speaker over the time."""
    from raydiar.clustering.parameters import speaker_bounds
    from raydiar.diarization import read_rttm
    from raydiar.pipelines.inputs import find_inputs
    from raydiar.plotting import check_picture, write_picture

    device = parse_device(device)
    check_picture(output)
    bounds = {
        "num_speakers": num_speakers,
        "min_speakers": min_speakers,
        "max_speakers": max_speakers,
    }
    speaker_bounds(**bounds)
    if file.lower().endswith(".rttm"):
        try:
            diarizations = list(read_rttm(file).values())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read as RTTM ({error})") from error
    else:
        files = [one.as_file() for one in find_inputs([file])]
        diarizer = _load(pipeline, device, token, {})
        diarizations = list(_with_warnings(found for _, found in diarizer(files, **bounds)))
    write_picture(diarizations, output)


def _formats(names: list[FormatName], into: str | None) -> list[Format]:
    """What to write: several formats go into a folder only."""
    if not names:
        names = ["rttm"] if into is None else ["rttm", "json"]
    names = list(dict.fromkeys(names))
    if into is None and len(names) > 1:
        raise ConfigError("several formats at once need a folder to go into: --into DIR")
    return [FORMATS[name] for name in names]


def _load(pipeline: str | None, device, token: str | None, settings: dict):
    """The pipeline, on its device, with its settings."""
    from raydiar.inference.devices import torch_device
    from raydiar.pipelines import Pipeline as Pretrained

    place = torch_device(device)
    diarizer = Pretrained.from_pretrained(pipeline, token=token).to(place)
    return diarizer.instantiate(settings) if settings else diarizer


@app.command(rich_help_panel=_CORPORA)
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


app.add_typer(detect, name="detect", rich_help_panel=_FILES)
app.add_typer(corpus, name="corpus", rich_help_panel=_CORPORA)
app.add_typer(voiceprint, name="voiceprint", rich_help_panel=_CORPORA)
app.add_typer(serve, name="serve", rich_help_panel=_CORPORA)
app.add_typer(train, name="train", rich_help_panel=_MODELS)
for command in (evaluate, benchmark, optimize, ablate):
    app.command(rich_help_panel=_MODELS)(command)
app.add_typer(models, name="models", rich_help_panel=_TOOLS)


@app.command(rich_help_panel=_TOOLS)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what works on this machine, and what to do about what does not."""
    from raydiar.doctor import as_rows, as_text, examine

    findings = examine()
    print(json.dumps(as_rows(findings), indent=2) if as_json else as_text(findings))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def _with_warnings(outputs):
    for output in outputs:
        for warning in output.warnings:
            print(f"raydiar: {output.uri}: {warning}", file=sys.stderr)
        yield output


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
    except ImportError as error:
        needed = explain(error, sys.argv[1:])
        if needed is None:
            raise
        print(f"raydiar: {needed}", file=sys.stderr)
        sys.exit(2)


def _tell(kind, error, trace) -> None:
    """A traceback, of a bug, without what opens the URLs in it."""
    text = "".join(traceback.format_exception(kind, error, trace))
    print(without_secrets(text), end="", file=sys.stderr)
