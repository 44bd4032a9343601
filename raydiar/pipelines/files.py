"""What a user may hand to a pipeline, and the samples in it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raydiar import audio
from raydiar.errors import InvalidSamples


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
    """

    uri: str
    original: Any
    source: Any = None
    waveform: Any = None
    sample_rate: int | None = None
    channel: int | str | None = None
    start: float = 0.0
    duration: float | None = None

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
        TypeError
            Anything else.
        """
        if not isinstance(file, Mapping):
            return cls(uri=_name(file), original=file, source=file)
        part = {
            "channel": file.get("channel"),
            "start": file.get("start") or 0.0,
            "duration": file.get("duration"),
        }
        if "waveform" in file:
            if "sample_rate" not in file:
                raise InvalidSamples('a "waveform" needs its "sample_rate" in Hz')
            return cls(
                uri=file.get("uri", "waveform"),
                original=file,
                waveform=file["waveform"],
                sample_rate=file["sample_rate"],
                **part,
            )
        if "audio" not in file:
            raise TypeError('a mapping needs "audio" or "waveform"')
        source = file["audio"]
        return cls(file.get("uri") or _name(source), file, source=source, **part)

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


def _name(source) -> str:
    if isinstance(source, str | os.PathLike):
        return PurePosixPath(str(source)).stem or str(source)
    if isinstance(source, io.IOBase) or hasattr(source, "read"):
        name = getattr(source, "name", None)
        return PurePosixPath(name).stem if isinstance(name, str) else "stream"
    raise TypeError(
        f"cannot diarize a {type(source).__name__}: pass a path, a URI, a binary file, or a "
        'mapping with "audio" or "waveform"'
    )
