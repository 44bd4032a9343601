"""Files to PCM: formats, time, excerpts, channels, and what is wrong with a file."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from audio_files import RATE, lag, snr, sparse_wav, speech_like, write

from raydiar.audio import decode, probe
from raydiar.audio.pcm import PcmBuffer
from raydiar.errors import (
    AudioDecodeError,
    AudioNotFound,
    ConfigError,
    EmptyAudio,
    InvalidSamples,
    RecordingTooLong,
)

SECONDS = 12.0


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    return speech_like(SECONDS)


@pytest.fixture(scope="module")
def pcm(signal) -> np.ndarray:
    return np.rint(signal * 32767).astype(np.int16)


@pytest.fixture(scope="module")
def made(tmp_path_factory, signal):
    """Write the signal into a file, once for all tests."""
    folder = tmp_path_factory.mktemp("audio")

    def make(name: str, rate: int, codec: str, **how) -> Path:
        path = folder / name
        return path if path.exists() else write(path, signal, rate, codec, **how)

    return make


# (name, rate, codec, options), the correlation it must keep, the delay its container does not state
FORMATS = [
    (("s16.wav", 16000, "pcm_s16le", {}), 1.0, 0),
    (("f32.wav", 16000, "pcm_f32le", {}), 1.0, 0),
    (("telephone.wav", 8000, "pcm_alaw", {}), 0.99, 0),
    (("u8.wav", 11025, "pcm_u8", {}), 0.98, 0),
    (("cd.wav", 44100, "pcm_s16le", {"layout": "stereo"}), 0.9999, 0),
    (("s24.wav", 96000, "pcm_s24le", {}), 0.9999, 0),
    (("studio.wav", 192000, "pcm_s16le", {"layout": "5.1"}), 0.9999, 0),
    (("a.flac", 16000, "flac", {}), 1.0, 0),
    (("a48.flac", 48000, "flac", {"layout": "stereo"}), 0.9999, 0),
    (("a.mp3", 44100, "mp3", {"bit_rate": 128000}), 0.999, 0),
    (("low.mp3", 22050, "mp3", {"bit_rate": 32000}), 0.98, 0),
    (("no-xing.mp3", 44100, "mp3", {"options": {"write_xing": "0"}}), 0.999, 0.0251),
    (("a.ogg", 48000, "libopus", {"bit_rate": 32000}), 0.98, 0),
    (("a.webm", 48000, "libopus", {"bit_rate": 32000}), 0.98, 0),
    (("a.m4a", 44100, "aac", {"bit_rate": 96000}), 0.999, 0),
    (("a.aac", 44100, "aac", {"bit_rate": 96000}), 0.98, 0.0232),
    (("a.amr", 8000, "libopencore_amrnb", {"bit_rate": 12200}), 0.5, 0.0075),
    (("a.mka", 44100, "flac", {}), 0.9999, 0),
    (("a.aiff", 44100, "pcm_s16be", {}), 0.9999, 0),
    (("video.mp4", 44100, "aac", {"video": "libx264", "bit_rate": 96000}), 0.999, 0),
    (("video.webm", 48000, "libopus", {"video": "libvpx", "bit_rate": 32000}), 0.98, 0),
    (("video.mkv", 48000, "pcm_s16le", {"video": "mpeg4"}), 0.9999, 0),
    (("video.avi", 44100, "pcm_s16le", {"video": "mpeg4"}), 0.9999, 0),
]
names = [row[0][0] for row in FORMATS]


@pytest.mark.parametrize(("file", "correlation", "delay"), FORMATS, ids=names)
def test_every_format_keeps_content_and_time(made, pcm, file, correlation, delay):
    name, rate, codec, how = file
    path = made(name, rate, codec, **how)
    samples = decode(path)
    assert samples.dtype == np.int16
    assert len(samples) == pytest.approx(len(pcm), abs=(2 * delay + 0.04) * RATE)
    late = lag(pcm, samples)
    assert late == pytest.approx(delay * RATE, abs=0.003 * RATE)
    length = min(len(pcm), len(samples) - late)
    a, b = pcm[:length].astype(float), samples[late : late + length].astype(float)
    assert a @ b / np.sqrt((a @ a) * (b @ b)) >= correlation - 1e-4
    info = probe(path)
    num_channels = {"mono": 1, "stereo": 2, "5.1": 6}[how.get("layout", "mono")]
    assert (info.sample_rate, info.num_channels) == (rate, num_channels)
    assert info.duration == pytest.approx(SECONDS, rel=0.05)


def test_pcm_at_16_khz_is_untouched(made, pcm):
    assert np.array_equal(decode(made("s16.wav", 16000, "pcm_s16le")), pcm)
    assert np.array_equal(decode(made("a.flac", 16000, "flac")), pcm)


def test_loud_samples_saturate(tmp_path, signal):
    loud = 4 * signal
    samples = decode(write(tmp_path / "loud.wav", loud, 16000, "pcm_f32le"))
    assert samples.max() == 32767
    assert samples.min() == -32768
    assert np.abs(samples - np.clip(np.rint(loud * 32768), -32768, 32767)).max() <= 1
    # band-limiting a full-scale square wave overshoots: wrapped, it would change sign
    square = np.repeat(np.where(np.arange(400) % 2, 32767, -32768), 200).astype(np.int16)
    path = write(tmp_path / "square.wav", square / 32768, 16000, "pcm_s16le")
    at_48 = write(tmp_path / "square48.wav", decode(path) / 32768, 48000, "pcm_s16le")
    assert (np.sign(decode(at_48)) == np.sign(square)).mean() > 0.98


def test_channels_are_averaged_alike_or_picked(tmp_path, signal):
    gains = np.array([1.0, 0.0, -0.5, 0.25, 0.5, 0.0])  # 5.1: the bass channel counts as any other
    path = write(tmp_path / "six.wav", gains[:, None] * signal, 16000, "pcm_s16le", layout="5.1")
    expected = np.rint(gains[:, None] * signal * 32767)
    assert np.abs(decode(path) - expected.mean(axis=0)).max() <= 1
    assert np.array_equal(decode(path, channel="mix"), decode(path))
    for channel in range(6):
        assert np.abs(decode(path, channel=channel) - expected[channel]).max() <= 1
    with pytest.raises(AudioDecodeError, match=r"six\.wav: channel 6 .* only 6"):
        decode(path, channel=6)


@pytest.mark.parametrize(
    ("start", "duration"), [(0.4, 1.0), (2.0, None), (7.1234, 3.3), (10.9, 5.0)]
)
@pytest.mark.parametrize("file", [row[0] for row in FORMATS], ids=names)
def test_an_excerpt_is_that_part_of_the_whole(made, file, start, duration):
    name, rate, codec, how = file
    path = made(name, rate, codec, **how)
    samples = decode(path, start=start, duration=duration)
    first = round(start * RATE)
    stop = None if duration is None else first + round(duration * RATE)
    expected = decode(path)[first:stop]
    if name.endswith(("webm", "mkv", "mka")):  # their timestamps are rounded to milliseconds
        assert abs(lag(expected, samples)) <= 16
        assert abs(len(samples) - len(expected)) <= 16
    elif codec in ("aac", "libopus", "libopencore_amrnb"):  # codecs with memory, or random noise
        assert len(samples) == len(expected)
        assert snr(expected, samples) > 40
    else:
        assert np.array_equal(samples, expected)


def test_excerpt_of_adpcm_in_wav_whose_times_are_estimates(made):
    path = made("adpcm.wav", 16000, "adpcm_ima_wav")
    assert np.array_equal(decode(path, start=8.0, duration=2.0), decode(path)[128000:160000])


@pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.webm"])
def test_excerpt_after_the_end_is_empty(made, name):
    file = next(row[0] for row in FORMATS if row[0][0] == name)
    path = made(*file[:3], **file[3])
    assert len(decode(path, start=SECONDS - 1, duration=5.0)) == pytest.approx(RATE, abs=16)
    with pytest.raises(EmptyAudio, match="starts at 100 s, where the audio has ended"):
        decode(path, start=100.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": -1.0},
        {"start": float("nan")},
        {"duration": 0.0},
        {"channel": -1},
        {"channel": "L"},
    ],
)
def test_senseless_arguments(made, wrong):
    with pytest.raises(ConfigError):
        decode(made("s16.wav", 16000, "pcm_s16le"), **wrong)


@pytest.mark.parametrize("delay", [0.05, 0.5])
def test_sound_that_starts_after_the_picture_stays_in_place(made, pcm, delay):
    path = made(f"late{delay}.mkv", 48000, "pcm_s16le", video="mpeg4", delay=delay)
    samples = decode(path)
    assert lag(pcm, samples[: len(pcm)]) == pytest.approx(delay * RATE, abs=16)
    excerpt = decode(path, start=4.0, duration=2.0)
    assert abs(lag(samples[4 * RATE : 6 * RATE], excerpt)) <= 16


@pytest.mark.parametrize(
    ("name", "rate", "codec"),
    [("gap.webm", 48000, "libopus"), ("gap.mkv", 44100, "pcm_s16le"), ("gap.m4a", 44100, "aac")],
)
def test_what_was_never_sent_is_silence(made, pcm, name, rate, codec):
    samples = decode(made(name, rate, codec, hole=(4.0, 8.0)))
    assert len(samples) == pytest.approx(len(pcm), abs=200)
    assert np.abs(samples[round(4.2 * RATE) : round(7.8 * RATE)]).max() == 0
    assert abs(lag(pcm[9 * RATE :], samples[9 * RATE :])) <= 16


def test_format_may_change_within_a_file(made, pcm):
    """Podcasts get adverts of another rate and layout spliced in."""
    advert = made("low.mp3", 22050, "mp3", bit_rate=32000).read_bytes()
    episode = made("stereo.mp3", 44100, "mp3", layout="stereo", bit_rate=128000).read_bytes()
    samples = decode(io.BytesIO(advert + episode + advert))
    assert len(samples) == pytest.approx(3 * len(pcm), abs=0.3 * RATE)
    second = samples[len(pcm) : 2 * len(pcm)]
    assert abs(lag(pcm, second)) < 0.1 * RATE
    assert snr(pcm[4000:80000], np.roll(second, -lag(pcm, second))[4000:80000]) > 20


# -- what is wrong with a file ---------------------------------------------------------------------


def test_missing(tmp_path):
    with pytest.raises(AudioNotFound, match=r"nowhere\.wav"):
        decode(tmp_path / "nowhere.wav")
    with pytest.raises(AudioNotFound):
        decode(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is not audio\n" * 500,
        b"<!DOCTYPE html><html><body>404 not found</body></html>" * 50,
        bytes(100_000),
        np.random.default_rng(0).bytes(1_000_000),
        b"\x89PNG\r\n\x1a\n" + bytes(1000),
        b"RIFF",
    ],
    ids=["text", "html", "zeros", "noise", "picture", "four bytes"],
)
def test_not_audio(tmp_path, content):
    path = tmp_path / "talk.wav"
    path.write_bytes(content)
    for call in (decode, probe):
        with pytest.raises(AudioDecodeError, match=r"talk\.wav"):
            call(path)


def test_empty(tmp_path, made):
    path = tmp_path / "empty.mp3"
    path.write_bytes(b"")
    with pytest.raises(EmptyAudio, match=r"empty\.mp3: the file is empty"):
        decode(path)
    whole = made("s16.wav", 16000, "pcm_s16le").read_bytes()
    header = whole[: whole.index(b"data")]
    with pytest.raises(EmptyAudio, match="no audio samples"):
        decode(io.BytesIO(header + b"data" + bytes(4)))


@pytest.mark.parametrize(
    "name", ["s16.wav", "cd.wav", "a.flac", "a.mp3", "a.m4a", "a.webm", "a.mka"]
)
def test_truncated(tmp_path, made, name):
    file = next(row[0] for row in FORMATS if row[0][0] == name)
    whole = made(*file[:3], **file[3]).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AudioDecodeError, match=name):
        decode(path)
    if name != "a.m4a":  # its index is at the end: nothing can be read
        assert len(decode(path, duration=2.0)) == 2 * RATE


def test_formats_that_state_no_duration_are_decoded_as_far_as_they_go(made):
    for name, rate, codec, options in [
        ("a.ogg", 48000, "libopus", {}),
        ("no-xing.mp3", 44100, "mp3", {"write_xing": "0"}),
        ("live.webm", 48000, "libopus", {"live": "1"}),
    ]:
        whole = made(name, rate, codec, options=options).read_bytes()
        samples = decode(io.BytesIO(whole[: len(whole) // 2]))
        assert 0.4 * SECONDS < len(samples) / RATE < 0.7 * SECONDS
    assert probe(made("live.webm", 48000, "libopus", options={"live": "1"})).duration is None


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF - 36])
def test_wav_from_a_pipe_states_no_length(made, pcm, size):
    streamed = bytearray(made("s16.wav", 16000, "pcm_s16le").read_bytes())
    at = streamed.index(b"data") + 4
    streamed[at : at + 4] = size.to_bytes(4, "little")
    assert np.array_equal(decode(io.BytesIO(streamed)), pcm)


def test_a_few_damaged_packets_cost_themselves_only(made, pcm):
    damaged = bytearray(made("a.mp3", 44100, "mp3", bit_rate=128000).read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(5000, len(damaged), 20):
        damaged[place] ^= 0x55
    samples = decode(io.BytesIO(damaged))
    assert len(samples) == pytest.approx(len(pcm), abs=0.15 * RATE)
    assert abs(lag(pcm[-4 * RATE :], samples[-4 * RATE :])) < 0.15 * RATE


def test_mostly_damaged_packets_are_an_error(made):
    damaged = bytearray(made("a.m4a", 44100, "aac", bit_rate=96000).read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(2000, int(0.9 * len(damaged)), len(damaged) // 40):
        damaged[place] ^= 0x55
    with pytest.raises(AudioDecodeError, match="damaged"):
        decode(io.BytesIO(damaged))


def test_nan_in_a_file_of_floats(tmp_path, signal):
    signal = signal.copy()
    signal[100_000] = np.nan
    path = write(tmp_path / "nan.wav", signal, 16000, "pcm_f32le")
    with pytest.raises(InvalidSamples, match=r"nan\.wav.*NaN"):
        decode(path)


def test_video_without_sound(tmp_path):
    import av

    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            image = av.VideoFrame.from_ndarray(np.zeros((96, 64), np.uint8), format="yuv420p")
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    with pytest.raises(AudioDecodeError, match=r"silent\.mp4: no audio track"):
        decode(path)


def test_a_playlist_cannot_open_other_files(monkeypatch, made):
    secret = made("a.mp3", 44100, "mp3", bit_rate=128000)
    playlists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
        f"ffconcat version 1.0\nfile {secret.name}\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ]
    monkeypatch.chdir(secret.parent)
    for number, text in enumerate(playlists):
        path = secret.parent / f"{number}.m3u8"
        path.write_text(text)
        with pytest.raises(AudioDecodeError):
            decode(path)


# -- long recordings -------------------------------------------------------------------------------


def test_thirty_hours_are_refused_by_the_header(tmp_path):
    path = sparse_wav(tmp_path / "endless.wav", 30)
    begun = time.perf_counter()
    with pytest.raises(RecordingTooLong, match=r"endless\.wav: 30\.0 h .* 24 h.*`start`"):
        decode(path)
    assert time.perf_counter() - begun < 1.0
    excerpt = decode(path, start=29 * 3600.0, duration=10.0)
    assert len(excerpt) == 10 * RATE
    with pytest.raises(RecordingTooLong):
        decode(path, start=1.0, duration=25 * 3600.0)


def test_too_long_without_a_stated_duration_is_found_on_the_way(made):
    path = made("live.webm", 48000, "libopus", options={"live": "1"})
    with pytest.raises(RecordingTooLong, match="more than"):
        decode(path, max_duration=10.0)
    assert len(decode(path, duration=9.0, max_duration=10.0)) == 9 * RATE


PEAK = """
import sys
from raydiar.audio import decode
from raydiar.audio.pcm import PcmBuffer
import numpy as np

