"""Audio files made for tests: a speech-like signal in any container that FFmpeg writes."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scipy.signal import correlate, resample_poly

RATE = 16000


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Gliding harmonics under a syllabic envelope, hiss for fricatives, and pauses.

    Returns
    -------
    signal : (seconds * 16000,) float64 in [-1, 1], band-limited to 7 kHz
    """
    rng = np.random.default_rng(seed)
    num_samples = round(seconds * RATE)
    knots = np.arange(0, num_samples + RATE, RATE // 8)
    at = np.arange(num_samples)
    pitch = np.interp(at, knots, rng.uniform(90, 220, len(knots)))
    envelope = np.interp(at, knots, rng.uniform(0, 1, len(knots)) * (rng.random(len(knots)) > 0.3))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voiced = sum(np.sin(k * phase + k * k) / k for k in range(1, 30))
    hiss = np.convolve(rng.standard_normal(num_samples), np.hanning(5), "same")
    signal = envelope * voiced + 0.1 * np.roll(envelope, RATE // 5) * hiss
    return 0.7 * signal / np.abs(signal).max()


def at_rate(signal: np.ndarray, rate: int) -> np.ndarray:
    ratio = Fraction(rate, RATE)
    return resample_poly(signal, ratio.numerator, ratio.denominator) if rate != RATE else signal


def write(
    path: Path,
    signal: np.ndarray,
    rate: int,
    codec: str,
    *,
    layout: str = "mono",
    video: str | None = None,
    delay: float = 0.0,
    hole: tuple[float, float] | None = None,
    options: dict[str, str] | None = None,
    bit_rate: int | None = None,
) -> Path:
    """Encode a signal at 16 kHz, resampled to `rate`, with PyAV.

    Parameters
    ----------
    signal : (num_samples,) or (num_channels, num_samples) float
    video : str, optional
        Codec of a picture track to go with it.
    delay : float, seconds
        By which the sound starts after the picture.
    hole : (start, end), seconds
        Stretch that is never sent; timestamps go on.
    """
    num_channels = av.AudioLayout(layout).nb_channels
    signal = np.broadcast_to(signal, (num_channels, np.shape(signal)[-1]))
    samples = np.stack([at_rate(channel, rate) for channel in signal])
    floating = codec.startswith("pcm_f")
    if not floating:
        samples = np.clip(np.rint(samples * 32767), -32768, 32767)
    samples = samples.astype("f4" if floating else "i2")
    with av.open(str(path), "w", options=options or {}) as container:
        picture = None
        if video:
            picture = container.add_stream(video, rate=25)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        # FFmpeg's own Vorbis encoder calls itself experimental
        strict = {"strict": "experimental"} if codec == "vorbis" else {}
        stream = container.add_stream(codec, rate=rate, layout=layout, options=strict)
        if bit_rate:
            stream.codec_context.bit_rate = bit_rate
        step = rate // 25
        for index, first in enumerate(range(0, samples.shape[1], step)):
            last = first + step >= samples.shape[1]
            if picture and (index % 25 == 0 or last):
                image = np.full((96, 64), index % 255, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="yuv420p")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                container.mux(picture.encode(frame))
            if hole and hole[0] <= first / rate < hole[1]:
                continue
            block = samples[:, first : first + step].T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(block), format="flt" if floating else "s16", layout=layout
            )
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = first + round(delay * rate)
            container.mux(stream.encode(frame))
        for track in [picture, stream] if picture else [stream]:
            container.mux(track.encode(None))
    return path


def sparse_wav(path: Path, hours: float, rate: int = RATE) -> Path:
    """A wav of silence, hours of it, that takes no room on the disk."""
    num_bytes = round(hours * 3600) * rate * 2
    header = b"RIFF" + (36 + num_bytes).to_bytes(4, "little") + b"WAVEfmt "
    fields = ((16, 4), (1, 2), (1, 2), (rate, 4), (2 * rate, 4), (2, 2), (16, 2))
    header += b"".join(value.to_bytes(size, "little") for value, size in fields)
    header += b"data" + num_bytes.to_bytes(4, "little")
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + num_bytes)
    return path


def lag(reference: np.ndarray, samples: np.ndarray) -> int:
    """By how many samples the second comes after the first."""
    length = min(len(reference), len(samples))
    reference, samples = (np.asarray(x[:length], np.float64) for x in (reference, samples))
    return int(correlate(samples, reference, method="fft").argmax()) - (length - 1)


def snr(reference: np.ndarray, samples: np.ndarray) -> float:
    """Signal to noise ratio in dB, noise being what differs."""
    reference, samples = np.asarray(reference, np.float64), np.asarray(samples, np.float64)
    noise = ((reference - samples) ** 2).sum()
    return 10 * np.log10((reference**2).sum() / max(noise, 1e-20))
