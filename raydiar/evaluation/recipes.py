"""Manifests of the public benchmarks, made from the corpora as people have them on disk.

A recipe knows where a corpus keeps its evaluation recordings, references and scored regions, and
the figures that others published on it. Nothing is downloaded or copied.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from raydiar.diarization import Turn, from_turns
from raydiar.errors import EvaluationError

FIELDS = ("recording_id", "uri", "rttm", "uem")

Row = dict[str, str]


@dataclass(frozen=True)
class Recipe:
    """
    Attributes
    ----------
    title : str
    layout : str
        What lies where in the folder that the recipe is given.
    corpora : callable
        From that folder, and one that generated references may be put into, to pairs of a name
        and the rows of its manifest.
    published : dict
        Diarization error rates in percent by name and system; collar 0, overlap scored.
    """

    title: str
    layout: str
    corpora: Callable[[Path, Path], Iterator[tuple[str, list[Row]]]]
    published: dict[str, dict[str, float]]


def write_manifests(name: str, folder: Path, into: Path) -> dict[str, Path]:
    """Make the manifests of a recipe.

    Parameters
    ----------
    name : str
        A key of `RECIPES`.
    folder : Path
        The corpus.
    into : Path
        Folder for the manifests, and for references that had to be converted.

    Returns
    -------
    manifests : dict
        CSV files by name of the corpus.

    Raises
    ------
    EvaluationError
        If there is no such recipe, or the folder does not hold what it says.
    """
    if name not in RECIPES:
        raise EvaluationError(f"no recipe {name!r}: there are {', '.join(sorted(RECIPES))}")
    recipe = RECIPES[name]
    into.mkdir(parents=True, exist_ok=True)
    manifests = {}
    for title, rows in recipe.corpora(Path(folder), into):
        if not rows:
            continue
        slug = "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")
        text = io.StringIO()
        given = [field for field in FIELDS if any(row.get(field) for row in rows)]
        writer = csv.DictWriter(text, given, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["recording_id"]))
        manifests[title] = into / f"{slug}.csv"
        manifests[title].write_text(text.getvalue(), encoding="utf-8")
    if not manifests:
        raise EvaluationError(f"{folder} is not laid out as {recipe.title}:\n{recipe.layout}")
    return manifests


def _rows(
    audio: Iterable[Path],
    rttm: Callable[[str], Path | None],
    uem: Callable[[str], Path | None] = lambda name: None,
    name_of: Callable[[Path], str] = lambda path: path.stem,
) -> list[Row]:
    """Rows of the recordings that have a reference."""
    rows = []
    for path in sorted(audio):
        name = name_of(path)
        reference, regions = rttm(name), uem(name)
        if reference is not None and reference.is_file():
            row = {"recording_id": name, "uri": str(path.resolve())}
            row["rttm"] = str(reference.resolve())
            if regions is not None and regions.is_file():
                row["uem"] = str(regions.resolve())
            rows.append(row)
    return rows


def _first(*candidates: Path) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)


def _ami(folder: Path, into: Path):
    # the partition and references "only words" of BUT's AMI-diarization-setup
    setup = next(iter(sorted(folder.rglob("only_words"))), None)
    if setup is None:
        return
    rttms, uems = setup / "rttms/test", setup.parent / "uems/test"
    for title, ending in (("AMI (IHM)", "Mix-Headset"), ("AMI (SDM)", "Array1-01")):
        yield (
            title,
            _rows(
                folder.rglob(f"*.{ending}.wav"),
                lambda name: rttms / f"{name}.rttm",
                lambda name: uems / f"{name}.uem",
                lambda path: path.name.split(".")[0],
            ),
        )


def _voxconverse(folder: Path, into: Path):
    for part in ("dev", "test"):
        audio = [
            *folder.glob(f"audio/{part}/*.wav"),
            *folder.glob(f"{part}/audio/*.wav"),
            *folder.glob(f"voxconverse_{part}_wav/*.wav"),
        ]
        homes = (folder / part, folder / "voxconverse" / part, folder / "labels" / part)
        title = "VoxConverse" if part == "test" else "VoxConverse dev"
        yield title, _rows(audio, lambda name, homes=homes: _rttm_in(homes, name))


def _rttm_in(homes: Iterable[Path], name: str) -> Path | None:
    return _first(*(home / f"{name}.rttm" for home in homes))


def _aishell4(folder: Path, into: Path):
    audio = [*folder.glob("test/wav/*.flac"), *folder.glob("test/wav/*.wav")]
    yield "AISHELL-4", _rows(audio, lambda name: folder / "test/TextGrid" / f"{name}.rttm")


def _dihard3(folder: Path, into: Path):
    for data in sorted(folder.rglob("data")):
        if (data / "flac").is_dir() and (data / "rttm").is_dir():
            is_eval = "eval" in str(data.parent.name).lower() or "eval" in str(data).lower()
            yield (
                "DIHARD 3" if is_eval else "DIHARD 3 dev",
                _rows(
                    data.glob("flac/*.flac"),
                    lambda name, data=data: data / "rttm" / f"{name}.rttm",
                    lambda name, data=data: data / "uem" / f"{name}.uem",
                ),
            )


def _callhome(folder: Path, into: Path):
    # one RTTM for all conversations, as the recipes of Kaldi and BUT have it
    references = sorted(folder.rglob("fullref.rttm")) or sorted(folder.rglob("*.rttm"))
    audio = [*folder.rglob("*.sph"), *folder.rglob("*.wav")]
    if len(references) == 1:
        known = {
            line.split()[1]
            for line in references[0].read_text(encoding="utf-8").splitlines()
            if line.startswith("SPEAKER")
        }
        audio = [path for path in audio if path.stem in known]
        yield "CALLHOME", _rows(audio, lambda name: references[0])
    else:
        by_name = {path.stem: path for path in references}
        yield "CALLHOME", _rows(audio, by_name.get)


def _alimeeting(folder: Path, into: Path):
    for far in sorted(folder.rglob("*_far")):
        part = "AliMeeting" if far.name.startswith("Test") else "AliMeeting eval"
        grids = {path.stem: path for path in far.glob("textgrid_dir/*.TextGrid")}
        audio = {}
        for path in far.glob("audio_dir/*.wav"):
            # R8001_M8004_MS801.wav is of the meeting R8001_M8004
            meeting = "_".join(path.stem.split("_")[:2])
            audio[meeting] = path
        rttms = into / "alimeeting-rttm"
        for meeting, grid in grids.items():
            if meeting in audio:
                rttms.mkdir(exist_ok=True)
                turns = read_textgrid(grid)
                (rttms / f"{meeting}.rttm").write_text(from_turns(meeting, turns).to_rttm())
        yield (
            f"{part} (far)",
            _rows(
                audio.values(),
                lambda name, rttms=rttms: rttms / f"{name}.rttm",
                name_of=lambda path: "_".join(path.stem.split("_")[:2]),
            ),
        )


def _msdwild(folder: Path, into: Path):
    for part in ("few.val", "many.val"):
        for reference in sorted(folder.rglob(f"{part}.rttm")):
            known = {
                line.split()[1]
                for line in reference.read_text(encoding="utf-8").splitlines()
                if line.startswith("SPEAKER")
            }
            audio = [path for path in folder.rglob("*.wav") if path.stem in known]
            title = "MSDWild" if part == "few.val" else "MSDWild many"
            yield title, _rows(audio, lambda name, reference=reference: reference)
            break


def read_textgrid(path: Path) -> list[Turn]:
    """Turns of a Praat TextGrid: its tiers are speakers, its intervals with text their turns.

    Raises
    ------
    EvaluationError
    """
    try:
        from praatio import textgrid
        from praatio.utilities.errors import PraatioException
    except ImportError:
        raise EvaluationError("TextGrids need praatio: pip install 'raydiar[tune]'") from None
    try:
        grid = textgrid.openTextgrid(
            str(path),
            includeEmptyIntervals=False,
            reportingMode="silence",
            duplicateNamesMode="rename",
        )
    except (PraatioException, OSError, ValueError, LookupError, AssertionError) as error:
        raise EvaluationError(f"{path} is not a TextGrid: {error}") from error
    return [
        Turn(float(entry.start), float(entry.end), "_".join(name.split()))
        for name in grid.tierNames
        if isinstance(tier := grid.getTier(name), textgrid.IntervalTier)
        for entry in tier.entries
    ]


_COMMUNITY, _LEGACY, _PRECISION = "community-1", "pyannote 3.1", "precision-2"

RECIPES = {
    "ami": Recipe(
        "AMI",
        "DIR/**/only_words/rttms/test/MEETING.rttm and DIR/**/uems/test/MEETING.uem (BUT's "
        "AMI-diarization-setup)\nDIR/**/MEETING.Mix-Headset.wav (IHM), "
        "DIR/**/MEETING.Array1-01.wav (SDM)",
        _ami,
        {
            "AMI (IHM)": {_LEGACY: 18.8, _COMMUNITY: 17.0, _PRECISION: 12.9, "SUPlime-L": 11.9},
            "AMI (SDM)": {_COMMUNITY: 19.9, _PRECISION: 15.6, "DiariZen-L": 13.9},
        },
    ),
    "voxconverse": Recipe(
        "VoxConverse",
        "DIR/test/NAME.rttm, DIR/dev/NAME.rttm\nDIR/audio/test/NAME.wav (or "
        "DIR/voxconverse_test_wav/NAME.wav), likewise dev",
        _voxconverse,
        {
            "VoxConverse": {_LEGACY: 11.2, _COMMUNITY: 11.2, _PRECISION: 8.5, "SUPlime-L": 8.9},
        },
    ),
    "aishell4": Recipe(
        "AISHELL-4",
        "DIR/test/wav/NAME.flac\nDIR/test/TextGrid/NAME.rttm",
        _aishell4,
        {
            "AISHELL-4": {_LEGACY: 12.2, _COMMUNITY: 11.7, _PRECISION: 11.4, "DiariZen-L": 10.1},
        },
    ),
    "dihard3": Recipe(
        "DIHARD 3",
        "DIR/**/data/flac/NAME.flac, DIR/**/data/rttm/NAME.rttm, DIR/**/data/uem/NAME.uem; the "
        "evaluation part has `eval` in its path",
        _dihard3,
        {
            "DIHARD 3": {_LEGACY: 21.4, _COMMUNITY: 20.2, _PRECISION: 14.7, "DiariZen-L": 14.5},
        },
    ),
    "callhome": Recipe(
        "CALLHOME (NIST SRE 2000, disk 8)",
        "DIR/**/NAME.sph (or .wav)\nDIR/**/fullref.rttm, or one RTTM a conversation",
        _callhome,
        {},
    ),
    "alimeeting": Recipe(
        "AliMeeting",
        "DIR/**/Test_Ali_far/audio_dir/MEETING_MICROPHONE.wav, "
        "DIR/**/Test_Ali_far/textgrid_dir/MEETING.TextGrid; likewise Eval_Ali_far",
        _alimeeting,
        {
            "AliMeeting (far)": {_COMMUNITY: 20.3, _PRECISION: 15.2, "DiariZen-L": 10.8},
        },
    ),
    "msdwild": Recipe(
        "MSDWild",
        "DIR/**/few.val.rttm, DIR/**/many.val.rttm\nDIR/**/NAME.wav",
        _msdwild,
        {"MSDWild": {_COMMUNITY: 22.8, _PRECISION: 17.3, "DiariZen-L": 15.8}},
    ),
}
"""Published figures: pyannote's benchmark page (3.1, community-1, precision-2) and the papers and
repositories of DiariZen (its large model) and SUPlime (likewise), as of November 2026."""
