"""Utterances to speech that can fill turns: no silence at the ends, no long pauses, one level."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.ndimage import binary_dilation, binary_opening

from raydiar.audio import SAMPLE_RATE, prepare_waveform
from raydiar.errors import RaydiarError, SimulationError

Samples = np.ndarray | Callable[[], np.ndarray]
"""(num_samples,) int16 or float in [-1, 1] at 16 kHz, or a function that loads it."""

Part = tuple[int, int]
"""`(index, count)`: one of `count` parts of a person's speech that have nothing in common."""

FRAME = SAMPLE_RATE // 100
"""Samples of a frame, in which speech is told from silence."""

_PAUSE_FRAMES = 12  # at either side: labels of VoxConverse go on over pauses of up to 0.25 s
_CLICK_FRAMES = 3  # what is louder than silence for a shorter time than this is not speech


def load(samples: Samples, name: str) -> np.ndarray:
    """(num_samples,) int16 or float32, checked.

    Raises
    ------
    SimulationError
        Saying which (`name`) is not mono sound.
    """
    try:
        return prepare_waveform(samples() if callable(samples) else samples, SAMPLE_RATE)
    except RaydiarError as error:
        raise SimulationError(f"{name} cannot be used: {error}") from error


def speech_frames(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the speech in an utterance by its energy, and shorten pauses to 0.24 s.

    A frame is speech if it is 10 dB above the utterance's noise floor (5th percentile of the
    frames), but within 25 to 40 dB of its loud frames (95th percentile), so that a clean recording
    keeps its quiet consonants and one that is noisy throughout is kept whole.

    Parameters
    ----------
    samples : (num_samples,) int16 or float

    Returns
    -------
    frames : (num_frames, FRAME) float32
        Speech has mean power 1.
    is_speech : (num_frames,) bool
        Not so: in pauses, and up to 0.12 s before the first and after the last speech.
    """
    num_frames = len(samples) // FRAME
    frames = samples[: num_frames * FRAME].reshape(num_frames, FRAME).astype(np.float32)
    power = np.einsum("ij,ij->i", frames, frames) / FRAME
    if not power.any():
        return frames[:0], np.zeros(0, bool)
    floor, loud = np.percentile(power, [5, 95])
    is_speech = power > np.clip(10 * floor, 1e-4 * loud, 10**-2.5 * loud)
    is_speech = _without_clicks(is_speech)
    kept = binary_dilation(is_speech, np.ones(2 * _PAUSE_FRAMES + 1))
    frames, power, is_speech = frames[kept], power[kept], is_speech[kept]
    if is_speech.any():
        frames /= np.sqrt(power[is_speech].mean())
    return frames, is_speech


def _without_clicks(is_speech: np.ndarray) -> np.ndarray:
    return binary_opening(is_speech, np.ones(_CLICK_FRAMES))


class Speech:
    """One person's speech in one conversation: utterances in a drawn order, round and round.

    It begins somewhere in an utterance, so that a person known by a single one does not begin
    every conversation with the same words; nothing is repeated before all has been used.

    Parameters
    ----------
    person : str
    utterances : sequence of Samples
    part : (index, count)
        Uses whole utterances as long as there is one for each part, else stretches of them.
    rng : numpy.random.Generator
    """

    def __init__(
        self, person: str, utterances: Sequence[Samples], part: Part, rng: np.random.Generator
    ):
        index, count = part
        self.used: set[int] = set()
        self._person = person
        self._utterances = utterances
        # parts beyond the number of utterances share one: each gets a stretch of it
        self._stretch, self._num_stretches = index // len(utterances), -(-count // len(utterances))
        self._order = rng.permutation(np.arange(index % len(utterances), len(utterances), count))
        self._next = 0
        self._frames = np.zeros((0, FRAME), np.float32)
        self._is_speech = np.zeros(0, bool)
        self._load(rng.random())

    def take(self, num_frames: int) -> np.ndarray:
        """The next stretch, from speech to speech.

        Returns
        -------
        samples : (num_samples,) float32
            `num_frames` long, or shorter by the pause that it would have ended with.
        """
        while not (spoken := _without_clicks(self._is_speech)).any():
            self._load()
        first = int(spoken.argmax())
        last = first + num_frames
        while len(self._frames) < last:
            self._load()
        frames, is_speech = self._frames[first:last], self._is_speech[first:last]
        self._frames, self._is_speech = self._frames[last:], self._is_speech[last:]
        if num_frames > _CLICK_FRAMES:  # what is shorter is speech all through
            frames = frames[: num_frames - int(_without_clicks(is_speech)[::-1].argmax())]
        return frames.reshape(-1)

    def _load(self, offset: float = 0.0) -> None:
        """Append the next utterance, from a place (0 to 1) in it."""
        at = int(self._order[self._next % len(self._order)])
        samples = load(self._utterances[at], f"Utterance {at} of {self._person}")
        frames, is_speech = speech_frames(samples)
        first, last = (
            len(frames) * edge // self._num_stretches for edge in (self._stretch, self._stretch + 1)
        )
        first += int(offset * (last - first))
        self._next += 1
        if is_speech[first:last].any():
            self.used.add(at)
        elif self._next >= 2 * len(self._order) and not self.used:
            raise SimulationError(
                f"There is no speech in what {self._person} is to be heard with (utterances "
                f"{sorted(map(int, self._order))}): leave that person out, or make fewer parts."
            )
        self._frames = np.concatenate([self._frames, frames[first:last]])
        self._is_speech = np.concatenate([self._is_speech, is_speech[first:last]])
