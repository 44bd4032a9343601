"""What a file says of itself before it is decoded, and how far to believe it.

A duration is either stated by the header or estimated from the size of the file. Only a stated one
can prove a recording truncated, or too long before it is decoded: an estimate may be wrong by any
factor, for example in mp3 of variable bit rate.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Discard

from raydiar.errors import AudioDecodeError, EmptyAudio, RaydiarError
from raydiar.storage import Reader, storage_error

# PyAV reads 32 kB otherwise, and each read is a call into Python: dearer than the codec of a wav.
_READ_BYTES = 256 * 1024

# Demuxers whose duration comes from the header, by FFmpeg's names. Of the others ogg looks for its
# last page and raw streams divide their size by the bit rate: what is there, not what should be.
_STATES_DURATION = {
    "aiff",
    "ape",
    "asf",
    "caf",
    "flac",
    "matroska,webm",
    "mov,mp4,m4a,3gp,3g2,mj2",
    "tta",
    "w64",
    "wv",
}


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
    """The audio track of an open recording.

    Attributes
    ----------
    container, stream : PyAV objects
    info : AudioInfo
    stated_duration : float or None
        Seconds that the header vouches for; None if there is only an estimate, or nothing.
    label : str
        The recording in messages.
    """

    container: InputContainer
    stream: AudioStream
    info: AudioInfo
    stated_duration: float | None
    label: str


@contextmanager
def open_track(reader: Reader) -> Iterator[Track]:
    """Open the audio track of a recording; of several, the one that FFmpeg thinks best.

    Failures of FFmpeg and of the storage inside the block come out as exceptions of
    `raydiar.errors`.

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
        by_first_bytes = _wav_seconds(reader) or _mp3_seconds(reader)
        reader.seek(0)
        # Without protocols a playlist cannot make FFmpeg open other files, here or on the network.
        with av.open(
            reader,
            container_options={"protocol_whitelist": "none"},
            buffer_size=_READ_BYTES,
            metadata_errors="replace",
        ) as container:
            stream = _audio_stream(container, reader.label)
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all
            # One thread a decode: hosts run as many decodes as there are cores.
            stream.codec_context.thread_count = 1
            info = AudioInfo(
                duration=_duration(container, stream),
                sample_rate=stream.sample_rate,
                num_channels=stream.channels,
                codec=stream.codec_context.name,
                container=container.format.name,
            )
            stated = _stated_duration(info, stream, container, by_first_bytes)
            yield Track(container, stream, info, stated, reader.label)
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


def _audio_stream(container: InputContainer, label: str) -> AudioStream:
    stream = container.streams.best("audio") or next(iter(container.streams.audio), None)
    if stream is None:
        found = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise AudioDecodeError(
            f"{label}: no audio track in this {container.format.name} file, only {found}. "
            "Give a file with sound."
        )
    if stream.codec_context is None:
        raise AudioDecodeError(
            f"{label}: FFmpeg has no decoder for its audio track. Convert it to another format."
        )
    return stream


def _duration(container: InputContainer, stream: AudioStream) -> float | None:
    known = []
    if stream.duration:
        known.append(float(stream.duration * stream.time_base))
    if container.duration:
        known.append(container.duration / av.time_base)
    return min(known, default=None)  # an edit list shows less than the track holds


def _stated_duration(
    info: AudioInfo, stream: AudioStream, container: InputContainer, by_first_bytes: float | None
) -> float | None:
    if info.container == "wav":
        return (by_first_bytes or info.duration) if info.codec.startswith("pcm_") else None
    if info.container == "mp3":
        return by_first_bytes
    # A video may outlast its sound: there only the duration of the track itself counts.
    if info.container in _STATES_DURATION and (stream.duration or len(container.streams) == 1):
        return info.duration
    return None


def _wav_seconds(reader: Reader) -> float | None:
    """Duration by the chunk sizes of a wav, which FFmpeg quietly overrules if the file is shorter.

    None for other files, and for a wav written into a pipe: such programs cannot know the length
    and state (nearly) 2 or 4 GiB.
    """
    reader.seek(0)
    head = reader.read(65536)
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return None
    offset, bytes_per_second = 12, 0
    while offset + 8 <= len(head):
        kind = head[offset : offset + 4]
        size = int.from_bytes(head[offset + 4 : offset + 8], "little")
        if kind == b"fmt ":
            bytes_per_second = int.from_bytes(head[offset + 16 : offset + 20], "little")
        if kind == b"data":
            streamed = any(0 <= limit - size < 65536 for limit in (2**31, 2**32))
            return size / bytes_per_second if bytes_per_second and not streamed else None
        offset += 8 + size + size % 2
    return None


def _mp3_seconds(reader: Reader) -> float | None:
    """Duration by the number of frames in the Xing (or Info, or VBRI) header of an mp3.

    FFmpeg falls back from it to an estimate where it does not fit the size of the file, and does
    not say so.
    """
    reader.seek(0)
    head = reader.read(10)
    if head[:3] == b"ID3":
        reader.seek(10 + sum((byte & 0x7F) << 7 * (3 - i) for i, byte in enumerate(head[6:])))
    else:
        reader.seek(0)
    frame = reader.read(256)
    if len(frame) < 256 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:
        return None
    version, rate_index = frame[1] >> 3 & 3, frame[2] >> 2 & 3  # version 3 is MPEG-1
    if version == 1 or rate_index == 3:
        return None
    sample_rate = (44100, 48000, 32000)[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    for tag, offset in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        place = frame.find(tag, 4, 64)
        if place > 0 and (tag == b"VBRI" or frame[place + 7] & 1):
            count = int.from_bytes(frame[place + offset : place + offset + 4], "big")
            return count * (1152 if version == 3 else 576) / sample_rate or None
    return None
