"""Strip a training checkpoint to what inference needs: a third of the bytes or less."""

from __future__ import annotations

from pathlib import Path

import torch

from raydiar.errors import CheckpointError
from raydiar.models.base import Model
from raydiar.models.checkpoint import read_content
from raydiar.models.writing import write_checkpoint

KEPT = (
    "state_dict",
    "hyper_parameters",
    "hparams_name",
    "pytorch-lightning_version",
    "pyannote.audio",
)
"""What pyannote.audio needs of a checkpoint."""


def strip_checkpoint(source: str | Path, into: str | Path) -> Path:
    """Write a checkpoint with the state of its training (optimizer, loops, callbacks) left out.

    The result is loaded again, and its tensors compared, before it is published under its name.

    Parameters
    ----------
    source : str or Path
    into : str or Path
        A file, or a folder that then holds `pytorch_model.bin`.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read, or is none of a network that raydiar knows.
    """
    source, into = Path(source), Path(into)
    if into.is_dir() or not into.suffix:
        into = into / "pytorch_model.bin"
    if into.exists() and into.samefile(source):
        raise CheckpointError(f"{source}: name another file for the result")
    before = Model.from_pretrained(source)
    content = read_content(source)
    if isinstance(content.get("state_dict"), dict):
        content = {key: content[key] for key in KEPT if key in content}
    candidate = into.with_name(f".{into.name}.partial.bin")
    try:
        write_checkpoint(content, candidate)
        after = Model.from_pretrained(candidate)
        ours, theirs = before.state_dict(), after.state_dict()
        if type(after) is not type(before) or not (
            ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
        ):
            raise CheckpointError(f"{source}: what was written is not the same network")
        candidate.replace(into)
    finally:
        candidate.unlink(missing_ok=True)
    return into
