"""pyannote's `config.yaml`, and other ways to name a pipeline.

What raydiar does not do raises an error here: a configuration that is half understood would give
other turns than its author meant.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from raydiar import hub
from raydiar.clustering.parameters import (
    AgglomerativeParameters,
    KMeansParameters,
    VBxParameters,
)
from raydiar.errors import ConfigError
from raydiar.hub.files import names_file
from raydiar.hub.huggingface import is_repository
from raydiar.naming import local_path
from raydiar.pipelines.bundle import is_archive, open_bundle
from raydiar.pipelines.config import DEFAULT, PipelineConfig, Weights

_CLUSTERINGS = {
    "AgglomerativeClustering": AgglomerativeParameters,
    "VBxClustering": VBxParameters,
    "KMeansClustering": KMeansParameters,
}


def load_config(
    checkpoint: str | Path | Mapping | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> PipelineConfig:
    """Read a pipeline's configuration.

    Parameters
    ----------
    checkpoint : str, Path or mapping, optional
        Nothing for the embedded default; else a directory that holds `config.yaml` (a clone of a
        Hub repository), a bundle, a configuration file, a Hub repository, or a parsed
        configuration.

    Raises
    ------
    ConfigError
        A configuration that is malformed, or asks for what raydiar does not do.
    WeightsNotFound
        Nothing there.
    """
    if checkpoint is None:
        return DEFAULT
    if isinstance(checkpoint, Mapping):
        return _parse(checkpoint, os.getcwd(), parent=None, revision=None, where="configuration")
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
    return parse_config(found, base=base, parent=subfolder, revision=revision)


def parse_config(
    path: Path, *, base: str, parent: str | None = None, revision: str | None = None
) -> PipelineConfig:
    """Parse a `config.yaml`; `$model/…` in it means `base`, below the folder `parent`.

    Paths in it are relative to the folder that it lies in.
    """
    return _parse(_read_yaml(path), base, parent, revision, where=str(path))


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Hyper-parameters from a YAML file whose `params` section, or whole, holds them.

    Raises
    ------
    ConfigError
    """
    document = _read_yaml(Path(path))
    params = document.get("params", document) if isinstance(document, Mapping) else None
    if not isinstance(params, Mapping):
        raise ConfigError(f"{path}: no hyper-parameters in it")
    return dict(params)


def write_config(config: PipelineConfig) -> str:
    """A pipeline's configuration as text of a `config.yaml` that `load_config` reads back."""

    def named(weights: Weights | None):
        if weights is None:
            return None
        details = {"subfolder": weights.subfolder, "revision": weights.revision}
        given = {name: value for name, value in details.items() if value is not None}
        return {"checkpoint": weights.uri, **given} if given else weights.uri

    kinds = {parameters: name for name, parameters in _CLUSTERINGS.items()}
    params = {
        "segmentation": named(config.segmentation),
        "embedding": named(config.embedding),
        "plda": named(config.plda),
        "clustering": kinds[type(config.clustering)],
        "segmentation_step": config.segmentation_step,
        "embedding_exclude_overlap": config.embedding_exclude_overlap,
        "segmentation_batch_size": config.segmentation_batch_size,
        "embedding_batch_size": config.embedding_batch_size,
    }
    document = {
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {name: value for name, value in params.items() if value is not None},
        },
        "params": {
            "clustering": asdict(config.clustering),
            "segmentation": {"min_duration_off": config.min_duration_off},
        },
    }
    if config.device is not None:
        document["device"] = config.device
    return yaml.safe_dump(document, sort_keys=False)


def parse_settings(settings: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What `--set` takes: {"clustering": {"threshold": 0.6}} from ["clustering.threshold=0.6"].

    Raises
    ------
    ConfigError
    """
    nested: dict[str, dict[str, Any]] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        group, _, parameter = name.strip().partition(".")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = None
        if not (group and parameter) or value is None or "." in parameter:
            raise ConfigError(f"--set takes group.name=value, not {setting!r}")
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # 1e-3, which is no number to YAML
        nested.setdefault(group, {})[parameter] = value
    return nested


def _read_yaml(path: Path):
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not readable YAML: {error}") from None


def _parse(document, base, parent, revision, where: str) -> PipelineConfig:
    if not isinstance(document, Mapping) or not isinstance(document.get("pipeline"), Mapping):
        raise ConfigError(f"{where}: no `pipeline` section; not a pipeline configuration")
    unknown = set(document) - {"version", "dependencies", "pipeline", "params", "freeze", "device"}
    if unknown:
        raise ConfigError(f"{where}: unsupported sections {sorted(unknown)}")
    _check_version(document, where)
    name = str(document["pipeline"].get("name", "")).rsplit(".", 1)[-1]
    if name != "SpeakerDiarization":
        raise ConfigError(
            f"{where}: pipeline {document['pipeline'].get('name')!r} is not a speaker diarization "
            "that runs on one's own machine"
        )

    def weights(value) -> Weights | None:
        if value is None:
            return None
        if isinstance(value, Mapping):
            if not value.get("checkpoint"):
                raise ConfigError(f"{where}: weights without `checkpoint`: {dict(value)}")
            place = _placed(str(value["checkpoint"]), base, parent)
            return Weights(place, value.get("subfolder"), value.get("revision"))
        if str(value).startswith("$model/"):
            folder, _, own = str(value).removeprefix("$model/").partition("@")
            path = "/".join(filter(None, (parent, folder)))
            return Weights(base, path, own or revision)
        return Weights(_placed(str(value), base, parent, revision))

    params = dict(document["pipeline"].get("params") or {})
    if params.pop("legacy", False):
        raise ConfigError(f"{where}: `legacy: true` is not supported; take .speaker_diarization")
    for ignored in ("der_variant", "token", "cache_dir", "use_auth_token"):
        params.pop(ignored, None)
    clustering = params.pop("clustering", "VBxClustering")
    if clustering not in _CLUSTERINGS:
        raise ConfigError(f"{where}: clustering must be one of {sorted(_CLUSTERINGS)}")
    arguments = {
        "clustering": _CLUSTERINGS[clustering](),
        "segmentation": weights(params.pop("segmentation", None)),
        "embedding": weights(params.pop("embedding", None)),
        "plda": weights(params.pop("plda", None)),
        # Not our defaults but those of pyannote's constructor, which the file was written for.
        "embedding_exclude_overlap": params.pop("embedding_exclude_overlap", False),
        "device": document.get("device"),
    }
    for key in ("segmentation_step", "segmentation_batch_size", "embedding_batch_size"):
        if key in params:
            arguments[key] = params.pop(key)
    if params:
        raise ConfigError(f"{where}: unknown pipeline parameters {sorted(params)}")
    for required in ("segmentation", "embedding"):
        if arguments[required] is None:
            raise ConfigError(f"{where}: the pipeline names no {required} weights")
    config = PipelineConfig(**arguments)
    for group in (document.get("params"), document.get("freeze")):
        config = config.with_parameters(group or {})
    return config


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
