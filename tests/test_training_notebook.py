"""The notebook as a user runs it, on small data: every cell, in order."""

from pathlib import Path

import pytest
from training_files import write_conversations

ROOT = Path(__file__).resolve().parents[1]


def test_the_notebook_goes_from_a_folder_to_a_pipeline(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    write_conversations(tmp_path / "recordings", 3, duration=10.0)
    monkeypatch.setenv("FINETUNE_FOLDER", str(tmp_path / "recordings"))
    monkeypatch.setenv("FINETUNE_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("FINETUNE_STEPS", "2")
    monkeypatch.setenv("FINETUNE_BATCH", "2")
    notebook = nbformat.read(ROOT / "notebooks/finetune.ipynb", as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3")
    client.execute(cwd=str(tmp_path))
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert "2 recordings, 0.3 min" in printed
    assert "DER before" in printed
    assert (tmp_path / "work/pipeline/config.yaml").exists()
