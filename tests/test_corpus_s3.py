"""A corpus on S3, over HTTP: listed, read, written, gone on with, and all that while it fails."""

import json
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from audio_files import speech_like, write
from s3_server import now_and_then, on
from test_corpus_shards import write_hugging_face, write_tar

from raydiar.audio import decode
from raydiar.corpus.inputs.shards import read_members
from raydiar.corpus.inputs.sources import list_audio, write_manifest
from raydiar.corpus.job.run import diarize_corpus
from raydiar.corpus.output import dataset
from raydiar.errors import ManifestError, OutputError, StorageDenied
from raydiar.naming import is_audio
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock, check_lock, holder_of, living_holder


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Path]:
    """Ten short recordings that differ."""
    folder = tmp_path_factory.mktemp("clips")
    return [
        write(folder / f"{n}.wav", speech_like(1.0 + n / 10, seed=n), 8000, "pcm_mulaw")
        for n in range(10)
    ]


def rows_of(output) -> dict[str, dict]:
    """Every row that a plain Parquet reader sees; fails on two rows of one recording."""
    fs, path = fsspec.core.url_to_fs(output, use_listings_cache=False)
    rows = pq.read_table(path, filesystem=fs).to_pylist()
    by_id = {row["recording_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


# -- listing -----------------------------------------------------------------------------------


def test_twenty_thousand_objects_are_listed_by_pages(s3, clips, tmp_path):
    s3.make("corpus", "flat/{:06d}.wav", clips[:2], 20_000)
    manifest = str(tmp_path / "m.parquet")
    assert write_manifest("s3://corpus/flat/", manifest) == 20_000
    listed = pq.read_table(manifest)
    assert len(set(listed["uri"].to_pylist())) == 20_000
    assert listed["uri"][123].as_py() == "s3://corpus/flat/000123.wav"
    assert listed["size"][123].as_py() == clips[1].stat().st_size
    assert len(s3.requests) < 30  # 20 pages of a thousand

    s3.requests.clear()
    assert len(list(list_audio("s3://corpus/flat/00012*.wav"))) == 10
    assert len(s3.requests) == 1  # below its literal beginning


def test_nested_prefixes_and_globs(s3, clips, tmp_path):
    for key in ("a.wav", "x/b.MP3", "x/y/c.wav", "x/_raydiar/d.wav", "x/.e.wav", "x/notes.txt"):
        s3.make("nested", f"top/{key}", clips[:1])
    s3.make("nested", "top/x/", [_empty(tmp_path)])  # as consoles mark folders
    s3.make("nested", "top-other/f.wav", clips[:1])

    def keys(source, **options):
        found = [uri for uri, _ in list_audio(source, **options)]
        assert len(set(found)) == len(found)
        return [uri.removeprefix("s3://nested/top/") for uri in found]

    assert keys("s3://nested/top") == ["a.wav", "x/b.MP3", "x/y/c.wav"]
    assert len(keys("s3://nested/")) == 4
    assert keys("s3://nested/t*/[af].wav") == ["s3://nested/top-other/f.wav", "a.wav"]
    assert keys("s3://nested/top/**/*.wav") == [
        "a.wav",
        "x/.e.wav",
        "x/_raydiar/d.wav",
        "x/y/c.wav",
    ]
    assert keys("s3://nested/top/*/*.MP3") == ["x/b.MP3"]
    assert keys("s3://nested/top/x/y/c.wav") == ["x/y/c.wav"]
    assert keys("s3://nested/top", without="s3://nested/top/x") == ["a.wav"]
    for nothing in ("s3://nested/absent/", "s3://no-such-bucket/x/", "s3://*/x.wav"):
        with pytest.raises(ManifestError):
            write_manifest(nothing, str(tmp_path / "m.parquet"))
    s3.fault = on("GET", "list-type=2", 403)
    with pytest.raises(StorageDenied, match="s3://nested/top"):
        write_manifest("s3://nested/top", str(tmp_path / "m.parquet"))


def _empty(folder) -> Path:
    (folder / "empty").touch()
    return folder / "empty"


# -- reading and writing -----------------------------------------------------------------------


def test_an_excerpt_reads_its_own_range(s3, tmp_path):
    signal = np.tile(speech_like(20.0), 18)
    s3.make("corpus", "long.wav", [write(tmp_path / "long.wav", signal, 48000, "pcm_s16le")])
    s3.sent = 0
    samples = decode("s3://corpus/long.wav", start=300.0, duration=5.0)
    assert len(samples) == 5 * 16000
    assert s3.sent < 12e6  # of 35 MB: the header's block and that of the excerpt
    assert np.array_equal(samples, decode(tmp_path / "long.wav", start=300.0, duration=5.0))


@pytest.mark.parametrize("make", [write_tar, write_hugging_face])
def test_a_shard_on_s3_is_read_to_its_end_in_spite_of_failures(s3, tmp_path, make):
    members = {f"{n}.wav": np.random.default_rng(n).bytes(2_000_000) for n in range(10)}
    name = "s.tar" if make is write_tar else "s.parquet"
    s3.make("corpus", name, [make(tmp_path / name, members)])
    uri = f"s3://corpus/{name}"
    s3.fault = now_and_then(seed=2, share=0.2)
    assert dict(read_members(uri, is_audio, lambda name: True)) == members
    assert s3.faults
    s3.fault = on("GET", name, 403)  # is the operator's, and not the shard's failure
    with pytest.raises(StorageDenied):
        list(read_members(uri, is_audio, lambda name: True))


def test_only_one_of_many_creates_a_file(s3):
    s3.make("locks", "some-key", [__file__])
    folder = Folder("s3://locks/output")
    outcomes = []

    def create(n):
        try:
            Folder("s3://locks/output").create("lock", str(n).encode())
            outcomes.append(n)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=create, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # moto looks first and writes then, so threads may slip through together; one after another not
    assert outcomes
    with pytest.raises(FileExistsError):
        folder.create("lock", b"late")
    assert folder.read("lock") != b"late"


def test_a_refused_condition_means_that_the_file_exists_on_any_server(s3):
    s3.make("locks", "some-key", [__file__])
    s3.fault = on("PUT", "/lock", 412)  # with the status alone, as other servers answer
    with pytest.raises(FileExistsError):
        Folder("s3://locks/other").create("lock", b"x")


def test_a_lock_on_s3(s3):
    s3.make("locks", "some-key", [__file__])
    folder = Folder("s3://locks/third")
    # the answer to creating it is lost, and the client's second try finds the file: its own
    s3.fault = on("PUT", "/lock", "lose", times=1)
    with OutputLock(folder, "run1"):
        assert s3.faults == 1
        check_lock(folder, "run1")
        with pytest.raises(OutputError, match="being written by run run1"):
            OutputLock(Folder("s3://locks/third"), "run2").__enter__()
        with pytest.raises(OutputError, match="no longer holds the lock"):
            check_lock(folder, "run2")
    with OutputLock(folder, "run2"):
        pass
    assert holder_of(folder) is None  # a file is left, since none is deleted on a condition


def test_a_lock_on_s3_falls_free_by_the_clock_of_whoever_waits(s3, monkeypatch):
    """The store's clock, and the holder's, may be wrong by any time."""
    s3.make("locks", "some-key", [__file__])
    folder = Folder("s3://locks/fifth")
    # dates of HTTP are whole seconds
    with OutputLock(folder, "run1", silence=4.0):
        left = json.loads(folder.read("_raydiar/lock")) | {"machine": "another"}
    folder.publish("_raydiar/lock", json.dumps(left).encode())
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 360)
    assert living_holder(folder) == "run1"  # asked of the store: it was written just now
    begun = time.monotonic()
    with OutputLock(folder, "run2", silence=4.0):
        assert time.monotonic() - begun > 3.6
        check_lock(folder, "run2")
        with pytest.raises(OutputError, match="now: run2"):
            check_lock(folder, "run1")


def test_a_folder_on_s3_shows_what_others_wrote(s3):
    s3.make("locks", "some-key", [__file__])
    mine, other = Folder("s3://locks/fourth"), Folder("s3://locks/fourth")
    assert mine.list() == {}
    assert not mine.exists("a/b")
    other.fs.clear_instance_cache()
    other.publish("a/b", b"12")
    other.publish("c", b"1")
    assert (mine.list(), mine.list("a")) == ({"c": 1}, {"b": 2})
    assert mine.exists("a/b")
    mine.delete("a")
    assert not other.exists("a/b")
    assert other.list("a") == {}


def test_a_job_from_s3_to_s3_while_the_storage_fails_now_and_then(local_ray, s3, clips, tmp_path):
    source, output = "s3://corpus/in", "s3://corpus/in/out"
    s3.make("corpus", "in/plain/{:02d}.wav", clips)
    members = {f"t{n}.wav": clip.read_bytes() for n, clip in enumerate(clips[:5])}
    write_tar(tmp_path / "s.tar", members)
    write_hugging_face(tmp_path / "s.parquet", members)
    s3.make("corpus", "in/shards/a.tar", [tmp_path / "s.tar"])
    s3.make("corpus", "in/shards/b.parquet", [tmp_path / "s.parquet"])
    expected = [f"{source}/plain/{n:02d}.wav" for n in range(10)]
    expected += [f"{source}/shards/a.tar#{name}" for name in members]
    expected += [f"{source}/shards/b.parquet#{name}" for name in members]

    s3.fault = now_and_then(seed=1, share=0.05)
    first = diarize_corpus(None, output, source=f"{source}/plain/0[0-4].wav", device="cpu")
    assert s3.faults
    assert (first.num_ok, first.num_errors) == (5, 0)
    whole = diarize_corpus(None, output, source=source, device="cpu")
    assert (whole.num_ok, whole.num_errors, whole.num_done_before) == (15, 0, 5)
    assert sorted(rows_of(output)) == sorted(expected)
    assert len(dataset.open(output)) == 20
    left = {path.rpartition("/")[2] for path in Folder(output).list("_raydiar")}
    assert left == {"lock", "manifest.parquet", "run.json", "schema.parquet", "shards.parquet"}

    s3.reset()
    again = diarize_corpus(None, output, source=source, device="cpu")
    assert (again.num_processed, again.num_done_before) == (0, 20)
    assert not [path for _, path in s3.requests if "/shards/" in path]


def test_a_job_on_telephony_splits_its_channels(local_ray, s3, tmp_path):
    channels = np.stack([speech_like(3.0, seed=1), speech_like(3.0, seed=2)])
    call = write(tmp_path / "call.wav", channels, 8000, "pcm_mulaw", layout="stereo")
    s3.make("calls", "call.wav", [call])
    (tmp_path / "m.csv").write_text("uri,channel\ns3://calls/call.wav,split\n")
    s3.fault = on("GET", "secret", 403)
    diarize_corpus(str(tmp_path / "m.csv"), "s3://calls/out", device="cpu")
    rows = rows_of("s3://calls/out")
    assert {name: (row["channel"], row["duration"]) for name, row in rows.items()} == {
        "s3://calls/call.wav#channel=0": (0, 3.0),
        "s3://calls/call.wav#channel=1": (1, 3.0),
    }

    # one refused object is its own failure, worth another try with other credentials
    s3.make("calls", "more/secret.wav", [call])
    (tmp_path / "m.csv").write_text("uri,channel\ns3://calls/more/secret.wav,\n")
    s3.fault = lambda method, path: 403 if "secret" in path else None
    diarize_corpus(str(tmp_path / "m.csv"), "s3://calls/out", device="cpu")
    refused = rows_of("s3://calls/out")["s3://calls/more/secret.wav"]["error"]
    assert (refused["type"], refused["retryable"]) == ("StorageDenied", True)
    assert refused["message"].count("refused") == 1
