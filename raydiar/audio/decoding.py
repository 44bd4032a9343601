"""From the packets of a track to samples at their place in time.

A call into Python per packet is all that FFmpeg's loop costs here (`raydiar.audio.resampling`);
samples are written once, into memory that is reserved from the header's duration. What takes
thought is time: excerpts, gaps in the timestamps, damaged packets, and changes of format inside a
file.
"""

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import islice

import av
import numpy as np

from raydiar.audio.chains import links
from raydiar.audio.containers import AudioInfo, Track, open_track
from raydiar.audio.floats import FULL_SCALES, UnscaledFloats
from raydiar.audio.mixing import TrackMixer
from raydiar.audio.pcm import Excerpt, PcmBuffer
from raydiar.audio.resampling import (
    HIGHEST_RATE,
    LOWEST_RATE,
    SAMPLE_RATE,
    MonoResampler,
    common_period,
    run_layout,
    silence_like,
)
from raydiar.audio.timeline import MAX_GAP_SECONDS, TimedFrames
from raydiar.errors import AudioDecodeError, InvalidSamples
from raydiar.storage import Reader

_EXACT_START = 0.001  # seconds by which sound may start late and be on time
_MANY = 100  # frames whose timestamps are read together
_LOOKED_AT_SECONDS = 2.0


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
    for full_scale in FULL_SCALES:
        excerpt = Excerpt(pcm, reader.label, start, duration, max_duration, full_scale)
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


def _decode_links(excerpt: Excerpt, parts: list[Reader], channel: int | None) -> None:
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
    excerpt: Excerpt, reader: Reader, channel: int | None, alone: bool
) -> float | None:
    """One file, with all its tracks; the seconds that its header vouches for.

    A recording of several tracks is read once for each: they need not be interleaved.
    """
    begin = excerpt.cursor
    with open_track(reader) as track:
        excerpt.begin(track, alone)
        for warning in track.warnings:
            excerpt.warn(warning)
        indexes = track.choice.indexes
        if len(indexes) > 1 and channel is not None:
            if channel >= len(indexes):
                raise AudioDecodeError(
                    f"{track.label}: channel {channel} was asked for, counted from 0, but there "
                    f"are only {len(indexes)} (audio tracks)."
                )
            indexes, channel = indexes[channel : channel + 1], None
        if indexes == (track.stream.index,):
            _decode_track(track, excerpt, channel, alone)
            return track.stated_duration
    ends, failures = [], []
    excerpt.tracks = TrackMixer()
    for index in indexes:
        excerpt.cursor = begin
        excerpt.tracks.begin_track()
        with open_track(reader, index) as track:
            try:
                _decode_track(track, excerpt, channel, alone)
            except AudioDecodeError as error:
                failures.append(error)
        ends.append(excerpt.cursor)
    excerpt.tracks = None
    excerpt.cursor = max(ends)
    if len(failures) == len(indexes):
        raise failures[0]
    for error in failures:
        excerpt.warn(f"an audio track was left out: {error}")
    return None


def _decode_track(track: Track, excerpt: Excerpt, channel: int | None, alone: bool) -> None:
    """Write a track into the excerpt; `timeline` has the rules."""
    begin = excerpt.cursor
    # without seeking where the place of this file on the timeline has to be counted
    frames = TimedFrames(track, excerpt.start if alone else 0.0, excerpt.full_scale)
    _Placing(frames, excerpt, channel).run()
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

    def __init__(self, frames: TimedFrames, excerpt: Excerpt, channel: int | None):
        self._frames = frames
        self._excerpt = excerpt
        self._channel = channel
        self._run: MonoResampler | None = None
        self.position = 0

    def run(self) -> None:
        for frame in self._begun():
            time = self._frames.time(frame)
            tolerance = self._frames.tolerance
            if self._run.layout != run_layout(frame):
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
            yield from self._from_start(frames)
            return
        place: Fraction | None = None
        offsets: deque[float] = deque(maxlen=_MANY)
        counted = 0.0
        for frame in frames:
            time, seconds = self._frames.time(frame), frame.samples / frame.sample_rate
            if time is None:
                continue
            if offsets and abs(time - counted - offsets[-1]) > self._frames.tolerance:
                offsets.clear()  # a gap
            offsets.append(time - counted)
            rate = frame.sample_rate
            place = self._first_place(time, rate) if place is None else place
            counted += seconds
            end = round((float(np.median(offsets)) + counted) * rate)
            first = round(place * rate)
            if end > first:
                begin = end - frame.samples
                skip = max(0, first - begin)
                self._excerpt.skip_to(round(place * SAMPLE_RATE))
                self.position = first
                self._begin_run(frame, skip)
                self._fill_gap(frame, begin)
                self._push(frame, skip)
                break
        yield from frames

    def _from_start(self, frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
        """All frames, after silence if they do not begin at zero."""
        first: list[av.AudioFrame] = []
        offsets: list[float] = []
        counted = 0.0
        for frame in islice(frames, _MANY):
            first.append(frame)
            time = self._frames.time(frame)
            if time is not None and (
                not offsets or abs(time - counted - offsets[0]) <= self._frames.tolerance
            ):
                offsets.append(time - counted)
            counted += frame.samples / frame.sample_rate
            if counted > _LOOKED_AT_SECONDS:  # frames of some codecs are long
                break
        if first:
            self._begin_run(first[0], 0)
            late = float(np.median(offsets)) if offsets else 0.0
            if _EXACT_START < late < MAX_GAP_SECONDS:
                self._fill_gap(first[0], round(late * first[0].sample_rate))
        yield from first
        yield from frames

    def _first_place(self, time: float, rate: int) -> Fraction:
        """Seconds of the file to begin with, given the time of the first sample that there is."""
        whole = max(int(self._excerpt.start) - 1, math.ceil(time - _EXACT_START))
        if whole <= self._excerpt.start:
            return Fraction(whole)
        first = round(time * rate)  # the index did not lead to where it should
        return Fraction(first + -first % common_period(rate), rate)

    def _begin_run(self, frame: av.AudioFrame, skip: int) -> None:
        num_channels = frame.layout.nb_channels
        if self._channel is not None and self._channel >= num_channels:
            raise AudioDecodeError(
                f"{self._excerpt.label}: channel {self._channel} was asked for, counted from 0, "
                f"but there are only {num_channels}."
            )
        if not LOWEST_RATE <= frame.sample_rate <= HIGHEST_RATE:
            raise AudioDecodeError(
                f"{self._excerpt.label}: a sample rate of {frame.sample_rate} Hz, which no "
                "recording has: its header is damaged."
            )
        gain = 1 / self._excerpt.full_scale
        self._run = MonoResampler(frame, self._channel, skip=skip, gain=gain)

    def _end_run(self) -> None:
        self._excerpt.write(self._run.flush())
        mixer = self._run.mixer
        if mixer is not None:
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
