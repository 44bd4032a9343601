"""Samples in memory that grows, and the part of a recording that is wanted of them."""

import mmap
import sys
from collections.abc import Iterable

import numpy as np

from raydiar.audio.arguments import check_excerpt
from raydiar.audio.containers import Track
from raydiar.audio.floats import stores_floats
from raydiar.audio.mixing import TrackMixer
from raydiar.audio.resampling import SAMPLE_RATE
from raydiar.errors import AudioDecodeError, EmptyAudio, RecordingTooLong

_MOST_WARNINGS = 20


class PcmBuffer:
    """Samples appended one after another to memory that grows without copying what is there.

    The pages of a private mapping cost nothing before they are written, and Linux grows it by
    moving its page table: the peak is the PCM itself, also where the duration was unknown.
    (Growing a numpy array copies it, which takes twice the PCM.)
    """

    def __init__(self):
        self.num_samples = 0
        self._memory: mmap.mmap | None = None
        self._capacity = 0

    def reserve(self, num_samples: int) -> None:
        """Make room for this many samples in all."""
        if num_samples > self._capacity:
            self._memory = self._resized(self._memory, 2 * num_samples)
            self._capacity = num_samples

    def append(self, block: np.ndarray) -> None:
        end = self.num_samples + len(block)
        if end > self._capacity:
            self.reserve(end + end // 8 + 60 * SAMPLE_RATE)
        np.frombuffer(self._memory, np.int16, end)[self.num_samples :] = block
        self.num_samples = end

    def part(self, place: int, length: int) -> np.ndarray:
        """A copy of what was appended at a place, with zeros where nothing was."""
        part = np.zeros(length, np.int16)
        first, last = max(0, place), min(place + length, self.num_samples)
        if first < last:
            part[first - place : last - place] = self.samples()[first:last]
        return part

    def put(self, place: int, block: np.ndarray) -> None:
        """Write a block over what is there at a place, and append what is not."""
        known = max(0, min(len(block), self.num_samples - place))
        if known:
            self.samples()[place : place + known] = block[:known]
        if known < len(block):
            self.append(block[known:])

    def clear(self) -> None:
        self.num_samples = 0

    def keep_whole(self) -> None:
        """What is there may be changed, or dropped, until the end: here that is always so."""

    def samples(self) -> np.ndarray:
        """All that was appended: (num_samples,) int16, a view that keeps the memory alive."""
        return np.frombuffer(self._memory, np.int16, self.num_samples)

    def _resized(self, memory: mmap.mmap | None, num_bytes: int) -> mmap.mmap:
        if memory is not None and sys.platform == "linux":
            memory.resize(num_bytes)
            return memory
        larger = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if memory is not None:
            larger[: len(memory)] = memory[:]
        return larger


class Excerpt:
    """The part of a file's timeline that is wanted, and how much of it has been written.

    Attributes
    ----------
    cursor : int, samples at 16 kHz
        Place on the timeline of the next block. Where something has been written before, by
        another track, a block is added to it.
    tracks : TrackMixer or None
        How several tracks are written to the same place.
    full_scale : float
        What samples are to be divided by (`raydiar.audio.floats`).
    warnings : list of str
    """

    def __init__(self, pcm, label, start, duration, max_duration, full_scale):
        check_excerpt(label, start, duration)
        self.label = label
        self.cursor = 0
        self.tracks: TrackMixer | None = None
        self.full_scale = full_scale
        self.warnings: list[str] = []
        self.start = start
        self._pcm = pcm
        self._end = np.inf if duration is None else start + duration
        self._first = round(start * SAMPLE_RATE)
        self._stop = None if duration is None else round(self._end * SAMPLE_RATE)
        self._max_duration = max_duration
        self._limit = round(max_duration * SAMPLE_RATE)

    def begin(self, track: Track, alone: bool) -> None:
        """Reserve memory; raise RecordingTooLong before anything is decoded if the header tells."""
        if not alone or len(track.choice.indexes) > 1 or stores_floats(track.info.codec):
            self._pcm.keep_whole()
        if track.stated_duration is not None and alone:
            seconds = min(track.stated_duration, self._end) - self.start
            if seconds > self._max_duration:
                raise self._too_long(f"{seconds / 3600:.1f} h")
        if track.info.duration is not None:
            # a second more: cheaper than growing because the header was off by a frame
            end = self.cursor / SAMPLE_RATE + track.info.duration + 1
            seconds = max(0, min(end, self._end) - self.start)
            self._pcm.reserve(min(round(seconds * SAMPLE_RATE), self._limit))

    def write(self, blocks: Iterable[np.ndarray]) -> None:
        """Keep what is wanted of consecutive blocks of int16 samples, the first at the cursor."""
        for block in blocks:
            begin = max(0, self._first - self.cursor)
            end = len(block) if self._stop is None else max(begin, self._stop - self.cursor)
            place = self.cursor + begin - self._first
            wanted = block[begin:end]
            if place + len(wanted) > self._limit:
                raise self._too_long(f"more than {self._max_duration / 3600:g} h")
            if self.tracks is not None:
                there = self._pcm.part(self.cursor - self._first, len(block))
                mixed = self.tracks.mix(there, block, self.cursor)
                self._pcm.put(place, mixed[begin:end])
            elif len(wanted):
                self._pcm.append(wanted)
            self.cursor += len(block)

    def skip_to(self, cursor: int) -> None:
        """Begin in the middle of the file, before the first sample that is wanted."""
        if cursor > self._first:
            raise AudioDecodeError(
                f"{self.label}: this file has no index to find {self.start:g} s by. Decode it "
                "from its start, or convert it."
            )
        self.cursor = cursor

    def warn(self, text: str) -> None:
        """Add a warning, once: parts and tracks of a file have the same troubles, and many."""
        warning = f"{self.label}: {text}"
        if warning not in self.warnings and len(self.warnings) < _MOST_WARNINGS:
            self.warnings.append(warning)

    @property
    def complete(self) -> bool:
        return self._stop is not None and self.cursor >= self._stop

    def check_complete(self, stated_duration: float | None) -> None:
        """Raise if the audio ended before its header says so, or before the excerpt began."""
        got = self._pcm.num_samples / SAMPLE_RATE
        if stated_duration is not None:
            wanted = min(stated_duration, self._end) - self.start
            if wanted - got > 0.5 + 0.01 * wanted:
                raise AudioDecodeError(
                    f"{self.label}: truncated or damaged: of the {wanted:.1f} s that its header "
                    f"promises {got:.1f} s can be decoded. Fetch the file again, or use what is "
                    "there by giving its `duration`."
                )
        if got == 0 and self._first > 0:
            raise EmptyAudio(
                f"{self.label}: the excerpt starts at {self.start:g} s, where the audio has ended."
            )
        if got == 0:
            raise EmptyAudio(f"{self.label}: the file holds no audio samples.")

    def _too_long(self, found: str) -> RecordingTooLong:
        return RecordingTooLong(
            f"{self.label}: {found} of audio; a recording may last "
            f"{self._max_duration / 3600:g} h. Process it in excerpts, with `start` and `duration`."
        )
