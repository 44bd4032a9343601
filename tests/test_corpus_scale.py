"""What keeps a large corpus quick, and is right: listings, the index of rows, compaction."""

import csv
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import time
from urllib.parse import quote_plus

import numpy as np
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from corpus_files import files, seen
from corpus_rows import SCHEMA, publish
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.corpus.inputs import listing
from raydiar.corpus.inputs.sources import list_audio, write_manifest
from raydiar.corpus.job import compaction
from raydiar.corpus.output import dataset, row_index
from raydiar.errors import ManifestError, OutputError
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock

# -- listing -----------------------------------------------------------------------------------


class Keys:
    """The network's edge: a bucket that answers list requests as S3 does, and counts them."""

    def __init__(self, keys):
        self.keys, self.req_kw, self.requests = sorted(keys), {}, 0

    def split_path(self, path):
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def call_s3(self, method, *, Bucket, Prefix, Delimiter="", StartAfter="", MaxKeys=1000, **more):
        self.requests += 1
        start = more.get("ContinuationToken", StartAfter)
        found = [key for key in self.keys if key.startswith(Prefix) and key > start]
        page = [{"Key": key, "Size": len(key)} for key in found[:MaxKeys]]
        if len(found) > MaxKeys:
            return {
                "Contents": page,
                "IsTruncated": True,
                "NextContinuationToken": page[-1]["Key"],
            }
        return {"Contents": page} if page else {}


@pytest.mark.parametrize(
    "keys",
    [
        [f"top/{n:07d}.mp3" for n in range(60_000)],  # all at one place, alike for long
        [f"top/{n % 97}/{n % 7}/{n}.mp3" for n in range(50_000)],
        [f"top/{hashlib.md5(b'%d' % n).hexdigest()}" for n in range(50_000)],
        [f"top/{chr(0x4E00 + n % 500)}/{'é' * (n % 3)}{n}" for n in range(50_000)],
        ["top/", "top/a", *("top/a" + "b" * 40 + f"{n:05d}" for n in range(40_000)), "top/b"],
        [f"top/{n}" for n in range(3)],
        [],
    ],
    ids=["flat", "folders", "hashes", "unicode", "deep", "few", "none"],
)
def test_a_prefix_is_listed_whole_and_once_however_its_keys_are_spread(keys, monkeypatch):
    monkeypatch.setattr(listing, "_PAGES", 3)
    bucket = Keys([*keys, "before", "topper", "zzz"])
    found = list(listing._list_s3(bucket, "bucket/top", "", delimiter=""))
    expected = [key for key in keys if not key.endswith("/")]
    assert sorted(name for name, _ in found) == sorted(f"bucket/{key}" for key in expected)
    assert all(size == len(name) - 7 for name, size in found)
    assert bucket.requests < 3 * len(keys) / 1000 + 600


def test_a_listing_that_fails_says_so_and_ends_its_threads(monkeypatch):
    monkeypatch.setattr(listing, "_PAGES", 2)

    class Broken(Keys):
        def call_s3(self, *args, **request):
            if request.get("StartAfter", "") > "top/05":
                raise PermissionError("no more for you")
            return super().call_s3(*args, **request)

    with pytest.raises(PermissionError, match="no more"):
        list(listing._list_s3(Broken(f"top/{n:05d}" for n in range(9000)), "b/top", "", ""))


def test_folders_of_other_stores_are_walked_whole(monkeypatch):
    fs = MemoryFileSystem()
    names = [f"/walk/{n % 5}/{n % 3}/{n}.wav" for n in range(200)] + [
        "/walk/_h/a.wav",
        "/walk/b.wav",
    ]
    for name in names:
        fs.pipe_file(name, b"12")
    try:
        found = dict(list_audio("memory://walk"))
        shown = [name for name in names if "_h" not in name]
        assert sorted(found) == sorted(f"memory://{name}" for name in shown)
        assert set(found.values()) == {2}
        assert len(list(list_audio("memory://walk/*/*.wav"))) == 1
    finally:
        fs.rm("/walk", recursive=True)


# -- listings of others ------------------------------------------------------------------------

OBJECTS = [
    ('podcasts/a b+ü,"1".mp3', 11, True, False),
    ("podcasts/old.mp3", 12, False, False),  # a version that was replaced
    ("podcasts/gone.mp3", None, True, True),
    ("podcasts/notes.txt", 13, True, False),
    ("podcasts/_raydiar/x.wav", 14, True, False),
    ("shards/s.tar", 15, True, False),
]
LISTED = [('s3://corpus/podcasts/a b+ü,"1".mp3', 11), ("s3://corpus/shards/s.tar", 15)]


