"""`raydiar corpus …`: the corpus job and what belongs to it; thin, and quick to import."""

from __future__ import annotations

from typing import Annotated

import typer

from raydiar.errors import RaydiarError

app = typer.Typer(help="Diarize whole corpora with Ray.", no_args_is_help=True)


@app.command()
def diarize(
    output: Annotated[str, typer.Option(help="Folder or URI of the dataset, new or to go on.")],
    manifest: Annotated[
        str | None, typer.Option(help="Parquet, CSV or JSON Lines: path or URI.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--input", help="Folder, prefix or glob of audio, instead of a manifest."),
    ] = None,
    pipeline: Annotated[
        str | None, typer.Option(help="Hub repository, directory or config; default embedded.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    num_actors: Annotated[
        int | None, typer.Option(help="Inference actors; default: as many as fit.")
    ] = None,
    max_failures: Annotated[
        int, typer.Option(help="Stop when more of the last 1,000 recordings failed.")
    ] = 500,
    token: Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")] = None,
) -> None:
    """Diarize the recordings of a manifest or folder that OUTPUT has no row of."""
    from raydiar.corpus.run import diarize_corpus

    try:
        summary = diarize_corpus(
            manifest,
            output,
            pipeline,
            source=source,
            device=device,
            num_actors=num_actors,
            max_failures=max_failures,
            token=token,
        )
    except RaydiarError as error:
        typer.echo(f"raydiar: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(summary)
    typer.echo(f"The dataset is in {summary.output}")


@app.command()
def manifest(
    source: Annotated[str, typer.Argument(help="Folder, prefix or glob of audio or shards.")],
    output: Annotated[str, typer.Option(help="Parquet manifest to write.")],
) -> None:
    """Write a manifest of all audio below SOURCE."""
    from raydiar.corpus.sources import write_manifest

    try:
        num_files = write_manifest(source, output)
    except RaydiarError as error:
        typer.echo(f"raydiar: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{num_files} files in {output}")
