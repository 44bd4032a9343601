"""What a user may hand to a pipeline, and the samples in it."""

from __future__ import annotations

import io
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np

from raydiar import audio
from raydiar.errors import ConfigError, InvalidSamples
from raydiar.keywords import check_binary
from raydiar.naming import distinct_names, recording_name


@dataclass(frozen=True)
class AudioFile:
    """One recording as given: a path, URI or file object, or a waveform in memory.

    Attributes
    ----------
    uri : str
        Name of the recording in RTTM and JSON.
    original : object
        What the caller passed.
    start, duration : float, seconds
        Excerpt to process; everything by default.
    named : bool
        Whether the caller gave the name.
    mapping : Mapping
        What the caller gave beside the recording itself, e.g. its "annotation".
    decoded : (samples, warnings), optional
        What `samples` gives, where that is known already.
    """

    uri: str
    original: Any
    source: Any = None
    waveform: Any = None
    sample_rate: int | None = None
    channel: int | str | None = None
    start: float = 0.0
    duration: float | None = None
    named: bool = False
    mapping: Mapping = field(default_factory=dict, repr=False)
    decoded: tuple[np.ndarray, tuple[str, ...]] | None = field(default=None, repr=False)

    def __post_init__(self):
        check_excerpt(self.start, self.duration, self.uri)

    @classmethod
    def of(cls, file) -> AudioFile:
        """
        Parameters
        ----------
        file : str, Path, binary file, or mapping
            A mapping has "audio" (path, URI or file) or "waveform", a (channel, time) tensor or
            array with "sample_rate" in Hz; and optionally "uri", "channel", and the "start" and
            "duration" in seconds of an excerpt.

        Raises
        ------
        ConfigError
            If there can be no such excerpt.
        TypeError
            Anything else.
        """
        if not isinstance(file, Mapping):
            return cls(uri=_name(file), original=file, source=file)
        part = {
            "original": file,
            "mapping": file,
            "channel": file.get("channel"),
            "start": file.get("start") or 0.0,
            "duration": file.get("duration"),
            "named": bool(file.get("uri")),
        }
        if "waveform" in file:
            if "sample_rate" not in file:
                raise InvalidSamples('a "waveform" needs its "sample_rate" in Hz')
            return cls(
                uri=file.get("uri") or "waveform",
                waveform=file["waveform"],
                sample_rate=file["sample_rate"],
                **part,
            )
        if "audio" not in file:
            raise TypeError('a mapping needs "audio" or "waveform"')
        source = file["audio"]
        return cls(uri=file.get("uri") or _name(source), source=source, **part)

    def preloaded(self) -> AudioFile:
        """The same with its samples in memory, which hooks find as "waveform" of `mapping`.

        Raises
        ------
        AudioDecodeError, InvalidSamples, RecordingTooLong
        """
        warnings: list[str] = []
        samples = self.samples(warnings)
        loaded = {"uri": self.uri, "waveform": samples[None], "sample_rate": audio.SAMPLE_RATE}
        return replace(self, decoded=(samples, tuple(warnings)), mapping={**self.mapping, **loaded})

    def samples(self, warnings: list[str]) -> np.ndarray:
        """16 kHz mono: int16 from files, and what the caller gave from memory.

        What the user should know of the recording is added to `warnings`.

        Returns
        -------
        samples : (num_samples,) int16 or float32

        Raises
        ------
        AudioDecodeError, InvalidSamples, RecordingTooLong
        """
        if self.decoded is not None:
            samples, known = self.decoded
            warnings += known
            return samples
        if self.waveform is not None:
            return audio.prepare_waveform(
                self.waveform,
                self.sample_rate,
                channel=self.channel,
                start=self.start,
                duration=self.duration,
                warnings=warnings,
            )
        return audio.decode(
            self.source,
            channel=self.channel,
            start=self.start,
            duration=self.duration,
            warnings=warnings,
        )


def check_excerpt(start: float, duration: float | None, label: str = "an excerpt") -> None:
    """
    Raises
    ------
    ConfigError
        Unless start is 0 s or more, and the duration, where one is given, more than 0 s.
    """
    try:
        fine = 0 <= start < math.inf and (duration is None or duration > 0)
    except TypeError:
        fine = False
    if not fine:
        raise ConfigError(
            f"{label}: an excerpt has a start of 0 s or more and a duration above 0 s, "
            f"not start={start!r} and duration={duration!r}"
        )


def with_distinct_names(files: Sequence[AudioFile]) -> list[AudioFile]:
    """The same files; those of one name that their caller did not give are told apart.

    Raises
    ------
    ConfigError
        If the caller gave two of them one name, or one file twice.
    """
    times = Counter(file.uri for file in files)
    clashing = [file for file in files if times[file.uri] > 1 and not file.named]
    taken = [file.uri for file in files if times[file.uri] == 1 or file.named]
    labels = [_label(file) for file in clashing]
    twice = [name for name, count in Counter(taken).items() if count > 1]
    twice += [recording_name(label) for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ConfigError(
            f"two recordings are named {twice[0]!r}: give mappings with different 'uri'"
        )
    names = iter(distinct_names(labels))
    distinct = []
    for file in files:
        if times[file.uri] > 1 and not file.named:
            name = stem = next(names)
            for number in count(2):
                if name not in taken:
                    break
                name = f"{stem}-{number}"
            taken.append(name)
            file = replace(file, uri=name)
        distinct.append(file)
    return distinct


def _label(file: AudioFile) -> str:
    """The path or URI of a file, or what else tells it from others."""
    if isinstance(file.source, str | os.PathLike):
        return os.fspath(file.source)
    return f"{file.uri}-{id(file.original):x}" if file.source is None else file.uri


def _name(source) -> str:
    if isinstance(source, str | os.PathLike):
        return recording_name(source)
    if isinstance(source, io.IOBase) or hasattr(source, "read"):
        check_binary(source)
        name = getattr(source, "name", None)
        return recording_name(name) if isinstance(name, str) else "stream"
    raise TypeError(
        f"cannot diarize a {type(source).__name__}: pass a path, a URI, a binary file, or a "
        'mapping with "audio" or "waveform"'
    )
