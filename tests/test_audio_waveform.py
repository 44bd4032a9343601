"""Waveforms in memory, and how good the resampling is."""

import io
import subprocess
import sys

import numpy as np
import pytest
from audio_files import RATE, at_rate, lag, snr, speech_like, write
from scipy.signal import resample as fourier_resample

from raydiar.audio import decode, prepare_waveform
from raydiar.errors import ConfigError, EmptyAudio, InvalidSamples


def test_floats_at_16_khz_are_untouched():
    waveform = 3 * speech_like(2.0).astype(np.float32)[None]
    samples = prepare_waveform(waveform, RATE)
    assert samples.dtype == np.float32
    assert np.array_equal(samples, waveform[0])  # not clipped either
    assert np.array_equal(prepare_waveform(waveform[0], RATE), waveform[0])
    assert prepare_waveform(waveform.astype(np.float64), RATE).dtype == np.float32


def test_int16_stays_int16_or_becomes_floats_in_one():
    waveform = np.stack([np.rint(speech_like(2.0, seed) * 32767) for seed in (0, 1)]).astype("i2")
    assert np.shares_memory(prepare_waveform(waveform[:1], RATE), waveform)
    assert np.array_equal(prepare_waveform(waveform, RATE, channel=1), waveform[1])
    mixed = prepare_waveform(waveform, RATE)
    assert mixed.dtype == np.float32
    assert np.allclose(mixed, waveform.mean(axis=0) / 32768, atol=1e-6)


@pytest.mark.parametrize("channel", [None, "mix", 1])
def test_resampled_like_a_file(channel, tmp_path):
    signal = np.stack([speech_like(10.0, seed) for seed in (0, 1)])
    path = write(tmp_path / "a.wav", signal, 44100, "pcm_f32le", layout="stereo")
    waveform = np.stack([at_rate(channel, 44100) for channel in signal])
    samples = prepare_waveform(waveform.astype(np.float32), 44100, channel)
    assert len(samples) == 10 * RATE
    assert np.abs(decode(path, channel=channel) - 32768 * samples).max() <= 1


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros((1, 2, 3), "f4"), "shape"),
        (np.float32(0.5), "shape"),
        (np.zeros((1, 100), "i4"), "int32"),
        (np.array([["a"]]), "made of"),
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.array([0.0, -np.inf], "f4"), "NaN or infinity"),
    ],
)
def test_unusable_waveforms(waveform, message):
    with pytest.raises(InvalidSamples, match=message):
        prepare_waveform(waveform, RATE)


def test_senseless_waveform_arguments():
    waveform = np.zeros((2, 100), "f4")
    with pytest.raises(ConfigError, match="channel 2"):
        prepare_waveform(waveform, RATE, channel=2)
    with pytest.raises(ConfigError, match="0 Hz"):
        prepare_waveform(waveform, 0)
    with pytest.raises(EmptyAudio):
        prepare_waveform(waveform[:, :0], RATE)


def test_tensors_are_taken_as_they_are():
    torch = pytest.importorskip("torch")
    waveform = torch.rand(1, 1000)
    assert np.array_equal(prepare_waveform(waveform, RATE), waveform[0].numpy())
    with pytest.raises(InvalidSamples, match="grad"):
        prepare_waveform(waveform.requires_grad_(), RATE)


# -- quality ---------------------------------------------------------------------------------------

RATES = [8000, 11025, 22050, 32000, 44100, 48000, 96000, 192000]


@pytest.mark.parametrize("rate", RATES)
def test_no_delay_and_no_drift(rate):
    """A click in the last second comes out in its place, at any rate."""
    clicks = np.zeros(20 * rate, np.float32)
    places = np.array([0.5, 10.0, 19.5])
    clicks[(places * rate).astype(int)] = 1.0
    samples = prepare_waveform(clicks, rate)
    assert len(samples) == 20 * RATE
    for place in (places * RATE).astype(int):
        around = samples[place - 80 : place + 80]
        assert abs(int(np.abs(around).argmax()) - 80) <= 1


@pytest.mark.parametrize("rate", [32000, 44100, 48000, 96000])
def test_what_16_khz_cannot_hold_does_not_come_back_as_noise(rate):
    time = np.arange(2 * rate) / rate
    for frequency, level in [(1000, 0.0), (6000, 0.0), (7000, -0.5)]:
        samples = prepare_waveform(np.sin(2 * np.pi * frequency * time).astype("f4"), rate)
        assert 20 * np.log10(np.sqrt(2) * samples[800:-800].std()) == pytest.approx(level, abs=0.2)
    for frequency in (9000, 9500, 12000, 15000):
        samples = prepare_waveform(np.sin(2 * np.pi * frequency * time).astype("f4"), rate)
        assert 20 * np.log10(np.sqrt(2) * samples[800:-800].std()) < (
            -59 if frequency == 9000 else -85
        )


@pytest.mark.reference
@pytest.mark.parametrize(("rate", "agreement"), [(8000, 38), (22050, 46), (44100, 46), (48000, 46)])
def test_agrees_with_torchaudio_on_real_speech(shared, rate, agreement):
    """In dB, with the resampler that pyannote.audio uses; and nearer to the ideal than that one."""
    torch = pytest.importorskip("torch")
    resample = pytest.importorskip("torchaudio").functional.resample
    for clip in ("sample", "trn04", "trn05"):
        speech = decode(shared / "audio" / "ami-clips" / f"{clip}.flac") / np.float32(32768)
        speech = speech[: 20 * RATE]
        waveform = fourier_resample(speech, 20 * rate).astype(np.float32)
        ideal = fourier_resample(waveform, 20 * RATE)
        theirs = resample(torch.from_numpy(waveform), rate, RATE).numpy()
        ours = prepare_waveform(waveform, rate)
        assert len(ours) == len(theirs)
        assert lag(theirs, ours) == 0
        inner = slice(RATE, -RATE)  # at its edges the Fourier transform is not ideal
        assert snr(theirs[inner], ours[inner]) > agreement
        assert snr(ideal[inner], ours[inner]) > snr(ideal[inner], theirs[inner])


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "rate", "codec", "bit_rate", "kept"),
    [
        ("a.mp3", 44100, "mp3", 128000, 20),
        ("a.ogg", 48000, "libopus", 64000, 8),
        ("a.m4a", 44100, "aac", 96000, 14),
    ],
)
def test_real_speech_survives_codecs_in_place(shared, tmp_path, name, rate, codec, bit_rate, kept):
    speech = decode(shared / "audio" / "ami-clips" / "sample.flac")
    path = write(tmp_path / name, speech / 32768, rate, codec, bit_rate=bit_rate)
    samples = decode(path)
    assert lag(speech, samples) == 0
    assert snr(speech, samples[: len(speech)]) > kept


def test_decoding_needs_neither_torch_nor_ray():
    code = "import raydiar.audio, raydiar.audio.isolation, sys; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    tops = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert not tops & {"torch", "ray", "scipy", "pandas", "pyarrow", "soundfile"}


def test_file_object_of_the_standard_library(tmp_path):
    import wave

    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.arange(-500, 500, dtype=np.int16).tobytes())
    assert np.array_equal(decode(content), np.arange(-500, 500))
