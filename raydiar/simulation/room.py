"""What stands between mouths and the recording: rooms, and noise in the background."""

from collections.abc import Sequence

import numpy as np
from scipy.signal import oaconvolve

from raydiar.audio import SAMPLE_RATE
from raydiar.errors import SimulationError
from raydiar.simulation.voices import Samples, load

_SEAM = SAMPLE_RATE // 10


class Room:
    """Impulse responses of one room, from one place of a speaker or from several.

    Parameters
    ----------
    responses : sequence of (num_samples,) int16 or float, 16 kHz
        One per place. What comes before the direct sound is cut off, so that speech stays where
        its labels are, and the tail once it holds less than a millionth of the energy.

    Raises
    ------
    SimulationError
        If there is no response, or one is not mono sound or silent.
    """

    def __init__(self, responses: Sequence[Samples]):
        self.responses = tuple(
            _from_direct_sound(load(response, f"Impulse response {index}"), index)
            for index, response in enumerate(responses)
        )
        if not self.responses:
            raise SimulationError("A room needs at least one impulse response.")

    def places(self, num_speakers: int, rng: np.random.Generator) -> np.ndarray:
        """(num_speakers,) int: the response of each, a place of their own while there are any."""
        return np.resize(rng.permutation(len(self.responses)), num_speakers)

    def reverberate(self, samples: np.ndarray, place: int) -> np.ndarray:
        """What is heard of somebody in that place, with as much energy as was said.

        Parameters
        ----------
        samples : (num_samples,) float32

        Returns
        -------
        reverberant : (num_samples,) float32
        """
        reverberant = oaconvolve(samples, self.responses[place])[: len(samples)]
        energy = np.square(reverberant).sum()
        if energy > 0:
            reverberant *= np.sqrt(np.square(samples).sum() / energy)
        return reverberant


def _from_direct_sound(response: np.ndarray, index: int) -> np.ndarray:
    """(num_samples,) float32 of peak 1.

    It begins where it first comes within 20 dB of its maximum (as in ISO 3382-1).
    """
    response = response.astype(np.float32)
    peak = np.abs(response).max()
    if peak == 0:
        raise SimulationError(f"Impulse response {index} is silent.")
    response = response[int((np.abs(response) > 0.1 * peak).argmax()) :]
    remaining = np.square(response[::-1]).cumsum(dtype=np.float64)[::-1]
    return response[: int((remaining > 1e-6 * remaining[0]).sum())] / peak


def background(noise: np.ndarray, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A stretch of a noise, which goes round without a click if it is too short.

    Parameters
    ----------
    noise : (num_noise_samples,) int16 or float

    Returns
    -------
    background : (num_samples,) float32
        Not scaled.
    """
    noise = noise.astype(np.float32)
    if len(noise) < num_samples:
        seam = min(_SEAM, len(noise) // 2)
        # end and beginning have nothing to do with each other: their powers add up to one
        angle = np.linspace(0, np.pi / 2, seam, dtype=np.float32)
        noise[:seam] = np.sin(angle) * noise[:seam] + np.cos(angle) * noise[len(noise) - seam :]
        noise = noise[: len(noise) - seam]
        noise = np.roll(noise, -int(rng.integers(len(noise))))
        return np.resize(noise, num_samples)
    first = int(rng.integers(len(noise) - num_samples + 1))
    return noise[first : first + num_samples]
