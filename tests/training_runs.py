"""A run, and the same run elsewhere: what training on Ray is compared with."""

from pathlib import Path

import pytest
import torch

from raydiar.training import Recipe, start
from raydiar.training.exporting import load_trained
from raydiar.training.folder import RunFolder


def run_alone(recipe: Recipe, folder: Path) -> str:
    """In one process."""
    start(recipe, folder, device="cpu", quiet=True)
    return str(folder)


def same_run(one: str, other: str, tolerance: float = 1e-4) -> None:
    rows = [RunFolder(folder).rows("log") for folder in (one, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for first, second in zip(*rows, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], abs=tolerance)
    ends = [load_trained(folder).state_dict() for folder in (one, other)]
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-3), name
    found = [RunFolder(folder).rows("validation")[-1] for folder in (one, other)]
    assert found[0]["val_der"] == pytest.approx(found[1]["val_der"], abs=0.02)
