"""Recordings behind a network, and whose failure it is that they cannot be read."""

import numpy as np
import pytest
from audio_files import RATE, speech_like, write
from web_storage import serving

from raydiar.audio import decode, probe
from raydiar.errors import AudioNotFound, StorageDenied, StorageUnavailable
from raydiar.storage import display_name, open_source, storage_error


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")
    signal = speech_like(20.0)
    long = write(folder / "long.wav", np.tile(signal, 18), 48000, "pcm_s16le")  # 6 min, 35 MB
    return {
        "/long.wav": long.read_bytes(),
        "/a.m4a": write(folder / "a.m4a", signal, 44100, "aac").read_bytes(),
        "/a.mp3": write(folder / "a.mp3", signal, 44100, "mp3").read_bytes(),
    }


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
@pytest.mark.parametrize("name", ["/a.m4a", "/a.mp3", "/long.wav"])
def test_over_http_as_from_disk(objects, tmp_path, name, ranges):
    """The index of an m4a is at its end; a server without ranges cannot be asked for it."""
    local = tmp_path / name[1:]
    local.write_bytes(objects[name])
    with serving(objects, ranges) as server:
        url = server.url + name
        assert probe(url) == probe(local)
        assert np.array_equal(decode(url), decode(local))
        assert np.array_equal(
            decode(url, start=12, duration=2), decode(local, start=12, duration=2)
        )


def test_an_excerpt_of_a_long_file_fetches_little_more_than_itself(objects):
    with serving(objects) as server:
        samples = decode(server.url + "/long.wav", start=300.0, duration=10.0)
        assert len(samples) == 10 * RATE
        assert server.sent < 0.5 * len(objects["/long.wav"])
        server.sent = 0
        assert probe(server.url + "/long.wav").duration == 360.0
        assert server.sent < 2e6


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, StorageDenied),
        (403, StorageDenied),
        (404, AudioNotFound),
        (410, AudioNotFound),
        (429, StorageUnavailable),
        (500, StorageUnavailable),
        (503, StorageUnavailable),
    ],
)
def test_http_status_says_whose_failure_it_is(status, error):
    with serving({}) as server, pytest.raises(error) as caught:
        decode(f"{server.url}/status/{status}/talk.mp3?signature=secret")
    assert f"/status/{status}/talk.mp3" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_connection_lost_halfway_is_not_a_truncated_recording(objects):
    """FFmpeg would take the error for the end of the file."""
    with serving(objects, dies_after=20_000_000) as server, pytest.raises(StorageUnavailable):
        decode(server.url + "/long.wav")


def test_no_server():
    with pytest.raises(StorageUnavailable, match=r"127\.0\.0\.1:9/talk\.mp3"):
        decode("http://127.0.0.1:9/talk.mp3")


@pytest.mark.parametrize(("status", "error"), [(403, StorageDenied), (404, AudioNotFound)])
def test_s3_refusal(status, error):
    with serving({}) as server:
        options = {
            "key": "k",
            "secret": "s",
            "endpoint_url": f"{server.url}/status/{status}",
            "skip_instance_cache": True,
        }
        with pytest.raises(error, match=r"s3://bucket/talk\.mp3"):
            decode("s3://bucket/talk.mp3", storage_options=options)


def test_any_fsspec_storage(objects):
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/talks/a.mp3", objects["/a.mp3"])
    assert len(decode("memory://talks/a.mp3")) == 20 * RATE
    with pytest.raises(AudioNotFound, match=r"memory://talks/b\.mp3"):
        decode("memory://talks/b.mp3")
    with pytest.raises(AudioNotFound, match="no storage is known"):
        decode("tape://talks/a.mp3")


def test_failures_of_the_machine_are_passed_on():
    for error in (OSError(28, "No space left on device"), OSError(24, "Too many open files")):
        assert storage_error(error, "a.wav") is error
    error = ImportError("Please install gcsfs to access Google Storage")
    assert storage_error(error, "gs://a.wav") is error
    assert isinstance(storage_error(OSError(5, "Input/output error"), "a.wav"), StorageUnavailable)


def test_unreadable_local_file_is_the_operators(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF")

    def refuse(*args, **kwargs):  # tests may run as root, for whom no file is unreadable
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(StorageDenied, match=r"a\.wav"), open_source(path):
        pass


def test_messages_hold_no_credentials():
    url = "https://user:password@host/a.wav?X-Amz-Signature=secret"
    assert display_name(url) == "https://host/a.wav"
    assert display_name("s3://bucket/a b#c.wav") == "s3://bucket/a b#c.wav"
    assert display_name("/data/a?b.wav") == "/data/a?b.wav"
