"""From the name of a pipeline to the pipeline: whatever a configuration describes."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raydiar.errors import ConfigError
from raydiar.pipelines.config import NAMED
from raydiar.pipelines.config_file import diarization_config, load_config, read_parameters
from raydiar.pipelines.detection import (
    MultiLabelSegmentation,
    OverlappedSpeechDetection,
    SpeakerChangeDetection,
    VoiceActivityDetection,
)
from raydiar.pipelines.document import Document, read_document
from raydiar.pipelines.pipeline import Pipeline
from raydiar.pipelines.remote import RemoteDiarization, remote_model
from raydiar.pipelines.speaker_diarization import SpeakerDiarization
from raydiar.pipelines.speaker_embedding import SpeakerEmbedding
from raydiar.weights import Weights

KINDS: dict[str, type[Pipeline]] = {
    cls.__name__: cls
    for cls in (
        VoiceActivityDetection,
        OverlappedSpeechDetection,
        SpeakerChangeDetection,
        MultiLabelSegmentation,
        SpeakerEmbedding,
    )
}
"""Pipelines beside speaker diarization, by the name that configurations call them."""

_LEFT_OUT = {
    "SpeechSeparation": "separates voices with weights that raydiar could not be tried with; "
    "diarize with Pipeline.from_pretrained() and cut out the turns instead",
    "Resegmentation": "is no pipeline of pyannote.audio 4 either: diarize anew instead",
}
_WEIGHTS = ("segmentation", "embedding")


def load_pipeline(
    checkpoint: str | Path | Mapping | None = None,
    *,
    revision: str | None = None,
    hparams_file: str | Path | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    base_url: str | None = None,
) -> Pipeline:
    """What `Pipeline.from_pretrained` does."""
    where = {
        "revision": revision,
        "subfolder": subfolder,
        "token": token,
        "cache_dir": cache_dir,
    }
    if not isinstance(checkpoint, str | Path | Mapping | None):
        raise ConfigError(f"a pipeline is named by a path, repository or mapping: {checkpoint!r}")
    frozen: Mapping[str, Any] = {}
    if model := remote_model(checkpoint):
        local = {"revision": revision, "subfolder": subfolder, "hparams_file": hparams_file}
        if given := [name for name, value in local.items() if value is not None]:
            raise ConfigError(f"{checkpoint} runs elsewhere: it has no {', '.join(given)}")
        return RemoteDiarization(model, token=token, base_url=base_url)
    if base_url is not None:
        raise ConfigError(
            f"base_url is of a server, and {checkpoint or 'the default pipeline'} runs here: name "
            "pyannote/speaker-diarization-precision-2, or a newer one"
        )
    if checkpoint is None or (isinstance(checkpoint, str) and checkpoint in NAMED):
        local = load_config(checkpoint).localize(token=token, cache_dir=cache_dir)
        pipeline: Pipeline = SpeakerDiarization(local)
    else:
        document = read_document(checkpoint, **where)
        document.check_sections("preprocessors")
        pipeline = _described(document, token, cache_dir)
        pipeline.preprocessors = _preprocessors(document)
        frozen = document.content.get("freeze") or {}
    if frozen:
        pipeline.freeze(frozen)
    if hparams_file is not None:
        pipeline.instantiate(read_parameters(hparams_file))
    return pipeline


def _described(document: Document, token: str | None, cache_dir) -> Pipeline:
    if document.kind == "SpeakerDiarization":
        config = diarization_config(document)
        params = document.params()
        return SpeakerDiarization(
            config.localize(token=token, cache_dir=cache_dir),
            legacy=bool(params.get("legacy", False)),
            der_variant=params.get("der_variant"),
        )
    check_kind(document)
    options = {"token": token, "cache_dir": cache_dir, **document.params()}
    for name in _WEIGHTS:
        if (weights := document.weights(options.get(name))) is not None:
            options[name] = _as_model(weights, token, cache_dir)
    if device := document.content.get("device"):
        options["device"] = device
    pipeline = KINDS[document.kind](**options)
    if params := document.content.get("params"):
        pipeline.instantiate(params)
    return pipeline


def check_kind(document: Document) -> None:
    """
    Raises
    ------
    ConfigError
        The document is of a pipeline that raydiar does not have.
    """
    if document.kind in _LEFT_OUT:
        raise ConfigError(f"{document.where}: {document.kind} {_LEFT_OUT[document.kind]}")
    if document.kind not in KINDS:
        known = ", ".join(["SpeakerDiarization", *KINDS])
        raise ConfigError(
            f"{document.where}: pipeline {document.name!r} is none that runs on one's own machine "
            f"({known})"
        )


def _as_model(weights: Weights, token: str | None, cache_dir) -> dict[str, Any]:
    """Arguments of `Model.from_pretrained`."""
    return {
        "checkpoint": weights.uri,
        "subfolder": weights.subfolder,
        "revision": weights.revision,
        "token": token,
        "cache_dir": cache_dir,
    }


def _preprocessors(document: Document) -> dict[str, Callable[[Mapping], Any]]:
    """Functions from paths with the name of a recording in them: `/data/{uri}.wav`."""
    section = document.content.get("preprocessors") or {}
    if not isinstance(section, Mapping):
        raise ConfigError(f"{document.where}: `preprocessors` is a mapping of keys to paths")
    made = {}
    for key, value in section.items():
        fields = []
        if isinstance(value, str):
            fields = [field for _, field, _, _ in string.Formatter().parse(value) if field]
        if not fields:
            raise ConfigError(
                f"{document.where}: the preprocessor of {key!r} must be a path with the name of "
                f"a recording in it, such as /data/{{uri}}.wav; set others in Python: "
                f"pipeline.preprocessors = {{{key!r}: function}}"
            )
        made[key] = _Template(value)
    return made


class _Template:
    """A path that depends on the recording; a class, so that pipelines can be pickled."""

    def __init__(self, template: str):
        self.template = template

    def __call__(self, file: Mapping) -> str:
        try:
            return self.template.format(**file)
        except (KeyError, IndexError) as error:
            raise ConfigError(f"{self.template}: the recording has no {error}") from None
