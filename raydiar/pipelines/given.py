"""Networks that a caller gives as they are, brought to where a job could find them: a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raydiar import hub
from raydiar.errors import ConfigError
from raydiar.models import Model
from raydiar.models.writing import write_checkpoint
from raydiar.weights import Weights


def weights_of(given: Any, cache_dir: str | Path | None = None) -> Weights | None:
    """Where the weights are that a caller gave in one of the forms that pyannote.audio takes.

    Parameters
    ----------
    given : Model, str, Path, mapping, Weights or None
        A mapping holds "checkpoint", and optionally "subfolder" and "revision". A network itself
        is written into the cache, under a name made of its numbers.

    Raises
    ------
    ConfigError
        Anything else.
    """
    if given is None or isinstance(given, Weights):
        return given
    if isinstance(given, Model):
        return Weights(str(_kept(given, cache_dir)))
    if isinstance(given, Mapping):
        known = {"checkpoint", "subfolder", "revision", "token", "cache_dir", "use_auth_token"}
        if not given.get("checkpoint") or set(given) - known:
            raise ConfigError(f"weights are given by {sorted(known)}, not {dict(given)}")
        return Weights(str(given["checkpoint"]), given.get("subfolder"), given.get("revision"))
    if isinstance(given, str | Path):
        return Weights(str(given))
    raise ConfigError(f"a network or where its weights are, not a {type(given).__name__}")


def _kept(model: Model, cache_dir: str | Path | None) -> Path:
    content = {
        "state_dict": {name: value.cpu() for name, value in model.state_dict().items()},
        "hyper_parameters": dict(model.hparams),
        "pyannote.audio": {
            "versions": {},
            "architecture": {"module": "raydiar.models", "class": type(model).__name__},
            "specifications": model.specifications,
        },
    }
    identity = hashlib.sha256(
        repr((type(model).__name__, model.specifications, model.hparams)).encode()
    )
    for name, value in content["state_dict"].items():
        identity.update(name.encode())
        identity.update(value.contiguous().numpy().tobytes())
    path = Path(cache_dir or hub.default_cache_dir()) / "given" / f"{identity.hexdigest()}.bin"
    return path if path.is_file() else write_checkpoint(content, path)
