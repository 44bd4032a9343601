"""A bundle: a pipeline and all its weights in one folder or tar, for machines without a network.

It is a clone of a Hub repository in all but name: `config.yaml` beside the folders that it calls
`$model/…`. Whatever takes a pipeline takes a bundle, and gives the same fingerprint.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import yaml

from raydiar import hub
from raydiar.errors import ConfigError, WeightsNotFound
from raydiar.hub.files import lock
from raydiar.pipelines.config import LocalPipeline
from raydiar.weights import CAMPPLUS_ZH_EN, SEGMENTATION_3_0, Weights

if TYPE_CHECKING:
    from raydiar.pipelines.document import Document  # which opens bundles itself

_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_SUMS = "SHA256SUMS"


def is_archive(path: str | Path) -> bool:
    """Whether a path is one of a bundle in a tar."""
    return str(path).endswith(_SUFFIXES)


def write_bundle(pipeline: LocalPipeline, into: str | Path) -> Path:
    """Write a pipeline with its weights.

    Parameters
    ----------
    pipeline : LocalPipeline
    into : str or Path
        A tar if it ends in `.tar`, `.tar.gz` or `.tgz`; else a folder, which must be new or empty.

    Raises
    ------
    ConfigError
        There is something already, or the pipeline has a setting that no configuration can state.
    """
    into = Path(into)
    _check_new(into)
    files = _contents(pipeline)
    _check(pipeline, files["config.yaml"])
    return _write(files, into)


def write_document_bundle(
    document: Document,
    into: str | Path,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """Write a pipeline that is no diarization, such as one that detects speech, with its weights.

    Parameters
    ----------
    document : Document
        Its configuration, which stays as it is but for where its weights are.
    into, token, cache_dir
        See `write_bundle` and `raydiar.hub.fetch`.

    Raises
    ------
    ConfigError, WeightsNotFound
    """
    into = Path(into)
    _check_new(into)
    content = copy.deepcopy(dict(document.content))
    section = dict(content["pipeline"])
    params, files = document.params(), {}
    default = {"embedding": CAMPPLUS_ZH_EN} if document.kind == "SpeakerEmbedding" else {}
    default = default or {"segmentation": SEGMENTATION_3_0}
    for role in ("segmentation", "embedding"):
        weights = document.weights(params.get(role)) or default.get(role)
        if weights is not None:
            files[f"{role}/pytorch_model.bin"] = weights.fetch(
                "pytorch_model.bin", token, cache_dir
            )
            params[role] = f"$model/{role}"
    content["pipeline"] = section | {"params": params}
    text = yaml.safe_dump(content, sort_keys=False)
    return _write({"config.yaml": text.encode(), **files}, into)


def _check_new(into: Path) -> None:
    if (into.is_dir() and any(into.iterdir())) or into.is_file():
        raise ConfigError(f"{into} exists: name another, or remove it first (rm -r {into})")


def _write(files: dict[str, Path | bytes], into: Path) -> Path:
    files[_SUMS] = _sums(files)
    into.parent.mkdir(parents=True, exist_ok=True)
    if is_archive(into):
        _write_tar(files, into)
    else:
        _write_folder(files, into)
    return into


def open_bundle(archive: str | Path, cache_dir: str | Path | None = None) -> Path:
    """Unpack a bundle's tar into the cache, once.

    Returns
    -------
    folder : Path
        That holds `config.yaml`.

    Raises
    ------
    WeightsNotFound
        No tar, or one whose members are damaged or lead elsewhere.
    """
    archive = Path(archive)
    home = Path(cache_dir or hub.default_cache_dir()) / "bundles"
    target = home / hub.sha256_of(archive)
    with lock(target):
        if not target.is_dir():
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                whole = Path(scratch) / "bundle"
                _unpack(archive, whole)
                os.replace(whole, target)
    return target


def _contents(pipeline: LocalPipeline) -> dict[str, Path | bytes]:
    """Files of the bundle by their name in it."""
    files: dict[str, Path | bytes] = {}
    named: dict[str, Weights] = {}
    for role in ("segmentation", "embedding"):
        source: Path = getattr(pipeline, role)
        if source.suffix == ".safetensors":
            name, named[role] = "model.safetensors", Weights(f"$model/{role}/model.safetensors")
        else:
            name, named[role] = "pytorch_model.bin", Weights(f"$model/{role}")
        files[f"{role}/{name}"] = source
    if pipeline.plda is not None:
        named["plda"] = Weights("$model/plda")
        for source in sorted(pipeline.plda.glob("*.npz")):
            files[f"plda/{source.name}"] = source
    named.setdefault("plda", None)
    from raydiar.pipelines.config_file import write_config  # which opens bundles itself

    text = write_config(replace(pipeline.config, **named))
    return {"config.yaml": text.encode(), **files}


def _check(pipeline: LocalPipeline, document: bytes) -> None:
    """Read the configuration back: a bundle must not give other turns than what it was made of."""
    from raydiar.pipelines.config_file import parse_config

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "config.yaml"
        path.write_bytes(document)
        again = parse_config(path, base=scratch)
    ours = pipeline.config
    again = replace(again, segmentation=ours.segmentation, embedding=ours.embedding, plda=ours.plda)
    if again != ours:
        differ = [name for name, value in asdict(ours).items() if asdict(again)[name] != value]
        raise ConfigError(f"a bundle cannot state these settings: {', '.join(differ)}")


def _sums(files: dict[str, Path | bytes]) -> bytes:
    """What `sha256sum --check` reads."""
    lines = [f"{_sha256(content)}  {name}\n" for name, content in sorted(files.items())]
    return "".join(lines).encode()


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, Path):
        return hub.sha256_of(content)
    return hashlib.sha256(content).hexdigest()


def _write_folder(files: dict[str, Path | bytes], into: Path) -> None:
    with tempfile.TemporaryDirectory(dir=into.parent) as scratch:
        whole = Path(scratch) / "bundle"
        for name, content in files.items():
            target = whole / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target)
            else:
                target.write_bytes(content)
        os.replace(whole, into)


def _write_tar(files: dict[str, Path | bytes], into: Path) -> None:
    mode = "w" if into.suffix == ".tar" else "w:gz"
    with (
        tempfile.NamedTemporaryFile(dir=into.parent, delete=False) as partial,
        tarfile.open(fileobj=partial, mode=mode) as archive,
    ):
        for name, content in files.items():
            data = content.read_bytes() if isinstance(content, Path) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(data))
    os.chmod(partial.name, 0o644)
    os.replace(partial.name, into)


def _unpack(archive: Path, into: Path) -> None:
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise WeightsNotFound(f"{archive}: not a bundle that can be unpacked ({error})") from error
    if not (into / "config.yaml").is_file():
        folders = [path.parent for path in into.glob("*/config.yaml")]
        if len(folders) != 1:
            raise WeightsNotFound(f"{archive}: no bundle, for it holds no config.yaml")
        shutil.copytree(folders[0], into, dirs_exist_ok=True)  # packed with its folder
    sums = into / _SUMS
    for line in sums.read_text().splitlines() if sums.is_file() else ():
        sha256, _, name = line.partition("  ")
        path = into / PurePosixPath(name)
        if not path.is_file() or hub.sha256_of(path) != sha256:
            raise WeightsNotFound(f"{archive}: {name} is damaged or missing; make it again")