def inventory(folder, form: str) -> str:
    """An S3 Inventory of `OBJECTS` in two parts, copied to a folder; gives its manifest."""
    (folder / "data").mkdir(parents=True)
    (folder / "2026-11-24T01-00Z").mkdir()
    parts = []
    for number, rows in enumerate((OBJECTS[:3], OBJECTS[3:])):
        name = f"{number}.{'csv.gz' if form == 'CSV' else form.lower()}"
        if form == "CSV":
            text = io.StringIO()
            for key, size, latest, deleted in rows:
                flags = [str(flag).lower() for flag in (latest, deleted)]
                csv.writer(text, quoting=csv.QUOTE_ALL).writerow(
                    ["corpus", quote_plus(key, safe="/"), *flags, "" if size is None else size]
                )
            (folder / "data" / name).write_bytes(gzip.compress(text.getvalue().encode()))
        else:
            names = ["key", "size", "is_latest", "is_delete_marker"]
            table = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
            table = table.append_column("bucket", pa.array(["corpus"] * len(rows)))
            write = pq.write_table if form == "Parquet" else pyarrow.orc.write_table
            write(table, folder / "data" / name)
        data = (folder / "data" / name).read_bytes()
        digest = hashlib.md5(data).hexdigest()
        parts.append({"key": f"inv/corpus/all/data/{name}", "size": len(data)})
        parts[-1]["MD5checksum"] = digest
    manifest = {
        "sourceBucket": "corpus",
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "fileFormat": form,
        "fileSchema": "Bucket, Key, IsLatest, IsDeleteMarker, Size",
        "files": parts,
    }
    path = folder / "2026-11-24T01-00Z" / "manifest.json"
    path.write_text(json.dumps(manifest))
    return str(path)


@pytest.mark.parametrize("form", ["CSV", "Parquet", "ORC"])
def test_an_s3_inventory_is_taken_as_input(tmp_path, form):
    manifest = inventory(tmp_path / "inv", form)
    assert list(list_audio(manifest)) == LISTED
    assert list(list_audio(manifest, without="s3://corpus/shards")) == LISTED[:1]
    assert write_manifest(manifest, str(tmp_path / "m.parquet")) == 2
    part = next((tmp_path / "inv/data").glob("1.*"))
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ManifestError, match="is damaged"):
        list(list_audio(manifest))
    part.unlink()
    with pytest.raises(ManifestError, match="not there"):
        list(list_audio(manifest))


def test_an_inventory_that_is_none_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "my web app"}')
    with pytest.raises(ManifestError, match=r"not the manifest\.json of an S3 Inventory"):
        list(list_audio(str(tmp_path / "manifest.json")))


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_a_table_of_objects_is_taken_as_input(tmp_path, form):
    rows = [{"bucket": "corpus", "key": key, "size": size} for key, size, *_ in OBJECTS]
    path = tmp_path / f"listing.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif form == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # without versions, nothing tells of what was deleted
    expected = sorted([*LISTED, ("s3://corpus/podcasts/old.mp3", 12)])
    expected.insert(1, ("s3://corpus/podcasts/gone.mp3", None))
    assert sorted(list_audio(str(path))) == expected
    pq.write_table(pa.table({"uri": ["/data/.cache/a.wav", "b.txt"]}), tmp_path / "uris.parquet")
    assert list(list_audio(str(tmp_path / "uris.parquet"))) == [("/data/.cache/a.wav", None)]


def test_a_parquet_file_of_audio_is_a_shard_and_no_listing(tmp_path):
    audio = pa.array([{"bytes": b"RIFF", "path": "a.wav"}])
    pq.write_table(pa.table({"uri": ["a"], "audio": audio}), tmp_path / "s.parquet")
    assert [uri for uri, _ in list_audio(str(tmp_path / "s.parquet"))] == [
        str(tmp_path / "s.parquet")
    ]


# -- the index of rows -------------------------------------------------------------------------


@pytest.fixture
def output(tmp_path) -> Folder:
    """A dataset of 90 files, of a run each."""
    folder = Folder(str(tmp_path / "output"))
    dataset.write_schema(folder, SCHEMA)
    for n in range(90):
        publish(folder, f"run{n:02d}", "ok", f"{n}.a", f"{n}.b")
    return folder


def read_with_index(folder: Folder) -> tuple[dataset.Inventory, list[str]]:
    """The inventory, and the files that were opened for it."""
    opened = []

    class Watched(Folder):
        def open(self, name):
            opened.append(name)
            return super().open(name)

    return dataset.Inventory.read(Watched(folder.uri)), opened


def same(inventory: dataset.Inventory, folder: Folder) -> bool:
    """Whether it says what the files themselves say."""
    fresh = [pq.read_table(folder.path(name))["recording_id"] for name in inventory.files]
    expected = [dataset.hash_ids(ids.to_pylist()) for ids in fresh]
    return all(map(np.array_equal, inventory.hashes, expected))


def test_a_run_opens_only_what_the_index_does_not_know(output):
    inventory, opened = read_with_index(output)
    assert len(opened) == 90
    row_index.update_index(output, inventory.indexed)
    publish(output, "run99", "error", "new")
    again, opened = read_with_index(output)
    assert [name[:11] for name in opened] == ["error-run99"]
    assert same(again, output)
    assert len(again.done) == 181
    # a dataset is opened by any reader through it as well
    assert len(dataset.open(output.uri)) == 181


