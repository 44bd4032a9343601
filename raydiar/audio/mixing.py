"""Several channels to one without losing a voice on the way.

The mean of all channels is right for nearly every recording: two microphones, two parties, music.
It fails where channels oppose each other (a cable with its poles exchanged, "surround" of two
channels): there the mean cancels the voices. So the energy of the mean is compared with that of
the channels, in pieces of 50 ms; a second in which the mean has lost a noticeable part is mixed
with the opposing channels turned round and one channel weighing double, so that what is common to
all of them survives as well. Where half of the channels or more are dead, the others are not made
quieter by them. Decisions hold for whole seconds of the file's timeline and look at
nothing else: an excerpt gets the same samples as the whole.
"""

import numpy as np

PIECES = 20  # a second
_THINNED = 8  # every so many samples are looked at: energies need no more, and it costs no time
_CANCELLED = 0.25  # of the energy that unrelated channels would keep
_NOTICEABLE = 0.05  # of a second's energy
_AUDIBLE = 1e-4  # of full scale, rms; less is noise of converters
_FADE_SECONDS = 0.01
# A channel is dead if no piece of it is louder than -60 dB, and 40 dB below the loudest of another.
_DEAD = 1e-3
_DEAD_RELATIVE = 1e-2
_WORTH_A_WARNING = 1.0  # seconds
SAMPLE_RATE = 16000


class Mixer:
    """Mixes consecutive blocks of one run of channels; block boundaries make no difference.

    Parameters
    ----------
    num_channels : int
    rate : int, Hz
    """

    def __init__(self, num_channels: int, rate: int):
        self.opposed_seconds = 0
        self._rate = rate
        self._mean = np.full(num_channels, 1 / num_channels, np.float32)
        self._weights: np.ndarray | None = None  # of the second before
        self._loudest = np.zeros(num_channels)  # energy of each channel's loudest piece

    def mix(self, channels: np.ndarray) -> np.ndarray:
        """Mix whole seconds, or the rest of the run.

        Parameters
        ----------
        channels : (num_channels, num_samples) float32
            Or a list of arrays, one per channel.

        Returns
        -------
        mono : (num_samples,) float32
        """
        mono = channels[0] + channels[1] if len(channels) > 1 else channels[0].copy()
        for channel in channels[2:]:
            mono += channel
        mono *= self._mean[0]
        first = 0
        for weights in self._decide(channels):
            before = weights if self._weights is None else self._weights
            if weights is not self._mean or before is not self._mean:
                second = [channel[first : first + self._rate] for channel in channels]
                mono[first : first + self._rate] = self._faded(second, weights, before)
            self._weights = weights
            first += self._rate
        return mono

    def dead_channels(self) -> list[int]:
        """Channels that held nothing, where another one held something."""
        return [int(number) for number in np.flatnonzero(_is_dead(self._loudest))]

    def warnings(self) -> list[str]:
        """What the user should know, as the ends of sentences."""
        found = []
        if self.opposed_seconds >= _WORTH_A_WARNING:
            found.append(
                f"its channels are in opposite phase for {self.opposed_seconds} s, where their "
                "mean would cancel voices; they were turned round there. To choose one, give its "
                "`channel`."
            )
        dead = self.dead_channels()
        if 2 * len(dead) >= len(self._mean):
            names = ", ".join(map(str, dead))
            found.append(f"nothing is on channel {names} (counted from 0); the rest was used.")
        return found

    def _decide(self, channels) -> list[np.ndarray]:
        """Weights of each second of a block."""
        num_seconds, rest = divmod(len(channels[0]), self._rate)
        whole = num_seconds * self._rate
        decided = []
        if num_seconds:
            shape = (num_seconds, self._rate)
            decided += self._weights_for([channel[:whole].reshape(shape) for channel in channels])
        if rest:
            decided += self._weights_for([channel[None, whole:] for channel in channels])
        return decided

    def _weights_for(self, seconds: list[np.ndarray]) -> list[np.ndarray]:
        """Weights of each second, from (num_seconds, num_samples) of each channel."""
        thin = np.stack([channel[:, ::_THINNED] for channel in seconds])
        num_channels, num_seconds, length = thin.shape
        length //= PIECES
        if length < 2:
            return [self._mean] * num_seconds
        pieces = thin[:, :, : PIECES * length].reshape(num_channels, num_seconds, PIECES, length)
        pieces = pieces - pieces.mean(axis=-1, keepdims=True)  # a constant offset is no sound
        energies = _inner(pieces, pieces)
        np.maximum(self._loudest, energies.max(axis=(1, 2)), out=self._loudest)
        loudest = energies.max(axis=0)
        mixed = pieces.mean(axis=0)
        unrelated = energies.sum(axis=0) / num_channels**2
        cancelled = (_inner(mixed, mixed) < _CANCELLED * unrelated) & (loudest > _AUDIBLE**2)
        lost = np.where(cancelled, loudest, 0).sum(axis=1)
        opposed = lost > _NOTICEABLE * loudest.sum(axis=1)
        decided = [_living(energy, self._mean) for energy in energies.max(axis=2).T]
        for number in np.flatnonzero(opposed):
            kept = cancelled[number]
            decided[number] = _turned(pieces[:, number, kept], energies[:, number, kept])
            self.opposed_seconds += 1
        return decided

    def _faded(
        self, second: list[np.ndarray], weights: np.ndarray, before: np.ndarray
    ) -> np.ndarray:
        mono = _weighted(second, weights)
        if not np.array_equal(weights, before):
            length = min(len(mono), round(_FADE_SECONDS * self._rate))
            other = _weighted([channel[:length] for channel in second], before)
            mono[:length] += (other - mono[:length]) * np.linspace(1, 0, length, dtype=np.float32)
        return mono


