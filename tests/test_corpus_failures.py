"""What goes wrong around a job, really done: storage, disks, decoders, and second thoughts."""

import json
import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from corpus_files import driver, excerpts, files, seen, wait_until, write_manifest
from typer.testing import CliRunner
from web_storage import serving

from raydiar.cli import app
from raydiar.corpus.job import decoding
from raydiar.corpus.job.decoding import Decode
from raydiar.corpus.job.run import diarize_corpus, resolve_corpus
from raydiar.corpus.output import dataset
from raydiar.errors import JobFailed, OutputError
from raydiar.pipelines.config import DEFAULT


@pytest.fixture
def small_packs(monkeypatch):
    """A pack for every recording of 5 s, so that a job of seconds has a middle."""
    monkeypatch.setattr(decoding, "PACK_SECONDS", 5.0)


def rows_of(output) -> dict[str, str]:
    """Status of every row that raydiar's reader sees, as it does while a job still runs."""
    rows = dataset.open(str(output)).to_table(["recording_id", "status"]).to_pylist()
    by_id = {row["recording_id"]: row["status"] for row in rows}
    assert len(by_id) == len(rows)
    return by_id


def test_error_rows_are_done_again_on_request(local_ray, talk, tmp_path, small_packs, monkeypatch):
    monkeypatch.setattr("raydiar.corpus.job.run.Decode", partial(Decode, attempts=1))
    output = tmp_path / "output"
    with serving({f"/{number}.wav": talk for number in range(6)}) as server:
        uris = [f"{server.url}/{number}.wav" for number in range(7)]  # there is no 6
        manifest = write_manifest(tmp_path / "m.jsonl", [{"uri": u, "duration": 5} for u in uris])
        server.refused = dict.fromkeys(["/1.wav", "/2.wav", "/3.wav", "/4.wav"], 503)
        first = diarize_corpus(manifest, str(output))
        assert first.errors == {"StorageUnavailable": 4, "AudioNotFound": 1}
        before = files(output)

        assert diarize_corpus(manifest, str(output)).num_processed == 0  # not unless asked
        server.refused = {"/4.wav": 503}
        retry = f"""
from functools import partial
from raydiar.corpus.job import decoding
from raydiar.corpus.job import run
decoding.PACK_SECONDS = 5.0
run.Decode = partial(run.Decode, attempts=1)
run.diarize_corpus({manifest!r}, {str(output)!r}, retry_errors="retryable")
"""
        with driver(retry, local_ray, tmp_path / "log"):
            wait_until(lambda: len(files(output)) > len(before))
        assert files(output).items() >= before.items()
        begun = rows_of(output)
        assert len(begun) == 7  # the killed retry hid nothing and doubled nothing
        assert list(begun.values()).count("ok") >= 2

        again = diarize_corpus(manifest, str(output), retry_errors="retryable")
        assert 1 <= again.num_processed <= 3
        assert sorted(seen(output).values()) == ["error"] * 2 + ["ok"] * 5
        assert again.errors == {"StorageUnavailable": 1}

        server.refused, server.objects["/6.wav"] = {}, talk
        last = diarize_corpus(manifest, str(output), retry_errors="all")
        assert (last.num_processed, last.num_ok, last.num_done_before) == (2, 2, 5)
        assert set(seen(output).values()) == {"ok"}
        oks = {name: data for name, data in before.items() if name.startswith("ok-")}
        assert files(output).items() >= oks.items()


