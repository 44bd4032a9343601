"""However a conversation is packed, its speakers and turns are the same."""

import av
import numpy as np
import pytest
from audio_files import write

from raydiar import audio

STARTS, SECONDS = 4.0, 14.0
TOLERANCE = 0.05  # s


@pytest.fixture(scope="module")
def conversation(sample_wav) -> np.ndarray:
    return audio.decode(sample_wav, start=STARTS, duration=SECONDS) / 32768.0


def two_tracks(path, left: np.ndarray, right: np.ndarray):
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(2)]
        for stream, part in zip(streams, (left, right), strict=True):
            block = np.rint(part * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "s16", "mono")
            frame.sample_rate, frame.pts = 16000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def test_same_turns_from_any_file(pipeline, conversation, tmp_path):
    whole = conversation
    mute = whole * 0
    cut = 7 * 16000
    first, second = whole.copy(), whole.copy()
    first[cut:], second[:cut] = 0, 0
    files = {
        "plain": write(tmp_path / "plain.wav", whole, 16000, "pcm_s16le"),
        "48 kHz": write(tmp_path / "a.flac", whole, 48000, "flac", layout="stereo"),
        "opposed": write(
            tmp_path / "b.wav", np.stack([whole, -whole]), 44100, "pcm_s16le", layout="stereo"
        ),
        "one dead": write(
            tmp_path / "c.wav", np.stack([mute, whole]), 16000, "pcm_s16le", layout="stereo"
        ),
        "tracks": two_tracks(tmp_path / "d.mkv", first, second),
        "m4a": write(tmp_path / "e.m4a", whole, 44100, "aac", bit_rate=128000),
    }
    given = [{"audio": path, "uri": name} for name, path in files.items()]
    plain, *others = [output for _, output in pipeline(given)]
    assert plain.num_speakers == 2
    for output in others:
        assert len(output.turns) == len(plain.turns), output.uri
        for turn, expected in zip(output.turns, plain.turns, strict=True):
            assert turn.speaker == expected.speaker, output.uri
            assert turn.start == pytest.approx(expected.start, abs=TOLERANCE), output.uri
            assert turn.end == pytest.approx(expected.end, abs=TOLERANCE), output.uri
    told = {output.uri: output.warnings for output in others}
    assert "opposite phase" in told["opposed"][0]
    assert "nothing is on channel 0" in told["one dead"][0]
    assert "2 audio tracks" in told["tracks"][0]
    assert told["48 kHz"] == told["m4a"] == ()
