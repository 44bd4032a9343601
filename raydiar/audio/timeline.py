"""Decoded frames of a track and when they are to be heard.

A file has two clocks: the timestamps of its packets, and the samples themselves. Timestamps say
when sound begins, where it is missing, and what to find an excerpt by; in between samples are
counted, because timestamps are rounded (to milliseconds in webm) and shaky (in what browsers
record). Where timestamps jump back, or forward beyond reason, two recordings were put together:
sound goes on from there.
"""

from collections.abc import Iterator

import av
import numpy as np

from raydiar.audio.containers import Track
from raydiar.audio.floats import (
    LARGEST,
    UnscaledFloats,
    count_unscaled,
    is_unscaled,
    stores_floats,
)
from raydiar.audio.resampling import frame_samples
from raydiar.errors import AudioDecodeError, InvalidSamples

# Decoded ahead of an excerpt: so that codecs settle (Opus asks for 80 ms, mp3 for a few frames),
# and to read off many timestamps what one says only roughly.
PREROLL_SECONDS = 3.0
# A longer jump is a broken timestamp rather than an hour in which nothing was sent.
MAX_GAP_SECONDS = 3600.0
# A gap must be longer than this to be one: where timestamps are shaky, and where they are counted.
_SHAKY_GAP_SECONDS = 0.1
_EXACT_GAP_SECONDS = 0.001
_EXACT = {"aiff", "amr", "au", "caf", "flac", "mp3", "w64", "wav"}
# A smaller step back is an overlap of packets, and no reason to look at a clock anew.
_BACK_SECONDS = 0.5
# Without an index and with a clock that may start again: an excerpt is found by reading up to it.
_READ_THROUGH = {"mpegts", "mpeg"}
# Streams of frames without timestamps: FFmpeg's are guesses by the first frame's rate.
_COUNTED = {"aac", "ac3", "dts", "eac3", "loas"}
_LEAP_SECONDS = 1.0
_MOST_DEMUX_ERRORS = 100
_AMR_PADDING = 0x83  # bits of a frame's first byte that are zero (RFC 4867)


