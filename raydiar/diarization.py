"""Diarization: the answer to "who spoke when" for one recording, and its formats.

Plain data first: turns and speakers are tuples of frozen dataclasses, so that a result can cross
a process boundary or become a Parquet row without pyannote.core, which is imported only when an
Annotation is asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from raydiar.formats import table
from raydiar.picture import draw_svg

if TYPE_CHECKING:
    import pandas
    from pyannote.core import Annotation, Timeline


@dataclass(frozen=True)
class Turn:
    """One uninterrupted stretch of one speaker; `start` and `end` in seconds.

    `confidence` is the mean posterior of the speaker being active over the turn, None if unknown
    (a turn read from a label file).
    """

    start: float
    end: float
    speaker: str
    confidence: float | None = None

    @property
    def duration(self) -> float:
        return self.end - self.start


@dataclass(frozen=True)
class Speaker:
    """One speaker of a recording and the voiceprint made of its local embeddings.

    Attributes
    ----------
    speaker : str
        Label, as in the turns.
    speech_seconds : float
        Total duration of its turns.
    embedding_seconds : float
        Speech without overlap behind the voiceprint.
    num_embeddings : int
        Local embeddings behind the voiceprint.
    embedding : (dimension,) float32 or None
        Raw mean embedding, not normalised; None when the speaker never spoke long enough alone.
    """

    speaker: str
    speech_seconds: float
    embedding_seconds: float
    num_embeddings: int
    embedding: np.ndarray | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Diarization:
    """Speaker diarization of one recording.

    Attributes
    ----------
    uri : str
    duration : float
        Seconds processed.
    turns : tuple of Turn
        Sorted by start, then end; turns of different speakers may overlap.
    exclusive_turns : tuple of Turn
        The same with at most one speaker at a time.
    speakers : tuple of Speaker
        Sorted by label.
    clustering : str
        "exact" or "two-level" (see `raydiar.clustering.resolve`).
    warnings : tuple of str
        What the caller should know, e.g. more speakers asked for than there are voices.
    dimension : int
        Of the voiceprints, where it is known; also where there are none.
    """

    uri: str
    duration: float
    turns: tuple[Turn, ...] = ()
    exclusive_turns: tuple[Turn, ...] = ()
    speakers: tuple[Speaker, ...] = ()
    clustering: str = "exact"
    warnings: tuple[str, ...] = ()
    dimension: int = 0

    @property
    def num_speakers(self) -> int:
        return len(self.speakers)

    def labels(self) -> list[str]:
        return [speaker.speaker for speaker in self.speakers]

    @cached_property
    def speaker_diarization(self) -> Annotation:
        """Turns as a pyannote.core Annotation; iterating yields (Segment, speaker)."""
        return _annotation(self.uri, self.turns)

    @cached_property
    def exclusive_speaker_diarization(self) -> Annotation:
        return _annotation(self.uri, self.exclusive_turns)

    def itertracks(self, yield_label: bool = False) -> Iterator[tuple]:
        """As of `speaker_diarization`, for those who have one of pyannote.audio 3 in mind."""
        return self.speaker_diarization.itertracks(yield_label=yield_label)

    def get_timeline(self, copy: bool = True) -> Timeline:
        """As of `speaker_diarization`."""
        return self.speaker_diarization.get_timeline(copy=copy)

    def __getattr__(self, name: str):
        """Any other method of an Annotation, as of a copy of `speaker_diarization`."""
        # So that metrics take a Diarization, and scripts of pyannote.audio 3 go on.
        if not name.startswith("_"):
            from pyannote.core import Annotation

            if callable(getattr(Annotation, name, None)):
                return getattr(self.speaker_diarization.copy(), name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __mul__(self, other: Annotation) -> np.ndarray:
        """Seconds that each label shares with each of another's, as of Annotations."""
        return self.speaker_diarization * other

    @cached_property
    def speaker_embeddings(self) -> np.ndarray:
        """(num_speakers, dimension) float32 in the order of `labels()`; zeros where unknown.

        Zeros rather than NaN, as pyannote.audio pads: a cosine with them is never a match.
        """
        known = [s.embedding for s in self.speakers if s.embedding is not None]
        dimension = len(known[0]) if known else self.dimension
        return (
            np.stack(
                [
                    np.zeros(dimension, np.float32) if s.embedding is None else s.embedding
                    for s in self.speakers
                ]
            )
            if self.speakers
            else np.zeros((0, dimension), np.float32)
        )

    def shifted(self, seconds: float) -> Diarization:
        """The same on a timeline that starts `seconds` earlier: an excerpt placed in its file."""
        if not seconds:
            return self

        def move(turns):
            return tuple(
                replace(turn, start=turn.start + seconds, end=turn.end + seconds) for turn in turns
            )

        return replace(self, turns=move(self.turns), exclusive_turns=move(self.exclusive_turns))

    def __str__(self) -> str:
        return table(self)

    def _repr_pretty_(self, printer, cycle: bool) -> None:
        printer.text(str(self))  # IPython in a terminal

    def _repr_svg_(self) -> str:
        return draw_svg([self])

    def _repr_html_(self) -> str:
        # Inside the page, where pointing at a bar tells its times.
        return f'<div style="overflow-x: auto">{draw_svg([self])}</div>'

    # -- formats ---------------------------------------------------------------------------

    def write_rttm(self, file: TextIO, exclusive: bool = False) -> None:
        """Write RTTM lines (NIST format) to an open text file.

        Raises
        ------
        ValueError
            If the uri or a label holds white space, which RTTM cannot express.
        """
        file.writelines(self._rttm_lines(exclusive))

    def to_rttm(self, exclusive: bool = False) -> str:
        return "".join(self._rttm_lines(exclusive))

    def _rttm_lines(self, exclusive: bool) -> Iterator[str]:
        for turn in self.exclusive_turns if exclusive else self.turns:
            for field_ in (self.uri, turn.speaker):
                if re.search(r"\s", field_) or not field_:
                    raise ValueError(
                        f"RTTM cannot hold {field_!r}: empty or with white space; "
                        "set another `uri` or rename the speaker"
                    )
            yield (
                f"SPEAKER {self.uri} 1 {turn.start:.3f} {turn.duration:.3f} "
                f"<NA> <NA> {turn.speaker} <NA> <NA>\n"
            )

    def csv_rows(self, exclusive: bool = False) -> Iterator[tuple[str, ...]]:
        """A row of `raydiar.formats.CSV_COLUMNS` per turn, times in seconds to the millisecond."""
        for turn in self.exclusive_turns if exclusive else self.turns:
            confidence = "" if turn.confidence is None else f"{turn.confidence:.3f}"
            yield self.uri, f"{turn.start:.3f}", f"{turn.end:.3f}", turn.speaker, confidence

    def serialize(self, confidence: bool = False) -> dict:
        """JSON-able dict in pyannote.audio's form: `diarization` and `exclusive_diarization`.

        Parameters
        ----------
        confidence : bool
            Add the confidence, from 0 to 1, to each turn that has one.
        """

        def listed(turns):
            return [
                {"start": round(t.start, 3), "end": round(t.end, 3), "speaker": t.speaker}
                | (
                    {"confidence": round(t.confidence, 3)}
                    if confidence and t.confidence is not None
                    else {}
                )
                for t in turns
            ]

        return {
            "diarization": listed(self.turns),
            "exclusive_diarization": listed(self.exclusive_turns),
        }

    def to_json(self) -> str:
        """Everything there is, voiceprints and confidences included, as a JSON document."""
        document = asdict(self)
        for speaker, source in zip(document["speakers"], self.speakers, strict=True):
            if source.embedding is not None:
                speaker["embedding"] = source.embedding.tolist()
        return json.dumps(document, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Diarization:
        document = json.loads(text)
        for name in ("turns", "exclusive_turns"):
            document[name] = tuple(Turn(**turn) for turn in document[name])
        speakers = []
        for speaker in document["speakers"]:
            if speaker["embedding"] is not None:
                speaker["embedding"] = np.asarray(speaker["embedding"], np.float32)
            speakers.append(Speaker(**speaker))
        document["speakers"] = tuple(speakers)
        document["warnings"] = tuple(document["warnings"])
        return cls(**document)

    def to_dataframe(self, exclusive: bool = False) -> pandas.DataFrame:
        """One row per turn: uri, start, end, duration, speaker, confidence."""
        import pandas

        turns = self.exclusive_turns if exclusive else self.turns
        rows = [(self.uri, t.start, t.end, t.duration, t.speaker, t.confidence) for t in turns]
        columns = ["uri", "start", "end", "duration", "speaker", "confidence"]
        return pandas.DataFrame(rows, columns=columns)

    def plot(self, ax=None):
        """Draw the turns, one line per speaker, on a matplotlib axis (made when not given)."""
        if ax is None:
            import matplotlib.pyplot as plt

            _, ax = plt.subplots(figsize=(12, 0.5 + 0.4 * max(1, self.num_speakers)))
        for row, label in enumerate(self.labels()):
            bars = [(t.start, t.duration) for t in self.turns if t.speaker == label]
            ax.broken_barh(bars, (row - 0.4, 0.8), color=f"C{row % 10}")
        ax.set_yticks(range(self.num_speakers), self.labels())
        ax.set_xlim(0, self.duration or 1.0)
        ax.invert_yaxis()
        ax.set_xlabel("time (s)")
        return ax


def read_rttm(path: str | Path) -> dict[str, Diarization]:
    """Read an RTTM file into one Diarization per uri (turns only: RTTM holds no more).

    Raises
    ------
    ValueError
        Naming the line that is not RTTM.
    """
    turns: dict[str, list[Turn]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split()
        if not parts or parts[0] != "SPEAKER":
            continue
        try:
            start, duration = float(parts[3]), float(parts[4])
            turn = Turn(start, start + duration, parts[7])
            if not 0 <= start <= turn.end < math.inf:
                raise ValueError("a time that is none")
        except (IndexError, ValueError) as error:
            raise ValueError(f"{path}, line {number} is not RTTM: {line!r}") from error
        turns.setdefault(parts[1], []).append(turn)
    return {uri: from_turns(uri, found) for uri, found in turns.items()}


def from_turns(uri: str, turns: Iterable[Turn], duration: float | None = None) -> Diarization:
    """A Diarization that knows only turns, e.g. read from a label file."""
    ordered = tuple(sorted(turns, key=lambda t: (t.start, t.end, t.speaker)))
    seconds: dict[str, float] = {}
    for turn in ordered:
        seconds[turn.speaker] = seconds.get(turn.speaker, 0.0) + turn.duration
    return Diarization(
        uri=uri,
        duration=max((t.end for t in ordered), default=0.0) if duration is None else duration,
        turns=ordered,
        speakers=tuple(Speaker(label, seconds[label], 0.0, 0) for label in sorted(seconds)),
    )


def _annotation(uri: str, turns: Iterable[Turn]) -> Annotation:
    from pyannote.core import Annotation, Segment

    annotation = Annotation(uri=uri)
    for track, turn in enumerate(turns):
        annotation[Segment(turn.start, turn.end), track] = turn.speaker
    return annotation
