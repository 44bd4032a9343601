"""From the packets of a track to samples at their place in time.

A call into Python per packet is all that FFmpeg's loop costs here (`raydiar.audio.resampling`);
samples are written once, into memory that is reserved from the header's duration. What takes
thought is time: excerpts, gaps in the timestamps, damaged packets, and changes of format inside a
file.
"""

import math
import mmap
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from numbers import Real

import av
import numpy as np

from raydiar.audio.chains import links
from raydiar.audio.containers import AudioInfo, Track, open_track
from raydiar.audio.resampling import (
    SAMPLE_RATE,
    MonoResampler,
    common_period,
    run_layout,
    silence_like,
)
from raydiar.audio.timeline import MAX_GAP_SECONDS, TimedFrames, UnscaledFloats
from raydiar.errors import (
    AudioDecodeError,
    ConfigError,
    EmptyAudio,
    InvalidSamples,
    RecordingTooLong,
)
from raydiar.storage import Reader

_STEP = 2**20
# Of floats: as they should be; and integers of 16, 24 and 32 bits that were only converted.
_FULL_SCALES = (1.0, 2.0**15, 2.0**23, 2.0**31)
_SILENT_PEAK = 33  # -60 dB
_EXACT_START = 0.001  # seconds by which sound may start late and be on time
_MANY = 100  # frames whose timestamps are read together
_STEADY = 0.05  # seconds; timestamps that leave the count of samples by more have a gap


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

    def put(self, place: int, block: np.ndarray) -> None:
        """Add a block to what is there at a place, and append what is not."""
        known = min(len(block), self.num_samples - place)
        if known > 0:
            there = np.frombuffer(self._memory, np.int16, place + known)[place:]
            there[:] = np.clip(there.astype(np.int32) + block[:known], -32768, 32767)
        if known < len(block):
            self.append(block[max(0, known) :])

    def multiply(self, first: int, end: int, gain: float) -> None:
        """Make a stretch louder, saturating."""
        for begin in range(first, min(end, self.num_samples), _STEP):
            stop = min(begin + _STEP, end, self.num_samples)
            there = np.frombuffer(self._memory, np.int16, stop)[begin:]
            there[:] = np.clip(np.rint(there * np.float32(gain)), -32768, 32767)

    def clear(self) -> None:
        self.num_samples = 0

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


def decode_into(
    pcm: PcmBuffer,
    reader: Reader,
    *,
    start: float,
    duration: float | None,
    channel: int | None,
    max_duration: float,
    warnings: list[str],
) -> None:
    """Decode an open source, or an excerpt of it, into a buffer: `raydiar.audio.decode` inside.

    What the user should know of a recording that can be decoded is added to `warnings`.

    Raises
    ------
    As `raydiar.audio.decode`.
    """
    for full_scale in _FULL_SCALES:
        excerpt = _Excerpt(pcm, reader.label, start, duration, max_duration, 1 / full_scale)
        try:
            _decode_links(excerpt, links(reader), channel)
        except UnscaledFloats:
            pcm.clear()
            continue
        warnings += excerpt.warnings
        if full_scale > 1:
            warnings.append(
                f"{reader.label}: samples far above 1, where floats have their full scale: they "
                f"were divided by {full_scale:.0f}."
            )
        return
    raise InvalidSamples(f"{reader.label}: samples far above full scale. Mend what wrote the file.")


def read_info(reader: Reader) -> AudioInfo:
    """What the header of an open source says: `raydiar.audio.probe` inside.

    Raises
    ------
    As `raydiar.audio.probe`.
    """
    found, failure = [], None
    parts = links(reader)
    for part in parts:
        try:
            with open_track(part) as track:
                found.append(track.info)
        except AudioDecodeError as error:
            failure = failure or error
    if not found:
        raise failure
    durations = [info.duration for info in found]
    return replace(found[0], duration=None if None in durations else sum(durations))


def _decode_links(excerpt: "_Excerpt", parts: list[Reader], channel: int | None) -> None:
    """All files of which a recording is made, one after another."""
    failures: list[AudioDecodeError] = []
    stated: list[float | None] = []
    for part in parts:
        if excerpt.complete:
            stated.append(None)
            break
        begin = excerpt.cursor
        try:
            stated.append(_decode_file(excerpt, part, channel, alone=len(parts) == 1))
        except AudioDecodeError as error:
            if len(parts) == 1:
                raise
            failures.append(error)
            excerpt.cursor = max(excerpt.cursor, begin)
    if failures and len(failures) == len(parts):
        raise failures[0]
    for error in failures:
        excerpt.warn(f"one of the {len(parts)} recordings joined in it was left out: {error}")
    known = None if failures or None in stated else sum(stated)
    excerpt.check_complete(known)


