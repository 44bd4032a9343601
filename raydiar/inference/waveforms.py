"""Audio: recordings and excerpts as float waveforms, at any rate, with any number of channels."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyannote.core import Segment

from raydiar import audio
from raydiar.audio.native import decode_native
from raydiar.errors import ConfigError, EmptyAudio, InvalidSamples
from raydiar.keywords import check_binary, check_number, known_keywords
from raydiar.naming import recording_name

AudioFile = Any
"""A path, URI or open file; or a mapping with "audio" (one of these), or with "waveform", a
(channel, time) tensor or array, and "sample_rate"; optionally with "channel", counted from 0."""


class Audio:
    """Reads recordings.

    Parameters
    ----------
    sample_rate : int, optional
        Hz to resample to; by default the recording's own.
    mono : str, optional
        "downmix" for the mean of all channels, "random" for one of them; by default all stay.
    """

    @known_keywords
    def __init__(self, sample_rate: int | None = None, mono: str | None = None):
        if mono not in (None, "downmix", "random"):
            raise ConfigError(f'mono must be "downmix", "random" or None, not {mono!r}')
        if sample_rate is not None:
            check_number("sample_rate", sample_rate, above=True)
        self.sample_rate = sample_rate
        self.mono = mono

    def __call__(self, file: AudioFile) -> tuple[torch.Tensor, int]:
        """Read all of a recording.

        Returns
        -------
        waveform : (num_channels, num_samples) float32 tensor
        sample_rate : int, Hz

        Raises
        ------
        InvalidSamples
            A waveform of another shape, or one that holds NaN.
        AudioDecodeError, AudioNotFound, StorageDenied, StorageUnavailable
        """
        file = self.validate_file(file)
        if "waveform" not in file and (self.sample_rate, self.mono) == (16000, "downmix"):
            samples = audio.decode(file["audio"], channel=file.get("channel"))
            return torch.from_numpy(samples.astype(np.float32) / 32768)[None], 16000
        waveform, sample_rate = self._native(file)
        return self.downmix_and_resample(waveform, sample_rate)

    def crop(
        self, file: AudioFile, segment: Segment, mode: str = "raise"
    ) -> tuple[torch.Tensor, int]:
        """Read an excerpt, of exactly as many samples as `get_num_samples` says.

        Parameters
        ----------
        file : path, URI, open file, or mapping
        segment : Segment
            In seconds.
        mode : str
            What to do where the excerpt reaches past the ends of the recording: "raise", or
            "pad" with zeros.

        Raises
        ------
        ConfigError
            An excerpt past the ends and `mode` "raise", or an empty one.
        InvalidSamples, AudioDecodeError, AudioNotFound, StorageDenied, StorageUnavailable
        """
        if mode not in ("raise", "pad"):
            raise ConfigError(f'mode must be "raise" or "pad", not {mode!r}')
        if not isinstance(segment, Segment):
            raise ConfigError(f"an excerpt is a Segment(start, end), not {segment!r}")
        if not segment:
            raise ConfigError(f"there is nothing in {segment}: an excerpt has start < end")
        file = self.validate_file(file)
        if "waveform" not in file and (self.sample_rate, self.mono) == (16000, "downmix"):
            waveform, sample_rate = self._decoded(file, segment), 16000
            first = max(0, round(segment.start * sample_rate))
        else:
            waveform, sample_rate = self._native(file)
            first = 0
        start, stop = (round(edge * sample_rate) - first for edge in (segment.start, segment.end))
        before, after = max(0, -start), max(0, stop - waveform.shape[1])
        if mode == "raise" and (before or after > 1):
            raise ConfigError(
                f"{segment} reaches past the ends of {file['uri']}: pass mode='pad' for zeros there"
            )
        waveform = waveform[:, max(0, start) : max(0, stop)]
        missing = stop - start - waveform.shape[1]
        before = min(before, missing)
        waveform = torch.nn.functional.pad(waveform, (before, missing - before))
        wanted = round(segment.duration * sample_rate)
        waveform = torch.nn.functional.pad(waveform, (0, max(0, wanted - waveform.shape[1])))
        return self.downmix_and_resample(waveform[:, :wanted], sample_rate)

    def get_duration(self, file: AudioFile) -> float:
        """Seconds: of a file those that its header states, where it does."""
        file = self.validate_file(file)
        if "waveform" in file:
            return file["waveform"].shape[1] / file["sample_rate"]
        duration = audio.probe(file["audio"]).duration
        if duration is None:
            waveform, sample_rate = self._native(file)
            duration = waveform.shape[1] / sample_rate
        return duration

    def get_num_samples(self, duration: float, sample_rate: int | None = None) -> int:
        """Samples of so many seconds, at this reader's rate unless another is given.

        Raises
        ------
        ConfigError
            There is neither.
        """
        sample_rate = sample_rate or self.sample_rate
        if sample_rate is None:
            raise ConfigError("pass `sample_rate`: this Audio keeps that of each recording")
        return round(duration * sample_rate)

    def downmix_and_resample(
        self, waveform: torch.Tensor, sample_rate: int
    ) -> tuple[torch.Tensor, int]:
        """What this reader does with a (num_channels, num_samples) waveform."""
        if waveform.shape[0] > 1 and self.mono == "downmix":
            waveform = waveform.mean(dim=0, keepdim=True)
        elif waveform.shape[0] > 1 and self.mono == "random":
            waveform = waveform[[random.randrange(waveform.shape[0])]]
        if self.sample_rate is not None and sample_rate != self.sample_rate:
            from torchaudio.functional import resample

            waveform = resample(waveform, sample_rate, self.sample_rate)
            sample_rate = self.sample_rate
        return waveform, sample_rate

    @staticmethod
    def power_normalize(waveform: torch.Tensor) -> torch.Tensor:
        """The same at a root mean square of 1."""
        return waveform / (waveform.square().mean(dim=-1, keepdim=True).sqrt() + 1e-8)

    @staticmethod
    def validate_file(file: AudioFile) -> dict[str, Any]:
        """A mapping with "uri", and with either "waveform" and "sample_rate" or "audio".

        Raises
        ------
        InvalidSamples
            A waveform that is not (channel, time), or without sample rate.
        ConfigError
            A sample rate that is none, or an excerpt.
        TypeError
            Neither path, open file nor mapping.
        """
        if isinstance(file, str | Path):
            return {"audio": file, "uri": recording_name(file)}
        if hasattr(file, "read"):
            check_binary(file)
            return {"audio": file, "uri": "stream"}
        if not isinstance(file, Mapping):
            raise TypeError(
                f"cannot read a {type(file).__name__}: pass a path, a URI, a binary file, or a "
                'mapping with "audio" or "waveform"'
            )
        checked = dict(file)
        if checked.get("start"):
            raise ConfigError(
                'an excerpt is read with crop(file, Segment(start, end)), not by a "start"'
            )
        if "waveform" not in checked:
            if "audio" not in checked:
                raise TypeError('a mapping needs "audio" or "waveform"')
            return {"uri": Audio.validate_file(checked["audio"])["uri"], **checked}
        if "sample_rate" not in checked:
            raise InvalidSamples('a "waveform" needs its "sample_rate" in Hz')
        check_number("sample_rate", checked["sample_rate"], above=True)
        try:
            waveform = torch.as_tensor(checked["waveform"])
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidSamples(f"the waveform cannot be read as a tensor: {error}") from error
        if waveform.ndim != 2 or waveform.shape[0] > max(1, waveform.shape[1]):
            raise InvalidSamples(
                f"a waveform has the shape (num_channels, num_samples), not {tuple(waveform.shape)}"
            )
        if waveform.numel() == 0:
            raise EmptyAudio("the waveform has no samples")
        if not waveform.is_floating_point():
            if waveform.dtype != torch.int16:
                raise InvalidSamples(f"a waveform is of floats or int16, not {waveform.dtype}")
            waveform = waveform.float() / 32768
        if not waveform.isfinite().all():
            raise InvalidSamples("the waveform holds NaN or infinity among its samples")
        return {"uri": "waveform", **checked, "waveform": waveform.detach().float()}

    def _native(self, file: dict[str, Any]) -> tuple[torch.Tensor, int]:
        if "waveform" in file:
            waveform, sample_rate = file["waveform"], file["sample_rate"]
        else:
            samples, sample_rate = decode_native(file["audio"])
            if hasattr(file["audio"], "seek"):
                file["audio"].seek(0)  # an open file may be read again
            waveform = torch.from_numpy(samples)
        channel = audio.channel_index(file.get("channel"))
        if channel is not None:
            if channel >= len(waveform):
                raise ConfigError(f"there is no channel {channel} in {file['uri']}")
            waveform = waveform[[channel]]
        return waveform, sample_rate

    def _decoded(self, file: dict[str, Any], segment: Segment) -> torch.Tensor:
        """Of a file only what is asked for, as far as there is any."""
        try:
            samples = audio.decode(
                file["audio"],
                start=max(0.0, segment.start),
                duration=max(segment.end - max(0.0, segment.start), 1e-6),
                channel=file.get("channel"),
            )
        except EmptyAudio:
            samples = np.zeros(0, np.int16)
        return torch.from_numpy(samples.astype(np.float32) / 32768)[None]
