"""Words with their speakers, as people have them: STM, CTM, and JSON of several makers.

STM   `recording channel speaker start end [<label>] words…`, one line an utterance
CTM   `recording channel start duration word […]`, one line a word; the channel is the speaker, as
      where every speaker has a channel of their own
JSON  a list of utterances or words (also one object a line), or an object with `segments`,
      `utterances`, `turns` or `words`; `start`/`start_time`, `end`/`end_time`, `speaker`,
      `text`/`words`/`word`, and `session_id`/`recording_id`/`uri` unless the file's name is meant

Words are compared without case and punctuation.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydiar.errors import EvaluationError

SUFFIXES = (".stm", ".ctm", ".json", ".jsonl")
_TURNS = {".rttm", ".parquet"}
_IGNORED = "ignore_time_segment_in_scoring"
_NAMES = ("session_id", "recording_id", "recording", "uri", "file")
_LISTS = ("segments", "utterances", "turns", "words", "wordLevelTranscription")


@dataclass(frozen=True)
class Word:
    """
    Attributes
    ----------
    start, end : float, s
        Where only an utterance has times, its words share them by their number of letters.
    speaker : str
    text : str
        In lower case, without punctuation.
    """

    start: float
    end: float
    speaker: str
    text: str


def normalized(text: str) -> list[str]:
    """Words of a text as they are compared; marks of the transcriber (`<…>`) are no words."""
    words = []
    for part in text.split():
        if part.startswith("<") and part.endswith(">"):
            continue
        kept = "".join(
            letter
            for letter in unicodedata.normalize("NFKC", part).casefold().replace("’", "'")
            if letter == "'" or unicodedata.category(letter)[0] not in "PS"
        ).strip("'")
        if kept:
            words.append(kept)
    return words


def spread(start: float, end: float, speaker: str, text: str) -> list[Word]:
    """Words of an utterance, each with its share of the time."""
    words = normalized(text)
    letters = sum(map(len, words))
    found, at = [], start
    for word in words:
        until = at + (end - start) * len(word) / letters
        found.append(Word(at, until, speaker, word))
        at = until
    return found


def has_words(source: str | Path) -> bool:
    """Whether a file, or the files of a folder, hold words rather than turns (RTTM, a dataset)."""
    return bool(_files(Path(source)))


def read_words(source: str | Path) -> dict[str, list[Word]]:
    """Words of recordings, in order of time.

    Parameters
    ----------
    source : str or Path
        A file, or a folder with all its subfolders.

    Raises
    ------
    EvaluationError
        If there are none, naming the file and line that cannot be read.
    """
    files = _files(Path(source))
    if not files:
        raise EvaluationError(f"{source} holds no words: neither STM, CTM nor JSON files")
    recordings: dict[str, list[Word]] = {}
    home: dict[str, Path] = {}
    for file in files:
        try:
            text = file.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise EvaluationError(f"{file} cannot be read: {error}") from error
        for name, words in _READERS[file.suffix.lower()](file, text).items():
            if name in recordings:
                raise EvaluationError(f"{name} has words in {home[name]} and in {file}")
            recordings[name] = sorted(words, key=lambda word: (word.start, word.end))
            home[name] = file
    return recordings


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    by_suffix: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        by_suffix.setdefault(file.suffix.lower(), []).append(file)
    if _TURNS & by_suffix.keys():
        return []  # a folder of turns, or a dataset, whose JSON is about something else
    return [file for suffix in SUFFIXES for file in by_suffix.get(suffix, ())]


def _read_stm(file: Path, text: str) -> dict[str, list[Word]]:
    found: dict[str, list[Word]] = {}
    for number, line in _lines(text):
        try:
            name, _, speaker, start, end, *rest = line.split(maxsplit=5)
            times = _times(float(start), float(end))
        except ValueError as error:
            raise EvaluationError(f"{file}, line {number} is not STM: {line!r}") from error
        said = rest[0] if rest else ""
        if said.startswith("<"):  # a label of conditions, such as <o,f0,male>
            said = said.partition(">")[2]
        words = found.setdefault(name, [])
        if said.strip().casefold() != _IGNORED:
            words += spread(*times, speaker, said)
    return found


def _read_ctm(file: Path, text: str) -> dict[str, list[Word]]:
    found: dict[str, list[Word]] = {}
    for number, line in _lines(text):
        try:
            name, channel, start, duration, word, *_ = line.split()
            times = _times(float(start), float(start) + float(duration))
        except ValueError as error:
            raise EvaluationError(f"{file}, line {number} is not CTM: {line!r}") from error
        found.setdefault(name, []).extend(spread(*times, channel, word))
    return found


def _lines(text: str) -> Iterable[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith(";;"):
            yield number, line


def _times(start: float, end: float) -> tuple[float, float]:
    if not (math.isfinite(start) and math.isfinite(end) and start <= end):
        raise ValueError(f"{start} to {end} is no time")
    return start, end


def _read_json(file: Path, text: str) -> dict[str, list[Word]]:
    try:
        document = json.loads(text)
    except ValueError as error:
        raise EvaluationError(f"{file} is not JSON: {error}") from error
    return _from_entries(file, document)


def _read_json_lines(file: Path, text: str) -> dict[str, list[Word]]:
    entries = []
    for number, line in _lines(text):
        try:
            entries.append(json.loads(line))
        except ValueError as error:
            raise EvaluationError(f"{file}, line {number} is not JSON: {error}") from error
    return _from_entries(file, entries)


def _from_entries(file: Path, document: Any) -> dict[str, list[Word]]:
    name = file.stem
    if isinstance(document, Mapping):
        name = _named(document, name)
        entries = next((document[key] for key in _LISTS if key in document), None)
    else:
        entries = document
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise EvaluationError(f"{file} has no list of utterances: none of {', '.join(_LISTS)}")
    found: dict[str, list[Word]] = {}
    if isinstance(document, Mapping):
        found[name] = []  # also where nothing was said
    for number, entry in enumerate(entries):
        try:
            words = _of_entry(entry, None)
        except (KeyError, TypeError, ValueError) as error:
            raise EvaluationError(
                f"{file}, entry {number} has no start, end, speaker and text: {error}"
            ) from error
        found.setdefault(_named(entry, name), []).extend(words)
    return found


def _named(entry: Mapping, default: str) -> str:
    return next((str(entry[key]) for key in _NAMES if entry.get(key)), default)


def _of_entry(entry: Mapping, speaker: str | None) -> list[Word]:
    """Words of an utterance or a word; those of an utterance that say less inherit its speaker."""
    if not isinstance(entry, Mapping):
        raise TypeError(f"{entry!r} is no object")
    who = entry.get("speaker")
    speaker = speaker if who is None else str(who)
    nested = entry.get("words")
    if isinstance(nested, list):
        return [word for each in nested for word in _of_entry(each, speaker)]
    said = next((entry[key] for key in ("text", "words", "word") if key in entry), None)
    if speaker is None or said is None:
        raise KeyError("speaker" if speaker is None else "text")
    start, end = (
        float(entry[short] if short in entry else entry[f"{short}_time"])
        for short in ("start", "end")
    )
    return spread(*_times(start, end), speaker, str(said))


_READERS: dict[str, Callable[[Path, str], dict[str, list[Word]]]] = {
    ".stm": _read_stm,
    ".ctm": _read_ctm,
    ".json": _read_json,
    ".jsonl": _read_json_lines,
}
