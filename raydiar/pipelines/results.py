"""Results in a folder that mirrors what was given."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path

from raydiar.diarization import Diarization
from raydiar.errors import OutputError
from raydiar.formats import Format
from raydiar.naming import file_name, recording_name
from raydiar.pipelines.inputs import Input


class ResultFolder:
    """A folder with a file per recording and format, in folders as their recordings lie in.

    Parameters
    ----------
    folder : str
        Made where it is not there.
    formats : sequence of Format
    inputs : sequence of Input

    Raises
    ------
    OutputError
        If there can be no such folder.
    """

    def __init__(self, folder: str, formats: Sequence[Format], inputs: Sequence[Input]):
        self._folder, self._formats = Path(folder), formats
        self._names = dict(zip((one.name for one in inputs), _targets(inputs), strict=True))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: no folder can be made there ({error})") from error

    def write(self, outputs: Iterable[Diarization]) -> None:
        """Write recordings as they come; whoever reads a file finds all of it."""
        for output in outputs:
            for format in self._formats:
                target = self._folder / (self._names[output.uri] + format.suffix)
                try:
                    _publish(format.text(output), target)
                except OSError as error:
                    raise OutputError(f"{target} cannot be written ({error})") from error


def _targets(inputs: Sequence[Input]) -> list[str]:
    """Path of each result, without an ending: the recording's own name where that tells it."""
    plain = [os.path.join(one.folder, _own_name(one)) for one in inputs]
    # file systems there are that take Call and call for one name
    times = Counter(path.casefold() for path in plain)
    targets, taken = [], {path.casefold() for path in plain}
    for path, one in zip(plain, inputs, strict=True):
        if times[path.casefold()] > 1:
            stem = os.path.join(one.folder, one.name)
            names = chain([stem], (f"{stem}-{number}" for number in count(2)))
            path = next(name for name in names if name.casefold() not in taken)
            taken.add(path.casefold())
        targets.append(path)
    return targets


def _own_name(one: Input) -> str:
    return one.name if hasattr(one.source, "read") else file_name(recording_name(one.source))


def _publish(text: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=target.parent, delete=False, encoding="utf-8", newline=""
    ) as partial:
        partial.write(text)
    os.chmod(partial.name, 0o644)
    os.replace(partial.name, target)