class TimedFrames:
    """Frames from about `start` on, with damaged packets left out.

    Parameters
    ----------
    track : Track
    start : float, seconds
        What comes more than `PREROLL_SECONDS` before it may be left out.
    full_scale : float
        What samples of a file of floats will be divided by.

    Attributes
    ----------
    sought : bool
        Whether frames begin somewhere in the middle.
    tolerance : float, seconds
        By how much the next frame's time may differ from the count of samples.
    warnings : list of str
    """

    def __init__(self, track: Track, start: float, full_scale: float = 1.0):
        self.warnings: list[str] = []
        self._track = track
        self._decoder = track.decoder
        self._time_base = float(track.stream.time_base)
        # Players start with the earliest track; a video's sound may come later than its picture.
        self._origin = (track.container.start_time or 0) / av.time_base
        self._good = self._bad = self._demux_errors = 0
        self._last_error: Exception | None = None
        self._shifts = [0.0]  # the clock's corrections: the current one, and the one before
        self._next: float | None = None  # when the next packet is due
        self._jumps: list[tuple[float, float]] = []  # where, and by how much
        # When the file ends by its header, or its last timestamps: no gap reaches beyond.
        length = track.container.duration
        self._end = length / av.time_base + 1 if length else np.inf
        self._after_damage = False
        codec = track.info.codec
        exact = track.info.container in _EXACT
        self._tolerance = _EXACT_GAP_SECONDS if exact else _SHAKY_GAP_SECONDS
        # In a wav that is not PCM (ADPCM, mp3) times are estimates but for the first packet's.
        timed = track.info.container != "wav" or codec.startswith("pcm_")
        # Looking for what only floats can hold costs a little.
        self._floats = stores_floats(codec)
        # FFmpeg gives the first frame after a change of rate the rate of before.
        self._relabels = codec.startswith("mp3")
        self._is_amr = track.info.container == "amr"  # whose decoder takes any bytes for speech
        self._full_scale = full_scale
        self._heard = self._unscaled = 0
        self._counted = track.info.container in _COUNTED
        timed = timed and not self._counted
        self.sought = timed and start > PREROLL_SECONDS
        self._read_until = -np.inf
        self._keeps_clock = not self.sought and not self._counted
        if self.sought and (track.info.container in _READ_THROUGH or not track.can_seek):
            self._read_until = start - PREROLL_SECONDS
            self._keeps_clock = True
        elif self.sought:
            target = int((self._origin + start - PREROLL_SECONDS) / self._time_base)
            track.container.seek(target, stream=track.stream)

    @property
    def tolerance(self) -> float:
        return _EXACT_GAP_SECONDS if self._after_damage else self._tolerance

    def time(self, frame: av.AudioFrame) -> float | None:
        """Of the first sample of a frame, in seconds on the file's timeline."""
        if frame.pts is None or self._counted:
            return None
        time = frame.pts * self._time_base - self._origin
        if len(self._shifts) == 1 or self._next is None:
            return time + self._shifts[-1]
        # a decoder may be a packet behind: the frame is of before the jump, or of after it
        return min((time + shift for shift in self._shifts), key=lambda t: abs(t - self._next))

    def __iter__(self) -> Iterator[av.AudioFrame]:
        for packet in self._packets():
            if self._is_before(packet):
                continue
            try:
                if self._is_amr and packet is not None and bytes(packet)[0] & _AMR_PADDING:
                    raise av.InvalidDataError(1, "not an AMR frame")
                frames = self._decoder.decode(packet)
            except av.FFmpegError:  # a hole in the audio; the timestamps say how long
                self._bad += 1
                self._after_damage = True
                continue
            self._good += 1
            for frame in frames:
                if self._relabels:
                    frame.sample_rate = self._decoder.sample_rate
                if self._floats and frame.format.name.startswith(("flt", "dbl")):
                    self._check_floats(frame)
                yield frame
                self._after_damage = False
        if self._floats:
            self._check_scale()

    def _packets(self) -> Iterator[av.Packet | None]:
        """All packets, and one that asks the decoder for what it has kept.

        A timestamp that leaps is believed if the next one goes on from it.
        """
        packets = self._demuxed()
        packet = next(packets, None)
        while packet is not None:
            following = None
            if self._keeps_clock and packet.pts is not None:
                if self._leaps(packet):
                    following = next(packets, None)
                    if self._goes_on(following):
                        packet.pts = None
                if packet.pts is not None:
                    self._keep_clock(packet)
            yield packet
            packet = next(packets, None) if following is None else following
        yield None

    def _demuxed(self) -> Iterator[av.Packet]:
        """Packets as they come; an error in between is a hole, of an extent unknown."""
        while self._demux_errors < _MOST_DEMUX_ERRORS:
            try:
                for packet in self._track.container.demux(self._track.stream):
                    if packet.size:
                        yield packet
                return
            except IndexError:
                # A packet of a stream that began after the header (FLV, transport streams), of
                # which PyAV does not know: none of ours.
                continue
            except av.FFmpegError as error:
                self._last_error = error
                self._demux_errors += 1
                self._after_damage = True

    def _leaps(self, packet: av.Packet) -> bool:
        if self._next is None:
            return False
        return not -_BACK_SECONDS <= self._time_of(packet) - self._next <= _LEAP_SECONDS

    def _goes_on(self, packet: av.Packet | None) -> bool:
        """Whether a packet is where it is due, as if the one before it had been."""
        return packet is not None and packet.pts is not None and not self._leaps(packet)

    def _time_of(self, packet: av.Packet) -> float:
        return packet.pts * self._time_base - self._origin + self._shifts[-1]

    def _keep_clock(self, packet: av.Packet) -> None:
        time = self._time_of(packet)
        if self._next is not None and not (
            -_BACK_SECONDS <= time - self._next <= MAX_GAP_SECONDS
            and (time - self._next <= _LEAP_SECONDS or time <= self._end)
        ):
            self._shifts = [self._shifts[-1], self._shifts[-1] + self._next - time]
            self._jumps.append((self._next, time - self._next))
            time = self._next
        self._next = time + (packet.duration or 0) * self._time_base

    def _is_before(self, packet: av.Packet | None) -> bool:
        """Whether a packet ends before what must be decoded."""
        if packet is None or packet.pts is None or self._next is None:
            return False
        return self._next < self._read_until

    def _check_floats(self, frame: av.AudioFrame) -> None:
        samples = frame_samples(frame)
        if not np.isfinite(samples).all():
            raise InvalidSamples(
                f"{self._track.label}: the file holds NaN or infinity among its samples. "
                "Mend what wrote it, or convert it to integer samples."
            )
        loudness = np.abs(samples)
        if loudness.max(initial=0) > LARGEST:
            raise InvalidSamples(
                f"{self._track.label}: the file holds samples up to {loudness.max():.3g}, where "
                "full scale is 1. Mend what wrote it."
            )
        self._heard += samples.size
        self._unscaled += count_unscaled(loudness, self._full_scale)
        if self._heard >= frame.sample_rate * frame.layout.nb_channels:
            self._check_scale()

    def _check_scale(self) -> None:
        if is_unscaled(self._unscaled, self._heard):
            raise UnscaledFloats
        self._heard = self._unscaled = 0

    def check_damage(self, complete: bool, seconds: float) -> None:
        """Say, at the end, what could not be read.

        Parameters
        ----------
        complete : bool
            Whether all that was wanted came out nevertheless.
        seconds : float
            Where on the timeline of the track decoding ended.

        Raises
        ------
        AudioDecodeError
            If more than a tenth of the packets is damaged, or of the track missing.
        """
        if self._jumps:
            at, by = self._jumps[0]
            self.warnings.append(
                f"its timestamps jump in {len(self._jumps)} places, first by {by:.1f} s at "
                f"{at:.1f} s, as where recordings are put together: times go on from there."
            )
        total = self._good + self._bad
        if self._bad > 1 and 10 * self._bad > total:
            raise AudioDecodeError(
                f"{self._track.label}: damaged: {self._bad} of {total} packets cannot be decoded. "
                "Fetch the file again."
            )
        if complete:
            return
        probable = self._track.probable_duration
        if self._last_error is not None:
            reason = f"({self._last_error.strerror})"
            if probable is not None and seconds < 0.9 * probable - 1:
                raise AudioDecodeError(
                    f"{self._track.label}: damaged: it cannot be read beyond {seconds:.1f} s of "
                    f"about {probable:.1f} s {reason}. Fetch the file again."
                )
            self.warnings.append(
                f"it is damaged in {self._demux_errors} places {reason}: sound may be missing."
            )
        elif probable is not None and seconds < 0.9 * probable - 1:
            self.warnings.append(
                f"it seems to last {probable:.1f} s, but only {seconds:.1f} s came out of it."
            )
