"""Checkpoints are untrusted input: read the tensors, run nothing.

pyannote checkpoints are pickles that name a handful of classes beside tensors, so `weights_only`
alone refuses them. The unpickler here resolves an allow-list of names, some to local stand-ins,
and refuses all others by name before anything of theirs is imported.
"""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import torch

from raydiar.errors import CheckpointError
from raydiar.models.specifications import Problem, Resolution, Specifications


class _Placeholder:
    """Stands in for classes that old checkpoints mention and nothing needs."""

    def __init__(self, *args, **kwargs):
        pass


class _Container:
    """Stands in for omegaconf's lists and mappings, in which old checkpoints keep labels."""

    def plain(self):
        content = self.__dict__.get("_content")
        if isinstance(content, dict):
            return {key: _plain(value) for key, value in content.items()}
        return [_plain(value) for value in content or ()]


class _Value(_Placeholder):
    """Stands in for omegaconf's values."""

    def plain(self):
        return _plain(self.__dict__.get("_val"))


def _plain(value):
    """The same without stand-ins."""
    if isinstance(value, _Container | _Value):
        return value.plain()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(one) for one in value)
    if isinstance(value, Specifications):
        vars(value).update(_plain(vars(value)))
    return value


def _enum_member(enum, name):
    # Python 3.11 pickles enum members as getattr(Enum, name); nothing else may use getattr.
    if enum not in (Problem, Resolution):
        raise CheckpointError("the checkpoint calls getattr on something other than its enums")
    return enum[name]


_STORAGES = [
    "BFloat16Storage",
    "BoolStorage",
    "ByteStorage",
    "CharStorage",
    "DoubleStorage",
    "FloatStorage",
    "HalfStorage",
    "IntStorage",
    "LongStorage",
    "ShortStorage",
]

_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("builtins", "dict"): dict,
    ("builtins", "list"): list,
    ("builtins", "set"): set,
    ("builtins", "long"): int,
    ("builtins", "getattr"): _enum_member,
    ("typing", "Any"): Any,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.torch_version", "TorchVersion"): str,
    ("pyannote.audio.core.task", "Specifications"): Specifications,
    ("pyannote.audio.core.task", "Problem"): Problem,
    ("pyannote.audio.core.task", "Resolution"): Resolution,
    ("pyannote.audio.core.model", "Introspection"): _Placeholder,
    ("raydiar.models.specifications", "Specifications"): Specifications,
    ("raydiar.models.specifications", "Problem"): Problem,
    ("raydiar.models.specifications", "Resolution"): Resolution,
    ("omegaconf.listconfig", "ListConfig"): _Container,
    ("omegaconf.dictconfig", "DictConfig"): _Container,
    ("omegaconf.nodes", "AnyNode"): _Value,
    ("omegaconf.base", "Metadata"): _Placeholder,
    ("omegaconf.base", "ContainerMetadata"): _Placeholder,
    **{("torch", name): getattr(torch, name) for name in _STORAGES},
    **{
        ("torch", str(dtype).removeprefix("torch.")): dtype
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        # torch asks for its storages in both ways; any other name must stand on the list.
        try:
            return _ALLOWED[module.replace("__builtin__", "builtins"), name]
        except KeyError:
            raise CheckpointError(
                f"the checkpoint wants {module}.{name}, which no weights need; it was not run. "
                "Load it only if you trust it, with its own software, and save a plain state dict"
            ) from None


_PICKLE = SimpleNamespace(
    __name__="raydiar.models.checkpoint",
    Unpickler=_Unpickler,
    load=lambda file, **kwargs: _Unpickler(file, **kwargs).load(),
)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says about a network.

    Attributes
    ----------
    state_dict : dict of str to tensor
    hyper_parameters : dict
        Constructor arguments; empty when the file holds only tensors.
    architecture : str or None
        Class name, e.g. "PyanNet".
    specifications : Specifications or None
    """

    state_dict: dict[str, torch.Tensor] = field(repr=False)
    hyper_parameters: dict[str, Any] = field(default_factory=dict)
    architecture: str | None = None
    specifications: Specifications | None = None


def read_checkpoint(source: str | Path | BinaryIO) -> Checkpoint:
    """Read a pyannote checkpoint, a plain state dict, or a safetensors file, on the CPU.

    Raises
    ------
    CheckpointError
        If the file is damaged, or its pickle wants anything but tensors and known classes.
    """
    return _understand(read_content(source), _name(source))


def read_content(source: str | Path | BinaryIO) -> Any:
    """Read whatever a checkpoint file holds, as safely as `read_checkpoint`, on the CPU."""
    name = _name(source)
    try:
        if str(name).endswith(".safetensors"):
            return _read_safetensors(source)
        return _plain(_read_pickle(source))
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(f"{name}: not a readable checkpoint ({error})") from error


def _name(source: str | Path | BinaryIO) -> str:
    return getattr(source, "name", "checkpoint") if hasattr(source, "read") else str(source)


def _read_safetensors(source) -> dict:
    from safetensors.torch import load

    data = source.read() if hasattr(source, "read") else Path(source).read_bytes()
    tensors = load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = header.get("__metadata__", {}).get("raydiar")
    if about is None:
        return tensors
    # the form that `raydiar.training.exporting.describe` gives
    about = json.loads(about)
    specifications = dict(about["specifications"])
    specifications["problem"] = Problem[specifications["problem"]]
    specifications["resolution"] = Resolution[specifications["resolution"]]
    specifications["warm_up"] = tuple(specifications["warm_up"])
    return {
        "state_dict": tensors,
        "hyper_parameters": about["hyper_parameters"],
        "pyannote.audio": {
            "architecture": {"class": about["architecture"]},
            "specifications": Specifications(**specifications),
        },
    }


def _read_pickle(source):
    data = source if hasattr(source, "read") else io.BytesIO(Path(source).read_bytes())
    if zipfile.is_zipfile(data):
        with zipfile.ZipFile(data) as archive:
            # torch.load would hand a TorchScript archive to torch.jit.load, code and all.
            if any(entry.endswith("/constants.pkl") for entry in archive.namelist()):
                raise CheckpointError("a TorchScript program, not weights")
    data.seek(0)
    return torch.load(data, map_location="cpu", pickle_module=_PICKLE, weights_only=False)


def _understand(content, name: str) -> Checkpoint:
    if not isinstance(content, dict):
        raise CheckpointError(f"{name}: holds a {type(content).__name__}, not a state dict")
    state_dict = content.get("state_dict", content)
    if not state_dict or not all(isinstance(v, torch.Tensor) for v in state_dict.values()):
        raise CheckpointError(f"{name}: holds no state dict of tensors")
    about = content.get("pyannote.audio") if state_dict is not content else None
    about = about if isinstance(about, dict) else {}
    specifications = about.get("specifications")
    if not isinstance(specifications, Specifications | None):
        raise CheckpointError(f"{name}: multi-task networks are not supported")
    return Checkpoint(
        state_dict=dict(state_dict),
        hyper_parameters=dict(content.get("hyper_parameters") or {})
        if state_dict is not content
        else {},
        architecture=about.get("architecture", {}).get("class"),
        specifications=specifications,
    )