def _decode_file(
    excerpt: "_Excerpt", reader: Reader, channel: int | None, alone: bool
) -> float | None:
    """One file, with all its tracks; the seconds that its header vouches for.

    A recording of several tracks is read once for each: they need not be interleaved.
    """
    begin = excerpt.cursor
    with open_track(reader) as track:
        excerpt.begin(track, alone)
        excerpt.warnings += track.warnings
        indexes = track.choice.indexes
        if len(indexes) > 1 and channel is not None:
            if channel >= len(indexes):
                raise AudioDecodeError(
                    f"{track.label}: channel {channel} was asked for, counted from 0, but there "
                    f"are only {len(indexes)} (audio tracks)."
                )
            indexes, channel = indexes[channel : channel + 1], None
        if indexes == (track.stream.index,):
            _decode_track(track, excerpt, channel, alone, 1.0)
            return track.stated_duration
    ends, failures, num_silent = [], [], 0
    for index in indexes:
        excerpt.cursor = begin
        before = excerpt.peak
        excerpt.peak = 0
        with open_track(reader, index) as track:
            try:
                _decode_track(track, excerpt, channel, alone, 1 / len(indexes))
            except AudioDecodeError as error:
                failures.append(error)
        num_silent += excerpt.peak <= _SILENT_PEAK / len(indexes)
        excerpt.peak = max(before, excerpt.peak)
        ends.append(excerpt.cursor)
    excerpt.cursor = max(ends)
    if len(failures) == len(indexes):
        raise failures[0]
    for error in failures:
        excerpt.warn(f"an audio track was left out: {error}")
    if len(indexes) > num_silent >= len(indexes) / 2:
        excerpt.amplify(begin, len(indexes) / (len(indexes) - num_silent))
    return None


def check_excerpt(label: str, start: float, duration: float | None) -> None:
    """
    Raises
    ------
    ConfigError
        If there can be no such part of a recording.
    """
    given = [start] if duration is None else [start, duration]
    if not all(isinstance(number, Real) for number in given) or not (
        0 <= start < np.inf and (duration is None or duration > 0)
    ):
        raise ConfigError(
            f"{label}: an excerpt has start >= 0 and duration > 0 seconds, "
            f"not start={start!r} and duration={duration!r}."
        )


class _Excerpt:
    """The part of a file's timeline that is wanted, and how much of it has been written.

    Attributes
    ----------
    cursor : int, samples at 16 kHz
        Place on the timeline of the next block. Where something has been written before, by
        another track, a block is added to it.
    peak : int
        Largest sample written.
    gain : float
        What all samples are to be multiplied by.
    warnings : list of str
    """

    def __init__(self, pcm, label, start, duration, max_duration, gain):
        check_excerpt(label, start, duration)
        self.label = label
        self.cursor = 0
        self.peak = 0
        self.gain = gain
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
            self.cursor += len(block)
            wanted = block[begin:end]
            if place + len(wanted) > self._limit:
                raise self._too_long(f"more than {self._max_duration / 3600:g} h")
            if len(wanted):
                self.peak = max(self.peak, int(wanted.max()), -int(wanted.min()))
                self._pcm.put(place, wanted)

    def amplify(self, begin: int, gain: float, end: int | None = None) -> None:
        """Multiply what was written since a place on the timeline."""
        first = max(0, begin - self._first)
        last = self._pcm.num_samples if end is None else max(first, end - self._first)
        self._pcm.multiply(first, last, gain)

    def skip_to(self, cursor: int) -> None:
        """Begin in the middle of the file, before the first sample that is wanted."""
        if cursor > self._first:
            raise AudioDecodeError(
                f"{self.label}: this file has no index to find {self.start:g} s by. Decode it "
                "from its start, or convert it."
            )
        self.cursor = cursor

    def warn(self, text: str) -> None:
        self.warnings.append(f"{self.label}: {text}")

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


def _decode_track(
    track: Track, excerpt: _Excerpt, channel: int | None, alone: bool, share: float
) -> None:
    """Write a track into the excerpt, `share` of its loudness; see the rules of `timeline`."""
    begin = excerpt.cursor
    # without seeking where the place of this file on the timeline has to be counted
    frames = TimedFrames(track, excerpt.start if alone else 0.0, excerpt.gain)
    _Placing(frames, excerpt, channel, share).run()
    frames.check_damage(excerpt.complete, (excerpt.cursor - begin) / SAMPLE_RATE)
    for warning in frames.warnings:
        excerpt.warn(warning)


