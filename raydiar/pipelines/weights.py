"""Weights of a pipeline or of a single network, brought here by name."""

from __future__ import annotations

from pathlib import Path

from raydiar import hub
from raydiar.errors import ConfigError, WeightsNotFound
from raydiar.hub.files import names_file
from raydiar.pipelines.config_file import load_config
from raydiar.pipelines.document import read_document

_SETTINGS = (".yaml", ".yml")


def bring(
    name: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
) -> dict[str, Path]:
    """Bring all weights of a pipeline, or those of one network, to this machine.

    Parameters
    ----------
    name : str, optional
        A pipeline or a network: what `Pipeline.from_pretrained` or `Model.from_pretrained` takes.
    revision, subfolder, token, cache_dir
        As in `raydiar.hub.fetch`.

    Returns
    -------
    files : dict
        Path by role: "segmentation", "embedding", "plda/…", or "model" for a single network.

    Raises
    ------
    WeightsNotFound, ConfigError, CheckpointError
    """
    where = {"revision": revision, "subfolder": subfolder, "token": token, "cache_dir": cache_dir}
    if name is not None and names_file(name.partition("#")[0]) and not name.endswith(_SETTINGS):
        return {"model": hub.fetch(name, filename="pytorch_model.bin", **where)}
    try:
        config = load_config(name, **where)
    except (ConfigError, WeightsNotFound) as error:
        try:
            return _of_another_kind(name, where)
        except (ConfigError, WeightsNotFound):
            raise error from None
    local = config.localize(token=token, cache_dir=cache_dir)
    files = {"segmentation": local.segmentation, "embedding": local.embedding}
    if local.plda is not None:
        files |= {f"plda/{path.name}": path for path in sorted(local.plda.glob("*.npz"))}
    return files


def _of_another_kind(name: str, where: dict) -> dict[str, Path]:
    """Weights of a pipeline that is no speaker diarization, or those of a network."""
    try:
        document = read_document(name, **where)
        params = document.params()
    except (ConfigError, WeightsNotFound):
        # a network's repository may hold a configuration too: that of its training
        if name.endswith(_SETTINGS):
            raise
        return {"model": hub.fetch(name, filename="pytorch_model.bin", **where)}
    token, cache_dir = where["token"], where["cache_dir"]
    found = {role: document.weights(params.get(role)) for role in ("segmentation", "embedding")}
    return {
        role: weights.fetch("pytorch_model.bin", token, cache_dir)
        for role, weights in found.items()
        if weights is not None
    }
