"""The notebooks as a user runs them: every cell, in order, on the sample."""

import base64
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = 400_000  # bytes of a notebook with its outputs: people read them in a browser


def run(name, folder):
    """The notebook after a run, and all that it printed."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(folder))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    told = [output.get("text", "") for output in outputs]
    shown = [output["data"] for output in outputs if "data" in output]
    return "".join(told + [data.get("text/plain", "") for data in shown]), shown


def pictures(shown):
    return [base64.b64decode(data["image/png"]) for data in shown if "image/png" in data]


def test_quickstart_goes_from_a_file_to_its_turns(tmp_path):
    told, shown = run("quickstart", tmp_path)
    assert "sample: 2 speakers in 30.0 s" in told
    assert "WEBVTT" in told
    assert "SPEAKER sample 1 6." in told
    assert "told that there is one: 1 speaker" in told
    assert sum("<audio" in data.get("text/html", "") for data in shown) == 2  # a sound each
    assert any("image/svg+xml" in data for data in shown)


def test_corpus_finds_two_people_in_four_recordings(tmp_path):
    told, shown = run("corpus", tmp_path)
    assert "4 recordings, 0 errors" in told
    assert "interrupts" in told
    assert len(pictures(shown)) == 1
    where = shown[-1]["text/plain"].splitlines()
    assert [line.split()[0] for line in where[-2:]] == ["1", "2"]  # people, in the last table
    assert (tmp_path / "diarized").is_dir()


def test_evaluation_scores_and_draws(tmp_path):
    told, shown = run("evaluation", tmp_path)
    assert "soft minus exact" in told
    assert "no more than chance" in told
    assert "60 words, cpWER" in told
    assert len(pictures(shown)) == 2


@pytest.mark.parametrize("name", ["quickstart", "corpus", "evaluation"])
def test_what_is_shown_of_a_notebook_is_small_and_of_no_machine(name):
    nbformat = pytest.importorskip("nbformat")
    path = ROOT / f"notebooks/{name}.ipynb"
    assert path.stat().st_size < SMALL
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)  # kept as it was run
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    told = "".join(str(output.get("text", "")) + str(output.get("data", "")) for output in outputs)
    assert "/home/" not in told
    assert "site-packages" not in told
    assert "/tmp/" not in told
