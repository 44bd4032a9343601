"""A search by Ray Tune: what it tries, what it keeps, and that nothing is tried twice."""

import json

import numpy as np
import pytest
import yaml
from training_files import TINY, write_conversations
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.errors import ConfigError
from raydiar.training import Recipe
from raydiar.training.tuning import (
    Range,
    default_space,
    drawn,
    parse_range,
    run_trial,
    with_values,
)


def test_what_is_drawn():
    space = [
        parse_range("learning_rate=1e-5:1e-3"),
        parse_range("batch_size=16,32"),
        parse_range("clustering.threshold=0.4:0.9"),
        parse_range("warmup_steps=0:10"),
    ]
    values = [drawn(space, 0, trial) for trial in range(200)]
    assert values[7] == drawn(space, 0, 7)
    rates = np.log10([one["learning_rate"] for one in values])
    assert -5 <= rates.min() < -4.8
    assert -3.2 < rates.max() <= -3
    assert -4.2 < np.median(rates) < -3.8  # of the logarithm
    assert {one["batch_size"] for one in values} == {16, 32}
    assert {one["warmup_steps"] for one in values} == set(range(11))
    assert all(0.4 <= one["clustering.threshold"] <= 0.9 for one in values)
    recipe = with_values(Recipe("embedding", "m.csv"), {"margin": 9.0, "ema": 0.5, "a.b": 1})
    assert (recipe.task, recipe.training.ema) == ({"margin": 9.0}, 0.5)
    assert {one.name for one in default_space(recipe)} == {"learning_rate", "margin"}
    for text in ("learning_rate", "x=", "=1", "learning_rate=0:1", "margin=5:1", "margin=a:b"):
        with pytest.raises(ConfigError):
            parse_range(text)
    assert parse_range("schedule=cosine,constant") == Range(
        "schedule", choices=("cosine", "constant")
    )


def test_the_best_of_several_learning_rates_and_thresholds_is_kept(local_ray, tmp_path):
    manifest = write_conversations(tmp_path / "talks", 2)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "kind: segmentation\n"
        "manifest: of the command\n"
        "architecture: PyanNet\n"
        f"hyper_parameters: {json.dumps(TINY)}\n"
        "task: {duration: 2.0, max_speakers_per_chunk: 2}\n"
        "training: {max_steps: 2, batch_size: 2, checkpoint_every: 2, validate_every: 2}\n"
    )
    folder = tmp_path / "run"
    command = ["train", "segmentation", str(manifest), "--recipe", str(recipe), "--into"]
    command += [str(folder), "--device", "cpu", "--tune", "2"]
    run = CliRunner().invoke
    refused = run(app, command)
    assert refused.exit_code == 1
    assert "give --validate" in refused.output

    command += ["--validate", str(manifest), "--tune-over", "learning_rate=1e-4:1e-2"]
    command += ["--tune-over", "clustering.threshold=0.5:0.9"]
    result = run(app, command)
    assert result.exit_code == 0, result.output
    tuned = json.loads((folder / "tuned.json").read_text())
    assert [row["trial"] for row in tuned["trials"]] == [0, 1]
    reached = [row["val_pipeline_der"] for row in tuned["trials"]]
    assert tuned["best"] == int(np.argmin(reached))
    best = folder / f"trials/{tuned['best']:04d}"
    assert (folder / "best.safetensors").read_bytes() == (best / "best.safetensors").read_bytes()
    assert "<- best" in result.output
    assert "learning_rate" in result.output

    exported = run(app, ["train", "export", str(folder), "--into", str(tmp_path / "better")])
    assert exported.exit_code == 0, exported.output
    config = yaml.safe_load((tmp_path / "better/config.yaml").read_text())
    threshold = tuned["trials"][tuned["best"]]["clustering.threshold"]
    assert config["params"]["clustering"]["threshold"] == threshold

    # what has been tried is not tried again
    space = [parse_range(text) for text in command if "=" in text]
    told = []
    made = Recipe.read(str(recipe), manifest=str(manifest), validate=str(manifest))
    run_trial(made, str(folder), 1, drawn(space, 0, 1), lambda step, row: told.append((step, row)))
    assert [(step, row["val_pipeline_der"]) for step, row in told] == [(2, reached[1])]
    said = run(app, ["train", "status", str(folder)]).output
    assert "step 2 of 2, finished" in said
    assert "trial 1: learning_rate" in said
