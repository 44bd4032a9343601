"""Every form in which turns are written, in one table: `FORMATS`.

A format writes any number of recordings to a text file, as they come. One whose files cannot say
which recording a line is of (`several` is False) takes a single one.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TextIO
from xml.sax.saxutils import escape

from raydiar.errors import ConfigError
from raydiar.picture import clock

if TYPE_CHECKING:
    from raydiar.diarization import Diarization

CSV_COLUMNS = ("uri", "start", "end", "speaker", "confidence")


@dataclass(frozen=True)
class Format:
    """One form of turns.

    Attributes
    ----------
    name : str
        What people type.
    suffix : str
        Of files that hold it.
    several : bool
        Whether a file can hold more than one recording.
    about : str
    """

    name: str
    suffix: str
    several: bool
    about: str
    _write: Callable[[Iterator[Diarization], TextIO], None]

    def write(self, diarizations: Iterable[Diarization], file: TextIO) -> None:
        """Write recordings to an open text file, each as soon as it comes.

        Raises
        ------
        ConfigError
            More than one recording, and the format takes a single one.
        ValueError
            A name or label that the format cannot express.
        """
        diarizations = iter(diarizations)
        self._write(diarizations if self.several else self._single(diarizations), file)

    def _single(self, diarizations: Iterator[Diarization]) -> Iterator[Diarization]:
        yield from [first] if (first := next(diarizations, None)) is not None else ()
        if next(diarizations, None) is not None:
            self.check_several()

    def check_several(self) -> None:
        """
        Raises
        ------
        ConfigError
            If it takes a single recording only.
        """
        if not self.several:
            raise ConfigError(
                f"{self.name} cannot tell recordings apart: write a file for each (--into DIR)"
            )

    def text(self, diarization: Diarization) -> str:
        """One recording in this form."""
        from io import StringIO

        file = StringIO()
        self.write([diarization], file)
        return file.getvalue()


def document(diarization: Diarization) -> dict:
    """One recording as the JSON form has it.

    pyannote.audio's own (`Diarization.serialize`), with a `confidence` in each turn where it is
    known, and how long the recording is and each speaker speaks beside it.
    """
    content = {"uri": diarization.uri, "duration": round(diarization.duration, 3)}
    content |= diarization.serialize(confidence=True)
    content["speakers"] = [
        {"speaker": speaker.speaker, "speech_seconds": round(speaker.speech_seconds, 3)}
        for speaker in diarization.speakers
    ]
    if diarization.warnings:
        content["warnings"] = list(diarization.warnings)
    return content


def table(diarization: Diarization) -> str:
    """Turns and speakers as a terminal shows them."""
    d = diarization
    noun = "speaker" if d.num_speakers == 1 else "speakers"
    lines = [f"{d.uri}: {d.num_speakers} {noun} in {clock(d.duration, d.duration, 1)}"]
    if not d.turns:
        return lines[0]
    longest = max(d.duration, max(turn.end for turn in d.turns))
    rows = [
        (
            clock(turn.start, longest, 2),
            clock(turn.end, longest, 2),
            f"{turn.duration:.2f} s",
            turn.speaker,
            "" if turn.confidence is None else f"{turn.confidence:.2f}",
        )
        for turn in d.turns
    ]
    head, sides = ("start", "end", "duration", "speaker", "confidence"), "rrrlr"
    if all(turn.confidence is None for turn in d.turns):
        head, rows = head[:-1], [row[:-1] for row in rows]
    lines += ["", *_columns(head, rows, sides[: len(head)])]
    speech = sum(speaker.speech_seconds for speaker in d.speakers) or 1.0
    rows = [
        (
            speaker.speaker,
            str(sum(turn.speaker == speaker.speaker for turn in d.turns)),
            clock(speaker.speech_seconds, longest, 2),
            f"{100 * speaker.speech_seconds / speech:.0f} %",
        )
        for speaker in d.speakers
    ]
    lines += ["", *_columns(("speaker", "turns", "speech", "share"), rows, "lrrr")]
    return "\n".join(lines)


def _columns(head: tuple[str, ...], rows: list[tuple[str, ...]], sides: str) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in chain([head], rows):
        cells = [
            cell.ljust(width) if side == "l" else cell.rjust(width)
            for cell, width, side in zip(row, widths, sides, strict=True)
        ]
        yield "  ".join(cells).rstrip()


# -- one function a format ---------------------------------------------------------------------


def _write_rttm(diarizations: Iterator[Diarization], file: TextIO) -> None:
    for diarization in diarizations:
        diarization.write_rttm(file)
        file.flush()


def _write_json(diarizations: Iterator[Diarization], file: TextIO) -> None:
    documents = [document(diarization) for diarization in diarizations]
    json.dump(documents[0] if len(documents) == 1 else documents, file, indent=2)
    file.write("\n")


def _write_csv(diarizations: Iterator[Diarization], file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for diarization in diarizations:
        writer.writerows(diarization.csv_rows())
        file.flush()


def _write_lab(diarizations: Iterator[Diarization], file: TextIO) -> None:
    for diarization in diarizations:
        for turn in diarization.turns:
            label = _without("lab", turn.speaker, r"\s")
            file.write(f"{turn.start:.3f} {turn.end:.3f} {label}\n")


def _write_audacity(diarizations: Iterator[Diarization], file: TextIO) -> None:
    for diarization in diarizations:
        for turn in diarization.turns:
            label = _without("audacity", turn.speaker, r"[\t\r\n]")
            file.write(f"{turn.start:.6f}\t{turn.end:.6f}\t{label}\n")


def _write_vtt(diarizations: Iterator[Diarization], file: TextIO) -> None:
    file.write("WEBVTT\n")
    for diarization in diarizations:
        for turn in diarization.turns:
            label = escape(_without("vtt", turn.speaker, r"[\r\n]"))
            start, end = _vtt_time(turn.start), _vtt_time(turn.end)
            file.write(f"\n{start} --> {end}\n<v {label}>{label}</v>\n")


def _write_txt(diarizations: Iterator[Diarization], file: TextIO) -> None:
    for number, diarization in enumerate(diarizations):
        file.write(("\n\n" if number else "") + table(diarization) + "\n")
        file.flush()


def _vtt_time(seconds: float) -> str:
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"


def _without(name: str, label: str, forbidden: str) -> str:
    if re.search(forbidden, label) or not label:
        raise ValueError(f"{name} cannot hold the label {label!r}: rename the speaker")
    return label


FORMATS = {
    format.name: format
    for format in (
        Format("rttm", ".rttm", True, "NIST's, which scoring tools read", _write_rttm),
        Format("json", ".json", True, "pyannote's, with confidences", _write_json),
        Format("csv", ".csv", True, "a row per turn", _write_csv),
        Format("lab", ".lab", False, "start, end, label: as HTK and its kin read", _write_lab),
        Format("audacity", ".labels.txt", False, "a label track of Audacity", _write_audacity),
        Format("vtt", ".vtt", False, "WebVTT, to see speakers in a player", _write_vtt),
        Format("txt", ".txt", True, "a table for people", _write_txt),
    )
}
"""By name; `raydiar diarize --format` takes these."""
