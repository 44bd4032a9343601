"""From a run, or a network, to files that others load.

- raydiar: a folder that `Pipeline.from_pretrained`, the corpus job and the server take as it is:
  `config.yaml` of a pipeline, and the network as safetensors, whose header says what it is (JSON).
- pyannote: a checkpoint in the form of pyannote.audio 4.
- onnx: batch and length are free.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from raydiar.errors import ConfigError, TrainingError
from raydiar.models.writing import write_checkpoint
from raydiar.training.folder import BEST, TUNED, RunFolder, temporary_folder

FORMATS = ("raydiar", "pyannote", "onnx")
HEADER = "raydiar"
"""Key of the safetensors header under which the description of the network is."""


def describe(model: nn.Module) -> dict[str, Any]:
    """What is needed beside the tensors to make a network again, as JSON-able values."""
    specifications = model.specifications
    return {
        "architecture": type(model).__name__,
        "hyper_parameters": json.loads(json.dumps(dict(model.hparams))),
        "specifications": {
            **asdict(specifications),
            "problem": specifications.problem.name,
            "resolution": specifications.resolution.name,
        },
    }


def to_safetensors(model: nn.Module, state: dict[str, torch.Tensor] | None = None) -> bytes:
    """A network as one safetensors file that describes itself."""
    from safetensors.torch import save

    state = model.state_dict() if state is None else state
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return save(tensors, metadata={HEADER: json.dumps(describe(model))})


def export(run: str | os.PathLike, form: str, into: str | os.PathLike) -> Path | str:
    """Write the best network of a run in another form.

    Parameters
    ----------
    run : str or path
        Folder of a run; or anything that `Model.from_pretrained` takes.
    form : str
        "raydiar" (a folder), "pyannote" (a file, or `pytorch_model.bin` in a folder) or "onnx" (a
        file).
    into : str or path
        Or URI of a folder or file on any storage.

    Returns
    -------
    path : Path or str
        Of what was written.

    Raises
    ------
    TrainingError, CheckpointError, WeightsNotFound, ConfigError
    """
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}; there are {', '.join(FORMATS)}")
    if "://" in os.fspath(into):
        return _export_away(run, form, os.fspath(into))
    model = load_trained(run)
    into = Path(into)
    if form == "raydiar":
        tuned = RunFolder(os.fspath(run)).read_json(TUNED) or {}
        return write_folder(model, into, tuned.get("parameters"))
    if form == "pyannote":
        path = into if into.suffix in (".bin", ".ckpt", ".pt") else into / "pytorch_model.bin"
        return write_pyannote(model, path)
    path = into if into.suffix == ".onnx" else into / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    from raydiar.training.to_onnx import write_onnx

    write_onnx(model, path)
    return path


def _export_away(run: str | os.PathLike, form: str, into: str) -> str:
    from fsspec.core import url_to_fs

    fs, path = url_to_fs(into.rstrip("/"))
    with temporary_folder() as scratch:
        # the same name, since its ending tells a file from a folder
        written = export(run, form, Path(scratch) / path.rpartition("/")[2])
        whole = [written] if written.is_file() else sorted(written.rglob("*"))
        top = Path(scratch) / path.rpartition("/")[2]
        for one in whole:
            if one.is_file():
                below = one.relative_to(top).as_posix()
                fs.pipe_file(path if below == "." else f"{path}/{below}", one.read_bytes())
    return into


def load_trained(run: str | os.PathLike) -> nn.Module:
    """The network of a run's folder, or what else `Model.from_pretrained` takes."""
    from raydiar.models import Model

    folder = RunFolder(os.fspath(run))
    if folder.folder.exists("run.json"):
        if not folder.folder.exists(BEST):
            raise TrainingError(f"{run} has learnt nothing yet: there is no {BEST} in it")
        file = io.BytesIO(folder.folder.read(BEST))
        file.name = f"{run}/{BEST}"
        return Model.from_pretrained(file)
    return Model.from_pretrained(os.fspath(run))


# -- raydiar -----------------------------------------------------------------------------------


def write_folder(
    model: nn.Module, into: Path, parameters: Mapping[str, Mapping[str, Any]] | None = None
) -> Path:
    """A pipeline's folder around a network; the other network is the embedded default's.

    `parameters` of the pipeline, as pyannote nests them, are the default's but for those given.
    """
    import yaml

    from raydiar.pipelines.config import DEFAULT

    kind = "embedding" if hasattr(model, "embedding_mode") else "segmentation"
    (into / kind).mkdir(parents=True, exist_ok=True)
    (into / kind / "model.safetensors").write_bytes(to_safetensors(model))
    (into / kind / "model.json").write_text(json.dumps(describe(model), indent=2) + "\n")
    uris = {"segmentation": DEFAULT.segmentation.uri, "embedding": DEFAULT.embedding.uri}
    uris[kind] = f"$model/{kind}/model.safetensors"
    # asked of the pipeline first, so that a name it does not have is refused
    DEFAULT.with_parameters(parameters or {})
    chosen = {"clustering": asdict(DEFAULT.clustering), "segmentation": {"min_duration_off": 0.0}}
    for group, values in (parameters or {}).items():
        chosen[group] |= values
    config = {
        "pipeline": {
            "name": "pyannote.audio.pipelines.SpeakerDiarization",
            "params": {
                **uris,
                "clustering": "AgglomerativeClustering",
                "embedding_exclude_overlap": True,
            },
        },
        "params": chosen,
    }
    (into / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return into


# -- pyannote ----------------------------------------------------------------------------------


def write_pyannote(model: nn.Module, path: Path) -> Path:
    """Write a checkpoint that pyannote.audio 4 loads.

    Raises
    ------
    ConfigError
        If pyannote.audio has no such network.
    """
    name = type(model).__name__
    module = _PYANNOTE_HOMES.get(name)
    if module is None:
        raise ConfigError(
            f"pyannote.audio has no {name}: take --format raydiar, or train one of "
            f"{', '.join(_PYANNOTE_HOMES)}"
        )
    described = describe(model)
    hyper_parameters = described["hyper_parameters"]
    if name.startswith("WeSpeaker"):
        hyper_parameters.pop("dimension", None)  # theirs has 256 always
    classes = model.specifications.classes
    content = {
        "state_dict": {k: v.detach().cpu().clone() for k, v in model.state_dict().items()},
        "hyper_parameters": hyper_parameters,
        "hparams_name": "kwargs",
        "pytorch-lightning_version": "2.4.0",
        "pyannote.audio": {
            "versions": {"torch": str(torch.__version__), "pyannote.audio": "4.0.7"},
            "architecture": {"module": module, "class": name},
            "specifications": replace(
                model.specifications, classes=None if classes is None else list(classes)
            ),
        },
    }
    return write_checkpoint(content, path)


_PYANNOTE_HOMES = {
    "PyanNet": "pyannote.audio.models.segmentation.PyanNet",
    "SSeRiouSS": "pyannote.audio.models.segmentation.SSeRiouSS",
    "XVectorSincNet": "pyannote.audio.models.embedding.xvector",
    "XVectorMFCC": "pyannote.audio.models.embedding.xvector",
    **{
        f"WeSpeakerResNet{depth}": "pyannote.audio.models.embedding.wespeaker"
        for depth in (34, 152, 221, 293)
    },
}