def test_the_index_is_never_believed_against_the_files(output):
    row_index.update_index(output, dataset.Inventory.read(output).indexed)
    gone, changed, *_ = output.list()
    output.delete(gone)
    table = pq.read_table(output.path(changed))
    time.sleep(0.05)  # clocks of file systems tick every 10 ms
    renamed = table.set_column(0, SCHEMA.field(0), pa.array(["1.x", "1.y"]))
    output.publish_table(changed, renamed)
    publish(output, "run77", "ok", "foreign")
    inventory, opened = read_with_index(output)
    assert len(opened) == 2
    assert gone not in inventory.files
    assert same(inventory, output)


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: d + b"!"])
def test_a_damaged_index_costs_time_only(output, damage):
    row_index.update_index(output, dataset.Inventory.read(output).indexed)
    [name] = output.list(row_index.INDEX)
    segment = f"{row_index.INDEX}/{name}"
    output.publish(segment, damage(output.read(segment)))
    inventory, opened = read_with_index(output)
    assert len(opened) == 90
    assert same(inventory, output)
    row_index.update_index(output, inventory.indexed)
    assert read_with_index(output)[1] == []


def test_segments_of_the_index_are_joined(output, monkeypatch):
    monkeypatch.setattr(row_index, "FEW_FILES", 1)
    for n in range(60):
        publish(output, f"run{n:02d}", "error", f"late{n}")
        row_index.update_index(output, dataset.Inventory.read(output).indexed)
        assert len(output.list(row_index.INDEX)) <= 17
    inventory, opened = read_with_index(output)
    assert not opened
    assert same(inventory, output)
    for name in list(inventory.files)[:-3]:
        output.delete(name)
    for n in range(20):  # of what is gone, nothing is kept for ever
        publish(output, f"run{n:02d}", "error", f"later{n}")
        row_index.update_index(output, dataset.Inventory.read(output).indexed)
    assert sum(output.list(row_index.INDEX).values()) < 60_000


# -- compaction --------------------------------------------------------------------------------


def test_small_files_become_few_and_hold_the_same_rows(output):
    publish(output, "run95", "error", "3.a", "x", "y")
    publish(output, "run96", "error", "x")
    publish(output, "run97", "ok", "7.a", episode=9)  # overruled by the first
    before = sorted(map(str, dataset.open(output.uri).to_table().to_pylist()))
    done = CliRunner().invoke(app, ["corpus", "compact", output.uri])
    assert done.exit_code == 0, done.output
    assert "182 rows in 2 files (before: 93), 3 overruled rows removed" in done.output
    assert len(seen(output.uri)) == 182
    assert sorted(map(str, dataset.open(output.uri).to_table().to_pylist())) == before
    assert sorted(map(str, pq.read_table(output.uri).to_pylist())) == before
    assert compaction.compact(output.uri).num_files == 2
    assert output.list("_raydiar").keys() == {"lock.guard", "schema.parquet"}


def test_files_are_merged_up_to_a_size_and_never_across_statuses(output):
    publish(output, "run95", "error", "x")
    publish(output, "run96", "error", "y")
    size = max(output.list().values())
    compaction.compact(output.uri, file_bytes=10 * size)
    sizes = output.list()
    assert 8 < len(sizes) < 30
    assert len([name for name in sizes if name.startswith("error-")]) == 1
    assert set(seen(output.uri).values()) == {"ok", "error"}


def test_a_compaction_killed_at_any_step_is_seen_through_and_gone_on_with(output, tmp_path):
    expected = sorted(seen(output.uri))
    script = f"""
import os, sys
from raydiar.corpus.job import compaction
from raydiar.storage.folder import Folder
left = int(sys.argv[1])
def stop(call):
    def counted(*args):
        global left
        if "_raydiar" not in args[1]:
            left -= 1
            if left == 0:
                os._exit(9)
        return call(*args)
    return counted
Folder.publish, Folder.delete = stop(Folder.publish), stop(Folder.delete)
compaction.compact({output.uri!r}, 20_000_000)
"""
    for step in (1, 2, 40, 20):
        killed = subprocess.run([sys.executable, "-c", script, str(step)], env=os.environ)
        assert killed.returncode == 9
        rows = dataset.open(output.uri).to_table(["recording_id"])["recording_id"].to_pylist()
        assert sorted(rows) == expected
        publish(output, f"run99{step}", "ok", f"more{step}")
        expected = sorted([*expected, f"more{step}"])
    compaction.compact(output.uri)
    assert sorted(seen(output.uri)) == expected
    assert len(files(output.uri)) == 1


def test_a_dataset_that_is_written_is_not_compacted(output):
    with OutputLock(output, "run1"), pytest.raises(OutputError, match="being written by run run1"):
        compaction.compact(output.uri)
    with pytest.raises(OutputError, match="holds no diarization dataset"):
        compaction.compact(f"{output.uri}-absent")
    assert len(files(output.uri)) == 90
