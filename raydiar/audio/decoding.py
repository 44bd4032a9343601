"""From the packets of a track to samples at their place in time.

A call into Python per packet is all that FFmpeg's loop costs here (`raydiar.audio.resampling`);
samples are written once, into memory that is reserved from the header's duration. What takes
thought is time: excerpts, gaps in the timestamps, damaged packets, and changes of format inside a
file.
"""

import mmap
import sys
from collections.abc import Iterable, Iterator
from numbers import Real

import av
import numpy as np

from raydiar.audio.containers import Track, open_track
from raydiar.audio.resampling import (
    SAMPLE_RATE,
    MonoResampler,
    common_period,
    frame_samples,
    run_layout,
    silence_like,
)
from raydiar.errors import (
    AudioDecodeError,
    ConfigError,
    EmptyAudio,
    InvalidSamples,
    RecordingTooLong,
)
from raydiar.storage import Reader

# Timestamps jitter by milliseconds in many containers; a gap must be longer than this to be one.
_GAP_SECONDS = 0.1
# A longer jump is a broken timestamp rather than an hour in which nothing was sent.
_MAX_GAP_SECONDS = 3600.0
# Decoded ahead of an excerpt so that codecs settle (Opus asks for 80 ms, mp3 for a few frames).
_PREROLL_SECONDS = 1.0
# Transport and program streams jump in time wherever they were cut: no gap to be filled.
_CUT_CONTAINERS = ("mpegts", "mpeg")


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
    excerpt = _Excerpt(pcm, reader.label, start, duration, max_duration)
    with open_track(reader) as track:
        excerpt.begin(track)
        frames = _Frames(track, start)
        _place(frames, excerpt, channel)
    frames.check_damage()
    excerpt.check_complete(track.stated_duration)


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
        Place on the timeline of the next block.
    """

    def __init__(self, pcm, label, start, duration, max_duration):
        check_excerpt(label, start, duration)
        self.label = label
        self.cursor = 0
        self._pcm = pcm
        self._start = start
        self._end = np.inf if duration is None else start + duration
        self._first = round(start * SAMPLE_RATE)
        self._stop = None if duration is None else round(self._end * SAMPLE_RATE)
        self._max_duration = max_duration
        self._limit = round(max_duration * SAMPLE_RATE)

    def begin(self, track: Track) -> None:
        """Reserve memory; raise RecordingTooLong before anything is decoded if the header tells."""
        if track.stated_duration is not None:
            seconds = min(track.stated_duration, self._end) - self._start
            if seconds > self._max_duration:
                raise self._too_long(f"{seconds / 3600:.1f} h")
        if track.info.duration is not None:
            # a second more: cheaper than growing because the header was off by a frame
            seconds = min(track.info.duration + 1, self._end) - self._start
            self._pcm.reserve(min(round(max(0, seconds) * SAMPLE_RATE), self._limit))

    def write(self, blocks: Iterable[np.ndarray]) -> None:
        """Keep what is wanted of consecutive blocks of int16 samples, the first at the cursor."""
        for block in blocks:
            begin = max(0, self._first - self.cursor)
            end = len(block) if self._stop is None else max(begin, self._stop - self.cursor)
            self.cursor += len(block)
            wanted = block[begin:end]
            if self._pcm.num_samples + len(wanted) > self._limit:
                raise self._too_long(f"more than {self._max_duration / 3600:g} h")
            if len(wanted):
                self._pcm.append(wanted)

    def skip_to(self, cursor: int) -> None:
        """Begin in the middle of the file, before the first sample that is wanted."""
        if cursor > self._first:
            raise AudioDecodeError(
                f"{self.label}: this file has no index to find {self._start:g} s by. Decode it "
                "from its start, or convert it."
            )
        self.cursor = cursor

    @property
    def complete(self) -> bool:
        return self._stop is not None and self.cursor >= self._stop

    def check_complete(self, stated_duration: float | None) -> None:
        """Raise if the audio ended before its header says so, or before the excerpt began."""
        got = self._pcm.num_samples / SAMPLE_RATE
        if stated_duration is not None:
            wanted = min(stated_duration, self._end) - self._start
            if wanted - got > 0.5 + 0.01 * wanted:
                raise AudioDecodeError(
                    f"{self.label}: truncated or damaged: of the {wanted:.1f} s that its header "
                    f"promises {got:.1f} s can be decoded. Fetch the file again, or use what is "
                    "there by giving its `duration`."
                )
        if got == 0 and self._first > 0:
            raise EmptyAudio(
                f"{self.label}: the excerpt starts at {self._start:g} s, where the audio has ended."
            )
        if got == 0:
            raise EmptyAudio(f"{self.label}: the file holds no audio samples.")

    def _too_long(self, found: str) -> RecordingTooLong:
        return RecordingTooLong(
            f"{self.label}: {found} of audio; a recording may last "
            f"{self._max_duration / 3600:g} h. Process it in excerpts, with `start` and `duration`."
        )


class _Frames:
    """Decoded frames of a track from about `start` on, with damaged packets left out."""

    def __init__(self, track: Track, start: float):
        self._track = track
        self._time_base = float(track.stream.time_base)
        # Players start with the earliest track; a video's sound may come later than its picture.
        self._origin = (track.container.start_time or 0) / av.time_base
        self._good = self._bad = 0
        codec = track.info.codec
        self.gaps_are_silence = track.info.container not in _CUT_CONTAINERS
        # In a wav that is not PCM (ADPCM, mp3) times are estimates but for the first packet's.
        timed = track.info.container != "wav" or codec.startswith("pcm_")
        self.sought = timed and start > _PREROLL_SECONDS
        # Only codecs that store floats can hold NaN, and looking for it costs a little.
        self._floats = codec.startswith("pcm_f") or codec == "wavpack"
        if self.sought:
            target = int((self._origin + start - _PREROLL_SECONDS) / self._time_base)
            track.container.seek(target, stream=track.stream)

    def time(self, frame: av.AudioFrame) -> float | None:
        """Of the first sample of a frame, in seconds on the file's timeline."""
        return None if frame.pts is None else frame.pts * self._time_base - self._origin

    def __iter__(self) -> Iterator[av.AudioFrame]:
        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.FFmpegError:  # a hole in the audio; the timestamps say how long
                self._bad += 1
                continue
            self._good += 1
            for frame in frames:
                if self._floats and not np.isfinite(frame_samples(frame)).all():
                    raise InvalidSamples(
                        f"{self._track.label}: the file holds NaN or infinity among its samples. "
                        "Correct what wrote it, or convert it to integer samples."
                    )
                yield frame

    def _packets(self) -> Iterator[av.Packet]:
        packets = self._track.container.demux(self._track.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:  # a damaged end; whether too much is missing is checked later
                self._bad += 1
                return
            if packet is None:
                return
            yield packet

    def check_damage(self) -> None:
        total = self._good + self._bad
        if self._bad > 1 and 10 * self._bad > total:
            raise AudioDecodeError(
                f"{self._track.label}: damaged: {self._bad} of {total} packets cannot be decoded. "
                "Fetch the file again."
            )


def _place(frames: _Frames, excerpt: _Excerpt, channel: int | None) -> None:
    """Bring frames to mono 16 kHz and write them into the excerpt at their place in time."""
    run: MonoResampler | None = None
    position = 0  # of the next sample on the file's timeline, at the rate of the run
    for frame in frames:
        rate, time = frame.sample_rate, frames.time(frame)
        tolerance = _GAP_SECONDS
        if run is None or run.layout != run_layout(frame):
            skip = 0
            if run is not None:
                excerpt.write(run.flush())
                position = round(position * rate / run.rate)
            elif frames.sought:
                if time is None:
                    continue
                # Begin where a sample in and one out coincide: as in a decode of the whole file.
                position = round(time * rate)
                skip = -position % common_period(rate)
                excerpt.skip_to(round((position + skip) * SAMPLE_RATE / rate))
            else:
                tolerance = 0.001
            run = _new_run(frame, channel, skip, excerpt.label)
        if time is not None and frames.gaps_are_silence:
            missing = time - position / rate
            if tolerance < missing < _MAX_GAP_SECONDS:
                position = _fill_gap(run, frame, position, round(time * rate), excerpt)
        run.push(frame)
        position += frame.samples
        if run.ready():
            excerpt.write(run.pull())
            if excerpt.complete:
                return
    if run is not None:
        excerpt.write(run.flush())


def _new_run(frame: av.AudioFrame, channel: int | None, skip: int, label: str) -> MonoResampler:
    num_channels = frame.layout.nb_channels
    if channel is not None and channel >= num_channels:
        raise AudioDecodeError(
            f"{label}: channel {channel} was asked for, counted from 0, but there are only "
            f"{num_channels}."
        )
    return MonoResampler(frame, channel, skip=skip)


def _fill_gap(
    run: MonoResampler, frame: av.AudioFrame, position: int, end: int, excerpt: _Excerpt
) -> int:
    """Write silence from `position` to `end`, a second at a time."""
    while position < end:
        silence = silence_like(frame, min(frame.sample_rate, end - position))
        run.push(silence)
        excerpt.write(run.pull())
        position += silence.samples
    return position
