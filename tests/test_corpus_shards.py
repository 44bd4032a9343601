"""Shards: thousands of recordings in a tar or Parquet file, each of which becomes a row."""

import io
import os
import signal
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audio_files import speech_like, write
from typer.testing import CliRunner

from raydiar import audio
from raydiar.cli import app
from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.inputs.manifest import RECORDING_FIELDS
from raydiar.corpus.inputs.shard_record import SHARDS_FILE, ShardLog, ShardRecord
from raydiar.corpus.inputs.shards import is_shard, read_members
from raydiar.corpus.job import decoding
from raydiar.corpus.job.attempts import MOST_ATTEMPTS, Coordinator
from raydiar.corpus.job.decoding import Decode, DecodePortion
from raydiar.corpus.job.pack import Pack
from raydiar.corpus.job.run import diarize_corpus
from raydiar.errors import ShardError
from raydiar.naming import is_audio
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> dict[str, bytes]:
    """Four files of 2 s in the formats that shards hold."""
    folder = tmp_path_factory.mktemp("clips")
    signal = speech_like(2.0)
    forms = {"a.wav": "pcm_s16le", "b.flac": "flac", "c.mp3": "mp3", "d.wav": "pcm_mulaw"}
    return {
        name: write(folder / name, signal, 16000, codec).read_bytes()
        for name, codec in forms.items()
    }


def write_tar(path, members: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return str(path)


def write_hugging_face(path, members: dict[str, bytes | None], rows_per_group: int = 2) -> str:
    values = [{"bytes": data, "path": name} for name, data in members.items()]
    type_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"text": ["x"] * len(values), "audio": pa.array(values, type_)})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return str(path)


def everything(uri) -> list[tuple[str, bytes | None]]:
    return list(read_members(uri, is_audio, lambda name: True))


def read_into(names: list[str], uri) -> None:
    for name, _ in read_members(uri, is_audio, lambda name: True):
        names.append(name)


def rows_of(output) -> dict[str, dict]:
    """Every row that a plain Parquet reader sees; fails on two rows of one recording."""
    rows = pq.read_table(output).to_pylist()
    by_id = {row["recording_id"]: row for row in rows}
    assert len(by_id) == len(rows)
    return by_id


# -- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("s.tgz", "w:gz")]
)
def test_a_tar_gives_its_recordings_and_nothing_else(tmp_path, clips, name, mode):
    others = {"0001.json": b"{}", "0001.txt": b"hello", ".hidden.wav": b"x", "deep/._a.wav": b"x"}
    deep = {f"deep/{'very-' * 30}long/{name}": data for name, data in clips.items()}
    uri = write_tar(tmp_path / name, others | clips | deep, mode)
    assert everything(uri) == list((clips | deep).items())
    skipping = read_members(uri, is_audio, lambda name: name == "c.mp3")
    assert [name for name, data in skipping if data is not None] == ["c.mp3"]


def test_a_shard_is_known_by_its_ending():
    for uri in ("s3://b/x.tar", "/d/X.TAR.GZ", "https://h/x.tgz?sig=abc", "x.parquet"):
        assert is_shard(uri)
    for uri in ("s3://b/tar.wav", "https://h/x.wav?shard=y.tar", "x.gz"):
        assert not is_shard(uri)


def test_names_that_come_again_stay_apart(tmp_path, clips):
    path = tmp_path / "twice.tar"
    write_tar(path, {"a.wav": clips["a.wav"], "b.wav": b"1"})
    write_tar(path, {"a.wav": b"2", "./c.wav": b"3"}, "a")
    assert [name for name, _ in everything(str(path))] == ["a.wav", "b.wav", "a.wav#2", "c.wav"]


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        ({"audio": pa.array([b"1", b"2"]), "path": ["x.wav", "y.wav"]}, ["x.wav", "y.wav"]),
        ({"bytes": pa.array([b"1", b"2"], pa.large_binary()), "id": [7, None]}, ["7", "1"]),
        ({"audio": pa.array([{"bytes": b"1"}, {"bytes": b"2"}])}, ["0", "1"]),
        (
            {"audio": pa.array([{"bytes": b"1", "path": "x"}, {"bytes": b"2", "path": "x"}])},
            ["x", "x#1"],
        ),
    ],
)
def test_parquet_shards_of_every_form(tmp_path, columns, names):
    pq.write_table(pa.table(columns), tmp_path / "s.parquet")
    assert everything(str(tmp_path / "s.parquet")) == list(zip(names, [b"1", b"2"], strict=True))


