"""`raydiar corpus detect …`: speech, overlap or changes in whole corpora, without diarizing."""

from __future__ import annotations

from typing import Annotated

import typer

from raydiar.corpus.options import (
    DecodeTimeLimit,
    Device,
    Manifest,
    MaxFailures,
    NumActors,
    Output,
    Price,
    Reprocess,
    RetryCommand,
    RetryErrors,
    TableOption,
    Token,
    tell,
    told_in_one_line,
)

app = typer.Typer(
    help="Find speech, overlapped speech, or changes of speakers in whole corpora with Ray, at a "
    "part of the cost of diarizing them. One row a recording.",
    no_args_is_help=True,
)

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[INPUT]…",
        help="Folders, prefixes or globs of audio, or listings (S3 Inventory's manifest.json, a "
        "table of objects). Instead of a manifest.",
    ),
]
Source = Annotated[
    list[str] | None, typer.Option("--input", help="The same, as diarize has it; may be repeated.")
]
Segmentation = Annotated[
    str | None, typer.Option(help="Hub repository, directory or file; default embedded.")
]
Fast = Annotated[bool, typer.Option("--fast", help="Look twice at each instant, not ten times.")]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--set", help="As min_duration_off=0.3; may be repeated.", metavar="NAME=VALUE"),
]


def _command(task: str, text: str) -> None:
    @app.command(task, cls=RetryCommand, help=text)
    def detect(
        output: Output,
        inputs: Inputs = None,
        source: Source = None,
        manifest: Manifest = None,
        segmentation: Segmentation = None,
        fast: Fast = False,
        parameters: Parameters = None,
        device: Device = "auto",
        num_actors: NumActors = "auto",
        max_failures: MaxFailures = 500,
        retry_errors: RetryErrors = None,
        reprocess: Reprocess = False,
        decode_time_limit: DecodeTimeLimit = 120.0,
        price: Price = None,
        table: TableOption = None,
        token: Token = None,
    ) -> None:
        from raydiar.corpus.job.run import detect_corpus
        from raydiar.pipelines.config_file import parse_values

        with told_in_one_line():
            summary = detect_corpus(
                task,
                manifest,
                output,
                segmentation,
                source=[*(inputs or []), *(source or [])],
                fast=fast,
                parameters=parse_values(parameters or []),
                device=device,
                num_actors=num_actors,
                max_failures=max_failures,
                retry_errors=retry_errors,
                reprocess=reprocess,
                decode_time_limit=decode_time_limit,
                price=price,
                table=table,
                token=token,
            )
        tell(summary)


_command("speech", "Find where somebody speaks in each recording that OUTPUT has no row of.")
_command("overlap", "Find where two people or more speak at once, likewise.")
_command("changes", "Find when the people who speak change, likewise.")
