"""Checkpoints as pyannote.audio writes them, so that it reads ours and we read its own.

The task of a network is pickled under the names that pyannote.audio has for it, whose place the
classes of `raydiar.models.specifications` take here.
"""

from __future__ import annotations

import io
import os
import pickle
import tempfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from raydiar.models.specifications import Problem, Resolution, Specifications

_TASK = "pyannote.audio.core.task"
_NAMES: dict[type, tuple[str, str]] = {
    Specifications: (_TASK, "Specifications"),
    Problem: (_TASK, "Problem"),
    Resolution: (_TASK, "Resolution"),
}


class _Pickler(pickle._Pickler):  # the one in Python: the one in C cannot write another name
    def reducer_override(self, value):
        if isinstance(value, Enum) and type(value) in _NAMES:
            return type(value), (value.value,)  # as every version of Python reads it
        return NotImplemented

    def save_global(self, value, name=None):
        if value in _NAMES:
            module, name = _NAMES[value]
            self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
            self.memoize(value)
        else:
            super().save_global(value, name)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, type: save_global}


_PICKLE = SimpleNamespace(__name__="raydiar.models.writing", Pickler=_Pickler, dump=pickle.dump)


def write_checkpoint(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write a checkpoint; other processes see all of it or nothing.

    Parameters
    ----------
    content : mapping
        `state_dict`, and what pyannote keeps beside it: see `stripping.KEPT`.
    """
    path = Path(path)
    data = io.BytesIO()
    torch.save(dict(content), data, pickle_module=_PICKLE, pickle_protocol=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        partial.write(data.getbuffer())
    os.chmod(partial.name, 0o644)
    os.replace(partial.name, path)
    return path