class _Placing:
    """Brings frames to mono 16 kHz and writes them into the excerpt at their place in time.

    Attributes
    ----------
    position : int
        Of the next sample on the file's timeline, at the rate of the run.
    """

    def __init__(self, frames: TimedFrames, excerpt: _Excerpt, channel: int | None, share: float):
        self._frames = frames
        self._excerpt = excerpt
        self._channel = channel
        self._gain = share * excerpt.gain
        self._run: MonoResampler | None = None
        self._run_begin = 0
        self.position = 0

    def run(self) -> None:
        for frame in self._begun():
            time = self._frames.time(frame)
            tolerance = self._frames.tolerance
            if self._run is None:
                tolerance = _EXACT_START
                self._begin_run(frame, 0)
            elif self._run.layout != run_layout(frame):
                rate = self._run.rate
                self._end_run()
                self.position = round(self.position * frame.sample_rate / rate)
                self._begin_run(frame, 0)
            if time is not None:
                missing = time - self.position / self._run.rate
                if tolerance < missing < MAX_GAP_SECONDS:
                    self._fill_gap(frame, round(time * self._run.rate))
            self._push(frame)
            if self._run.ready():
                self._excerpt.write(self._run.pull())
                if self._excerpt.complete:
                    break
        if self._run is not None:
            self._end_run()

    def _begun(self) -> Iterator[av.AudioFrame]:
        """All frames; of an excerpt in the middle, those from a whole second on.

        There an input and an output sample coincide at any rate, and what is decided per second
        is decided as in a decode of the whole file. The first frame's place is read off many.
        """
        frames = iter(self._frames)
        if not self._frames.sought:
            yield from frames
            return
        place: int | None = None
        offsets: deque[float] = deque(maxlen=_MANY)
        counted = 0.0
        for frame in frames:
            time, seconds = self._frames.time(frame), frame.samples / frame.sample_rate
            if time is None:
                continue
            if offsets and abs(time - counted - offsets[-1]) > _STEADY:
                offsets.clear()  # a gap
            offsets.append(time - counted)
            rate = frame.sample_rate
            if place is None:
                place = self._first_place(time, rate)
            counted += seconds
            end = round((float(np.median(offsets)) + counted) * rate)
            if end > place:
                begin = end - frame.samples
                skip = max(0, place - begin)
                self._excerpt.skip_to(place * SAMPLE_RATE // rate)
                self.position = place
                self._begin_run(frame, skip)
                self._fill_gap(frame, begin)
                self._push(frame, skip)
                break
        yield from frames

    def _first_place(self, time: float, rate: int) -> int:
        """Sample of the file to begin with, given the time of the first that there is."""
        whole = max(int(self._excerpt.start) - 1, math.ceil(time - _EXACT_START))
        if whole <= self._excerpt.start:
            return whole * rate
        first = round(time * rate)  # the index did not lead to where it should
        return first + -first % common_period(rate)

    def _begin_run(self, frame: av.AudioFrame, skip: int) -> None:
        num_channels = frame.layout.nb_channels
        if self._channel is not None and self._channel >= num_channels:
            raise AudioDecodeError(
                f"{self._excerpt.label}: channel {self._channel} was asked for, counted from 0, "
                f"but there are only {num_channels}."
            )
        self._run = MonoResampler(frame, self._channel, skip=skip, gain=self._gain)
        self._run_begin = self._excerpt.cursor

    def _end_run(self) -> None:
        self._excerpt.write(self._run.flush())
        mixer = self._run.mixer
        if mixer is not None:
            if mixer.gain() != 1:
                self._excerpt.amplify(self._run_begin, mixer.gain(), self._excerpt.cursor)
            for warning in mixer.warnings():
                self._excerpt.warn(warning)

    def _push(self, frame: av.AudioFrame, skipped: int = 0) -> None:
        self._run.push(frame)
        self.position += frame.samples - skipped

    def _fill_gap(self, frame: av.AudioFrame, end: int) -> None:
        """Write silence up to a position, a second at a time."""
        while self.position < end:
            silence = silence_like(frame, min(frame.sample_rate, end - self.position))
            self._push(silence)
            self._excerpt.write(self._run.pull())
