"""`raydiar corpus …`: the corpus job and what belongs to it; thin, and quick to import."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer

from raydiar.corpus.detect_commands import app as detect
from raydiar.corpus.options import (
    DecodeTimeLimit,
    Device,
    Manifest,
    MaxFailures,
    NumActors,
    Output,
    Pipeline,
    Price,
    Reprocess,
    RetryCommand,
    RetryErrors,
    TableOption,
    Token,
    tell,
    told_in_one_line,
)
from raydiar.errors import ConfigError

app = typer.Typer(
    help="Diarize whole corpora with Ray, or detect speech in them.", no_args_is_help=True
)


app.add_typer(detect, name="detect")


@app.command(cls=RetryCommand)
def diarize(
    output: Output,
    manifest: Manifest = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="Folder, prefix or glob of audio, or a listing: S3 Inventory's manifest.json, "
            "a table of objects. Instead of a manifest.",
        ),
    ] = None,
    pipeline: Pipeline = None,
    device: Device = "auto",
    num_actors: NumActors = "auto",
    max_failures: MaxFailures = 500,
    retry_errors: RetryErrors = None,
    reprocess: Reprocess = False,
    keep_local: Annotated[
        str | None, typer.Option(help="Folder or URI that keeps what clustering needs.")
    ] = None,
    decode_time_limit: DecodeTimeLimit = 120.0,
    price: Price = None,
    table: TableOption = None,
    token: Token = None,
) -> None:
    """Diarize the recordings of a manifest or folder that OUTPUT has no row of."""
    from raydiar.corpus.job.run import diarize_corpus

    with told_in_one_line():
        summary = diarize_corpus(
            manifest,
            output,
            pipeline,
            source=source,
            device=device,
            num_actors=num_actors,
            max_failures=max_failures,
            retry_errors=retry_errors,
            reprocess=reprocess,
            keep_local=keep_local,
            decode_time_limit=decode_time_limit,
            price=price,
            table=table,
            token=token,
        )
    tell(summary)


@app.command()
def resolve(
    kept: Annotated[str, typer.Argument(help="What a job kept with --keep-local.")],
    output: Output,
    pipeline: Pipeline = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", help="As clustering.threshold=0.6; may be repeated."),
    ] = None,
    max_failures: MaxFailures = 500,
    table: TableOption = None,
    token: Token = None,
) -> None:
    """Cluster kept LocalSpeakers again, with other parameters, without a GPU or the audio."""
    from raydiar.corpus.job.run import resolve_corpus
    from raydiar.pipelines.config_file import load_config, parse_settings

    with told_in_one_line():
        parameters = parse_settings(parameters or [])
        config = load_config(pipeline, token=token).with_parameters(parameters)
        summary = resolve_corpus(
            kept, output, config, max_failures=max_failures, table=table, token=token
        )
    tell(summary)


@app.command()
def manifest(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, prefix or glob of audio or shards; or an S3 Inventory's manifest.json, "
            "or a table of objects."
        ),
    ],
    output: Annotated[str, typer.Option(help="Parquet manifest to write.")],
) -> None:
    """Write a manifest of all audio below SOURCE."""
    from raydiar.corpus.inputs.sources import write_manifest

    with told_in_one_line():
        num_files = write_manifest(source, output)
    typer.echo(f"{num_files} files in {output}")


@app.command()
def status(
    output: Annotated[str, typer.Argument(help="Folder or URI of a dataset.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell where OUTPUT stands, of a job that runs or not."""
    from raydiar.corpus.watch.status import read_status

    with told_in_one_line():
        found = read_status(output)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else found)


@app.command()
def compact(
    output: Annotated[str, typer.Argument(help="Folder or URI of a dataset.")],
    file_mib: Annotated[
        int, typer.Option("--file-mib", help="Merge files up to this size, in MiB.", min=1)
    ] = 128,
) -> None:
    """Merge the many small files of OUTPUT into few; no job may be writing it meanwhile."""
    from raydiar.corpus.job.compaction import compact as compact_dataset

    with told_in_one_line():
        done = compact_dataset(output, file_mib * 2**20, lambda line: typer.echo(line, err=True))
    removed = f", {done.num_removed:,} overruled rows removed" if done.num_removed else ""
    typer.echo(
        f"{done.num_rows:,} rows in {done.num_files:,} files (before: "
        f"{done.num_files_before:,}){removed}"
    )


