"""SincNet: band-pass filters learnt by their two edges, then two convolutions.

M. Ravanelli, Y. Bengio, "Speaker recognition from raw waveform with SincNet", SLT 2018; the
parametrisation with cosine and sine filters is that of pyannote's checkpoints. Filters depend on
parameters only, so in evaluation they are computed once.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from raydiar.models.convolutions import Convolution

_MIN_LOW_HZ = 50.0
_MIN_BAND_HZ = 50.0


class SincFilterbank(nn.Module):
    """Half cosine-phase, half sine-phase band-pass filters.

    Parameters
    ----------
    num_filters, kernel_size, stride : int
        `kernel_size` and `stride` in samples; `kernel_size` is odd.
    sample_rate : int, Hz
    """

    def __init__(self, num_filters=80, kernel_size=251, stride=10, sample_rate=16000):
        super().__init__()
        self.stride = stride
        self.sample_rate = sample_rate
        num_bands, half = num_filters // 2, kernel_size // 2
        edges = _mel_spaced(30.0, sample_rate / 2 - 100.0, num_bands + 1)
        self.low_hz_ = nn.Parameter(edges[:-1, None])
        self.band_hz_ = nn.Parameter((edges[1:] - edges[:-1])[:, None])
        taper = torch.from_numpy(np.hamming(kernel_size)[:half]).float()
        self.register_buffer("window_", taper)
        self.register_buffer("n_", 2 * math.pi * torch.arange(-half, 0.0)[None] / sample_rate)
        self._frozen: tuple[object, torch.Tensor] | None = None

    def filters(self) -> torch.Tensor:
        """(num_filters, 1, kernel_size) impulse responses, computed once in evaluation."""
        learnt = (self.low_hz_, self.band_hz_)
        if torch.is_grad_enabled() and any(edges.requires_grad for edges in learnt):
            return self._build()
        # Parameters that an optimizer or a checkpoint has changed have another version.
        state = [None if edges.is_inference() else edges._version for edges in learnt]
        state.append(self.n_.device)
        if self._frozen is None or self._frozen[0] != state:
            # Not an inference tensor, which a later forward pass could not take gradients through.
            with torch.inference_mode(False), torch.no_grad():
                self._frozen = (state, self._build())
        return self._frozen[1]

    def _build(self) -> torch.Tensor:
        low = _MIN_LOW_HZ + self.low_hz_.abs()
        high = (low + _MIN_BAND_HZ + self.band_hz_.abs()).clamp(_MIN_LOW_HZ, self.sample_rate / 2)
        band = high - low
        low_phase, high_phase = low @ self.n_, high @ self.n_
        cosine = (high_phase.sin() - low_phase.sin()) / (self.n_ / 2) * self.window_
        sine = (low_phase.cos() - high_phase.cos()) / (self.n_ / 2) * self.window_
        even = torch.cat([cosine, 2 * band, cosine.flip(1)], dim=1)
        odd = torch.cat([sine, torch.zeros_like(band), -sine.flip(1)], dim=1)
        return torch.cat([even / (2 * band), odd / (2 * band)])[:, None]

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, 1, num_samples) to (batch, num_filters, num_frames)"""
        return F.conv1d(waveforms, self.filters().to(waveforms.dtype), stride=self.stride)


class _Encoder(nn.Module):
    # Exists for its name: checkpoints call the first convolution `conv1d.0.filterbank`.
    def __init__(self, filterbank: SincFilterbank):
        super().__init__()
        self.filterbank = filterbank

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return self.filterbank(waveforms)


class SincNet(nn.Module):
    """Features of 60 channels, one every `27 * stride` samples.

    Parameters
    ----------
    sample_rate : int, Hz
    stride : int
        Of the sinc filters, in samples.
    """

    num_features = 60

    def __init__(self, sample_rate: int = 16000, stride: int = 10):
        super().__init__()
        self.stride = stride
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        self.conv1d = nn.ModuleList(
            [
                _Encoder(SincFilterbank(80, 251, stride, sample_rate)),
                nn.Conv1d(80, 60, 5),
                nn.Conv1d(60, 60, 5),
            ]
        )
        self.norm1d = nn.ModuleList(
            [nn.InstanceNorm1d(channels, affine=True) for channels in (80, 60, 60)]
        )

    @property
    def convolutions(self) -> list[Convolution]:
        pool, conv = Convolution(3, 3), Convolution(5)
        return [Convolution(251, self.stride), pool, conv, pool, conv, pool]

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """(batch, 1, num_samples) to (batch, 60, num_frames)"""
        # One at a time stays in the caches of a CPU, where a window has 5 MB of filter responses.
        parts = waveforms.split(1) if waveforms.is_cpu else [waveforms]
        return torch.cat([self._frames(part) for part in parts])

    def _frames(self, waveforms: torch.Tensor) -> torch.Tensor:
        frames = self.wav_norm1d(waveforms)
        for stage, (conv, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            frames = conv(frames)
            if stage == 0:
                frames = frames.abs()
            frames = F.leaky_relu(norm(F.max_pool1d(frames, 3)))
        return frames


def _mel_spaced(low: float, high: float, count: int) -> torch.Tensor:
    """`count` frequencies (Hz) from `low` to `high`, evenly spaced in mel."""
    mels = np.linspace(2595 * np.log10(1 + low / 700), 2595 * np.log10(1 + high / 700), count)
    return torch.from_numpy(700 * (10 ** (mels / 2595) - 1)).float()
