"""What a file says of itself before it is decoded, and how far to believe it.

A duration is either stated by the header or estimated from the size of the file. Only a stated one
can prove a recording truncated, or too long before it is decoded: an estimate may be wrong by any
factor, for example in mp3 of variable bit rate.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
from av import CodecContext
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard

from raydiar.audio.headers import SampleChunk, find_samples
from raydiar.audio.tracks import Choice, choose_tracks, decoder_of
from raydiar.errors import AudioDecodeError, EmptyAudio, RaydiarError
from raydiar.storage import Reader, storage_error

# PyAV reads 32 kB otherwise, and each read is a call into Python: dearer than the codec of a wav.
_READ_BYTES = 256 * 1024

# Demuxers whose duration comes from the header, by FFmpeg's names. Of the others ogg looks for its
# last page and raw streams divide their size by the bit rate: what is there, not what should be.
_STATES_DURATION = {
    "aiff",
    "ape",
    "au",
    "asf",
    "caf",
    "flac",
    "matroska,webm",
    "mov,mp4,m4a,3gp,3g2,mj2",
    "tta",
    "w64",
    "wv",
}
_MP3_TAG_BYTES = 256  # what may follow the frames of an mp3: ID3v1


@dataclass(frozen=True)
class AudioInfo:
    """What the header of a recording says.

    Attributes
    ----------
    duration : float or None
        Seconds; an estimate in formats whose header states none (mp3 without a Xing header, AAC
        in ADTS), None where not even that is possible (webm straight from a browser).
    sample_rate : int, Hz
    num_channels : int
    codec, container : str
        FFmpeg's names.
    """

    duration: float | None
    sample_rate: int
    num_channels: int
    codec: str
    container: str


@dataclass(frozen=True)
class Track:
    """An audio track of an open recording.

    Attributes
    ----------
    container, stream : PyAV objects
    decoder : av.CodecContext
        What packets of the stream are decoded with.
    info : AudioInfo
        Of the recording: with several tracks, each counts as a channel.
    choice : Choice
        All tracks of the recording, and what to tell of it.
    stated_duration : float or None
        Seconds that the header vouches for; None if there is only an estimate, or nothing.
    label : str
        The recording in messages.
    warnings : list of str
        What the user should know of the file as a whole, without its name.
    can_seek : bool
        Whether FFmpeg finds a place in it by its time. In mp3 it goes by the header's length, which
        is that of the first where several were joined.
    """

    container: InputContainer
    stream: AudioStream
    decoder: CodecContext
    info: AudioInfo
    choice: Choice
    stated_duration: float | None
    label: str
    warnings: list[str]
    can_seek: bool

    @property
    def probable_duration(self) -> float | None:
        """Seconds that there should be, where nothing vouches for it but the last timestamp."""
        if self.stated_duration is None and self.info.container == "ogg":
            return self.info.duration
        return self.stated_duration


@contextmanager
def open_track(reader: Reader, index: int | None = None) -> Iterator[Track]:
    """Open an audio track of a recording.

    Failures of FFmpeg and of the storage inside the block come out as exceptions of
    `raydiar.errors`.

    Parameters
    ----------
    index : int, optional
        Of the stream, among all of the container; by default the first track of the recording.

    Raises
    ------
    EmptyAudio
        If there are no bytes.
    AudioDecodeError
        If they are not audio that FFmpeg knows, or hold no audio track.
    AudioNotFound, StorageDenied, StorageUnavailable
        If reading fails.
    """
    try:
        if reader.size() == 0:
            raise EmptyAudio(f"{reader.label}: the file is empty (0 bytes).")
        samples = find_samples(reader)
        mp3 = None if samples else _mp3_header(reader)
        shown = reader if samples is None else samples.shown(reader)
        shown.seek(0)
        # Without protocols a playlist cannot make FFmpeg open other files, here or on the network.
        with av.open(
            shown,
            container_options={"protocol_whitelist": "none"},
            buffer_size=_READ_BYTES,
            metadata_errors="replace",
        ) as container:
            choice = choose_tracks(container, reader.label)
            stream = container.streams[choice.indexes[0] if index is None else index]
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all
            decoder = decoder_of(stream)
            # One thread a decode: hosts run as many decodes as there are cores.
            decoder.thread_count = 1
            info = _info(container, stream, choice, samples)
            yield Track(
                container=container,
                stream=stream,
                decoder=decoder,
                info=info,
                choice=choice,
                stated_duration=_stated_duration(info, stream, container, samples, mp3),
                label=reader.label,
                warnings=_warnings(choice, samples),
                can_seek=info.container != "mp3" or (mp3 is not None and mp3.is_whole),
            )
    except RaydiarError:
        raise
    except Exception as error:
        if reader.failure is not None:
            raise storage_error(reader.failure, reader.label) from error
        if isinstance(error, av.FFmpegError):
            raise AudioDecodeError(
                f"{reader.label}: not audio that FFmpeg can decode ({error.strerror}). "
                "Check that the file plays, and fetch or convert it again."
            ) from error
        raise
    # FFmpeg may have taken a failed read for the end of the file, and been content.
    if reader.failure is not None:
        raise storage_error(reader.failure, reader.label) from reader.failure


def _info(
    container: InputContainer, stream: AudioStream, choice: Choice, samples: SampleChunk | None
) -> AudioInfo:
    several = len(choice.indexes) > 1
    if samples is not None and samples.seconds is not None:
        duration = samples.seconds
    elif several:
        duration = container.duration and container.duration / av.time_base
    else:
        duration = _duration(container, stream)
    return AudioInfo(
        duration=duration,
        sample_rate=stream.sample_rate,
        num_channels=len(choice.indexes) if several else stream.channels,
        codec=stream.codec_context.name,
        container=container.format.name,
    )


def _warnings(choice: Choice, samples: SampleChunk | None) -> list[str]:
    return [warning for warning in (samples and samples.warning(), choice.warning) if warning]


def _duration(container: InputContainer, stream: AudioStream) -> float | None:
    known = []
    if stream.duration:
        known.append(float(stream.duration * stream.time_base))
    if container.duration:
        # of matroska, it is the last time rather than a length
        begin = max(0, container.start_time or 0) if "matroska" in container.format.name else 0
        known.append((container.duration - begin) / av.time_base)
    return min(known, default=None)  # an edit list shows less than the track holds


def _stated_duration(
    info: AudioInfo,
    stream: AudioStream,
    container: InputContainer,
    samples: SampleChunk | None,
    mp3: "_Mp3Header | None",
) -> float | None:
    if samples is not None and samples.seconds is not None:
        return samples.stated_seconds if info.codec.startswith("pcm_") else None
    if info.container == "wav":
        return None
    if info.container == "mp3":
        return None if mp3 is None else mp3.seconds
    # A video may outlast its sound: there only the duration of the track itself counts.
    if stream.duration or len(container.streams) == 1:
        return _duration(container, stream) if info.container in _STATES_DURATION else None
    return None


@dataclass(frozen=True)
class _Mp3Header:
    """What the Xing (or Info, or VBRI) header of an mp3 says.

    Attributes
    ----------
    seconds : float or None
    is_whole : bool
        Whether the file is as large as it says: not truncated, and nothing joined to it.
    """

    seconds: float | None
    is_whole: bool


def _mp3_header(reader: Reader) -> _Mp3Header | None:
    """The header of an mp3, None if there is none.

    FFmpeg falls back from its number of frames to an estimate where it does not fit the size of
    the file, and does not say so.
    """
    size = reader.size()
    head = reader.read(10)
    begin = 0
    if head[:3] == b"ID3":
        begin = 10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:]))
    reader.seek(begin)
    frame = reader.read(256)
    if len(frame) < 256 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return None
    version, rate_index = frame[1] >> 3 & 3, frame[2] >> 2 & 3  # version 3 is MPEG-1
    if version == 1 or rate_index == 3:
        return None
    sample_rate = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    for tag, frames_at, bytes_at, needed in (
        (b"Xing", 8, 12, 3),
        (b"Info", 8, 12, 3),
        (b"VBRI", 14, 10, 0),
    ):
        place = frame.find(tag, 4, 64)
        if place < 0 or (needed and not frame[place + 7] & 1):
            continue
        count, num_bytes = (
            int.from_bytes(frame[place + at : place + at + 4], "big")
            for at in (frames_at, bytes_at)
        )
        has_bytes = frame[place + 7] & needed == needed
        whole = has_bytes and abs(size - begin - num_bytes) <= _MP3_TAG_BYTES
        return _Mp3Header(count * (1152 if version == 3 else 576) / sample_rate or None, whole)
    return None
