"""Files of real people: wrong headers, several tracks, opposed channels, joined recordings.

Each comes out whole and in place, or with a message; never short, silent or shifted without one.
"""

import io
import struct
import time
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from audio_files import RATE, at_rate, lag, snr, speech_like, write

from raydiar.audio import decode, prepare_waveform, probe
from raydiar.audio.isolation import IsolatedDecoder
from raydiar.audio.resampling import frame_samples, silence_like
from raydiar.errors import AudioDecodeError, AudioWarning, EmptyAudio, InvalidSamples

SECONDS = 6.0
ZERO, ALL_ONES = 0, 0xFFFFFFFF


@pytest.fixture(scope="module")
def signal() -> np.ndarray:
    return speech_like(SECONDS)


@pytest.fixture(scope="module")
def pcm(signal) -> np.ndarray:
    return np.rint(signal * 32767).astype(np.int16)


def decoded(content: bytes | Path, **how) -> tuple[np.ndarray, list[str]]:
    told: list[str] = []
    source = io.BytesIO(content) if isinstance(content, bytes | bytearray) else content
    return decode(source, warnings=told, **how), told


# -- headers that say too little -------------------------------------------------------------------


def chunk(name: bytes, content: bytes, size: int | None = None, order: str = "little") -> bytes:
    size = len(content) if size is None else size
    return name + size.to_bytes(4, order) + content + bytes(len(content) % 2)


