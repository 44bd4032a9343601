"""Batches of windows, cut from any number of recordings and filled to the brim.

Overlapping windows of one recording travel as one stretch of samples: a tenth of the bytes of the
windows themselves, in one copy to the device. Windows and features are cut from it there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from raydiar.errors import InvalidSamples
from raydiar.windows import WindowGrid


@dataclass(frozen=True)
class Slice:
    """Consecutive windows of one recording, for hosts that interleave long and short ones.

    Attributes
    ----------
    samples : (num_samples,) int16, or float32 in [-1, 1]
        Of the recording, 16 kHz mono: all of it, or the part that its windows need.
    first_window, num_windows : int
    first_sample : int
        Place of the first of `samples` in the recording.
    num_samples : int, optional
        Of the whole recording; by default there is no more of it than `samples`.
    """

    samples: np.ndarray = field(repr=False)
    first_window: int
    num_windows: int
    first_sample: int = 0
    num_samples: int | None = None


@dataclass(frozen=True)
class Stretch:
    """Consecutive windows of one job inside a batch."""

    job: object
    samples: np.ndarray
    first_window: int
    num_windows: int


def cut(stretches: list[Stretch], windows: range) -> list[Stretch]:
    """The part of consecutive stretches that holds these of all their windows."""
    parts, start = [], 0
    for stretch in stretches:
        first = max(windows.start, start)
        count = min(windows.stop, start + stretch.num_windows) - first
        if count > 0:
            place = stretch.first_window + first - start
            parts.append(replace(stretch, first_window=place, num_windows=count))
        start += stretch.num_windows
    return parts


class WindowBatch:
    """Windows on the device.

    Parameters
    ----------
    stretches : list of Stretch
        Of one sample type.
    grid : WindowGrid
    device : torch.device
    """

    def __init__(self, stretches: list[Stretch], grid: WindowGrid, device: torch.device):
        self.grid = grid
        self.counts = [stretch.num_windows for stretch in stretches]
        lengths = [(n - 1) * grid.step_samples + grid.window_samples for n in self.counts]
        dtype = torch.from_numpy(np.empty(0, stretches[0].samples.dtype)).dtype
        pinned = device.type == "cuda"
        staging = torch.zeros(sum(lengths), dtype=dtype, pin_memory=pinned)
        view, start = staging.numpy(), 0
        for stretch, length in zip(stretches, lengths, strict=True):
            offset = stretch.first_window * grid.step_samples - stretch.job.first_sample
            samples = stretch.samples[offset : offset + length]
            view[start : start + len(samples)] = samples
            start += length
        waveform = staging.to(device, non_blocking=pinned)
        if dtype == torch.int16:
            waveform = waveform.float().mul_(1 / 32768)
        self._waveforms = waveform.split(lengths)

    def __len__(self) -> int:
        return sum(self.counts)

    def windows(self) -> torch.Tensor:
        """(batch, window_samples) float32"""
        size, step = self.grid.window_samples, self.grid.step_samples
        return torch.cat([waveform.unfold(0, size, step) for waveform in self._waveforms])

    def features(self, fbank: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Features of all windows, each frame computed once where windows share it.

        Returns
        -------
        frames : (total_frames, num_mel_bins) float32
        starts : (batch,) int64
            First frame of each window.
        num_frames : int
            Frames of one window.
        """
        num_frames = fbank.num_frames(self.grid.window_samples)
        device = self._waveforms[0].device
        if self.grid.step_samples % fbank.frame_shift:
            frames = fbank(self.windows())
            starts = torch.arange(len(frames), device=device) * num_frames
            return frames.flatten(0, 1), starts, num_frames
        shared = self.grid.step_samples // fbank.frame_shift
        frames, starts, total = [], [], 0
        for waveform, count in zip(self._waveforms, self.counts, strict=True):
            frames.append(fbank(waveform))
            starts.append(total + torch.arange(count, device=device) * shared)
            total += len(frames[-1])
        return torch.cat(frames), torch.cat(starts), num_frames


class Job:
    """A recording, or a slice of one, on its way through local inference."""

    def __init__(self, source: np.ndarray | Slice, grid: WindowGrid):
        if not isinstance(source, Slice):
            source = Slice(source, 0, grid.num_windows(len(source)))
        samples = np.asarray(source.samples)
        if samples.ndim != 1 or samples.dtype not in (np.int16, np.float32):
            raise InvalidSamples(
                f"expected one channel of int16 or float32 samples, got {samples.dtype} "
                f"of shape {samples.shape}"
            )
        if len(samples) == 0:
            raise InvalidSamples("a recording without a single sample")
        self.num_samples = source.num_samples or source.first_sample + len(samples)
        num_windows = grid.num_windows(self.num_samples)
        last = source.first_window + source.num_windows
        if source.first_window < 0 or not 0 < source.num_windows <= last <= num_windows:
            raise ValueError(
                f"windows {source.first_window} to {last} are not in a recording of "
                f"{num_windows} windows"
            )
        start = source.first_window * grid.step_samples
        stop = min(self.num_samples, (last - 1) * grid.step_samples + grid.window_samples)
        if start < source.first_sample or stop > source.first_sample + len(samples):
            raise ValueError(
                f"windows {source.first_window} to {last} need samples {start} to {stop}, not "
                f"{source.first_sample} to {source.first_sample + len(samples)}"
            )
        self.samples: np.ndarray | None = samples
        self.first_sample = source.first_sample
        self.first_window = source.first_window
        self.num_windows = source.num_windows
        self.results: list = []

    @property
    def last_window(self) -> int:
        return self.first_window + self.num_windows


def fill_batches(
    jobs: Iterable[Job], grid: WindowGrid, batch_size: int
) -> Iterator[tuple[list[Job], list[Stretch]]]:
    """Cut jobs into batches of `batch_size` windows; only the last one may be smaller.

    Yields
    ------
    started : list of Job
        Jobs whose first window is in this batch, in order.
    stretches : list of Stretch
    """
    started, stretches, room = [], [], batch_size
    for job in jobs:
        samples = job.samples
        if stretches and stretches[0].samples.dtype != samples.dtype:
            yield started, stretches
            started, stretches, room = [], [], batch_size
        started.append(job)
        window = job.first_window
        while window < job.last_window:
            count = min(room, job.last_window - window)
            stretches.append(Stretch(job, samples, window, count))
            window += count
            room -= count
            if room == 0:
                yield started, stretches
                started, stretches, room = [], [], batch_size
        del samples
    if stretches:
        yield started, stretches
