"""Files in the cache: whole or not there, and the bytes that their SHA-256 promises."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from filelock import FileLock

from raydiar.errors import WeightsNotFound

_FILE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors", ".yaml", ".yml", ".npz")

ELSEWHERE = (
    "or run `raydiar models bundle{what} --into bundle.tar` where there is a network, bring the "
    "file here and pass `--pipeline bundle.tar`"
)
"""What helps where nothing can be downloaded; `what` is a space and the pipeline, or empty."""


def default_cache_dir() -> Path:
    """`$RAYDIAR_CACHE`, or `raydiar` in the user's cache folder."""
    if cache := os.environ.get("RAYDIAR_CACHE"):
        return Path(cache)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "raydiar"


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_in(fragment: str, uri: str) -> str | None:
    """The hash that a URI ends in, None if it ends in none."""
    if not fragment:
        return None
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise WeightsNotFound(f"{uri}: '#{fragment}' is not '#sha256=' and 64 hexadecimal digits")
    return match[1].lower()


def verify(path: Path, sha256: str, uri: str) -> None:
    """Complain about a file that is not the bytes it should be.

    Raises
    ------
    WeightsNotFound
    """
    found = sha256_of(path)
    if found != sha256:
        raise WeightsNotFound(
            f"{uri}: expected SHA-256 {sha256}, found {found} in {path}; "
            "the file is damaged or another version"
        )


def publish(source: Path, target: Path) -> None:
    """Copy a complete file into the cache; other processes see all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as partial:
        with open(source, "rb") as file:
            shutil.copyfileobj(file, partial)
        partial.flush()
        os.fsync(partial.fileno())
    os.chmod(partial.name, 0o644)
    os.replace(partial.name, target)


def lock(target: Path) -> FileLock:
    """One download among concurrent processes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(target.with_name(target.name + ".lock"))


def names_file(path: str) -> bool:
    """Whether a path or URI ends in a file of weights or settings, not in a folder."""
    return PurePosixPath(path).suffix in _FILE_SUFFIXES


def join(base: str, subfolder: str | None, filename: str | None) -> str:
    """`base`, or the subfolder in it, where they name a file already; else the file below."""
    if names_file(base):
        return base
    if subfolder and names_file(subfolder):
        filename = None
    return "/".join(filter(None, (base.rstrip("/"), subfolder, filename)))
