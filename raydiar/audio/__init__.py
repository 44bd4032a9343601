"""Recordings and waveforms to what the networks take: mono PCM at 16 kHz.

Everything goes through PyAV, whose wheel carries FFmpeg. libsndfile reads wav, flac and mp3 at
16 kHz up to half as fast again, but is behind as soon as there is something to resample, and on
ogg, and cannot read m4a or video (`benchmarks/decoding.py`). One decoder means one set of rules
for damage, timestamps and excerpts.
"""

from typing import Any

import numpy as np

from raydiar.audio.arguments import channel_index, hand_over
from raydiar.audio.containers import AudioInfo
from raydiar.audio.decoding import decode_into, read_info
from raydiar.audio.pcm import PcmBuffer
from raydiar.audio.resampling import SAMPLE_RATE
from raydiar.audio.waveform import prepare_waveform
from raydiar.storage import PROBE_BLOCK_BYTES, Source, open_source

__all__ = ["MAX_DURATION", "SAMPLE_RATE", "AudioInfo", "decode", "prepare_waveform", "probe"]

MAX_DURATION = 24 * 3600.0
"""Seconds that one recording may last."""


def decode(
    source: Source,
    *,
    start: float = 0.0,
    duration: float | None = None,
    channel: int | str | None = None,
    max_duration: float = MAX_DURATION,
    storage_options: dict[str, Any] | None = None,
    warnings: list[str] | None = None,
) -> np.ndarray:
    """Decode a recording, or an excerpt of it, to mono PCM at 16 kHz.

    Any container and codec that FFmpeg reads will do, video included. Times are those that a
    player shows: sound that starts after the picture and stretches that were never sent are
    silence. An excerpt equals the same samples of a full decode: bit for bit in wav, flac and mp3;
    to rounding in codecs that remember (Opus) or make up noise (AAC); and displaced by up to 1 ms
    where timestamps are rounded (webm, mkv, flv, wma). It costs its own length and a few seconds;
    in transport and program streams, in mp3 without a header and in joined files all before it is
    read as well.

    Where the header says less than there is, the file's own length counts. Several audio tracks
    are all heard, unless they look like versions of one talk; files joined to one (chained Ogg,
    `cat`) are read to the end. Channels that cancel each other are turned round, and dead ones do
    not make the others quieter. `warnings` tells of all that.

    mp3 and m4a start on time because their headers state the encoder's delay; where there is no
    such statement (mp3 without a Xing header, AAC in ADTS, AMR, wma) it stays: 5 to 50 ms.

    Parameters
    ----------
    source : str, path, or binary file object
        A path, any fsspec URI (`s3://`, `https://`, …), or an open file.
    start, duration : float, seconds
        Excerpt; by default everything.
    channel : int or "mix", optional
        Channel to keep, counted from 0; in files of several tracks, the track. By default ("mix")
        the mean of all.
    max_duration : float, seconds
    storage_options : dict, optional
        For fsspec: endpoint, credentials, …
    warnings : list of str, optional
        Takes what the user should know of a recording that was decoded, a sentence each. Without
        it they are issued as `AudioWarning`.

    Returns
    -------
    samples : (num_samples,) int16
        Saturated, never wrapped.

    Raises
    ------
    AudioNotFound, StorageDenied, StorageUnavailable
        If the bytes cannot be had.
    AudioDecodeError
        If they are not audio, end before the header says so, or if more than a tenth of the
        packets is damaged. (Ogg, and mp3 without a Xing header, state no duration: they are
        decoded as far as they go.)
    EmptyAudio
        If there is not one sample, or the excerpt starts after the end.
    InvalidSamples
        If a file of float samples holds NaN or infinity.
    RecordingTooLong
        If there is more than `max_duration` of it; at once if the header states a duration.
    ConfigError
        If `start`, `duration` or `channel` make no sense.
    """
    pcm = PcmBuffer()
    found: list[str] = []
    with open_source(source, storage_options) as reader:
        decode_into(
            pcm,
            reader,
            start=start,
            duration=duration,
            channel=channel_index(channel),
            max_duration=max_duration,
            warnings=found,
        )
    hand_over(found, warnings)
    return pcm.samples()


def probe(source: Source, *, storage_options: dict[str, Any] | None = None) -> AudioInfo:
    """Read the header of a recording.

    Raises
    ------
    AudioNotFound, StorageDenied, StorageUnavailable, AudioDecodeError, EmptyAudio
        As `decode`.
    """
    with open_source(source, storage_options, PROBE_BLOCK_BYTES) as reader:
        return read_info(reader)
