"""The dataset in other forms: every turn, at the times of the dataset, and no half files."""

import csv
import json
import re
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_rows import SCHEMA, publish
from fsspec.core import url_to_fs
from pyannote.database.util import load_rttm
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.corpus.output import dataset
from raydiar.corpus.output.export import export, rttm_name
from raydiar.diarization import read_rttm
from raydiar.errors import OutputError
from raydiar.storage.folder import Folder

ROOT = Path(__file__).resolve().parents[1]
IDS = ("plain", "s3://bucket/a b.mp3", "s3://bucket/other/a b.mp3", "x.wav#t=10,13", "../../up.mp3")


@pytest.fixture
def output(tmp_path) -> str:
    folder = Folder(str(tmp_path / "out"))
    dataset.write_schema(folder, SCHEMA)
    publish(folder, "run1", "error", "plain", "broken")
    publish(folder, "run1", "ok", *IDS[:3])
    publish(folder, "run2", "ok", *IDS[3:], start=10.0)
    publish(folder, "run3", "ok", "plain")  # twice, as a kill can leave it
    return folder.uri


def turns_of(output: str, column: str = "turns") -> list[tuple]:
    """(recording, start, end, speaker) of all turns that the dataset holds."""
    table = dataset.open(output).to_table(["recording_id", "status", column])
    return sorted(
        (row["recording_id"], turn["start"], turn["end"], turn["speaker"])
        for row in table.to_pylist()
        if row["status"] == "ok"
        for turn in row[column]
    )


@pytest.fixture(params=["local", "memory"])
def somewhere(request, tmp_path) -> str:
    if request.param == "local":
        return str(tmp_path / "exported" / "here")
    return f"memory://{tmp_path.name}"


def read(uri: str) -> str:
    fs, path = url_to_fs(uri)
    return fs.cat_file(path).decode()


@pytest.mark.parametrize("exclusive", [False, True])
def test_every_form_holds_the_turns_of_the_dataset(output, somewhere, tmp_path, exclusive):
    expected = turns_of(output, "exclusive_turns" if exclusive else "turns")
    assert len(expected) == 5 * (1 if exclusive else 2)
    for form in ("csv", "json", "turns"):
        exported = export(output, form, f"{somewhere}/{form}", exclusive)
        assert (exported.num_recordings, exported.num_errors) == (5, 1)

    table = list(csv.DictReader(read(f"{somewhere}/csv").splitlines()))
    found = [(r["uri"], float(r["start"]), float(r["end"]), r["speaker"]) for r in table]
    assert sorted(found) == expected

    documents = json.loads(read(f"{somewhere}/json"))
    key = "exclusive_diarization" if exclusive else "diarization"
    found = [(d["uri"], t["start"], t["end"], t["speaker"]) for d in documents for t in d[key]]
    assert sorted(found) == expected

    fs, path = url_to_fs(f"{somewhere}/turns")
    rows = pq.read_table(pa.BufferReader(fs.cat_file(path))).to_pylist()
    found = [(r["recording_id"], r["start"], r["end"], r["speaker"]) for r in rows]
    assert sorted(found) == expected
    assert {row["confidence"] for row in rows} <= {0.75, 0.5}

    export(output, "rttm", f"{somewhere}/rttm", exclusive)
    fs, path = url_to_fs(f"{somewhere}/rttm")
    names = sorted(name.rpartition("/")[2] for name in fs.ls(path, detail=False))
    assert names == sorted(rttm_name(recording) for recording in IDS)
    local = tmp_path / "all.rttm"
    local.write_text("".join(read(f"{somewhere}/rttm/{name}") for name in names))
    found = [
        (uri.replace("%20", " "), turn.start, turn.end, turn.speaker)
        for uri, diarization in read_rttm(local).items()
        for turn in diarization.turns
    ]
    assert sorted(found) == expected
    assert len(load_rttm(local)) == 5  # other tools read it too


def test_file_names_are_safe_and_tell_recordings_apart():
    names = {
        recording: rttm_name(recording)
        for recording in [*IDS, "a/b", "a_b", "a b", ".hidden", "-rf", "", "..", "é" * 300]
    }
    names |= {rttm_name(r)[:-5]: rttm_name(rttm_name(r)[:-5]) for r in IDS if r != "plain"}
    assert names["plain"] == "plain.rttm"
    assert names["x.wav#t=10,13"].startswith("x-")
    assert len(set(names.values())) == len(names)
    for name in names.values():
        assert re.fullmatch(r"\w[\w.-]{0,110}\.rttm", name, re.ASCII)


def test_the_command_takes_one_form_and_counts_what_it_leaves_out(output, tmp_path):
    def run(*options):
        return CliRunner().invoke(app, ["corpus", "export", output, *options])

    file = str(tmp_path / "turns.csv")
    assert run("--csv", file).output == f"5 recordings in {file}; 1 error rows left out\n"
    assert "give one of" in run().output
    assert "give one of" in run("--csv", file, "--json", file).output
    result = run("--csv", f"{file}/below-a-file.csv")
    assert result.exit_code == 1
    assert f"raydiar: {file}/below-a-file.csv cannot be written" in result.output


@pytest.mark.parametrize("form", ["csv", "json", "turns"])
def test_a_failing_export_leaves_what_was_there(output, tmp_path, form):
    target = tmp_path / "exported" / "file"
    target.parent.mkdir()
    target.write_text("of yesterday")
    largest = max(Path(output).glob("ok-run2-*"))
    largest.write_bytes(largest.read_bytes()[:-100])
    with pytest.raises(Exception, match="Parquet"):
        export(output, form, str(target))
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    assert target.read_text() == "of yesterday"


def test_an_output_that_changes_is_no_fault_of_the_destination(output, tmp_path, monkeypatch):
    def vanish(self, name):
        raise FileNotFoundError(name)

    opened = dataset.open(output)
    assert opened.inventory.files
    monkeypatch.setattr(dataset, "open", lambda _, tasks: opened)
    monkeypatch.setattr(Folder, "open", vanish)
    with pytest.raises(OutputError, match="rewritten while it was read"):
        export(output, "csv", str(tmp_path / "file"))


def test_an_empty_dataset_is_exported_as_nothing(tmp_path):
    folder = Folder(str(tmp_path / "out"))
    dataset.write_schema(folder, SCHEMA)
    for form in ("csv", "json", "turns", "rttm"):
        assert export(folder.uri, form, str(tmp_path / form)).num_recordings == 0
    assert json.loads((tmp_path / "json").read_text()) == []
    assert pq.read_table(tmp_path / "turns").num_rows == 0


def test_the_ways_to_read_a_dataset_in_the_docs_work_and_agree(output, monkeypatch):
    next(Path(output).glob("ok-run3-*")).unlink()  # as the end of a job does
    monkeypatch.chdir(Path(output).parent)
    text = (ROOT / "docs/corpus.md").read_text()
    section = text.partition("## Reading it")[2].partition("\n## ")[0]
    block, _ = re.findall(r"```python\n(.*?)```", section, re.S)
    results = {}
    exec(block, results)
    expected = pandas.DataFrame(turns_of(output), columns=["recording", "start", "end", "speaker"])
    speech = (expected.end - expected.start).groupby(expected.recording).sum()
    for reader in ("pandas_speech", "duckdb_speech", "pyarrow_speech"):
        found = results[reader]
        assert {str(key): float(value) for key, value in found.items()} == speech.to_dict(), reader
