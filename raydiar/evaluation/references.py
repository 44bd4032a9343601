"""References that a manifest names in columns of its own: `rttm`, and optionally `uem`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from raydiar.diarization import Diarization
from raydiar.errors import EvaluationError
from raydiar.evaluation.recordings import Regions, name_of, read_recordings, read_uem


def manifest_folder(manifest: str) -> Path:
    """What relative paths in a local manifest may be relative to."""
    return Path(manifest).parent if "://" not in manifest else Path(".")


class References:
    """Turns and scored regions of recordings, read from the files that their rows name.

    Parameters
    ----------
    folder : str or Path
        What relative paths in the manifest are relative to, besides the working directory.
    """

    def __init__(self, folder: str | Path = "."):
        self._folder = Path(folder)
        self._rttm = cache(read_recordings)
        self._uem = cache(read_uem)

    def of(self, recording: dict) -> tuple[Diarization, Regions | None]:
        """
        Parameters
        ----------
        recording : dict
            Row of a manifest or dataset: recording_id, uri, rttm, and uem if there is one.

        Raises
        ------
        EvaluationError
            If the row names no reference, or files that do not know the recording.
        """
        rttm = recording.get("rttm")
        if not rttm:
            raise EvaluationError(
                f"{recording['recording_id']} has no reference: the manifest needs a column `rttm`"
            )
        turns = self._pick(self._rttm(self._path(rttm)), recording, rttm)
        uem = recording.get("uem")
        return turns, (None if not uem else self._pick(self._uem(self._path(uem)), recording, uem))

    def _path(self, name: str) -> str:
        beside = self._folder / name
        return str(beside) if not os.path.exists(name) and beside.exists() else name

    @staticmethod
    def _pick(known: dict, recording: dict, source: str):
        """What a file says of a recording: by id, by name of the audio, or the only thing there."""
        names = (recording["recording_id"], name_of(recording["uri"]), Path(source).stem)
        for name in names:
            if name in known:
                return known[name]
        if len(known) == 1:
            return next(iter(known.values()))
        raise EvaluationError(
            f"{source} knows neither {names[0]!r} nor {names[1]!r}; it has {_some(known)}"
        )


def _some(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")