def test_only_row_groups_with_something_wanted_are_read(tmp_path):
    members = {f"{n}.wav": bytes(100_000) for n in range(40)}
    uri = write_hugging_face(tmp_path / "s.parquet", members, rows_per_group=10)
    read = []
    wanted = read_members(uri, is_audio, lambda name: name == "25.wav")
    for name, data in wanted:
        if data is not None:
            read.append((name, len(data)))
    assert read == [("25.wav", 100_000)]


def test_the_memory_is_that_of_a_member(tmp_path):
    """A shard of 120 MB in one row group, read in a process of its own."""
    members = {f"{n}.wav": bytes([n]) * 2_000_000 for n in range(60)}
    shards = [
        write_tar(tmp_path / "s.tar", members),
        write_hugging_face(tmp_path / "s.parquet", members, rows_per_group=60),
    ]
    script = """
import resource, sys
from raydiar.corpus.inputs.shards import read_members
from raydiar.naming import is_audio
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
count = sum(len(data) == 2_000_000 for _, data in read_members(sys.argv[1], is_audio, lambda _: 1))
print(count, peak() - before)
"""
    for shard in shards:
        done = subprocess.run(
            [sys.executable, "-c", script, shard], capture_output=True, text=True, check=True
        )
        count, grown = done.stdout.split()
        assert int(count) == 60
        assert float(grown) < 60, shard  # MB


def test_what_breaks_off_says_so_after_the_members_before(tmp_path, clips):
    write_tar(tmp_path / "s.tar", clips)
    whole = (tmp_path / "s.tar").read_bytes()
    with tarfile.open(tmp_path / "s.tar") as tar:
        starts = [member.offset for member in tar]
        last = tar.getmembers()[-1]
    cuts = {
        "inside a member": starts[2] + 3000,
        "inside a header": starts[2] + 100,
        "between members": starts[2],
        "before the end mark": last.offset_data + -(-last.size // 512) * 512,
    }
    for where, length in cuts.items():
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        got = []
        with pytest.raises(ShardError, match=f"{tmp_path}/cut.tar breaks off after"):
            read_into(got, str(tmp_path / "cut.tar"))
        assert got == list(clips)[: 4 if where == "before the end mark" else 2], where
    damaged = bytearray(whole)
    damaged[starts[2] : starts[2] + 512] = b"\xff" * 512  # which tarfile takes for the end
    (tmp_path / "cut.tar").write_bytes(damaged)
    with pytest.raises(ShardError, match="breaks off after 2 members"):
        everything(str(tmp_path / "cut.tar"))

    compressed = write_tar(tmp_path / "s.tgz", clips, "w:gz")
    half = (tmp_path / "s.tgz").read_bytes()[:-2000]
    (tmp_path / "s.tgz").write_bytes(half)
    with pytest.raises(ShardError, match="breaks off after"):
        everything(compressed)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("s.tar", b"", "is not a tar archive"),
        ("s.tar", b"this was a recording once " * 100, "is not a tar archive"),
        ("s.tgz", b"\x1f\x8b and no more of it", "is not a tar archive"),
        ("s.parquet", b"PAR1 but no more", "cannot be read as Parquet"),
        ("s.parquet", b"", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_shard_says_so(tmp_path, name, content, complaint):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ShardError, match=complaint):
        everything(str(tmp_path / name))


def test_shards_without_audio_say_so(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "audio": ["a.wav"]}), tmp_path / "s.parquet")
    with pytest.raises(ShardError, match=r"no column of audio.*It has: text, audio"):
        everything(str(tmp_path / "s.parquet"))
    with pytest.raises(ShardError, match="no audio among its 1 members"):
        everything(write_tar(tmp_path / "s.tar", {"a.txt": b"x"}))


