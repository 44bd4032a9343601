"""A page of every command, made from the command line itself while the pages are built."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def on_files(files, config):
    from mkdocs.structure.files import File

    files.append(File.generated(config, "commands.md", content=page()))
    return files


def page() -> str:
    """Markdown of all commands, with their arguments and options."""
    import typer
    from typer.cli import get_docs_for_click

    from raydiar.cli import app

    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="raydiar")
    return get_docs_for_click(obj=command, ctx=context, name="raydiar", title="Commands")
