"""Kaldi log mel filterbanks, batched, on any device.

A frame depends on its own 25 ms alone (DC removal and pre-emphasis happen inside it), so frames
can be computed once for a stretch of recording and cut into overlapping windows afterwards:
`inference` does, which divides the work by the overlap. Formulas: Kaldi's feature extraction
(Povey et al. 2011), as in `torchaudio.compliance.kaldi.fbank`.
"""

from __future__ import annotations

import math

import torch
from torch import nn

_EPSILON = torch.finfo(torch.float32).eps


def mel_filters(
    num_mel_bins: int, num_fft: int, sample_rate: int, low: float = 20.0
) -> torch.Tensor:
    """Triangles that are linear on the mel scale, from `low` Hz to the Nyquist frequency.

    Computed in float32, as the networks were trained: in float64 some slopes differ by 1e-5.

    Returns
    -------
    filters : (num_fft // 2 + 1, num_mel_bins) float32
        The Nyquist bin weighs nothing, as in Kaldi.
    """

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1.0 + hertz / 700.0)

    hertz = torch.arange(num_fft // 2)[:, None] * (sample_rate / num_fft)
    mels = 1127.0 * (1.0 + hertz / 700.0).log()
    step = (mel(sample_rate / 2) - mel(low)) / (num_mel_bins + 1)
    index = torch.arange(num_mel_bins)
    left, centre, right = (mel(low) + (index + k) * step for k in (0.0, 1.0, 2.0))
    filters = torch.minimum((mels - left) / (centre - left), (right - mels) / (right - centre))
    return nn.functional.pad(filters.clamp(min=0), (0, 0, 0, 1))


class Fbank(nn.Module):
    """Log mel energies of 25 ms frames every 10 ms.

    Parameters
    ----------
    sample_rate : int, Hz
    num_mel_bins : int
    window : str
        "hamming" (WeSpeaker) or "povey" (3D-Speaker).
    scale : float
        Factor on samples in [-1, 1]: 32768 where a network was trained on int16 values.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        num_mel_bins: int = 80,
        window: str = "hamming",
        scale: float = 1.0,
        frame_length: float = 25.0,
        frame_shift: float = 10.0,
    ):
        super().__init__()
        self.frame_length = round(sample_rate * frame_length / 1000)
        self.frame_shift = round(sample_rate * frame_shift / 1000)
        self.num_fft = 1 << (self.frame_length - 1).bit_length()
        self.num_mel_bins = num_mel_bins
        self.scale = scale
        if window == "hamming":
            taper = torch.hamming_window(self.frame_length, periodic=False)
        elif window == "povey":
            taper = torch.hann_window(self.frame_length, periodic=False).pow(0.85)
        else:
            raise ValueError(f"window must be 'hamming' or 'povey', not {window!r}")
        self.register_buffer("taper", taper, persistent=False)
        filters = mel_filters(num_mel_bins, self.num_fft, sample_rate)
        self.register_buffer("filters", filters, persistent=False)

    def num_frames(self, num_samples: int) -> int:
        """Whole frames only: the last ones never run past the end."""
        if num_samples < self.frame_length:
            return 0
        return 1 + (num_samples - self.frame_length) // self.frame_shift

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """
        Parameters
        ----------
        waveforms : (..., num_samples) float32 in [-1, 1]

        Returns
        -------
        features : (..., num_frames, num_mel_bins) float32
        """
        frames = waveforms.unfold(-1, self.frame_length, self.frame_shift) * self.scale
        frames = frames - frames.mean(dim=-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - 0.97 * previous) * self.taper
        # The FFT of a bfloat16 network stays in float32: its features feed a logarithm.
        spectrum = torch.fft.rfft(frames, n=self.num_fft)
        power = torch.view_as_real(spectrum).square().sum(dim=-1)
        return (power @ self.filters).clamp(min=_EPSILON).log()
