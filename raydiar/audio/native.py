"""A recording as it was made: every channel, at its own rate."""

from __future__ import annotations

from typing import Any

import av
import numpy as np

from raydiar.audio.containers import open_track
from raydiar.audio.resampling import frame_samples
from raydiar.errors import AudioDecodeError, EmptyAudio
from raydiar.storage import Source, open_source

_ZERO_AND_SCALE = {"u1": (128, 128.0), "i2": (0, 2.0**15), "i4": (0, 2.0**31), "i8": (0, 2.0**63)}


def decode_native(
    source: Source, *, storage_options: dict[str, Any] | None = None
) -> tuple[np.ndarray, int]:
    """Decode all channels of a recording, without resampling.

    Returns
    -------
    samples : (num_channels, num_samples) float32
        In [-1, 1], but for files of floats, which are taken as they are.
    sample_rate : int, Hz

    Raises
    ------
    AudioNotFound, StorageDenied, StorageUnavailable, AudioDecodeError, EmptyAudio
        As `raydiar.audio.decode`.
    """
    blocks: list[np.ndarray] = []
    with open_source(source, storage_options) as reader, open_track(reader) as track:
        shape = None
        for packet in track.container.demux(track.stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue  # as in `decode`: what is damaged is left out
            for frame in frames:
                shape = shape or (frame.layout.nb_channels, frame.sample_rate)
                if shape != (frame.layout.nb_channels, frame.sample_rate):
                    raise AudioDecodeError(
                        f"{reader.label}: channels or sample rate change inside the file: ask for "
                        "16 kHz mono, or convert it"
                    )
                blocks.append(_as_floats(frame))
        if not blocks:
            raise EmptyAudio(f"{reader.label}: the file holds no audio samples.")
    return np.concatenate(blocks, axis=1), shape[1]


def _as_floats(frame: av.AudioFrame) -> np.ndarray:
    """(num_channels, num_samples) float32"""
    samples = frame_samples(frame)
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    zero, scale = _ZERO_AND_SCALE.get(samples.dtype.str[1:], (0, 1.0))
    return ((samples.astype(np.float64) - zero) / scale).astype(np.float32)
