"""All dependencies install side by side and import into one process, with or without a GPU."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

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


# What an environment has that was made by `pip install raydiar`, without extras: everything that
# these bring is not there.
WITHOUT_EXTRAS = """
import importlib.metadata, re, runpy, sys
from importlib.abc import MetaPathFinder

def closure(names):
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [re.match(r"[\\w.-]+", l)[0] for l in lines if "extra ==" not in l]
    return found

own = tomllib["project"]["dependencies"]
kept = closure(re.match(r"[\\w.-]+", line)[0] for line in own)
modules = {}
for module, distributions in importlib.metadata.packages_distributions().items():
    modules[module] = {re.sub(r"[-_.]+", "-", d).lower() for d in distributions}

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        extra = top in modules and top != "raydiar" and not modules[top] & kept
        if extra or name == "pyannote.metrics":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
sys.argv = ["raydiar", *arguments]
runpy.run_module("raydiar", run_name="__main__")
"""


def without_extras(*arguments: str) -> subprocess.CompletedProcess:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    code = f"tomllib, arguments = {project!r}, {arguments!r}\n{WITHOUT_EXTRAS}"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_one_file_needs_no_extra(talk, tmp_path):
    audio = tmp_path / "talk.wav"
    audio.write_bytes(talk)
    result = without_extras("diarize", str(audio), "--format", "json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        ("corpus status out", "corpus"),
        ("voiceprint info voices", "voiceprints"),
        ("serve", "serve"),
        ("train status run", "train"),
        ("evaluate a b", "evaluate"),
        ("optimize m.csv --into best", "tune"),
    ],
)
def test_a_missing_extra_is_named(arguments, extra):
    result = without_extras(*arguments.split())
    assert result.returncode == 2, result.stderr
    [line] = result.stderr.splitlines()
    assert line.endswith(f"pip install 'raydiar[{extra}]'")


def test_a_missing_driver_of_a_storage_is_named():
    result = without_extras("diarize", "s3://bucket/talk.wav")
    assert result.returncode == 2
    assert result.stderr.splitlines() == ["raydiar: Install s3fs to access S3"]
