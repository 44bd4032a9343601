"""What the command line takes for recordings: files, URIs, folders, globs and standard input.

A path that exists is that path, whatever it looks like: `Title [x7].wav` is no pattern. What one
argument lacks costs the others nothing.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from typing import Any

from raydiar.errors import AudioNotFound, ConfigError, RaydiarError
from raydiar.naming import distinct_names, is_audio, local_path, printable, public_uri
from raydiar.storage import display_name, is_remote, storage_error

STDIN = "-"
_PATTERN = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Input:
    """A recording that an argument named.

    Attributes
    ----------
    source : str or binary file
        As `raydiar.audio.decode` takes it.
    name : str
        For RTTM, JSON and file names: without white space, and told apart from all others.
    folder : str
        Below the folder, prefix or glob that gave it; empty for what was named itself.
    """

    source: Any
    name: str
    folder: str = ""

    def __str__(self) -> str:
        return display_name(self.source)

    def as_file(self, start: float = 0.0, duration: float | None = None) -> dict[str, Any]:
        """The mapping that pipelines take, of an excerpt where one is asked for."""
        file = {"audio": self.source, "uri": self.name}
        return file | ({"start": start, "duration": duration} if start or duration else {})


def find_inputs(
    arguments: Sequence[str], on_error: Callable[[str, RaydiarError], None] | None = None
) -> list[Input]:
    """The recordings that arguments of a command name, in their order.

    Parameters
    ----------
    arguments : sequence of str
        Files; URIs; folders or, with a slash at the end, prefixes of object stores, of which every
        audio file below is taken; globs where no such file exists; "-" for standard input.
    on_error : callable, optional
        Called with (argument, error) where an argument gives nothing; without it that is raised.

    Raises
    ------
    AudioNotFound, StorageDenied, StorageUnavailable
        A folder or glob without audio, or that cannot be listed. (That a file is missing shows
        when it is read.)
    ConfigError
        If standard input is asked for twice, or is a terminal.
    """
    found: list[tuple[Any, str]] = []
    if list(arguments).count(STDIN) > 1:
        raise ConfigError("standard input (-) can be read once only")
    for argument in arguments:
        try:
            found += _sources(argument)
        except RaydiarError as error:
            if on_error is None or isinstance(error, ConfigError):
                raise
            on_error(argument, error)
    names = distinct_names(["stdin" if hasattr(one, "read") else one for one, _ in found])
    return [
        Input(source, name, folder) for (source, folder), name in zip(found, names, strict=True)
    ]


def _sources(argument: str) -> list[tuple[Any, str]]:
    """Recordings of an argument, each with its folder below it."""
    if argument == STDIN:
        if sys.stdin is None or sys.stdin.isatty():
            raise ConfigError("standard input (-) is a terminal: pipe a recording into it")
        return [(sys.stdin.buffer, "")]
    path = local_path(argument)
    if path is None:
        return _remote_sources(argument)
    if os.path.isdir(path):
        return _found([(name, _folder(name, path)) for name in sorted(_below(path))], argument)
    if not os.path.lexists(path) and _PATTERN.search(path):
        pattern = os.path.expanduser(path)
        matches = [name for name in sorted(glob(pattern, recursive=True)) if os.path.isfile(name)]
        return _found([(name, _folder(name, _fixed(pattern))) for name in matches], argument)
    if "://" not in argument and not os.path.lexists(path) and path.startswith("~"):
        return [(os.path.expanduser(path), "")]
    return [(path, "")]


def _found(sources: list[tuple[str, str]], argument: str) -> list[tuple[str, str]]:
    if not sources:
        raise AudioNotFound(f"{public_uri(argument)}: no audio files there.")
    return sources


def _folder(name: str, base: str) -> str:
    """Folder of a file below a base, empty for the base itself."""
    folder = os.path.relpath(os.path.dirname(name) or ".", base or ".")
    return "" if folder == "." else folder


def _fixed(pattern: str) -> str:
    """The folder that all matches of a glob lie in."""
    return os.path.dirname(_PATTERN.split(pattern)[0])


def _below(folder: str) -> Iterator[str]:
    """Audio files of a folder and those in it, links to folders and hidden ones aside."""

    def refuse(error: OSError) -> None:
        raise storage_error(error, printable(folder))

    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in files:
            path = os.path.join(place, name)
            # a named pipe would wait for its writer for ever
            if is_audio(name) and stat.S_ISREG(_mode(path)):
                yield path


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return stat.S_IFREG  # a link to nowhere: reading it will say so


def _remote_sources(uri: str) -> list[tuple[str, str]]:
    web = uri.lower().startswith(("http://", "https://"))
    pattern = _PATTERN.search(uri.partition("://")[2]) is not None
    if web or not (uri.endswith("/") or pattern) or not is_remote(uri):
        return [(uri, "")]
    try:
        from fsspec.core import url_to_fs

        fs, path = url_to_fs(uri)
        if pattern and not uri.endswith("/"):
            if fs.exists(path):
                return [(uri, "")]
            found = [name for name in fs.glob(path) if is_audio(name)]
        else:
            found = [name for name in fs.find(path) if is_audio(name)]
    except Exception as error:
        raise storage_error(error, display_name(uri)) from error
    base = _fixed(path) if pattern and not uri.endswith("/") else path
    return _found([(fs.unstrip_protocol(n), _folder(n, base)) for n in sorted(found)], uri)