def _turned(pieces: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Weights that turn channels round which oppose the others.

    Parameters
    ----------
    pieces : (num_channels, num_pieces, num_samples) float32
        Where channels cancel each other.
    energies : (num_channels, num_pieces) float32
    """
    strength = energies.sum(axis=1)
    reference = int(np.argmax(strength >= strength.max() / 4))
    common = _inner(pieces[reference], pieces).sum(axis=1)
    weights = np.where(common < 0, -0.5, 0.5)
    weights[reference] = 1.0
    return (weights / np.abs(weights).sum()).astype(np.float32)


def _is_dead(energies: np.ndarray) -> np.ndarray:
    return energies < min(_DEAD**2, _DEAD_RELATIVE**2 * energies.max())


def _living(energies: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Weights without dead channels, where these are the half of all or more.

    Fewer cost little loudness, and what they are is a matter of the layout.
    """
    dead = _is_dead(energies)
    if 2 * dead.sum() < len(dead):
        return mean
    return (~dead / (~dead).sum()).astype(np.float32)


class TrackMixer:
    """Mixes tracks that are decoded one after another into the same place: to their mean.

    Per second of the timeline those count that have something to say in it.
    """

    def __init__(self):
        self._heard: dict[int, int] = {}  # tracks so far, by second
        self._weights: tuple[float, float] | None = None

    def begin_track(self) -> None:
        self._weights = None

    def mix(self, there: np.ndarray, block: np.ndarray, place: int) -> np.ndarray:
        """Mix a block of a track with what earlier ones have left at its place.

        Parameters
        ----------
        there, block : (num_samples,) int16
        place : int, samples at 16 kHz
            Of the block on the timeline.

        Returns
        -------
        mixed : (num_samples,) int16
        """
        mixed = np.empty(len(block), np.float32)
        first = 0
        while first < len(block):
            second, within = divmod(place + first, SAMPLE_RATE)
            stop = first + SAMPLE_RATE - within
            mixed[first:stop] = self._second(there[first:stop], block[first:stop], second)
            first = stop
        return np.clip(np.rint(mixed), -32768, 32767).astype(np.int16)

    def _second(self, there: np.ndarray, block: np.ndarray, second: int) -> np.ndarray:
        count = self._heard.get(second, 0)
        if max(int(block.max()), -int(block.min())) > _DEAD * 32768:
            weights = count / (count + 1), 1 / (count + 1)
            self._heard[second] = count + 1
        else:
            weights = (1.0, 0.0) if count else (0.0, 1.0)
        before, self._weights = self._weights or weights, weights
        mixed = there * np.float32(weights[0]) + block * np.float32(weights[1])
        if before != weights:
            length = min(len(block), round(_FADE_SECONDS * SAMPLE_RATE))
            other = there[:length] * before[0] + block[:length] * before[1]
            mixed[:length] += (other - mixed[:length]) * np.linspace(1, 0, length)
        return mixed


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Mean product over the last axis."""
    return np.einsum("...i,...i->...", a, b) / a.shape[-1]


def _weighted(channels, weights: np.ndarray) -> np.ndarray:
    mono = channels[0] * weights[0]
    for channel, weight in zip(channels[1:], weights[1:], strict=True):
        mono += channel * weight
    return mono