def test_kept_local_speakers_are_clustered_again(local_ray, sample_wav, tmp_path):
    audio = tmp_path / "a.wav"
    audio.write_bytes(sample_wav.read_bytes())
    rows = [{"uri": str(audio), "take": 1}, {"uri": str(audio), "start": 7.0, "take": 2}]
    rows.append({"uri": "absent.wav"})
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    kept = str(tmp_path / "kept")
    diarize_corpus(manifest, one, keep_local=kept)
    diarize_corpus(manifest, one, keep_local=kept, retry_errors="all")
    audio.unlink()

    def rows_in(output):
        rows = dataset.open(output).to_table().to_pylist()
        return sorted((r for r in rows if r["status"] == "ok"), key=lambda row: row["take"])

    summary = resolve_corpus(kept, two)
    assert (summary.num_ok, summary.num_processed) == (2, 2)
    assert rows_in(two) == rows_in(one)
    assert resolve_corpus(kept, two).num_processed == 0

    command = ["corpus", "resolve", kept, "--output", three, "--set", "clustering.threshold=2"]
    result = CliRunner().invoke(app, command)
    assert "2 recordings processed: 2 ok" in result.output
    for of_one, of_three in zip(rows_in(one), rows_in(three), strict=True):
        assert of_one["pipeline"]["fingerprint"] != of_three["pipeline"]["fingerprint"]
        assert of_one["turns"] != of_three["turns"]

    with pytest.raises(OutputError, match="of another pipeline: other segmentation_step"):
        resolve_corpus(kept, str(tmp_path / "four"), replace(DEFAULT, segmentation_step=0.2))
    with pytest.raises(OutputError, match="holds no LocalSpeakers"):
        resolve_corpus(str(tmp_path / "nowhere"), str(tmp_path / "four"))


def test_another_pipeline_begins_anew_only_on_request(local_ray, sample_wav, tmp_path):
    output = tmp_path / "output"
    rows = [*excerpts(sample_wav, 1), {"uri": "absent.wav"}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    diarize_corpus(manifest, str(output))
    other = DEFAULT.with_parameters({"clustering": {"threshold": 0.6}})
    with pytest.raises(OutputError, match="--reprocess"):
        diarize_corpus(manifest, str(output), other)
    assert diarize_corpus(manifest, str(output), other, reprocess=True).num_processed == 2
    assert sorted(seen(output).values()) == ["error", "ok"]
    [made_by] = {r["pipeline"]["parameters"] for r in dataset.open(output).to_table().to_pylist()}
    assert json.loads(made_by)["clustering"]["threshold"] == 0.6
    # a job that a cluster starts again with the same command goes on, not back
    assert diarize_corpus(manifest, str(output), other, reprocess=True).num_processed == 0


def reader_of(path: Path) -> int:
    """Process id of another process that has this file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) == str(path) and link.parts[2] != str(os.getpid()):
                return int(link.parts[2])
    raise AssertionError(f"nobody reads {path}")


def test_what_crashes_or_stalls_the_decoder_is_an_error_row(local_ray, sample_wav, tmp_path):
    for name in ("stalls.wav", "crashes.wav"):
        os.mkfifo(tmp_path / name)

    def crash():
        with open(tmp_path / "crashes.wav", "wb"):  # waits for the decoder
            os.kill(reader_of(tmp_path / "crashes.wav"), signal.SIGSEGV)
            time.sleep(1)

    threading.Thread(target=crash, daemon=True).start()
    rows = [*excerpts(sample_wav, 2), {"uri": "stalls.wav"}, {"uri": "crashes.wav"}]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    summary = diarize_corpus(manifest, str(tmp_path / "output"), decode_time_limit=4.0)
    assert summary.errors == {"DecoderStalled": 1, "DecoderCrashed": 1}
    assert sorted(seen(tmp_path / "output").values()) == ["error", "error", "ok", "ok"]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 512 KiB; gives its folder and a function that mounts it anew with options."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount the disk that gets full")
    yield (
        folder,
        lambda how: subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True),
    )
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_or_read_only_disk_stops_the_job_and_makes_no_error_rows(
    local_ray, sample_wav, tmp_path, small_packs, small_disk
):
    disk, remount = small_disk
    output = disk / "output"
    rows = excerpts(sample_wav, 12)
    diarize_corpus(write_manifest(tmp_path / "m.jsonl", rows[:1]), str(output))
    room = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_frsize - 48 * 1024))

    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    with pytest.raises((JobFailed, OutputError), match="No space left on device"):
        diarize_corpus(manifest, str(output))
    begun = seen(output)
    assert 1 <= len(begun) < 12
    assert set(begun.values()) == {"ok"}

    remount("ro")
    with pytest.raises(OutputError, match="Read-only file system"):
        diarize_corpus(manifest, str(output))
    remount("rw")
    (disk / "filler").unlink()
    diarize_corpus(manifest, str(output))
    assert list(seen(output).values()) == ["ok"] * 12
