"""A simulated recording with its labels, and what is drawn for one."""

import wave
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from raydiar.audio import SAMPLE_RATE
from raydiar.diarization import Diarization, Turn, from_turns
from raydiar.errors import ConfigError


@dataclass(frozen=True)
class SimulationParameters:
    """What is drawn for a conversation: ranges are inclusive, draws uniform.

    Attributes
    ----------
    duration : (float, float), seconds
    speakers : (int, int)
        How many people speak; of no effect where the caller names them.
    min_speech : float, seconds
        That each of them has turns for.
    level : (float, float), dB
        Of a speaker's voice, relative to the others'.
    reverb_probability, noise_probability : float
        That the conversation takes place in one of the rooms, or with one of the noises.
    snr : (float, float), dB
        Mean power of all voices (reverberation included) where anybody speaks, to that of the
        noise.
    peak : (float, float), dBFS
        Of the finished recording.

    Raises
    ------
    ConfigError
        If a range is empty or not finite, or a value makes no sense.
    """

    duration: tuple[float, float] = (60.0, 120.0)
    speakers: tuple[int, int] = (2, 4)
    min_speech: float = 1.0
    level: tuple[float, float] = (-6.0, 0.0)
    reverb_probability: float = 0.8
    noise_probability: float = 1.0
    snr: tuple[float, float] = (5.0, 25.0)
    peak: tuple[float, float] = (-12.0, -1.0)

    def __post_init__(self):
        for name in ("duration", "speakers", "level", "snr", "peak"):
            low, high = getattr(self, name)
            if not -np.inf < low <= high < np.inf:
                raise ConfigError(f"`{name}` is a range (low, high), not {(low, high)}.")
        for name in ("reverb_probability", "noise_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"`{name}` lies in [0, 1], unlike {getattr(self, name)}.")
        if not self.duration[0] > 0 or self.speakers[0] < 1:
            raise ConfigError("A conversation lasts longer than 0 s, and somebody speaks in it.")
        if not self.min_speech >= 0.1:
            raise ConfigError(f"`min_speech` is at least 0.1 s, not {self.min_speech}.")
        if self.peak[1] > 0:
            raise ConfigError(f"A `peak` of {self.peak[1]} dBFS would clip; the most is 0.")


@dataclass(frozen=True)
class Conversation:
    """A simulated recording and its true labels.

    Attributes
    ----------
    uri : str
    samples : (num_samples,) int16
        At 16 kHz.
    turns : tuple of Turn
        Speakers are the people whose voices were used.
    structure : str
        URI of the conversation that the turns were taken from.
    utterances : tuple of (str, int)
        Person and index of every utterance that was used, sorted.
    room, noise : int or None
        Index of what was drawn.
    snr : float or None, dB
    """

    uri: str
    samples: np.ndarray = field(repr=False, compare=False)
    turns: tuple[Turn, ...] = field(repr=False)
    structure: str
    utterances: tuple[tuple[str, int], ...] = field(repr=False)
    room: int | None
    noise: int | None
    snr: float | None

    @property
    def duration(self) -> float:
        return len(self.samples) / SAMPLE_RATE

    @property
    def people(self) -> list[str]:
        return sorted({turn.speaker for turn in self.turns})

    @property
    def diarization(self) -> Diarization:
        return from_turns(self.uri, self.turns, self.duration)

    def write(self, folder: str | Path) -> tuple[Path, Path]:
        """Write `<uri>.wav` and `<uri>.rttm`, and give their paths.

        Raises
        ------
        ValueError
            If the uri or a person's name holds white space, which RTTM cannot express.
        """
        rttm = self.diarization.to_rttm()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / f"{self.uri}.wav", folder / f"{self.uri}.rttm"
        with wave.open(str(paths[0]), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes(self.samples.astype("<i2").tobytes())
        paths[1].write_text(rttm, encoding="utf-8")
        return paths
