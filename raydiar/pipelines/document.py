"""A `config.yaml` as it lies somewhere: its sections, and what the names in it mean there."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raydiar import hub
from raydiar.errors import ConfigError
from raydiar.hub.files import names_file
from raydiar.hub.huggingface import is_repository
from raydiar.naming import local_path
from raydiar.pipelines.bundle import is_archive, open_bundle
from raydiar.weights import Weights

SECTIONS = ("version", "dependencies", "pipeline", "params", "freeze", "device")


@dataclass(frozen=True)
class Document:
    """A parsed configuration.

    Attributes
    ----------
    content : mapping
    base : str
        What `$model` means: the repository or directory that it lies in.
    parent : str or None
        Folder below `base`.
    revision : str or None
    where : str
        Its name in messages.
    """

    content: Mapping[str, Any]
    base: str
    parent: str | None
    revision: str | None
    where: str

    def __post_init__(self):
        content = self.content
        if not isinstance(content, Mapping) or not isinstance(content.get("pipeline"), Mapping):
            raise ConfigError(f"{self.where}: no `pipeline` section; not a pipeline configuration")
        _check_version(content, self.where)

    @property
    def name(self) -> str:
        """Dotted name of the pipeline's class."""
        return str(self.content["pipeline"].get("name", ""))

    @property
    def kind(self) -> str:
        """Last part of `name`."""
        return self.name.rsplit(".", 1)[-1]

    def params(self) -> dict[str, Any]:
        """Arguments of the pipeline's constructor."""
        return dict(self.content["pipeline"].get("params") or {})

    def check_sections(self, *more: str) -> None:
        """
        Raises
        ------
        ConfigError
            There are sections besides `SECTIONS` and `more`.
        """
        if unknown := set(self.content) - {*SECTIONS, *more}:
            raise ConfigError(f"{self.where}: unsupported sections {sorted(unknown)}")

    def weights(self, value) -> Weights | None:
        """Weights as this document names them.

        Raises
        ------
        ConfigError
        """
        base, parent, revision = self.base, self.parent, self.revision
        if value is None:
            return None
        if isinstance(value, Mapping):
            if not value.get("checkpoint"):
                raise ConfigError(f"{self.where}: weights without `checkpoint`: {dict(value)}")
            place = _placed(str(value["checkpoint"]), base, parent)
            return Weights(place, value.get("subfolder"), value.get("revision"))
        if str(value).startswith("$model/"):
            folder, _, own = str(value).removeprefix("$model/").partition("@")
            path = "/".join(filter(None, (parent, folder)))
            return Weights(base, path, own or revision)
        return Weights(_placed(str(value), base, parent, revision))


def read_document(
    checkpoint: str | Path | Mapping,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> Document:
    """Find and parse a configuration; parameters and errors are those of `load_config`."""
    if isinstance(checkpoint, Mapping):
        return Document(checkpoint, os.getcwd(), None, None, "configuration")
    if (local := local_path(checkpoint)) is not None:
        checkpoint = os.path.expanduser(local)
        if "@" in checkpoint and not os.path.exists(checkpoint):
            raise ConfigError(f"{checkpoint}: pass the revision as `revision=`, not after '@'")
    path = Path(checkpoint)
    if path.exists() and revision:
        raise ConfigError(f"{checkpoint} is local: it has no revision {revision!r}")
    if path.is_file() and subfolder:
        raise ConfigError(f"{checkpoint} is a file: it has no subfolder {subfolder!r}")
    if is_archive(checkpoint):
        archive = hub.fetch(checkpoint, revision=revision, token=token, cache_dir=cache_dir)
        checkpoint, revision = str(path := open_bundle(archive, cache_dir)), None
    found = hub.fetch(
        checkpoint,
        filename="config.yaml",
        subfolder=subfolder,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
    )
    if path.exists():
        base = str((path.parent if path.is_file() else path).absolute())
    else:
        base = checkpoint.rpartition("/")[0] if names_file(checkpoint) else checkpoint
    return Document(read_yaml(found), base, subfolder, revision, str(found))


def read_yaml(path: Path):
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from None


def _placed(value: str, base: str, parent: str | None, revision: str | None = None) -> str:
    """Where weights lie that a configuration in `base`, below the folder `parent`, names."""
    path, _, fragment = value.partition("#")
    path = os.path.expanduser(path)
    if "://" in value or os.path.isabs(path) or value.startswith("$"):
        return value if "://" in value else f"{path}{'#' if fragment else ''}{fragment}"
    local = os.path.isdir(base)
    folder = os.path.join(base, parent or "")
    found = local and os.path.exists(os.path.join(folder, path))
    if not found and is_repository(path, folder if local else "/nowhere"):
        return value
    if local:
        placed = os.path.normpath(os.path.join(folder, path))
    else:
        scheme, separator, rest = base.partition("://")
        scheme, rest = (scheme, rest) if separator else ("hf", base)
        if scheme == "hf" and revision:
            rest = f"{rest}@{revision}"
        placed = f"{scheme}://{posixpath.normpath('/'.join(filter(None, (rest, parent, path))))}"
    return f"{placed}#{fragment}" if fragment else placed


def _check_version(document: Mapping, where: str) -> None:
    wanted = (document.get("dependencies") or {}).get("pyannote.audio", document.get("version"))
    if wanted is None:
        return
    major = str(wanted).split(".")[0]
    if not major.isdigit() or int(major) > 4:
        raise ConfigError(f"{where}: written for pyannote.audio {wanted}; raydiar reads up to 4.x")
