"""The diarization dataset: what plain Parquet readers see, and what a kill can leave behind."""

import json
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_rows import ERROR, PIPELINE, SCHEMA, diarization, publish, recording

from raydiar.corpus.hashes import hash_ids, is_member
from raydiar.corpus.output import dataset
from raydiar.errors import OutputError
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(str(tmp_path / "output"))
    dataset.write_schema(folder, SCHEMA)
    return folder


def test_rows_come_back_as_they_were_written(folder):
    publish(folder, "run1", "ok", "a", start=10.0, channel="1", num_speakers=2)
    publish(folder, "run1", "error", "b")

    opened = dataset.open(folder.uri)
    assert opened.schema.equals(SCHEMA)
    ok, error = opened.to_table().to_pylist()
    assert (ok["start"], ok["channel"], ok["duration"]) == (10.0, 1, 3.0)
    assert ok["requested"]["num_speakers"] == ok["num_speakers"] == 2
    # an excerpt's turns stand on the timeline of its file
    assert dataset.to_diarization(ok) == diarization("a").shifted(10.0)
    voiceprints = [speaker["embedding"] for speaker in ok["speakers"]]
    assert voiceprints == [[0.0, 1.0, 2.0, 3.0], None]
    assert error["error"] == ERROR
    assert error["turns"] is None
    assert (error["language"], error["episode"]) == ("en", 7)


def test_other_parquet_readers_see_the_same_schema(folder):
    publish(folder, "run1", "ok", "a")
    publish(folder, "run1", "error", "b")
    assert pq.read_table(folder.uri).schema.equals(SCHEMA)
    frame = pandas.read_parquet(folder.uri).set_index("recording_id")
    assert list(frame.status[["a", "b"]]) == ["ok", "error"]


def test_ok_overrules_error_and_the_first_file_overrules_the_next(folder):
    publish(folder, "run1", "error", "a", "b", "c")
    publish(folder, "run2", "ok", "a", "d", episode=2)
    publish(folder, "run3", "ok", "d", episode=3)
    publish(folder, "run3", "error", "b")

    def seen(table):
        rows = table.select(["recording_id", "status", "episode"]).to_pylist()
        return sorted(tuple(row.values()) for row in rows)

    expected = [("a", "ok", 2), ("b", "error", 7), ("c", "error", 7), ("d", "ok", 2)]
    opened = dataset.open(folder.uri)
    assert len(opened) == 4
    assert seen(opened.to_table()) == expected
    assert (opened.inventory.count("ok"), opened.inventory.count("error")) == (2, 2)

    before = {name: folder.read(name) for name in folder.list()}
    with OutputLock(folder, "run3"):
        assert dataset.remove_overruled(folder, "run3", opened.inventory) == 3
    assert seen(pq.read_table(folder.uri)) == expected  # now for any reader
    assert seen(dataset.open(folder.uri).to_table()) == expected
    kept = {name: folder.read(name) for name in folder.list() if name in before}
    assert kept.items() <= before.items()  # files never change
    with OutputLock(folder, "run3"):
        assert dataset.remove_overruled(folder, "run3", dataset.Inventory.read(folder)) == 0


def test_done_recordings_are_found_by_hash(folder):
    names = [f"s3://bucket/{number}.mp3" for number in range(2000)]
    publish(folder, "run1", "ok", *names[::2])
    publish(folder, "run1", "error", *names[1:100:2])
    done = dataset.Inventory.read(folder).done
    expected = np.array([n % 2 == 0 or n < 100 for n in range(2000)])
    assert np.array_equal(is_member(hash_ids(names), done), expected)
    assert not is_member(hash_ids(names), np.empty(0, "S16")).any()


def test_a_write_task_run_twice_leaves_one_file(folder):
    assert publish(folder, "run1", "ok", "a", "b") == publish(folder, "run1", "ok", "a", "b")
    assert len(folder.list()) == 1


def test_a_folder_without_dataset_is_refused(tmp_path):
    with pytest.raises(OutputError, match="no diarization dataset"):
        dataset.open(str(tmp_path))


def test_a_kill_while_writing_leaves_no_partial_file(folder):
    script = f"""
import os
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock
folder = Folder({folder.uri!r})
while True:
    folder.publish("ok-run1-task.parquet", os.urandom(1_000_000) + b"end")
"""
    writer = subprocess.Popen([sys.executable, "-c", script])
    seen = 0
    deadline = time.monotonic() + 60
    while seen < 20 and time.monotonic() < deadline:
        if folder.exists("ok-run1-task.parquet"):
            assert folder.read("ok-run1-task.parquet")[-3:] == b"end"
            seen += 1
    writer.kill()
    writer.wait()
    assert seen == 20
    assert set(folder.list()) == {"ok-run1-task.parquet"}
    assert folder.read("ok-run1-task.parquet")[-3:] == b"end"


class Halting(Folder):
    """A folder whose user halts before one of its steps, until it is let go on."""

    def __init__(self, uri: str, at: int):
        super().__init__(uri)
        self.__dict__.update(left=[at], halted=threading.Event(), going_on=threading.Event())

    def _step(self) -> None:
        self.left[0] -= 1
        if self.left[0] == 0:
            self.halted.set()
            self.going_on.wait()

    def read(self, name):
        self._step()
        return super().read(name)

    def publish(self, name, data):
        self._step()
        super().publish(name, data)

    def delete(self, name):
        self._step()
        super().delete(name)


def finish(folder: Folder, run: str) -> None:
    with suppress(OutputError, FileNotFoundError):  # lost its lock, or found a file gone
        dataset.remove_overruled(folder, run, dataset.Inventory.read(folder))