def peak():
    with open("/proc/self/status") as status:
        return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

decode(sys.argv[1], duration=60)
before = peak()
{work}
print(peak() - before, samples.nbytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "work",
    [
        "samples = decode(sys.argv[1])",
        # as when the duration is unknown: nothing is reserved beforehand
        "buffer = PcmBuffer()\n"
        "for _ in range(1800): buffer.append(np.ones(64000, np.int16))\n"
        "samples = buffer.samples()",
    ],
    ids=["known duration", "unknown duration"],
)
def test_peak_memory_is_the_pcm(tmp_path, work):
    path = sparse_wav(tmp_path / "two-hours.wav", 2)
    result = subprocess.run(
        [sys.executable, "-c", PEAK.format(work=work), str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    grown, num_bytes = map(int, result.stdout.split())
    assert num_bytes == 2 * 3600 * RATE * 2
    assert grown < 1.1 * num_bytes


def test_buffer_keeps_what_it_held_when_it_grows():
    rng = np.random.default_rng(0)
    blocks = [rng.integers(-32768, 32767, 700_000).astype(np.int16) for _ in range(12)]
    buffer = PcmBuffer()
    buffer.reserve(1000)
    for block in blocks:
        buffer.append(block)
    samples = buffer.samples()
    assert np.array_equal(samples, np.concatenate(blocks))
    assert samples.flags.writeable


# -- other sources ---------------------------------------------------------------------------------


def test_sources_of_any_kind(made, pcm):
    path = made("s16.wav", 16000, "pcm_s16le")
    assert np.array_equal(decode(str(path)), pcm)
    assert np.array_equal(decode(f"file://{path}"), pcm)
    with open(path, "rb") as file:
        file.read(1000)
        assert np.array_equal(decode(file), pcm)
        assert not file.closed
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, subprocess.Popen(["cat", path], stdout=writing):
        os.close(writing)
        assert np.array_equal(decode(pipe), pcm)
