"""An output that is a Delta Lake table as well: what an engine without raydiar sees of it."""

import json
import pickle
import subprocess
import sys

import pyarrow as pa
import pytest
from corpus_files import excerpts, seen, write_manifest
from corpus_rows import CARRIED, PIPELINE, SCHEMA, diarization, publish, recording
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.corpus.job.compaction import compact
from raydiar.corpus.output import dataset, delta
from raydiar.errors import ConfigError, OutputError
from raydiar.storage.folder import Folder

READ = """
import os, pickle, sys
from deltalake import DeltaTable
table = DeltaTable(sys.argv[1], storage_options=eval(sys.argv[2]))
rows = table.to_pyarrow_table().to_pylist()
facts = (table.version(), table.history(1)[0], table.metadata().description, len(table.file_uris()))
sys.stdout.buffer.write(pickle.dumps((rows, facts)))
sys.stdout.flush()
os._exit(0)  # pyarrow's threads may still be at work, and abort a process that ends in order
"""


def table_of(output: Folder) -> tuple[list[dict], tuple]:
    """Rows of a table, in order, and facts of it.

    In a process of its own: the library holds up all threads of one while it waits for storage,
    and with them the S3 server of the tests.
    """
    command = [sys.executable, "-c", READ, output.uri, repr(delta._options(output))]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=200).stdout
    rows, facts = pickle.loads(found)
    return sorted(rows, key=lambda row: row["recording_id"]), facts


def ids(output: Folder) -> list[str]:
    return [row["recording_id"] for row in table_of(output)[0]]


@pytest.fixture(params=["folder", "s3"])
def output(request, tmp_path) -> Folder:
    if request.param == "folder":
        folder = Folder(str(tmp_path / "output"))
    else:
        request.getfixturevalue("s3").make("tables", "some-key", [__file__])
        folder = Folder(f"s3://tables/{tmp_path.name}")  # a bucket outlives its test
    dataset.write_schema(folder, SCHEMA)
    return folder


def commit(output: Folder, run: str, schema: pa.Schema = SCHEMA) -> int | None:
    return delta.commit(output, run, schema, dataset.Inventory.read(output))


def test_each_run_commits_what_came_and_what_went(output):
    publish(output, "run1", "ok", "a", "b")
    publish(output, "run1", "error", "c")
    assert not delta.is_table(output)
    delta.check(output, SCHEMA)
    assert commit(output, "run1") == 0
    assert delta.is_table(output)
    assert commit(output, "run1") is None  # nothing is new
    assert ids(output) == ["a", "b", "c"]

    # a retry makes c a good one
    publish(output, "run2", "ok", "c")
    assert ids(output) == ["a", "b", "c"]  # readers of the table see no double while a job runs
    output.publish("_raydiar/lock", json.dumps({"run": "run2"}).encode())
    inventory = dataset.Inventory.read(output)
    assert dataset.remove_overruled(output, "run2", inventory) == 1
    assert commit(output, "run2") == 1
    rows, (version, newest, description, num_files) = table_of(output)
    assert [(row["recording_id"], row["status"]) for row in rows] == [
        ("a", "ok"),
        ("b", "ok"),
        ("c", "ok"),
    ]
    assert (version, num_files) == (1, 2)
    assert newest["raydiar.run"] == "run2"
    assert newest["raydiar.schema"] == str(dataset.SCHEMA_VERSION)
    assert f"schema {dataset.SCHEMA_VERSION}" in description
    # all that raydiar's own readers give
    assert rows == dataset.open(output.uri).to_table().sort_by("recording_id").to_pylist()


def test_columns_may_come_later(output):
    publish(output, "run1", "ok", "a")
    commit(output, "run1")
    more = dataset.dataset_schema(4, pa.schema([*CARRIED, ("take", pa.int64())]))
    now = dataset.extended(SCHEMA, more)
    row = dataset.ok_row(recording("b", take=5), diarization("b"), PIPELINE)
    dataset.publish_rows(output, "run2", "ok", pa.Table.from_pylist([row], now))
    commit(output, "run2", now)
    rows, _ = table_of(output)
    assert [(row["recording_id"], row["take"]) for row in rows] == [("a", None), ("b", 5)]


def test_a_table_stays_one_when_its_files_are_merged(tmp_path):
    output = Folder(str(tmp_path / "output"))
    dataset.write_schema(output, SCHEMA)
    for n in range(4):
        publish(output, f"run{n}", "ok", f"{n}.a", f"{n}.b")
    commit(output, "run3")
    assert compact(output.uri).num_files == 1
    rows, (version, _, _, num_files) = table_of(output)
    assert (version, num_files, len(rows)) == (1, 1, 8)


@pytest.mark.parametrize("kind", [pa.time32("s"), pa.uint64(), pa.float16()])
def test_what_delta_lake_has_no_type_for_is_refused_before_any_work(tmp_path, kind):
    schema = dataset.dataset_schema(4, pa.schema([("odd", kind)]))
    with pytest.raises(ConfigError, match=r"no type for the column 'odd'"):
        delta.check(Folder(str(tmp_path)), schema)


def test_a_table_that_cannot_be_written_costs_no_row(tmp_path):
    output = Folder(str(tmp_path / "output"))
    dataset.write_schema(output, SCHEMA)
    publish(output, "run1", "ok", "a")
    (tmp_path / "output" / delta.LOG).write_text("in the way")
    with pytest.raises(OutputError, match="dataset itself is complete"):
        commit(output, "run1")
    assert len(dataset.open(output.uri)) == 1


def test_a_job_keeps_a_table_once_it_was_asked_to(local_ray, sample_wav, tmp_path):
    output = tmp_path / "output"
    rows = [*excerpts(sample_wav, 2), {"uri": "absent.wav"}]
    command = ["corpus", "diarize", "--output", str(output), "--device", "cpu", "--manifest"]

    def run(*more: str):
        result = CliRunner().invoke(app, [*command, *more])
        assert result.exit_code == 0, result.output

    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    run(manifest, "--table", "delta")
    assert ids(Folder(str(output))) == sorted(seen(output))
    write_manifest(tmp_path / "m.jsonl", [*rows, {"uri": "another.wav", "later": "yes"}])
    run(manifest)
    assert ids(Folder(str(output))) == sorted(seen(output))
    rows, _ = table_of(Folder(str(output)))
    assert sorted(row["later"] or "" for row in rows) == ["", "", "", "yes"]
    refused = CliRunner().invoke(app, [*command, manifest, "--table", "iceberg"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "table must be one of delta" in refused.stderr
