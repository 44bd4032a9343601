"""Recordings and waveforms to what the networks take: mono PCM at 16 kHz.

Everything goes through PyAV, whose wheel carries FFmpeg. libsndfile reads wav, flac and mp3 at
16 kHz up to half as fast again, but is behind as soon as there is something to resample, and on
ogg, and cannot read m4a or video (`benchmarks/decoding.py`). One decoder means one set of rules
for damage, timestamps and excerpts.
"""

import warnings as python_warnings
from numbers import Real
from typing import Any

import numpy as np

from raydiar.audio.containers import AudioInfo
from raydiar.audio.decoding import PcmBuffer, check_excerpt, decode_into, read_info
from raydiar.audio.resampling import SAMPLE_RATE, resample
from raydiar.errors import AudioWarning, ConfigError, EmptyAudio, InvalidSamples
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
    silence. An excerpt costs its own length only and equals the same samples of a full decode: bit
    for bit in wav, flac and mp3; to rounding in codecs that remember (Opus) or make up noise (AAC);
    and displaced by up to 1 ms in webm and mkv, which count time in milliseconds.

    mp3 and m4a start on time because their headers state the encoder's delay; where there is no
    such statement (mp3 without a Xing header, AAC in ADTS, AMR, wma) it stays: 5 to 50 ms.

    Parameters
    ----------
    source : str, path, or binary file object
        A path, any fsspec URI (`s3://`, `https://`, …), or an open file.
    start, duration : float, seconds
        Excerpt; by default everything.
    channel : int or "mix", optional
        Channel to keep, counted from 0; by default ("mix") the mean of all.
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


def prepare_waveform(
    waveform,
    sample_rate: float,
    channel: int | str | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    warnings: list[str] | None = None,
) -> np.ndarray:
    """Bring a waveform held in memory to what the networks take.

    Parameters
    ----------
    waveform : (num_channels, num_samples) or (num_samples,) array or tensor
        Floating point, nominally in [-1, 1], or int16.
    sample_rate : float, Hz
    channel : int or "mix", optional
        As in `decode`.
    start, duration : float, seconds
        Excerpt; by default everything.
    warnings : list of str, optional
        As in `decode`.

    Returns
    -------
    samples : (num_samples,) float32 or int16
        int16 if the waveform was int16 and only a channel had to be picked; else float32, not
        clipped.

    Raises
    ------
    InvalidSamples
        If it has another shape or type, or holds NaN or infinity.
    EmptyAudio
        If it has no samples, or the excerpt starts after its end.
    ConfigError
        If there is no such channel, sample rate or excerpt.
    """
    check_excerpt("waveform", start, duration)
    try:
        waveform = np.asarray(waveform)
    except (TypeError, RuntimeError, ValueError) as error:  # on a GPU, needs gradients, ragged
        raise InvalidSamples(f"The waveform cannot be read as an array: {error}") from error
    if not 1 <= waveform.ndim <= 2:
        raise InvalidSamples(
            "A waveform has the shape (num_channels, num_samples) or (num_samples,), "
            f"not {waveform.shape}."
        )
    if waveform.dtype != np.int16 and not np.issubdtype(waveform.dtype, np.floating):
        raise InvalidSamples(f"A waveform is made of floats or int16, not of {waveform.dtype}.")
    if waveform.size == 0:
        raise EmptyAudio("The waveform has no samples.")
    if not (isinstance(sample_rate, Real) and 0 < sample_rate < np.inf):
        raise ConfigError(f"A sample rate of {sample_rate} Hz makes no sense.")
    waveform = np.atleast_2d(waveform)
    selected = channel_index(channel)
    if selected is not None:
        if selected >= len(waveform):
            raise ConfigError(f"There is no channel {selected} in a waveform with {len(waveform)}.")
        waveform = waveform[selected : selected + 1]
    first = round(start * sample_rate)
    stop = None if duration is None else round((start + duration) * sample_rate)
    waveform = waveform[:, first:stop]
    if waveform.size == 0:
        raise EmptyAudio(
            f"The excerpt starts at {start:g} s, where the waveform has ended (is it given as "
            "(num_channels, num_samples)?)."
        )
    if not np.isfinite(waveform).all():
        raise InvalidSamples("The waveform holds NaN or infinity among its samples.")
    if waveform.dtype == np.int16:
        if len(waveform) == 1 and sample_rate == SAMPLE_RATE:
            return waveform[0]
        waveform = waveform.astype(np.float32) / 32768
    samples = waveform.mean(axis=0, dtype=np.float32) if len(waveform) > 1 else waveform[0]
    samples = samples.astype(np.float32, copy=False)
    return samples if sample_rate == SAMPLE_RATE else resample(samples, int(sample_rate))


def hand_over(found: list[str], warnings: list[str] | None) -> None:
    """Give warnings to the caller's list; to Python's `warnings` where it has none."""
    if warnings is not None:
        warnings += found
        return
    for text in found:
        python_warnings.warn(text, AudioWarning, stacklevel=3)


def channel_index(channel: int | str | None) -> int | None:
    """The channel to keep, None for the mean of all.

    Raises
    ------
    ConfigError
    """
    if channel is None or channel == "mix":
        return None
    if isinstance(channel, int | np.integer) and channel >= 0:
        return int(channel)
    raise ConfigError(f'A channel is a number counted from 0, or "mix", not {channel!r}.')
