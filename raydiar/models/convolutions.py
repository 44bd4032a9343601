"""Frame arithmetic: how many frames a chain of convolutions gives, and what each of them sees.

A network states its convolutions and poolings from the waveform up, once; number, step, extent
and place of its frames follow from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Convolution:
    """A convolution or pooling along time; all in steps of its input."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def extent(self) -> int:
        """Input steps that one output step sees."""
        return 1 + self.dilation * (self.kernel - 1)

    def num_frames(self, num_steps: int) -> int:
        return max(0, 1 + (num_steps + 2 * self.padding - self.extent) // self.stride)


def num_frames(chain: Sequence[Convolution], num_samples: int) -> int:
    """Frames at the end of a chain, for so many samples at its start."""
    for layer in chain:
        num_samples = layer.num_frames(num_samples)
    return num_samples


def receptive_size(chain: Sequence[Convolution], num_frames: int = 1) -> int:
    """Samples behind so many frames; those of paddings do not count, as in pyannote.audio."""
    size = num_frames
    for layer in reversed(chain):
        size = layer.extent + (size - 1) * layer.stride - 2 * layer.padding
    return size


def receptive_center(chain: Sequence[Convolution], frame: int = 0) -> int:
    """Sample in the middle of what one frame sees."""
    center = frame
    for layer in reversed(chain):
        center = center * layer.stride + (layer.extent - 1) // 2 - layer.padding
    return center