# -- what is decoded ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decode_shard(local_ray):
    """Packs of a shard, as (recordings, samples, errors, told) each."""
    import ray

    coordinator = ray.remote(Coordinator).remote()

    def decoded(row: dict, done=(), pack_seconds=4.0):
        row = dict.fromkeys(RECORDING_FIELDS.names) | {"recording_id": row["uri"]} | row
        kind = pa.list_(pa.struct(list(RECORDING_FIELDS)))
        portion = pa.table({"portion": [3], "recordings": pa.array([[row]], kind)})
        hashes = ray.put(np.sort(hash_ids(done)))
        stage = DecodePortion(Decode(pack_seconds=pack_seconds), hashes, coordinator)
        for pack in map(Pack, stage(portion)):
            samples = [one for one in pack.samples() if one is not None]
            yield pack.recordings(), samples, pack.errors(), pack.shard

    return decoded


def test_a_shard_becomes_packs(tmp_path, clips, decode_shard):
    uri = write_tar(tmp_path / "s.tar", clips | {"e.wav": b"not audio"})
    formed = list(decode_shard({"uri": uri, "num_speakers": 2}))
    names = [[row["recording_id"] for row in recordings] for recordings, *_ in formed]
    assert names == [
        [f"{uri}#a.wav", f"{uri}#b.flac"],
        [f"{uri}#c.mp3", f"{uri}#d.wav"],
        [f"{uri}#e.wav"],
        [],
    ]
    assert {row["num_speakers"] for recordings, *_ in formed for row in recordings} == {2}
    assert {row["uri"] for row in formed[0][0]} == set(names[0])
    samples = formed[0][1][0]
    (tmp_path / "a.wav").write_bytes(clips["a.wav"])
    assert (samples == audio.decode(tmp_path / "a.wav")).all()
    error = formed[2][2][0]
    assert error["type"] == "AudioDecodeError"
    assert f"{uri}#e.wav" in error["message"]
    assert [told["last"] for *_, told in formed] == [False, False, False, True]
    assert [told["num_rows"] for *_, told in formed] == [2, 2, 1, 0]
    assert formed[3][3]["whole"]

    # members that have a row are passed over, and a shard of such tells that it was read
    everything = [name for pack in names for name in pack]
    done = [name for name in everything if name != f"{uri}#c.mp3"]
    [(recordings, *_), (_, _, _, told)] = decode_shard({"uri": uri}, done)
    assert [row["recording_id"] for row in recordings] == [f"{uri}#c.mp3"]
    assert (told["place"], told["num_done"]) == (1, 4)
    [(recordings, _, _, told)] = decode_shard({"uri": uri}, everything)
    assert (recordings, told["place"], told["num_done"]) == ([], 0, 5)


def test_what_a_row_says_of_a_shard_holds_for_its_members(tmp_path, clips, decode_shard):
    stereo = write(tmp_path / "call.wav", speech_like(2.0), 8000, "pcm_mulaw", layout="stereo")
    uri = write_tar(tmp_path / "s.tar", {"call.wav": stereo.read_bytes(), "text.wav": b"not audio"})
    [(recordings, samples, errors, _), _] = decode_shard(
        {"uri": uri, "recording_id": "calls", "start": 0.5, "duration": 1.0, "channel": "split"}
    )
    assert [row["recording_id"] for row in recordings] == [
        "calls#call.wav#t=0.5,1.5#channel=0",
        "calls#call.wav#t=0.5,1.5#channel=1",
        "calls#text.wav#t=0.5,1.5#channel=split",
    ]
    assert [len(one) for one in samples] == [16000, 16000]
    assert errors[2]["type"] == "AudioDecodeError"


