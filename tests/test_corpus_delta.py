"""An output that is a Delta Lake table as well: what an engine without raydiar sees of it."""

import json

import pyarrow as pa
import pytest
from corpus_files import excerpts, seen, write_manifest
from corpus_rows import CARRIED, PIPELINE, SCHEMA, diarization, publish, recording
from deltalake import DeltaTable
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.corpus.job.compaction import compact
from raydiar.corpus.output import dataset, delta
from raydiar.errors import ConfigError, OutputError
from raydiar.storage.folder import Folder


def table_of(output: Folder) -> DeltaTable:
    return DeltaTable(output.uri, storage_options=delta._options(output))


def ids(output: Folder) -> list[str]:
    table = table_of(output).to_pyarrow_table(columns=["recording_id"])
    return sorted(table.column(0).to_pylist())


@pytest.fixture(params=["folder", "s3"])
def output(request, tmp_path) -> Folder:
    if request.param == "folder":
        folder = Folder(str(tmp_path / "output"))
    else:
        request.getfixturevalue("s3").make("tables", "some-key", [__file__])
        folder = Folder("s3://tables/output")
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
    table = table_of(output)
    rows = table.to_pyarrow_table(columns=["recording_id", "status"]).to_pylist()
    assert sorted(tuple(row.values()) for row in rows) == [("a", "ok"), ("b", "ok"), ("c", "ok")]
    newest = table.history(1)[0]
    assert newest["raydiar.run"] == "run2"
    assert newest["raydiar.schema"] == str(dataset.SCHEMA_VERSION)
    assert f"schema {dataset.SCHEMA_VERSION}" in table.metadata().description
    assert table.get_add_actions(flatten=True).column("num_records").to_pylist() in ([1, 2], [2, 1])

    # all that raydiar's own readers give
    whole = table.to_pyarrow_table().sort_by("recording_id").to_pylist()
    ours = dataset.open(output.uri).to_table().sort_by("recording_id").to_pylist()
    assert whole == ours


def test_columns_may_come_later(output):
    publish(output, "run1", "ok", "a")
    commit(output, "run1")
    more = dataset.dataset_schema(4, pa.schema([*CARRIED, ("take", pa.int64())]))
    now = dataset.extended(SCHEMA, more)
    row = dataset.ok_row(recording("b", take=5), diarization("b"), PIPELINE)
    dataset.publish_rows(output, "run2", "ok", pa.Table.from_pylist([row], now))
    commit(output, "run2", now)
    rows = table_of(output).to_pyarrow_table(columns=["recording_id", "take"]).to_pylist()
    assert sorted(tuple(row.values()) for row in rows) == [("a", None), ("b", 5)]


def test_a_table_stays_one_when_its_files_are_merged(tmp_path):
    output = Folder(str(tmp_path / "output"))
    dataset.write_schema(output, SCHEMA)
    for n in range(4):
        publish(output, f"run{n}", "ok", f"{n}.a", f"{n}.b")
    commit(output, "run3")
    assert compact(output.uri).num_files == 1
    table = table_of(output)
    assert (table.version(), len(table.file_uris())) == (1, 1)
    assert len(ids(output)) == 8


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
    rows = DeltaTable(output).to_pyarrow_table(columns=["take", "later"]).to_pylist()
    assert sorted(row["later"] or "" for row in rows) == ["", "", "", "yes"]
    refused = CliRunner().invoke(app, [*command, manifest, "--table", "iceberg"])
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "table must be one of delta" in refused.stderr
