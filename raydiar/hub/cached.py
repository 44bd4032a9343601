"""What the caches of this machine hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raydiar.hub.files import default_cache_dir


@dataclass(frozen=True)
class CachedFile:
    """One file that need not be downloaded again; `uri` is what to ask `fetch` for."""

    uri: str
    path: Path
    num_bytes: int


def cached_files(cache_dir: str | Path | None = None) -> list[CachedFile]:
    """Files of wheels, of object storage, of unpacked bundles, and of the Hugging Face Hub.

    Parameters
    ----------
    cache_dir : str or Path, optional
        As in `raydiar.hub.fetch`; by default both caches of the user.
    """
    home = Path(cache_dir or default_cache_dir())
    found = [*_of_wheels(home), *_of_folders(home), *_of_hugging_face(cache_dir)]
    return sorted(found, key=lambda file: (file.uri, file.path))


def _of_wheels(home: Path) -> Iterator[CachedFile]:
    for folder in home.glob("pypi/*/files"):
        name, _, version = folder.parent.name.rpartition("-")
        for path in _files(folder):
            member = path.relative_to(folder).as_posix()
            yield CachedFile(f"pypi://{name}=={version}/{member}", path, path.stat().st_size)


def _of_folders(home: Path) -> Iterator[CachedFile]:
    # A folder is named by the hash of what it holds or came from: only its path tells it.
    for kind in ("remote", "gathered", "bundles"):
        for path in _files(home / kind):
            yield CachedFile(str(path), path, path.stat().st_size)


def _of_hugging_face(cache_dir: str | Path | None) -> Iterator[CachedFile]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir(cache_dir)
    except CacheNotFound:
        return
    for repository in cache.repos:
        if repository.repo_type != "model":
            continue
        for revision in repository.revisions:
            names = sorted(revision.refs) or [revision.commit_hash]
            at = "" if "main" in names else f"@{names[0]}"
            for file in revision.files:
                path = file.file_path.relative_to(revision.snapshot_path).as_posix()
                uri = f"hf://{repository.repo_id}{at}/{path}"
                yield CachedFile(uri, file.file_path, file.size_on_disk)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            yield path
