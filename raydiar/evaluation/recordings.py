"""References and hypotheses as people have them: RTTM files, folders of them, datasets, UEM.

Recordings are matched by name. A dataset names a recording by the path it was found at, a
reference usually by the file's name alone: where the whole names differ, the last part of the path
without its ending is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from raydiar.diarization import Diarization, Turn, from_turns, read_rttm
from raydiar.errors import EvaluationError

Regions = list[tuple[float, float]]


@dataclass(frozen=True)
class Trial:
    """One recording to score.

    Attributes
    ----------
    name : str
        Of the reference.
    reference, hypothesis : tuple of Turn
    regions : list of (start, end), s, or None
        That are scored (UEM).
    found : bool
        Whether the hypothesis knows the recording; without it, all its speech is missed.
    """

    name: str
    reference: tuple[Turn, ...]
    hypothesis: tuple[Turn, ...]
    regions: Regions | None = None
    found: bool = True


@dataclass(frozen=True)
class Matched:
    """What `match` found.

    Attributes
    ----------
    trials : list of Trial
        One for each recording of the reference, in order of names.
    missing : list of str
        Recordings of the reference without a hypothesis.
    extra : list of str
        Recordings of the hypothesis without a reference, which are not scored.
    """

    trials: list[Trial] = field(repr=False)
    missing: list[str]
    extra: list[str]


def read_recordings(source: str | Path) -> dict[str, Diarization]:
    """Turns of the recordings of an RTTM file, a folder of RTTM files, or a diarization dataset.

    Parameters
    ----------
    source : str or Path
        A file ending in `.rttm`; a folder, with all its subfolders, of such files; or folder or
        fsspec URI of a dataset of `raydiar corpus diarize`, whose error rows are left out.

    Returns
    -------
    recordings : dict
        By name.

    Raises
    ------
    EvaluationError
        If there is none of these, a file is damaged, or two files hold turns of one name.
    """
    path = Path(source)
    if path.is_file():
        return _read_rttms([path])
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".rttm")
        if files:
            return _read_rttms(files)
    found = _read_dataset(str(source))
    if found is None:
        kinds = "an RTTM file, a folder of RTTM files or a diarization dataset"
        raise EvaluationError(f"{source}: neither {kinds}")
    return found


def _read_rttms(files: Iterable[Path]) -> dict[str, Diarization]:
    recordings: dict[str, Diarization] = {}
    home: dict[str, Path] = {}
    for file in files:
        try:
            found = read_rttm(file)
        except (ValueError, OSError) as error:
            raise EvaluationError(f"{file} cannot be read: {error}") from error
        if not found:  # nobody speaks: RTTM has no line that says so, but the file has a name
            found = {file.stem: from_turns(file.stem, ())}
        for name, turns in found.items():
            if name in recordings:
                raise EvaluationError(f"{name} has turns in {home[name]} and in {file}")
            recordings[name], home[name] = turns, file
    return recordings


def _read_dataset(source: str) -> dict[str, Diarization] | None:
    from raydiar.corpus.output import dataset
    from raydiar.errors import OutputError

    try:
        opened = dataset.open(source)
    except OutputError:
        return None
    recordings = {}
    for batch in opened.batches(["recording_id", "status", "duration", "turns"]):
        for row in batch.to_pylist():
            if row["status"] != "ok":
                continue
            name = row["recording_id"]
            recordings[name] = from_turns(name, turns_of(row), row["duration"])
    return recordings


def turns_of(row: dict) -> tuple[Turn, ...]:
    """Turns of a row of a diarization dataset."""
    return tuple(Turn(**turn) for turn in row["turns"])


def read_uem(source: str | Path) -> dict[str, Regions]:
    """Scored regions of recordings, from a UEM file or a folder of them.

    Raises
    ------
    EvaluationError
        Naming the line that is not UEM (`uri channel start end`).
    """
    path = Path(source)
    files = sorted(path.rglob("*.uem")) if path.is_dir() else [path]
    if not files:
        raise EvaluationError(f"{source} holds no UEM files")
    regions: dict[str, Regions] = {}
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise EvaluationError(f"{file} cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            parts = line.split()
            if not parts or line.startswith(";"):
                continue
            try:
                name, _, start, end = parts
                region = float(start), float(end)
            except ValueError as error:
                raise EvaluationError(f"{file}, line {number} is not UEM: {line!r}") from error
            if not region[0] <= region[1]:
                raise EvaluationError(f"{file}, line {number} ends before it starts: {line!r}")
            regions.setdefault(name, []).append(region)
    return regions


def match(
    reference: Mapping[str, Diarization],
    hypothesis: Mapping[str, Diarization],
    uem: Mapping[str, Regions] | None = None,
) -> Matched:
    """Put together what is said of one recording.

    Raises
    ------
    EvaluationError
        If no recording is known to both, a name could mean several, or a UEM was given that knows
        none of them.
    """
    by_stem: dict[str, list[str]] = {}
    for name in hypothesis:
        by_stem.setdefault(name_of(name), []).append(name)
    trials, missing, used = [], [], set()
    for name in sorted(reference):
        candidates = [name] if name in hypothesis else by_stem.get(name_of(name), [])
        if len(candidates) > 1:
            raise EvaluationError(f"{name} could be each of {', '.join(sorted(candidates)[:5])}")
        used.update(candidates)
        turns = hypothesis[candidates[0]].turns if candidates else ()
        if not candidates:
            missing.append(name)
        regions = None
        if uem is not None:
            regions = uem.get(name, uem.get(name_of(name)))
        trials.append(Trial(name, reference[name].turns, turns, regions, bool(candidates)))
    if not used:
        ours, theirs = next(iter(sorted(reference)), "none"), next(iter(sorted(hypothesis)), "none")
        raise EvaluationError(
            "no recording has a name that is in both: the reference has e.g. "
            f"{ours!r}, the hypothesis {theirs!r}"
        )
    if uem is not None and all(trial.regions is None for trial in trials):
        raise EvaluationError("the UEM knows none of the recordings of the reference")
    return Matched(trials, missing, sorted(set(hypothesis) - used))


def name_of(name: str) -> str:
    """What a recording is called by those who label it: its file without folder and ending."""
    path, _, _ = name.partition("#")
    base = PurePosixPath(path).name or path
    stem, dot, ending = base.rpartition(".")
    # the ending of a file, not the second half of a name such as "ES2004a.Mix-Headset"
    return stem if dot and stem and len(ending) <= 4 and ending.isalnum() else base
