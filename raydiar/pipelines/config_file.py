"""pyannote's `config.yaml`, and other ways to name a pipeline.

What raydiar does not do raises an error here: a configuration that is half understood would give
other turns than its author meant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from raydiar.clustering.parameters import (
    AgglomerativeParameters,
    KMeansParameters,
    VBxParameters,
)
from raydiar.errors import ConfigError
from raydiar.pipelines.config import DEFAULT, NAMED, PipelineConfig, Weights
from raydiar.pipelines.document import Document, read_document, read_yaml

CLUSTERINGS = {
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
        Nothing, or "default", for the embedded default; "exact" or "soft" for its networks with
        the numbers of pyannote.audio, or counting speakers softly; else a directory that holds
        `config.yaml` (a clone of a Hub repository), a bundle, a configuration file, a Hub
        repository, or a parsed configuration.

    Raises
    ------
    ConfigError
        A configuration that is malformed, or asks for what raydiar does not do.
    WeightsNotFound
        Nothing there.
    """
    if checkpoint is None:
        return DEFAULT
    if isinstance(checkpoint, str) and checkpoint in NAMED:
        return NAMED[checkpoint]
    document = read_document(
        checkpoint, revision=revision, subfolder=subfolder, token=token, cache_dir=cache_dir
    )
    document.check_sections()
    return diarization_config(document)


def parse_config(
    path: Path, *, base: str, parent: str | None = None, revision: str | None = None
) -> PipelineConfig:
    """Parse a `config.yaml`; `$model/…` in it means `base`, below the folder `parent`.

    Paths in it are relative to the folder that it lies in.
    """
    document = Document(read_yaml(path), base, parent, revision, str(path))
    document.check_sections()
    return diarization_config(document)


def read_parameters(path: str | Path) -> dict[str, Any]:
    """Hyper-parameters from a YAML file whose `params` section, or whole, holds them.

    Raises
    ------
    ConfigError
    """
    document = read_yaml(Path(path))
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

    kinds = {parameters: name for name, parameters in CLUSTERINGS.items()}
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
    if config.counting is not None:
        document["params"]["counting"] = asdict(config.counting)
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
        name, value = _setting(setting)
        group, _, parameter = name.partition(".")
        if not (group and parameter) or value is None or "." in parameter:
            raise ConfigError(f"--set takes group.name=value, not {setting!r}")
        nested.setdefault(group, {})[parameter] = value
    return nested


def parse_values(settings: Sequence[str]) -> dict[str, Any]:
    """The same without groups: {"onset": 0.6} from ["onset=0.6"].

    Raises
    ------
    ConfigError
    """
    values: dict[str, Any] = {}
    for setting in settings:
        name, value = _setting(setting)
        if not name or value is None:
            raise ConfigError(f"--set takes name=value, not {setting!r}")
        values[name] = value
    return values


def _setting(text: str) -> tuple[str, Any]:
    """Name and value of name=value; None where there is no value that YAML understands."""
    name, _, value = text.partition("=")
    try:
        value = yaml.safe_load(value)
    except yaml.YAMLError:
        value = None
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)  # 1e-3, which is no number to YAML
    return name.strip(), value


def diarization_config(document: Document) -> PipelineConfig:
    """The speaker diarization that a document describes.

    Raises
    ------
    ConfigError
        It describes something else, or asks for what raydiar does not do.
    """
    where = document.where
    if document.kind != "SpeakerDiarization":
        raise ConfigError(
            f"{where}: pipeline {document.name!r} is not a speaker diarization "
            "that runs on one's own machine"
        )
    params = document.params()
    for ignored in ("legacy", "der_variant", "token", "cache_dir", "use_auth_token"):
        params.pop(ignored, None)  # how to call it and get it, not what it computes
    clustering = params.pop("clustering", "VBxClustering")
    if clustering not in CLUSTERINGS:
        raise ConfigError(f"{where}: clustering must be one of {sorted(CLUSTERINGS)}")
    arguments = {
        "clustering": CLUSTERINGS[clustering](),
        "segmentation": document.weights(params.pop("segmentation", None)),
        "embedding": document.weights(params.pop("embedding", None)),
        "plda": document.weights(params.pop("plda", None)),
        # Not our defaults but those of pyannote's constructor, which the file was written for.
        "embedding_exclude_overlap": params.pop("embedding_exclude_overlap", False),
        "device": document.content.get("device"),
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
    for group in (document.content.get("params"), document.content.get("freeze")):
        config = config.with_parameters(group or {})
    return config