def test_a_shard_that_breaks_off_is_one_retryable_error_after_its_members(
    tmp_path, clips, decode_shard
):
    uri = write_tar(tmp_path / "s.tar", clips)
    (tmp_path / "s.tar").write_bytes((tmp_path / "s.tar").read_bytes()[:-30000])
    [(recordings, samples, errors, _), (*_, told)] = decode_shard({"uri": uri}, pack_seconds=100)
    assert [row["recording_id"] for row in recordings[-2:]][-1] == uri
    assert len(samples) == len(recordings) - 1 > 0
    assert (errors[-1]["type"], errors[-1]["retryable"]) == ("ShardError", True)
    assert not told["whole"]

    [(recordings, _, [error], _), (*_, told)] = decode_shard({"uri": f"{tmp_path}/absent.tar"})
    assert recordings[0]["recording_id"] == f"{tmp_path}/absent.tar"
    assert (error["type"], error["retryable"], told["place"]) == ("AudioNotFound", True, 1)


def test_the_record_of_shards_comes_back(tmp_path):
    folder = Folder(str(tmp_path))
    names = [f"s3://bucket/{n}.tar" for n in range(1000)]  # some hashes end in a zero byte
    assert min(map(len, hash_ids(names).tolist())) < 16
    with OutputLock(folder, "run1"), ShardLog(folder, "run1", ShardRecord()) as log:
        for name in names:
            told = {"recording_id": name, "place": 0, "num_rows": 2, "last": False}
            ends = told | {"place": 2, "num_rows": 0, "last": True, "num_done": 4}
            log.add({"shards": [ends | {"whole": name > names[7]}]})  # packs overtake each other
            log.add({"shards": [told]})
            log.add({"shards": [told]})  # and may be written twice
            assert hash_ids([name]).tolist()[0] not in log.record.shards
            log.add({"shards": [told | {"place": 1, "num_rows": 1}]})
        assert (log.num_read, log.num_rows) == (1000, 3000)
    record = ShardRecord.load(folder)
    hashes = hash_ids(names)
    whole = [name > names[7] for name in names]
    assert is_member(hashes, record.whole).tolist() == whole
    assert {record.num_recordings(shard) for shard in hashes.tolist()} == {7}
    assert record.num_recordings(b"never read") == 1


# -- the job -----------------------------------------------------------------------------------


