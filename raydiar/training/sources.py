"""Where windows come from: recordings of an index, simulated conversations, or a mixture.

A source is a function of an index: the sample number 1,234,567 of a seed is the same whatever was
drawn before, in whichever process. So the batch of a step can be divided among any number of
workers, a run that was killed goes on with the next number, and none is drawn twice.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.errors import (
    AudioDecodeError,
    AudioNotFound,
    InvalidSamples,
    ManifestError,
    StorageUnavailable,
    TrainingError,
)
from raydiar.training.example import Example
from raydiar.training.index import TrainingIndex, balance_groups, windows_of
from raydiar.training.shards import opened

_REDRAWS = 20
_UNREADABLE = (AudioDecodeError, AudioNotFound, InvalidSamples)


class Source(Protocol):
    duration: float

    def example(self, index: int) -> Example:
        """The sample of this number."""


def read_window(index: TrainingIndex, recording: int, start: float, duration: float) -> np.ndarray:
    """(num_samples,) int16 of exactly `duration` s; a few samples may be padded at a file's end.

    Storage that does not answer is asked three more times, after 1, 4 and 16 s.
    """
    num_samples = round(duration * SAMPLE_RATE)
    uri, channel, place = index.uri(recording), index.channel(recording), index.place(recording)
    for pause in (1.0, 4.0, 16.0, None):
        try:
            with opened(uri, place) as source:
                samples = decode(source, start=start, duration=duration + 0.001, channel=channel)
            break
        except StorageUnavailable:
            if pause is None:
                raise
            time.sleep(pause)
    samples = samples[:num_samples]
    missing = num_samples - len(samples)
    return np.pad(samples, (0, missing)) if missing else samples


def readable(draw: Callable[[int], tuple[str, Callable]], failures: dict[str, str]) -> Example:
    """The first of several draws that can be read.

    A recording that cannot be read costs its window, not the run: another is drawn.

    Parameters
    ----------
    draw : callable
        Takes the number of the attempt; gives the URI of what is drawn, and how to read it.
    failures : dict
        URIs that are known to be unreadable, with the reason; what is found is added.

    Raises
    ------
    TrainingError
        If a whole row of draws cannot be read.
    """
    for attempt in range(_REDRAWS):
        uri, read = draw(attempt)
        if uri in failures:
            continue
        try:
            return read()
        except _UNREADABLE as error:
            failures[uri] = str(error)
            print(f"raydiar: not learnt from: {error}", file=sys.stderr)
    raise TrainingError(
        f"{_REDRAWS} recordings in a row cannot be read, the last: "
        f"{next(reversed(failures.values()))}; `raydiar train check` lists them all"
    )


class RecordedWindows:
    """Windows of recordings, drawn in proportion to how much of each is labelled.

    Parameters
    ----------
    index : TrainingIndex
    duration : float, seconds
        Regions that are shorter give no windows.
    seed : int
    balance : sequence of str
        Columns of the manifest: every combination of their values is drawn as often.
    weight : str, optional
        Column of the manifest that weighs a recording's windows in the loss.

    Raises
    ------
    ManifestError
        If no region is long enough.
    """

    def __init__(
        self,
        index: TrainingIndex,
        duration: float,
        seed: int = 0,
        balance: Sequence[str] = (),
        weight: str | None = None,
    ):
        self.index, self.duration, self.seed, self.weight = index, duration, seed, weight
        self.failures: dict[str, str] = {}
        recordings, _, durations = index.regions
        usable = np.flatnonzero(durations >= duration)
        if not len(usable):
            raise ManifestError(
                f"no labelled region lasts {duration:g} s: the longest has "
                f"{durations.max(initial=0):.1f} s. Give longer recordings or shorter windows"
            )
        groups = np.zeros(len(index), np.int64)
        if balance:
            groups = balance_groups(index, balance)
        of_region = groups[recordings[usable]]
        self._groups = []
        for group in np.unique(of_region):
            members = usable[of_region == group]
            self._groups.append((members, np.cumsum(durations[members])))

    @property
    def seconds(self) -> float:
        """Of regions that are long enough."""
        return float(sum(cumulated[-1] for _, cumulated in self._groups))

    def draw(self, index: int, attempt: int = 0) -> tuple[int, float]:
        """Recording and start (s) of the sample of this number."""
        rng = np.random.default_rng([self.seed, index, attempt])
        members, cumulated = self._groups[int(rng.integers(len(self._groups)))]
        at = rng.random() * cumulated[-1]
        region = members[min(int(np.searchsorted(cumulated, at, side="right")), len(members) - 1)]
        recordings, starts, durations = self.index.regions
        slack = durations[region] - self.duration
        return int(recordings[region]), float(starts[region] + rng.random() * slack)

    def example(self, index: int) -> Example:
        def draw(attempt: int):
            recording, start = self.draw(index, attempt)
            return self.index.uri(recording), lambda: self.window(recording, start, index)

        return readable(draw, self.failures)

    def window(self, recording: int, start: float, index: int = 0) -> Example:
        samples = read_window(self.index, recording, start, self.duration)
        starts, ends, speakers = self.index.turns(recording)
        last = int(np.searchsorted(starts, start + self.duration))
        inside = np.flatnonzero(ends[:last] > start)
        weight = 1.0
        if self.weight is not None:
            weight = float(self.index.recordings.column(self.weight)[recording].as_py() or 0.0)
        return Example(
            index=index,
            name=f"{self.index.recording_id(recording)} from {start:.2f} s",
            samples=samples,
            starts=starts[inside] - start,
            ends=ends[inside] - start,
            speakers=speakers[inside].astype(np.int64),
            weight=weight,
        )


class AllWindows:
    """Windows one after the other, each once: for validation."""

    def __init__(self, index: TrainingIndex, duration: float, limit: int | None = None):
        self.duration = duration
        self._windows = windows_of(index, duration)
        if not self._windows:
            raise ManifestError(f"no labelled region to validate on lasts {duration:g} s")
        if limit is not None and len(self._windows) > limit:
            chosen = np.linspace(0, len(self._windows) - 1, limit).round().astype(int)
            self._windows = [self._windows[number] for number in chosen]
        self._source = RecordedWindows(index, duration)

    def __len__(self) -> int:
        return len(self._windows)

    def example(self, index: int) -> Example:
        return self._source.window(*self._windows[index], index)


class SimulatedWindows:
    """Conversations made while training; nothing is written.

    Parameters
    ----------
    simulator : raydiar.simulation.Simulator
        Its parameters must ask for conversations of `duration` s.
    duration : float, seconds
    seed : int
    """

    def __init__(self, simulator, duration: float, seed: int = 0):
        self.simulator, self.duration, self.seed = simulator, duration, seed
        self._numbers = {name: number for number, name in enumerate(sorted(simulator.voices))}
        if simulator.parameters.duration != (duration, duration):
            raise TrainingError(
                f"the simulator makes conversations of {simulator.parameters.duration} s, but "
                f"windows of {duration} s are wanted"
            )

    def example(self, index: int) -> Example:
        conversation = self.simulator.simulate([self.seed, index])
        turns = conversation.turns
        return Example(
            index=index,
            name=conversation.uri,
            samples=conversation.samples,
            starts=np.array([turn.start for turn in turns], np.float64),
            ends=np.array([turn.end for turn in turns], np.float64),
            speakers=np.array([self._numbers[turn.speaker] for turn in turns], np.int64),
        )


class Mixture:
    """Several sources, each drawn from with its probability.

    Parameters
    ----------
    sources : sequence of (Source, float)
        With weights, which need not add up to one.
    seed : int
    """

    def __init__(self, sources: Sequence[tuple[Source, float]], seed: int = 0):
        self.sources = [source for source, _ in sources]
        self.seed = seed
        weights = np.array([weight for _, weight in sources], np.float64)
        if not len(weights) or not (weights >= 0).all() or not weights.sum():
            raise TrainingError("a mixture needs sources, with weights of 0 or more")
        self._edges = np.cumsum(weights / weights.sum())
        self.duration = self.sources[0].duration
        if any(source.duration != self.duration for source in self.sources):
            raise TrainingError("all sources of a mixture have windows of one length")

    def example(self, index: int) -> Example:
        at = np.random.default_rng([self.seed, index, 7]).random()
        number = min(int(np.searchsorted(self._edges, at, side="right")), len(self.sources) - 1)
        return self.sources[number].example(index)
