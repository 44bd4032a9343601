"""Options that the commands of several corpus jobs share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from typer.core import TyperCommand

from raydiar.errors import RaydiarError

Output = Annotated[str, typer.Option(help="Folder or URI of the dataset, new or to go on.")]
Manifest = Annotated[str | None, typer.Option(help="Parquet, CSV or JSON Lines: path or URI.")]
Device = Annotated[
    str, typer.Option(help="auto, cuda or cpu; a cluster is asked for what it does not have yet.")
]
NumActors = Annotated[
    str, typer.Option(help="Inference actors at most; auto: as many as the cluster holds.")
]
MaxFailures = Annotated[
    int, typer.Option(help="Stop when more of the last 1,000 recordings failed.")
]
RetryErrors = Annotated[
    str | None,
    typer.Option(help="Do error rows again: the retryable ones, or all.", metavar="[all]"),
]
Reprocess = Annotated[
    bool, typer.Option("--reprocess", help="Delete the rows of another pipeline first.")
]
DecodeTimeLimit = Annotated[
    float, typer.Option(help="Seconds after which decoding a recording has stalled.")
]
Price = Annotated[
    float | None, typer.Option(help="Of one GPU, or CPU actor, an hour: to tell the cost.")
]
TableOption = Annotated[
    str | None,
    typer.Option(help="delta: keep OUTPUT a Delta Lake table, too.", metavar="delta"),
]
Pipeline = Annotated[
    str | None,
    typer.Option(help="Hub repository, directory, config, exact or soft; default embedded."),
]
Token = Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")]

_RETRIES = ("retryable", "all")


class RetryCommand(TyperCommand):
    """`--retry-errors` alone means the retryable ones: Typer knows no optional values."""

    def parse_args(self, ctx, args):
        following = [*args[1:], ""]
        return super().parse_args(
            ctx,
            [
                f"{arg}=retryable" if arg == "--retry-errors" and after not in _RETRIES else arg
                for arg, after in zip(args, following, strict=True)
            ],
        )


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the command with status 1 and the message of an error that a user can put right."""
    try:
        yield
    except RaydiarError as error:
        typer.echo(f"raydiar: {error}", err=True)
        raise typer.Exit(1) from None


def tell(summary) -> None:
    """What a run did, and where its dataset is."""
    typer.echo(summary)
    typer.echo(f"The dataset is in {summary.output}")