@app.command()
def simulate(
    output: Annotated[str, typer.Option(help="Folder or URI of the corpus, new or to go on.")],
    voices: Annotated[
        str,
        typer.Option(
            help="Folder with a folder of utterances for each person, or a table with the columns "
            "speaker, and uri or path."
        ),
    ],
    structures: Annotated[
        str, typer.Option(help="RTTM whose turns are spoken: folder, glob or file.")
    ],
    number: Annotated[int, typer.Option(help="Conversations.", min=1)] = 1000,
    rooms: Annotated[str | None, typer.Option(help="Folder or glob of impulse responses.")] = None,
    noises: Annotated[str | None, typer.Option(help="Folder or glob of background sound.")] = None,
    duration: Annotated[str, typer.Option(help="Seconds of a conversation: 60-120.")] = "60-120",
    speakers: Annotated[str, typer.Option(help="People in a conversation: 2-4.")] = "2-4",
    snr: Annotated[str, typer.Option(help="Of voices to noise, in dB: 5-25.")] = "5-25",
    reverb_probability: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.8,
    noise_probability: Annotated[float, typer.Option(min=0.0, max=1.0)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    shards: Annotated[
        bool, typer.Option("--shards", help="Tar shards, not a file a conversation.")
    ] = False,
    per_block: Annotated[
        int, typer.Option(help="Conversations of one task, and in one shard.", min=1)
    ] = 20,
) -> None:
    """Write conversations made of other recordings: audio, RTTM, and a manifest to train on.

    The turns are those of real conversations, the voices are other people's. Run again, it makes
    what is missing.
    """
    from raydiar.corpus.job.simulating import Simulation, simulate_corpus
    from raydiar.simulation import SimulationParameters

    with told_in_one_line():
        parameters = SimulationParameters(
            duration=_range("--duration", duration, float),
            speakers=_range("--speakers", speakers, int),
            snr=_range("--snr", snr, float),
            reverb_probability=reverb_probability,
            noise_probability=noise_probability,
        )
        simulation = Simulation(
            voices, structures, rooms, noises, number, seed, parameters, per_block, shards
        )
        made = simulate_corpus(simulation, output, lambda line: typer.echo(line, err=True))
    typer.echo(
        f"{made.num_conversations:,} conversations, {made.hours:.1f} h, in {made.manifest} "
        f"({made.num_new:,} of them new, in {made.seconds_taken:.0f} s)"
    )


def _range(option: str, text: str, kind: type) -> tuple:
    """Least and greatest of a range such as 60-120, or of one number."""
    match = re.fullmatch(r"(-?[\d.]+)(?:-(-?[\d.]+))?", text.strip())
    try:
        low = kind(match[1])
        return low, kind(match[2]) if match[2] else low
    except (TypeError, ValueError):
        raise ConfigError(f"{option} is a range such as 2-4, or one number, not {text!r}") from None


@app.command()
def export(
    output: Annotated[str, typer.Argument(help="Folder or URI of a dataset.")],
    rttm: Annotated[str | None, typer.Option(help="Folder: an RTTM file a recording.")] = None,
    csv: Annotated[str | None, typer.Option(help="File: a line a turn.")] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", help="File: an array of a line a recording.")
    ] = None,
    turns: Annotated[str | None, typer.Option(help="Parquet file: a row a turn.")] = None,
    exclusive: Annotated[bool, typer.Option(help="At most one speaker at a time.")] = False,
) -> None:
    """Write the turns of OUTPUT in one other form; destinations are paths or URIs."""
    asked = {"rttm": rttm, "csv": csv, "json": as_json, "turns": turns}
    chosen = {form: destination for form, destination in asked.items() if destination}
    if len(chosen) != 1:
        raise typer.BadParameter("give one of --rttm, --csv, --json and --turns")
    [(form, destination)] = chosen.items()
    from raydiar.corpus.output.export import export as export_dataset

    with told_in_one_line():
        exported = export_dataset(output, form, destination, exclusive)
    left_out = f"; {exported.num_errors:,} error rows left out" if exported.num_errors else ""
    typer.echo(f"{exported.num_recordings:,} recordings in {destination}{left_out}")
