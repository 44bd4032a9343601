"""Command lines of pages, parsed by the command line's own parser."""

import typer

from raydiar.cli import app


def parse_raydiar(command: list[str]) -> None:
    """Parse `raydiar …` with the command line's own parser."""
    group, arguments = typer.main.get_command(app), command[1:]
    while hasattr(group, "commands") and (arguments or not group.invoke_without_command):
        assert arguments[0] in group.commands, f"raydiar has no command {arguments[0]}"
        group = group.commands[arguments.pop(0)]
    try:
        group.make_context(group.name, arguments)
    except Exception as error:  # which class it has depends on typer's version
        raise AssertionError(f"{' '.join(command)}: {error}") from error
