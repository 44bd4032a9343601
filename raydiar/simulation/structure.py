"""Turns of real conversations, without their sound, and stretches drawn from them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from raydiar.diarization import Diarization, Turn, read_rttm
from raydiar.errors import SimulationError

_INSTANT = 1e-6  # s: what is shorter is rounding


@dataclass(frozen=True)
class TurnStructure:
    """Who speaks when in a real conversation, without its sound.

    Attributes
    ----------
    uri : str
    duration : float, seconds
    turns : tuple of Turn
        Sorted by start; those of one speaker neither overlap nor touch (they are joined).

    Raises
    ------
    SimulationError
        If there are no turns, or one does not lie within the conversation.
    """

    uri: str
    duration: float
    turns: tuple[Turn, ...]

    def __post_init__(self):
        for turn in self.turns:
            if not 0 <= turn.start <= turn.end <= self.duration + 1e-3:
                raise SimulationError(
                    f"{self.uri} has a turn from {turn.start} s to {turn.end} s, which is not "
                    f"within its {self.duration} s."
                )
        object.__setattr__(self, "turns", _joined(self.turns))
        if not self.turns:
            raise SimulationError(f"{self.uri} has no turns to place speech on.")

    @classmethod
    def from_diarization(cls, diarization: Diarization) -> "TurnStructure":
        return cls(diarization.uri, diarization.duration, diarization.turns)

    @property
    def labels(self) -> list[str]:
        return sorted(self._timelines)

    def excerpt(
        self,
        duration: float,
        rng: np.random.Generator,
        num_speakers: int | None = None,
        min_speech: float = 0.0,
    ) -> "TurnStructure | None":
        """A stretch drawn among all that have so many speakers.

        Parameters
        ----------
        duration : float, seconds
        rng : numpy.random.Generator
        num_speakers : int, optional
            Exactly so many people speak in it; any number by default.
        min_speech : float, seconds
            Each of them at least for so long.

        Returns
        -------
        excerpt : TurnStructure or None
            Its time starts at 0; turns are cut at its borders. None if there is no such stretch.
        """
        last = self.duration - duration
        if last < 0 or (num_speakers or 0) > len(self._timelines):
            return None
        starts = np.arange(rng.random() * min(1.0, last), last + 1e-9, 1.0)
        spoken = np.stack(
            [
                np.interp(starts + duration, times, speech) - np.interp(starts, times, speech)
                for times, speech in self._timelines.values()
            ]
        )
        speaks = spoken > _INSTANT
        counts = speaks.sum(axis=0)
        possible = (~speaks | (spoken >= min_speech)).all(axis=0) & (counts > 0)
        if num_speakers is not None:
            possible &= counts == num_speakers
        if not possible.any():
            return None
        start = float(rng.choice(starts[possible]))
        turns = (
            replace(turn, start=max(turn.start - start, 0.0), end=min(turn.end - start, duration))
            for turn in self.turns
        )
        heard = tuple(turn for turn in turns if turn.duration > _INSTANT)
        return TurnStructure(self.uri, duration, heard)

    @cached_property
    def _timelines(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Per speaker, times at which turns start and end, and seconds spoken until then."""
        bounds: dict[str, list[tuple[float, float]]] = {}
        for turn in self.turns:
            bounds.setdefault(turn.speaker, []).append((turn.start, turn.end))
        timelines = {}
        for speaker, pairs in bounds.items():
            pairs = np.array(pairs)
            spoken = np.stack([np.zeros(len(pairs)), pairs[:, 1] - pairs[:, 0]], axis=1)
            timelines[speaker] = pairs.ravel(), spoken.ravel().cumsum()
        return timelines


def read_structures(paths: Iterable[str | Path]) -> list[TurnStructure]:
    """The turn structure of every recording in RTTM files.

    Raises
    ------
    SimulationError
        Naming the file that cannot be read, is not RTTM, or has no turns.
    """
    structures = []
    for path in paths:
        try:
            recordings = read_rttm(path)
        except (OSError, ValueError) as error:
            raise SimulationError(f"{path} cannot be read as RTTM: {error}") from error
        if not recordings:
            raise SimulationError(f"{path} has no turns: not one line begins with SPEAKER.")
        structures += map(TurnStructure.from_diarization, recordings.values())
    return structures


def _joined(turns: Iterable[Turn]) -> tuple[Turn, ...]:
    """Turns of one speaker that overlap or touch as one, empty ones left out, sorted by start."""
    joined: list[Turn] = []
    latest: dict[str, int] = {}
    for turn in sorted(turns, key=lambda t: (t.start, t.end, t.speaker)):
        if turn.duration <= 0:
            continue
        at = latest.get(turn.speaker)
        if at is not None and turn.start <= joined[at].end:
            joined[at] = replace(joined[at], end=max(joined[at].end, turn.end))
        else:
            latest[turn.speaker] = len(joined)
            joined.append(turn)
    return tuple(joined)
