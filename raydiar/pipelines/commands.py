"""`raydiar models …`: weights downloaded, listed, stripped, and bundled for where no network is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Download, list, strip and bundle weights.", no_args_is_help=True)

_WHAT = "Pipeline or model: Hub repository, URI, folder or file; default embedded."
What = Annotated[str | None, typer.Argument(metavar="[NAME]", help=_WHAT)]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit on the Hub.")]
Subfolder = Annotated[str | None, typer.Option(help="Folder inside the repository.")]
Token = Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")]
Cache = Annotated[str | None, typer.Option(help="Folder to keep downloads in.")]


@app.command()
def download(
    name: What = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    token: Token = None,
    cache: Cache = None,
) -> None:
    """Bring the weights of NAME to this machine; what broke off before goes on."""
    from raydiar.hub import sha256_of
    from raydiar.pipelines.weights import bring

    for role, path in bring(name, revision, subfolder, token, cache).items():
        print(f"{role}\t{path.stat().st_size}\t{sha256_of(path)}\t{path}")


@app.command("list")
def list_(
    cache: Cache = None,
    all: Annotated[bool, typer.Option("--all", help="Every file, not weights only.")] = False,
) -> None:
    """List the weights that this machine has: size, address, file."""
    from raydiar.hub.cached import cached_files
    from raydiar.hub.files import names_file

    for file in cached_files(cache):
        if all or names_file(str(file.path)):
            print(f"{file.num_bytes}\t{file.uri}\t{file.path}")


@app.command()
def strip(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Of a training.")],
    into: Annotated[str, typer.Argument(metavar="INTO", help="File or folder to write.")],
) -> None:
    """Leave out of a CHECKPOINT what only its training needed."""
    from raydiar.models.stripping import strip_checkpoint

    written = strip_checkpoint(checkpoint, into)
    before, after = Path(checkpoint).stat().st_size, written.stat().st_size
    print(f"{written}\t{after} bytes, of {before}")


@app.command()
def bundle(
    into: Annotated[str, typer.Option(help="New folder, or a file that ends in .tar or .tgz.")],
    name: What = None,
    revision: Revision = None,
    subfolder: Subfolder = None,
    token: Token = None,
    cache: Cache = None,
) -> None:
    """Put a pipeline and all its weights into one folder or tar, which `--pipeline` takes."""
    from raydiar.pipelines.bundle import write_bundle, write_document_bundle
    from raydiar.pipelines.config_file import load_config
    from raydiar.pipelines.document import read_document

    where = {"revision": revision, "subfolder": subfolder, "token": token, "cache_dir": cache}
    if name is not None:
        document = read_document(name, **where)
        if document.kind != "SpeakerDiarization":
            from raydiar.pipelines.loading import check_kind

            check_kind(document)
            print(write_document_bundle(document, into, token, cache))
            return
    config = load_config(name, **where)
    print(write_bundle(config.localize(token=token, cache_dir=cache), into))