def start(folder: Halting, run: str) -> threading.Thread:
    """Let a run that holds the lock clean up until it halts."""
    Folder(folder.uri).publish("_raydiar/lock", json.dumps({"run": run}).encode())
    thread = threading.Thread(target=finish, args=(folder, run), daemon=True)
    thread.start()
    while thread.is_alive() and not folder.halted.wait(0.002):
        pass
    return thread


def test_warnings_are_kept_with_their_recording(folder):
    found = replace(diarization("a"), warnings=("found 2 speakers, 3 asked for",))
    told = ["https://host/a.wav?sig=5ec4e7: two tracks"]
    rows = [
        dataset.ok_row(recording("a"), found, PIPELINE, told),
        dataset.ok_row(recording("b"), diarization("b"), PIPELINE),
    ]
    dataset.write_schema(folder, SCHEMA)
    dataset.publish_rows(folder, "run1", "ok", pa.Table.from_pylist(rows, SCHEMA))
    first, second = dataset.open(folder.uri).to_table().to_pylist()
    assert first["warnings"] == ["https://host/a.wav: two tracks", "found 2 speakers, 3 asked for"]
    assert dataset.to_diarization(first).warnings == tuple(first["warnings"])
    assert second["warnings"] == []


def test_columns_may_come_later(folder):
    """Of a newer raydiar, and of a manifest that carries more."""
    old = pa.schema([field for field in SCHEMA if field.name not in ("warnings", "episode")])
    dataset.write_schema(folder, old)
    row = dataset.ok_row(recording("a"), diarization("a"), PIPELINE)
    dataset.publish_rows(folder, "run1", "ok", pa.Table.from_pylist([row], old))
    assert dataset.version_of(dataset.read_schema(folder)) == 1
    now = dataset.extended(old, SCHEMA)
    assert dataset.version_of(now) == dataset.SCHEMA_VERSION
    dataset.write_schema(folder, now)
    row = dataset.ok_row(recording("b"), diarization("b"), PIPELINE)
    dataset.publish_rows(folder, "run2", "ok", pa.Table.from_pylist([row], now))
    opened = dataset.open(folder.uri)
    assert [(row["recording_id"], row["episode"]) for row in opened.to_table().to_pylist()] == [
        ("a", None),
        ("b", 7),
    ]
    assert opened.to_table(["warnings", "recording_id"]).column_names == [
        "warnings",
        "recording_id",
    ]
    assert len(list(opened.batches(["episode"]))) == 2

    future = now.with_metadata({b"raydiar.schema": b"99"})
    dataset.write_schema(folder, future)
    with pytest.raises(OutputError, match="later raydiar"):
        dataset.open(folder.uri)


@pytest.mark.parametrize("second", [0, 3, 4, 7, 8, 9, 12])
def test_runs_that_sleep_while_they_clean_up_lose_nothing(tmp_path, second):
    """One halts before any of its steps, another after it took over, and both wake up late."""
    expected = [("a", "ok", 2), ("b", "error", 3), ("c", "error", 1), ("d", "ok", 1)]
    expected += [("e", "ok", 1), ("f", "ok", 2), ("g", "ok", 3), ("h", "error", 3)]

    def rows(table):
        rows = table.select(["recording_id", "status", "episode"]).to_pylist()
        return sorted(tuple(row.values()) for row in rows)

    for first in range(1, 40):
        folder = Folder(str(tmp_path / f"{first}"))
        dataset.write_schema(folder, SCHEMA)
        publish(folder, "run1", "error", "a", "b", "c", episode=1)
        publish(folder, "run1", "ok", "d", "e", episode=1)
        publish(folder, "run2", "ok", "a", "d", "f", episode=2)
        publish(folder, "run2", "error", "b", episode=2)
        publish(folder, "run3", "ok", "d", "g", episode=3)
        publish(folder, "run3", "error", "b", "h", episode=3)

        one = Halting(folder.uri, first)
        sleeping = [start(one, "run4")]
        if second:
            other = Halting(folder.uri, second)
            sleeping.insert(0, start(other, "run5"))
            folder.publish("_raydiar/lock", json.dumps({"run": "run6"}).encode())
            finish(folder, "run6")
            other.going_on.set()
        else:
            folder.publish("_raydiar/lock", json.dumps({"run": "run6"}).encode())
            finish(folder, "run6")
        halted = one.halted.is_set()
        one.going_on.set()
        for thread in sleeping:
            thread.join()
        assert rows(dataset.open(folder.uri).to_table()) == expected, first
        finish(folder, "run6")
        assert rows(pq.read_table(folder.uri)) == expected, first
        if not halted:
            break
    assert first > 10  # it was halted at every step there is


def test_what_is_left_of_a_file_overrules_it():
    ids = ["a", "b"]
    for status in ("ok", "error"):
        names = [f"{status}-run1-{dataset.task_of(['c'])}.parquet"]
        for _ in range(4):
            names.append(dataset.rewritten_name([names[-1]], ids))
        others = [f"{status}-run0-{dataset.task_of(['d'])}.parquet"]
        others += [f"{status}-run2-{dataset.task_of(['d'])}.parquet"]
        ordered = dataset.in_precedence(names + others)
        assert ordered[1:-1] == names[::-1]  # and other runs stay where they were
        assert set(ordered) == set(names + others)
        merged = dataset.rewritten_name([*names, *others], ids)
        assert dataset.in_precedence([merged, *names, *others])[0] == merged
