"""All dependencies install side by side and import into one process, with or without a GPU."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

ROOT = Path(__file__).resolve().parents[1]

CODE = """
import torch, torchaudio, faiss, lightning, ray.data, ray.train, ray.serve
import av, fsspec, huggingface_hub, numpy, pandas, pyannote.core, pyannote.metrics, pyarrow
import pydantic, rich, s3fs, safetensors, scipy, sklearn, typer
index = faiss.IndexFlatIP(4)
index.add(numpy.eye(4, dtype="float32"))
assert index.search(numpy.eye(4, dtype="float32")[:1], 1)[1].item() == 0
assert torchaudio.functional.resample(torch.zeros(1, 8000), 8000, 16000).shape == (1, 16000)
"""


def test_dependencies_live_together():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_wheel_holds_what_is_no_code(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(ROOT / "raydiar", source / "raydiar")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, source]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    [wheel] = tmp_path.glob("*.whl")
    held = set(ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "raydiar").rglob("*") if path.is_file()]
    missing = {
        str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts
    } - held
    assert missing == set()
    assert "raydiar/serving/web/index.html" in held