def test_a_job_on_shards(local_ray, tmp_path, clips):
    corpus, output = tmp_path / "corpus", tmp_path / "corpus" / "output"
    corpus.mkdir()
    tar = write_tar(corpus / "a.tar", clips | {"bad.wav": b"not audio", "note.txt": b""})
    table = write_hugging_face(corpus / "b.parquet", dict(clips) | {"null.wav": None})
    (corpus / "c.wav").write_bytes(clips["a.wav"])
    broken = write_tar(corpus / "z.tar", clips)
    whole = (corpus / "z.tar").read_bytes()
    (corpus / "z.tar").write_bytes(whole[:-30000])
    members = [f"{tar}#{name}" for name in [*clips, "bad.wav"]]
    members += [f"{table}#{name}" for name in [*clips, "null.wav"]]

    summary = diarize_corpus(None, str(output), source=str(corpus))
    rows = rows_of(output)
    read = {name for name in rows if name.startswith(f"{broken}#")}
    assert set(rows) == {*members, f"{corpus}/c.wav", broken} | read
    assert 0 < len(read) < len(clips)
    errors = {name: row["error"]["type"] for name, row in rows.items() if row["status"] == "error"}
    assert errors == {
        f"{tar}#bad.wav": "AudioDecodeError",
        f"{table}#null.wav": "EmptyAudio",
        broken: "ShardError",
    }
    assert rows[broken]["error"]["retryable"]
    assert summary.num_recordings == summary.num_processed == len(rows)
    assert (summary.num_shards, summary.num_shards_read) == (3, 3)
    record = ShardRecord.load(Folder(str(output)))
    assert len(record.shards) == 3
    assert len(record.whole) == 2

    # a second run opens no shard, and the corpus may have grown
    contents = {shard: Path(shard).read_bytes() for shard in (tar, table)} | {broken: whole}
    for shard in contents:
        Path(shard).write_bytes(b"")  # it would fail if it were read
    (corpus / "d.wav").write_bytes(b"not audio")
    again = diarize_corpus(None, str(output), source=str(corpus))
    assert (again.num_shards, again.num_processed) == (0, 1)
    assert (again.num_recordings, again.num_done_before) == (len(rows) + 1, len(rows))
    assert len(rows_of(output)) == len(rows) + 1

    # When the broken shard is tried again and read whole, its error row goes. What was read by a
    # run that was killed before it could note so is read again, and nothing of it is done twice.
    for shard, content in contents.items():
        Path(shard).write_bytes(content)
    (output / SHARDS_FILE).unlink()
    last = diarize_corpus(None, str(output), source=str(corpus), retry_errors="retryable")
    assert (last.num_shards, last.num_processed) == (3, len(clips) - len(read))
    rows = rows_of(output)
    assert last.num_recordings == last.num_processed + last.num_done_before == len(rows)
    assert broken not in rows
    assert {f"{broken}#{name}" for name in clips} < set(rows)
    assert len(ShardRecord.load(Folder(str(output))).whole) == 3


def dying(marks: Path):
    """DecodePortion that is killed after a shard's first pack: twice, or always if it says so."""

    @dataclass(frozen=True)
    class Dying(DecodePortion):
        def __call__(self, portion):
            [[shard]] = portion.column("recordings").to_pylist()
            name = Path(shard["uri"]).stem
            for place, pack in enumerate(DecodePortion.__call__(self, portion)):
                mark = Path(marks, f"{name}-{os.getpid()}")
                deaths = len(list(Path(marks).glob(f"{name}-*")))
                decoded = any(samples is not None for samples in Pack(pack).samples())
                if place == 1 and decoded and (name == "deadly" or deaths < 2):
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does for want of memory
                yield pack

    return Dying


def test_a_shard_that_ends_its_process_is_tried_again_but_not_forever(
    local_ray, tmp_path, clips, monkeypatch
):
    marks, corpus = tmp_path / "marks", tmp_path / "corpus"
    marks.mkdir()
    corpus.mkdir()
    good, deadly = (write_tar(corpus / f"{name}.tar", clips) for name in ("good", "deadly"))
    monkeypatch.setattr(decoding, "PACK_SECONDS", 3.0)
    monkeypatch.setattr("raydiar.corpus.job.graph.DecodePortion", dying(marks))
    summary = diarize_corpus(None, str(tmp_path / "output"), source=str(corpus))
    rows = rows_of(tmp_path / "output")
    read = {name for name, row in rows.items() if row["status"] == "ok"}
    assert read >= {f"{good}#{name}" for name in clips}
    assert len(list(marks.glob("good-*"))) == 2
    assert rows[deadly]["error"]["type"] == "ShardError"
    assert rows[deadly]["error"]["retryable"]
    assert len(list(marks.glob("deadly-*"))) == MOST_ATTEMPTS
    assert summary.num_recordings == summary.num_processed == len(rows) == len(read) + 1


def test_exactly_one_of_manifest_and_input_is_taken(tmp_path):
    output = str(tmp_path / "output")
    for given in ([], ["--manifest", "m.csv", "--input", "audio/"]):
        result = CliRunner().invoke(app, ["corpus", "diarize", *given, "--output", output])
        assert result.exit_code == 1
        assert "either a manifest" in result.output
    assert not Path(output).exists()