def wav(
    data: bytes,
    size: int | None = None,
    *,
    rate: int = RATE,
    channels: int = 1,
    bits: int = 16,
    tag: int = 1,
    byte_rate: int | None = None,
    block: int | None = None,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A WAV, with any field as wrong as wanted."""
    true_block = channels * bits // 8
    fields = [tag, channels], [rate, true_block * rate], [true_block, bits]
    if byte_rate is not None:
        fields[1][1] = byte_rate
    if block is not None:
        fields[2][0] = block
    format_ = b"".join(
        value.to_bytes(width, "little")
        for values, width in zip(fields, (2, 4, 2), strict=True)
        for value in values
    )
    body = b"WAVE" + chunk(b"fmt ", format_) + before + chunk(b"data", data, size) + after
    return chunk(b"RIFF", body, min(len(body), ALL_ONES))


LIST = chunk(b"LIST", b"INFOISFT" + (6).to_bytes(4, "little") + b"Lavf60")


def test_half_of_a_wav_is_never_all_there_is(pcm):
    data = pcm.tobytes()
    for size in (len(data) // 2, 2, 1000, len(data) - RATE):
        samples, told = decoded(wav(data, size))
        assert np.array_equal(samples, pcm)
        assert "header states" in told[0], size


@pytest.mark.parametrize("size", [ZERO, 0x7FFF0000, 0x7FFFF000, 0x7FFFFFFF, 0xFFFF0000, ALL_ONES])
def test_wav_of_a_recorder_that_never_came_back(pcm, size):
    samples, told = decoded(wav(pcm.tobytes(), size))
    assert np.array_equal(samples, pcm)
    assert told == []
    assert probe(io.BytesIO(wav(pcm.tobytes(), size))).duration == SECONDS


def test_wav_that_wrapped_at_4_gib(tmp_path):
    """9 h of floats at 48 kHz: the size field says 2.2 h."""
    num_bytes = 9 * 3600 * 48000 * 4
    header = wav(b"", num_bytes % 2**32, rate=48000, bits=32, tag=3)
    path = tmp_path / "long.wav"
    for after in (b"", LIST):
        with open(path, "wb") as file:
            file.write(header)
            file.truncate(len(header) + num_bytes)
            file.seek(0, 2)
            file.write(after)
        assert probe(path).duration == pytest.approx(9 * 3600, abs=0.01)
        last, told = decoded(path, start=9 * 3600 - 2.0)
        assert len(last) == pytest.approx(2 * RATE, abs=RATE * 0.01)
        assert "all 32400.0 s were taken" in told[0]


@pytest.mark.parametrize(
    "fields",
    [{"byte_rate": 8000}, {"byte_rate": 0}, {"byte_rate": ALL_ONES}, {"block": 0}, {"block": 4}],
)
@pytest.mark.parametrize("bits", [16, 24])
def test_redundant_fields_of_a_wav_are_redundant(pcm, fields, bits):
    data = pcm.tobytes()
    if bits == 24:
        data = np.stack([np.zeros_like(pcm).view("u1")[::2], *pcm.view("u1").reshape(-1, 2).T], 1)
    samples, told = decoded(wav(bytes(data), bits=bits, **fields))
    assert np.array_equal(samples, pcm)
    assert told == []


@pytest.mark.parametrize("trailing", [LIST, LIST + bytes(5000), b"TAG" + bytes(125), bytes(1000)])
def test_what_follows_the_samples_is_no_sound(pcm, trailing):
    for size in (None, len(pcm) * 2):
        samples, told = decoded(wav(pcm.tobytes(), size, before=LIST, after=trailing))
        assert np.array_equal(samples, pcm)
        assert told == []


def test_zeros_after_the_samples_cost_nothing(pcm):
    content = wav(pcm.tobytes(), after=LIST + bytes(64 * 2**20))
    begun = time.process_time()
    samples, told = decoded(content)
    assert time.process_time() - begun < 1.0  # it was 20 s
    assert np.array_equal(samples, pcm)
    assert told == []


def test_a_recording_of_nothing_is_empty():
    for content in (wav(b"", ZERO), wav(b"", ZERO, after=LIST)):
        with pytest.raises(EmptyAudio):
            decode(io.BytesIO(content))


def test_truncated_is_still_an_error(pcm):
    with pytest.raises(AudioDecodeError, match="truncated"):
        decode(io.BytesIO(wav(pcm.tobytes(), 4 * len(pcm))))


# name, codec, place of the size field, its width and order, what it counts besides the samples
FAMILIES = [
    ("a.w64", "pcm_s16le", lambda whole: whole.index(b"data") + 16, 8, "little", 24),
    ("a.aiff", "pcm_s16be", lambda whole: whole.index(b"SSND") + 4, 4, "big", 8),
    ("a.au", "pcm_s16be", lambda whole: 8, 4, "big", 0),
    ("a.caf", "pcm_s16le", lambda whole: whole.index(b"data") + 4, 8, "big", 4),
    ("a.rf64.wav", "pcm_s16le", lambda whole: whole.index(b"ds64") + 16, 8, "little", 0),
]


@pytest.mark.parametrize("family", FAMILIES, ids=[row[0] for row in FAMILIES])
@pytest.mark.parametrize("stated", ["zero", "half", "ones", "trailing zeros"])
def test_relatives_of_wav(tmp_path, signal, pcm, family, stated):
    name, codec, place, width, order, besides = family
    options = {"rf64": "always"} if "rf64" in name else {}
    whole = bytearray(write(tmp_path / name, signal, RATE, codec, options=options).read_bytes())
    sizes = {
        "zero": 0,
        "half": len(pcm) + besides,
        "ones": 2 ** (8 * width) - 1,
        "trailing zeros": 2 * len(pcm) + besides,
    }
    at = place(whole)
    whole[at : at + width] = sizes[stated].to_bytes(width, order)
    if stated == "trailing zeros":
        whole += bytes(2**20)
    samples, told = decoded(whole)
    assert np.array_equal(samples, pcm)
    assert bool(told) == (stated == "half")
    assert probe(io.BytesIO(whole)).duration == pytest.approx(SECONDS, abs=0.01)


@pytest.mark.parametrize("rate", [2, 2**31 - 1])
def test_a_rate_that_no_recording_has_is_a_damaged_header(pcm, rate):
    with pytest.raises(AudioDecodeError):
        decode(io.BytesIO(wav(pcm.tobytes(), rate=rate)))


def test_a_size_beyond_all_files_is_no_place_to_look_at(tmp_path, signal):
    whole = bytearray(write(tmp_path / "a.w64", signal, RATE, "pcm_s16le").read_bytes())
    at = whole.index(b"fmt ") + 16
    whole[at : at + 8] = b"\xff" * 8
    with pytest.raises(AudioDecodeError):
        decoded(whole)
    mp4 = write(tmp_path / "a.m4a", signal, 44100, "aac").read_bytes()
    samples, _ = decoded(mp4 + b"\0\0\0\1free" + b"\xff" * 8 + bytes(100))
    assert len(samples) == pytest.approx(SECONDS * RATE, abs=0.05 * RATE)


def test_aiff_written_into_a_pipe(tmp_path, signal, pcm):
    whole = bytearray(write(tmp_path / "a.aiff", signal, RATE, "pcm_s16be").read_bytes())
    for at in (4, whole.index(b"COMM") + 10, whole.index(b"SSND") + 4):
        whole[at : at + 4] = bytes(4)
    assert np.array_equal(decoded(whole)[0], pcm)


# -- several tracks --------------------------------------------------------------------------------


def tracks_file(
    path: Path,
    parts: list[np.ndarray],
    facts: list[dict] | None = None,
    codec: str = "pcm_s16le",
    rate: int = RATE,
) -> Path:
    """A file with a track per part."""
    with av.open(str(path), "w") as container:
        streams = []
        for number in range(len(parts)):
            stream = container.add_stream(codec, rate=rate, layout="mono")
            stream.metadata.update(facts[number] if facts else {})
            streams.append(stream)
        for stream, part in zip(streams, parts, strict=True):
            samples = np.rint(at_rate(part, rate) * 32767).astype(np.int16)
            for first in range(0, len(samples), 1024):
                block = np.ascontiguousarray(samples[None, first : first + 1024])
                frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
                frame.sample_rate, frame.pts = rate, first
                frame.time_base = Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def test_parties_on_tracks_of_their_own_are_all_heard(tmp_path, signal, pcm):
    other = speech_like(2.0, 7)
    path = tracks_file(
        tmp_path / "call.mkv", [other, signal], [{"title": "customer"}, {"title": "agent"}]
    )
    samples, told = decoded(path)
    both, fade = len(other), RATE // 100
    assert np.abs(samples[:both] - (signal[:both] + other) * 32767 / 2).max() <= 2
    assert np.array_equal(samples[both + fade :], pcm[both + fade :])
    assert "2 audio tracks" in told[0]
    assert "customer" in told[0]
    assert probe(path).num_channels == 2
    assert np.array_equal(decoded(path, channel=1)[0], pcm)
    assert len(decoded(path, channel=0)[0]) == len(other)
    with pytest.raises(AudioDecodeError, match="channel 2"):
        decode(path, channel=2)
    excerpt, _ = decoded(path, start=1.0, duration=4.0)
    assert np.array_equal(excerpt, samples[RATE : 5 * RATE])
    after_the_first, _ = decoded(path, start=4.0)
    assert np.array_equal(after_the_first, samples[4 * RATE :])


def test_a_silent_track_beside_the_speech_costs_no_loudness(tmp_path, signal, pcm):
    path = tracks_file(tmp_path / "muted.mkv", [0 * signal, signal])
    samples, _ = decoded(path)
    assert np.abs(samples.astype(int) - pcm).max() <= 2


def test_of_dubs_one_is_taken_and_the_others_are_named(tmp_path, signal, pcm):
    facts = [{"language": "eng"}, {"language": "fra", "title": "Version française"}]
    path = tracks_file(tmp_path / "film.mkv", [signal, speech_like(SECONDS, 5)], facts)
    samples, told = decoded(path)
    assert np.array_equal(samples, pcm)
    assert "Version française, fra" in told[0]
    assert probe(path).num_channels == 1


def test_a_commentary_is_not_mixed_in(tmp_path, signal, pcm):
    facts = [{}, {"title": "Director's commentary"}]
    path = tracks_file(tmp_path / "film.mkv", [signal, speech_like(SECONDS, 5)], facts)
    samples, told = decoded(path)
    assert np.array_equal(samples, pcm)
    assert "commentary" in told[0]


def test_a_track_without_a_decoder_does_not_spoil_the_other(tmp_path, signal, pcm):
    whole = tracks_file(tmp_path / "a.mp4", [signal, signal], codec="flac", rate=RATE).read_bytes()
    second = whole.rindex(b"fLaC")
    unknown = whole[:second] + b"apac" + whole[second + 4 :]
    samples, told = decoded(unknown)
    assert np.array_equal(samples, pcm)
    assert "no decoder for its audio track 1" in told[0]


# -- channels that oppose each other ---------------------------------------------------------------


def stereo(left: np.ndarray, right: np.ndarray, rate: int = RATE) -> bytes:
    both = np.rint(np.stack([at_rate(left, rate), at_rate(right, rate)], 1) * 32767)
    return wav(np.clip(both, -32768, 32767).astype("<i2").tobytes(), rate=rate, channels=2)


@pytest.mark.parametrize("rate", [16000, 44100, 8000])
@pytest.mark.parametrize("strength", [1.0, 0.8, 1.25])
def test_opposed_channels_do_not_cancel_the_voices(signal, pcm, rate, strength):
    samples, told = decoded(stereo(signal / 1.3, -strength * signal / 1.3, rate))
    assert np.sqrt((samples / 32768.0) ** 2).mean() > 0.6 * np.abs(signal).mean()
    assert abs(lag(pcm, samples)) <= 1
    assert "opposite phase" in told[0]


def test_channels_opposed_for_a_while_only(signal):
    """Half a second of 6 s, under a constant offset: an excerpt agrees with the whole."""
    sign = np.ones(len(signal))
    sign[round(2.2 * RATE) : round(2.7 * RATE)] = -1
    content = stereo(signal * 0.8 + 0.1, sign * signal * 0.8 + 0.1)
    samples, _ = decoded(content)
    within = slice(round(2.2 * RATE), round(2.7 * RATE))
    assert np.abs(samples[within] - 3277).mean() > 0.5 * np.abs(signal[within]).mean() * 0.8 * 32767
    excerpt, _ = decoded(content, start=2.4, duration=1.1)
    assert np.array_equal(excerpt, samples[round(2.4 * RATE) : round(3.5 * RATE)])


def test_two_voices_one_of_them_opposed(signal):
    """Left is a + b, right is a - b: the mean would be a alone."""
    a, b = 0.4 * signal.copy(), 0.4 * speech_like(SECONDS, 9)
    a[3 * RATE :], b[: 3 * RATE] = 0, 0
    samples, told = decoded(stereo(a + b, a - b))
    assert snr((a + b)[: 3 * RATE] * 32767, samples[: 3 * RATE]) > 30
    assert snr((a + b)[3 * RATE :] * 32767, samples[3 * RATE :]) > 30
    assert "3 s" in told[0]


def test_two_parties_on_two_channels_are_no_opposition(signal):
    other = speech_like(SECONDS, 11)
    samples, told = decoded(stereo(signal, other))
    assert np.abs(samples - (signal + other) / 2 * 32767).max() <= 1
    assert told == []


@pytest.mark.parametrize("dead", [0.0, 3e-4])
def test_a_dead_channel_costs_no_loudness(signal, pcm, dead):
    noise = dead * np.random.default_rng(0).uniform(-1, 1, len(signal)) + 0.2 * bool(dead)
    samples, told = decoded(stereo(signal, noise))
    assert np.abs(samples.astype(int) - pcm).max() <= 1
    assert "nothing is on channel 1" in told[0]
    waveform = np.stack([signal, noise]).astype("f4")
    told = []
    of_waveform = prepare_waveform(waveform, RATE, warnings=told)
    assert np.array_equal(of_waveform, waveform[0])
    assert "nothing is on channel 1" in told[0]


# -- one clock -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "video"),
    [
        ("late.ts", "mp2", "mpeg2video"),
        ("late.mpg", "mp2", "mpeg2video"),
        ("late.mkv", "aac", "mpeg4"),
        ("late.mp4", "aac", "mpeg4"),
        ("late.flv", "aac", "flv"),
        ("late.mov", "pcm_s16le", "mpeg4"),
    ],
)
def test_sound_that_begins_late_is_late_in_every_container(
    tmp_path, pcm, signal, name, codec, video
):
    path = write(tmp_path / name, signal, 48000, codec, video=video, delay=2.469, bit_rate=192000)
    samples, _ = decoded(path)
    shift = lag(np.concatenate([np.zeros(round(2.469 * RATE), np.int16), pcm]), samples)
    coder_delay = 0.022  # of mp2 and aac, where nothing states it
    assert -0.002 * RATE <= shift <= coder_delay * RATE
    for start in (0.5, 2.3, 5.1):
        first = round(start * RATE)
        excerpt, _ = decoded(path, start=start, duration=2.0)
        assert abs(lag(samples[first : first + 2 * RATE], excerpt)) <= 16


@pytest.mark.parametrize(
    ("name", "codec"), [("gap.ts", "mp2"), ("gap.mpg", "mp2"), ("gap.flv", "aac")]
)
def test_gaps_are_silence_in_every_container(tmp_path, name, codec):
    signal = speech_like(12.0, 2)
    pcm = np.rint(signal * 32767)
    path = write(
        tmp_path / name, signal, 48000, codec, video=None, hole=(4.0, 7.0), bit_rate=192000
    )
    samples, _ = decoded(path)
    assert np.abs(samples[round(4.3 * RATE) : round(6.8 * RATE)]).max() < 200
    assert 0 <= lag(pcm[8 * RATE :], samples[8 * RATE : len(pcm)]) <= 0.022 * RATE
    excerpt, _ = decoded(path, start=8.0, duration=3.0)
    assert abs(lag(samples[8 * RATE : 11 * RATE], excerpt)) <= 16


@pytest.mark.parametrize(
    ("name", "rate", "codec"),
    [
        ("a.ogg", 48000, "vorbis"),
        ("b.ogg", 44100, "vorbis"),
        ("a.webm", 48000, "libopus"),
        ("b.webm", 48000, "vorbis"),
        ("a.ac3", 44100, "ac3"),
        ("a.wma", 44100, "wmav2"),
        ("a.ts", 44100, "aac"),
        ("a.mka", 44100, "mp3"),
    ],
)
def test_excerpts_agree_with_the_whole_to_the_millisecond(tmp_path, name, rate, codec):
    layout = "stereo" if codec == "vorbis" else "mono"
    path = write(tmp_path / name, speech_like(20.0, 4), rate, codec, layout=layout, bit_rate=96000)
    whole, _ = decoded(path)
    for start in (3.3, 8.213, 15.57):
        first = round(start * RATE)
        excerpt, _ = decoded(path, start=start, duration=2.0)
        assert abs(lag(whole[first : first + 2 * RATE], excerpt)) <= 16
        assert len(excerpt) == 2 * RATE


def test_timestamps_that_start_again_put_one_recording_after_the_other(tmp_path, signal, pcm):
    once = write(tmp_path / "a.ts", signal, 48000, "mp2", bit_rate=192000).read_bytes()
    samples, told = decoded(once + once)
    assert len(samples) == pytest.approx(2 * len(pcm), abs=0.1 * RATE)
    assert "timestamps jump" in told[0]
    excerpt, _ = decoded(once + once, start=8.0, duration=2.0)
    assert abs(lag(samples[8 * RATE : 10 * RATE], excerpt)) <= 16


# -- recordings joined to one file -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("codec", "rates"),
    [("vorbis", (16000, 44100)), ("flac", (16000, 48000)), ("libopus", (48000, 48000))],
)
def test_chained_ogg_is_read_to_its_end(tmp_path, signal, pcm, codec, rates):
    layouts = ("stereo" if codec == "vorbis" else "mono", "stereo")
    links = [
        write(tmp_path / f"{number}.ogg", signal, rate, codec, layout=layout, bit_rate=64000)
        for number, (rate, layout) in enumerate(zip(rates, layouts, strict=True))
    ]
    content = b"".join(link.read_bytes() for link in [*links, links[0]])
    samples, told = decoded(content)
    assert told == []
    assert len(samples) == pytest.approx(3 * len(pcm), abs=0.1 * RATE)
    for number in range(3):
        first = round(number * SECONDS * RATE)
        part = samples[first : first + len(pcm)]
        assert abs(lag(pcm, part)) < 0.05 * RATE
    excerpt, _ = decoded(content, start=9.0, duration=2.0)
    assert np.array_equal(excerpt, samples[9 * RATE : 11 * RATE])
    assert probe(io.BytesIO(content)).duration == pytest.approx(3 * SECONDS, abs=0.1)


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.aac", "aac")])
def test_files_of_another_rate_put_after_each_other(tmp_path, signal, pcm, name, codec):
    parts = [
        write(tmp_path / f"{rate}-{name}", signal, rate, codec, bit_rate=96000).read_bytes()
        for rate in (16000, 44100)
    ]
    content = b"".join(parts)
    samples, told = decoded(content)
    assert told == []
    assert len(samples) == pytest.approx(2 * len(pcm), abs=0.2 * RATE)
    excerpt, _ = decoded(content, start=9.0, duration=2.0)
    assert abs(lag(samples[9 * RATE : 11 * RATE], excerpt)) <= 16


def test_a_damaged_link_is_told_of(tmp_path, signal, pcm):
    link = write(tmp_path / "a.ogg", signal, 48000, "vorbis", layout="stereo").read_bytes()
    broken = bytearray(link)
    broken[100:4000] = bytes(3900)  # its headers
    samples, told = decoded(link + bytes(broken) + link)
    assert len(samples) >= 2 * len(pcm) - 0.1 * RATE
    assert "left out" in " ".join(told) or "damaged" in " ".join(told)


def test_wavs_and_mp4s_put_together(tmp_path, signal, pcm):
    content = wav(pcm.tobytes()) + wav(pcm[: 2 * RATE].tobytes(), after=LIST)
    samples, _ = decoded(content)
    assert np.array_equal(samples, np.concatenate([pcm, pcm[: 2 * RATE]]))
    one = write(tmp_path / "a.m4a", signal, 44100, "aac", bit_rate=96000).read_bytes()
    samples, _ = decoded(one + one)
    assert len(samples) == pytest.approx(2 * len(pcm), abs=0.1 * RATE)


def test_joined_mp3s_keep_one_clock(tmp_path):
    """Each has a header of its own, and the excerpt must not go by the first one's length."""
    signal = speech_like(8.0, 6)
    files = [
        write(tmp_path / f"{rate}.mp3", signal, rate, "mp3", bit_rate=bit_rate).read_bytes()
        for rate, bit_rate in ((44100, 128000), (22050, 32000))
    ]
    content = files[0] + files[1] + files[0]
    samples, _ = decoded(content)
    for start in (4.0, 9.3, 17.7, 21.0):
        excerpt, _ = decoded(content, start=start, duration=2.0)
        first = round(start * RATE)
        assert abs(lag(samples[first : first + 2 * RATE], excerpt)) <= 16


# -- codecs and samples ----------------------------------------------------------------------------


def test_amr_with_pauses_that_were_not_sent(tmp_path, signal):
    with_pauses = signal.copy()
    with_pauses[RATE : 5 * RATE] = 0
    path = write(tmp_path / "a.amr", with_pauses, 8000, "libopencore_amrnb")
    quiet = tmp_path / "dtx.amr"
    with av.open(str(quiet), "w") as container:
        stream = container.add_stream(
            "libopencore_amrnb", rate=8000, layout="mono", options={"dtx": "1"}
        )
        samples = np.rint(at_rate(with_pauses, 8000) * 32767).astype(np.int16)
        for first in range(0, len(samples), 160):
            block = np.ascontiguousarray(samples[None, first : first + 160])
            frame = av.AudioFrame.from_ndarray(block, "s16", "mono")
            frame.sample_rate, frame.pts = 8000, first
            frame.time_base = Fraction(1, 8000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert quiet.stat().st_size < 0.7 * path.stat().st_size
    expected, _ = decoded(path)
    samples, told = decoded(quiet)
    assert told == []
    assert len(samples) == pytest.approx(len(expected), abs=400)
    assert abs(lag(expected, samples)) <= 16


@pytest.mark.parametrize(("factor", "dtype"), [(2**15, "f4"), (2**23, "f4"), (2**31, "f8")])
def test_floats_that_were_never_divided(pcm, signal, factor, dtype):
    data = (signal * factor).astype(dtype)
    content = wav(data.tobytes(), bits=8 * data.itemsize, tag=3)
    samples, told = decoded(content)
    assert np.abs(samples.astype(int) - pcm).max() <= 1
    assert "full scale" in told[0]
    told = []
    waveform = prepare_waveform(data[None], RATE, warnings=told)
    assert np.allclose(waveform, signal, atol=1e-6)
    assert "full scale" in told[0]


def test_a_click_in_floats_does_not_make_the_rest_inaudible(signal, pcm):
    clicks = signal.astype("f4")
    clicks[[5000, 50_000]] = 1e6
    samples, told = decoded(wav(clicks.tobytes(), bits=32, tag=3))
    assert (np.abs(samples.astype(int) - pcm) > 1).sum() == 2
    assert told == []


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros((1, 100), complex),
        np.array([[0.5, None]], object),
        [[0.1, 0.2], [0.3]],
        np.full((1, 100), 1e30),
        "talk.wav",
        np.zeros((100, 100, 2)),
        np.zeros((70, 70)),
    ],
    ids=["complex", "object", "ragged", "huge", "text", "three axes", "square"],
)
def test_what_is_no_waveform(waveform):
    with pytest.raises(InvalidSamples):
        prepare_waveform(waveform, RATE)


