"""What happens to windows on the device before the network hears them, in training only.

Everything that is drawn for a window comes from the seed and the window's number, so that it is
the same in whichever batch and process the window lands. Labels stay true: rooms begin with the
direct sound, and nothing shifts in time. The codec is not one: it does what low bit rates do to a
spectrum (holes where a band is quiet, no treble), in operations that a GPU does for all windows at
once; the telephone is a real one (300 to 3,400 Hz, 8 kHz, μ-law).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torchaudio.functional as AF
from torch.nn import functional as F

from raydiar.audio import SAMPLE_RATE
from raydiar.simulation.room import Room, background
from raydiar.simulation.voices import load
from raydiar.training.example import Example, as_float


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and ranges; draws are uniform.

    Attributes
    ----------
    rooms : sequence of Room
    noises : sequence of (num_samples,) int16 or float, 16 kHz
    room_probability, noise_probability, telephone_probability, codec_probability : float
    snr : (float, float), dB
        Of the window's mean power to the noise's.
    gain : (float, float), dB
    codec_depth : (float, float), dB
        Below the loudest of a band, from which on its components are dropped.
    codec_cutoff : (float, float), Hz
    seed : int
    """

    rooms: Sequence[Room] = field(default=(), repr=False)
    noises: Sequence[np.ndarray] = field(default=(), repr=False)
    room_probability: float = 0.5
    noise_probability: float = 0.5
    telephone_probability: float = 0.1
    codec_probability: float = 0.1
    snr: tuple[float, float] = (0.0, 25.0)
    gain: tuple[float, float] = (-12.0, 3.0)
    codec_depth: tuple[float, float] = (15.0, 35.0)
    codec_cutoff: tuple[float, float] = (3000.0, 7500.0)
    seed: int = 0

    def __call__(self, waveforms: torch.Tensor, indices: Sequence[int]) -> torch.Tensor:
        """
        Parameters
        ----------
        waveforms : (batch, num_samples) float32
        indices : (batch,) int
            Numbers of the windows, which decide what is drawn.

        Returns
        -------
        augmented : (batch, num_samples) float32
        """
        draws = [np.random.default_rng([self.seed, int(index), 11]) for index in indices]
        chosen = {
            name: [rng.random() < getattr(self, f"{name}_probability") for rng in draws]
            for name in ("room", "noise", "telephone", "codec")
        }
        num_samples = waveforms.shape[-1]
        if self.rooms and any(chosen["room"]):
            rows = np.flatnonzero(chosen["room"])
            responses = []
            for row in rows:
                room = self.rooms[int(draws[row].integers(len(self.rooms)))]
                responses.append(room.responses[int(draws[row].integers(len(room.responses)))])
            waveforms = _put(waveforms, rows, _reverberate(waveforms[rows], responses))
        if self.noises and any(chosen["noise"]):
            rows = np.flatnonzero(chosen["noise"])
            added, levels = [], []
            for row in rows:
                number = int(draws[row].integers(len(self.noises)))
                noise = load(self.noises[number], f"Noise {number}")
                added.append(as_float(background(as_float(noise), num_samples, draws[row])))
                levels.append(draws[row].uniform(*self.snr))
            noise = torch.from_numpy(np.stack(added)).to(waveforms)
            snr = torch.tensor(levels).to(waveforms)
            waveforms = _put(waveforms, rows, _with_noise(waveforms[rows], noise, snr))
        if any(chosen["telephone"]):
            rows = np.flatnonzero(chosen["telephone"])
            waveforms = _put(waveforms, rows, telephone(waveforms[rows]))
        if any(chosen["codec"]):
            rows = np.flatnonzero(chosen["codec"])
            depth = torch.tensor([draws[row].uniform(*self.codec_depth) for row in rows])
            cutoff = torch.tensor([draws[row].uniform(*self.codec_cutoff) for row in rows])
            lossy = low_bit_rate(waveforms[rows], depth.to(waveforms), cutoff.to(waveforms))
            waveforms = _put(waveforms, rows, lossy)
        gains = torch.tensor([10 ** (rng.uniform(*self.gain) / 20) for rng in draws])
        return waveforms * gains.to(waveforms)[:, None]


def _put(waveforms: torch.Tensor, rows: np.ndarray, changed: torch.Tensor) -> torch.Tensor:
    waveforms = waveforms.clone()
    waveforms[torch.from_numpy(rows).to(waveforms.device)] = changed
    return waveforms


def _reverberate(waveforms: torch.Tensor, responses: Sequence[np.ndarray]) -> torch.Tensor:
    """Convolve each with its response; the energy stays."""
    longest = max(map(len, responses))
    padded = np.stack([np.pad(one, (0, longest - len(one))) for one in responses])
    kernels = torch.from_numpy(padded).to(waveforms)
    heard = AF.fftconvolve(waveforms, kernels)[:, : waveforms.shape[-1]]
    before, after = waveforms.square().sum(-1), heard.square().sum(-1)
    return heard * (before / after.clamp(min=1e-12)).sqrt()[:, None]


