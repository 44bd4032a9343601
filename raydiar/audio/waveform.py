"""Waveforms that a caller holds in memory to what the networks take."""

from numbers import Real

import numpy as np

from raydiar.audio.arguments import channel_index, check_excerpt, hand_over
from raydiar.audio.floats import LARGEST, full_scale_of
from raydiar.audio.mixing import Mixer
from raydiar.audio.resampling import (
    BLOCK_SECONDS,
    HIGHEST_RATE,
    LOWEST_RATE,
    SAMPLE_RATE,
    resample,
)
from raydiar.errors import ConfigError, EmptyAudio, InvalidSamples

_MOST_CHANNELS = 64


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
        Floating point, nominally in [-1, 1], or int16. What has more rows than columns, and more
        than any recording has channels, is taken as (num_samples, num_channels).
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
    if not (isinstance(sample_rate, Real) and LOWEST_RATE <= sample_rate <= HIGHEST_RATE):
        raise ConfigError(f"A sample rate of {sample_rate} Hz makes no sense.")
    waveform = _channels(waveform)
    selected = channel_index(channel)
    if selected is not None:
        if selected >= len(waveform):
            raise ConfigError(f"There is no channel {selected} in a waveform with {len(waveform)}.")
        waveform = waveform[selected : selected + 1]
    first = round(start * sample_rate)
    stop = None if duration is None else round((start + duration) * sample_rate)
    waveform = waveform[:, first:stop]
    if waveform.size == 0:
        raise EmptyAudio(f"The excerpt starts at {start:g} s, where the waveform has ended.")
    if not np.isfinite(waveform).all():
        raise InvalidSamples("The waveform holds NaN or infinity among its samples.")
    found: list[str] = []
    if waveform.dtype == np.int16:
        if len(waveform) == 1 and sample_rate == SAMPLE_RATE:
            return waveform[0]
        waveform = waveform.astype(np.float32) / 32768
    else:
        waveform = _scaled(waveform, found)
    samples = waveform[0] if len(waveform) == 1 else _mixed(waveform, int(sample_rate), found)
    hand_over(found, warnings)
    return samples if sample_rate == SAMPLE_RATE else resample(samples, int(sample_rate))


def _channels(waveform) -> np.ndarray:
    """The waveform as (num_channels, num_samples)."""
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
    waveform = np.atleast_2d(waveform)
    if waveform.shape[0] > max(waveform.shape[1], _MOST_CHANNELS):
        waveform = waveform.T  # (num_samples, num_channels), as soundfile and scipy read it
    if waveform.shape[0] > waveform.shape[1] > 1 or waveform.shape[0] > _MOST_CHANNELS:
        raise InvalidSamples(
            "A waveform has the shape (num_channels, num_samples), and more samples than "
            f"channels: {waveform.shape} cannot be told from its transpose."
        )
    return waveform


def _scaled(waveform: np.ndarray, found: list[str]) -> np.ndarray:
    """(num_channels, num_samples) float32, at full scale 1."""
    magnitudes = np.abs(waveform)
    full_scale = full_scale_of(magnitudes) if magnitudes.max() <= LARGEST else None
    if full_scale is None:
        raise InvalidSamples(
            f"The waveform holds samples up to {magnitudes.max():.3g}; full scale of floats is 1."
        )
    if full_scale > 1:
        found.append(
            "waveform: samples far above 1, where floats have their full scale: they were divided "
            f"by {full_scale:.0f}."
        )
        waveform = waveform / full_scale
    return waveform.astype(np.float32, copy=False)


def _mixed(waveform: np.ndarray, rate: int, found: list[str]) -> np.ndarray:
    mixer = Mixer(len(waveform), rate)
    samples = np.empty(waveform.shape[1], np.float32)
    step = BLOCK_SECONDS * rate
    for first in range(0, len(samples), step):
        samples[first : first + step] = mixer.mix(list(waveform[:, first : first + step]))
    found += [f"waveform: {warning}" for warning in mixer.warnings()]
    return samples