def test_time_before_channels_is_understood(signal):
    waveform = np.stack([signal, speech_like(SECONDS, 3)], 1).astype("f4")
    assert np.array_equal(prepare_waveform(waveform, RATE), prepare_waveform(waveform.T, RATE))
    assert np.array_equal(prepare_waveform(waveform, RATE, channel=1), waveform[:, 1])
    assert np.array_equal(prepare_waveform(waveform[:, :1], RATE), waveform[:, 0])


# -- warnings --------------------------------------------------------------------------------------


def test_warnings_reach_whoever_asked(tmp_path, signal):
    path = tmp_path / "a.wav"
    path.write_bytes(stereo(signal, -signal))
    with IsolatedDecoder() as decoder:
        told: list[str] = []
        decoder.decode(path, warnings=told)
        assert told == decoded(path)[1]
        assert str(path) in told[0]
        for call in (decode, decoder.decode):
            with pytest.warns(AudioWarning, match="opposite phase"):
                call(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            decode(path, channel=0)


@pytest.mark.reference
@pytest.mark.parametrize(
    ("name", "seconds", "message"),
    [
        ("h_byterate_half.wav", 30.0, None),
        ("half.wav", 30.0, "header states 15.0 s"),
        ("late.ts", 32.49, None),
        ("late.mkv", 32.49, None),
        ("connect.mkv", 24.845, "AUDIO_TO_CUSTOMER"),
        ("spatial_second.mp4", 30.0, "no decoder"),
        ("antiphase.wav", 30.0, "opposite phase"),
        ("c.amr", 30.0, None),
        ("chainmix.ogg", 60.0, None),
        ("n_16000.wav", 1.0, None),
    ],
)
def test_odd_files_as_they_came(shared, name, seconds, message):
    samples, told = decoded(shared / "audio" / "odd-files" / name)
    assert len(samples) / RATE == pytest.approx(seconds, abs=0.03)
    assert np.abs(samples).max() > 3000
    assert [message in text for text in told] == ([True] if message else [])


def test_a_stream_that_begins_after_the_header_costs_nothing(signal, tmp_path):
    long = np.tile(signal, 20)  # longer than FFmpeg looks ahead
    content = write(tmp_path / "a.flv", long, 44100, "mp3").read_bytes()
    expected = decode(io.BytesIO(content))
    place = 9 + 4  # header, size of no tag
    while place < 0.9 * len(content):
        place += 11 + int.from_bytes(content[place + 1 : place + 4], "big") + 4
    # FFmpeg makes a stream of the first video tag that it meets, PyAV does not know of it
    picture = bytes([0x12, 0, 0, 0x84, 0])
    tag = bytes([9]) + len(picture).to_bytes(3, "big") + content[place + 4 : place + 8] + bytes(3)
    tag += picture + (11 + len(picture)).to_bytes(4, "big")
    found = decode(io.BytesIO(content[:place] + tag * 3 + content[place:]))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("num_channels", [8, 9, 16, 24])
def test_arrays_of_many_microphones_are_mixed(signal, num_channels):
    samples = (signal * 16384).astype("<i2")
    frames = samples[:, None].repeat(num_channels, axis=1).tobytes()
    form = struct.pack(
        "<HHIIHH", 1, num_channels, RATE, RATE * 2 * num_channels, 2 * num_channels, 16
    )
    chunks = b"fmt " + struct.pack("<I", len(form)) + form
    chunks += b"data" + struct.pack("<I", len(frames)) + frames
    content = b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
    assert np.array_equal(decode(io.BytesIO(content)), samples)
    assert np.array_equal(decode(io.BytesIO(content), channel=num_channels - 1), samples)


@pytest.mark.parametrize("layout", ["mono", "stereo", "7.1", "24 channels"])
@pytest.mark.parametrize("form", ["u8", "u8p", "s16", "s16p", "s32p", "flt", "fltp", "dblp"])
def test_gaps_are_filled_with_silence_of_any_form(form, layout):
    frame = av.AudioFrame(format=form, layout=layout, samples=100)
    frame.sample_rate = RATE
    silence = silence_like(frame, 1000)
    assert (silence.samples, silence.sample_rate, silence.layout.name) == (1000, RATE, layout)
    assert np.all(frame_samples(silence) == (128 if form[:2] == "u8" else 0))