def _with_noise(waveforms: torch.Tensor, noise: torch.Tensor, snr: torch.Tensor) -> torch.Tensor:
    signal = waveforms.square().mean(-1)
    power = noise.square().mean(-1).clamp(min=1e-12)
    # silence has no signal-to-noise ratio: it gets noise as faint as rounding
    signal = signal.clamp(min=1e-8)
    return waveforms + noise * (signal / power * 10 ** (-snr / 10)).sqrt()[:, None]


def telephone(waveforms: torch.Tensor) -> torch.Tensor:
    """Narrow-band telephony: 8 kHz, 300 to 3,400 Hz, μ-law of 8 bits.

    (batch, num_samples) float32 at 16 kHz, and the same again.
    """
    narrow = AF.resample(waveforms, SAMPLE_RATE, 8000)
    spectrum = torch.fft.rfft(narrow)
    hertz = torch.linspace(0, 4000, spectrum.shape[-1], device=waveforms.device)
    # slopes of 100 Hz: a brick wall would ring
    band = ((hertz - 200) / 100).clamp(0, 1) * ((3500 - hertz) / 100).clamp(0, 1)
    narrow = torch.fft.irfft(spectrum * band, n=narrow.shape[-1])
    # an operator's level: the loudest at -3 dBFS
    peak = narrow.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 0.7
    coded = AF.mu_law_decoding(AF.mu_law_encoding(narrow / peak, 256), 256) * peak
    wide = AF.resample(coded, 8000, SAMPLE_RATE)[:, : waveforms.shape[-1]]
    return F.pad(wide, (0, waveforms.shape[-1] - wide.shape[-1]))


def low_bit_rate(
    waveforms: torch.Tensor, depth: torch.Tensor, cutoff: torch.Tensor
) -> torch.Tensor:
    """What perceptual codecs leave: nothing above a cutoff, nor far below the loudest of a band.

    Parameters
    ----------
    waveforms : (batch, num_samples) float32
    depth : (batch,) dB
    cutoff : (batch,) Hz
    """
    window = torch.hann_window(512, device=waveforms.device)
    spectrum = torch.stft(waveforms, 512, 256, window=window, return_complex=True)
    power = spectrum.abs().square()
    hertz = torch.linspace(0, SAMPLE_RATE / 2, spectrum.shape[1], device=waveforms.device)
    # a band is 17 bins (530 Hz) around each component
    loudest = F.max_pool2d(power, (17, 1), 1, (8, 0))
    kept = power >= loudest * 10 ** (-depth / 10)[:, None, None]
    kept = kept & (hertz[None, :, None] <= cutoff[:, None, None])
    return torch.istft(spectrum * kept, 512, 256, window=window, length=waveforms.shape[-1])


class MixedWindows:
    """Windows of a source into some of which another is mixed, with its speakers.

    Parameters
    ----------
    source : Source
    probability : float
    snr : (float, float), dB
        Of the window to the other.
    max_speakers : int, optional
        Windows that would have more are left alone.
    seed : int
    """

    _OTHERS = 1 << 40  # samples that no run comes to by itself

    def __init__(
        self,
        source,
        probability: float = 0.5,
        snr: tuple[float, float] = (0.0, 5.0),
        max_speakers: int | None = 3,
        seed: int = 0,
    ):
        self.source, self.probability, self.snr = source, probability, snr
        self.max_speakers, self.seed = max_speakers, seed
        self.duration = source.duration

    def example(self, index: int) -> Example:
        example = self.source.example(index)
        rng = np.random.default_rng([self.seed, index, 13])
        if rng.random() >= self.probability:
            return example
        other = self.source.example(self._OTHERS + index)
        names = np.concatenate([np.unique(example.speakers), np.unique(other.speakers)])
        if self.max_speakers is not None and len(names) > self.max_speakers:
            return example
        first, second = as_float(example.samples), as_float(other.samples)
        powers = [max(float(np.square(one).mean()), 1e-10) for one in (first, second)]
        gain = np.sqrt(powers[0] / powers[1] * 10 ** (-rng.uniform(*self.snr) / 10))
        mixed = first + np.float32(gain) * second
        # who is in both is one voice twice, and stays one speaker
        return replace(
            example,
            name=f"{example.name} with {other.name}",
            samples=mixed / max(1.0, float(np.abs(mixed).max())),
            starts=np.concatenate([example.starts, other.starts]),
            ends=np.concatenate([example.ends, other.ends]),
            speakers=np.concatenate([example.speakers, other.speakers]),
        )
