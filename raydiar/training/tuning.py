"""Trials of a recipe: what is searched, one trial, and which was best. Ray Tune runs them.

The values of trial n are drawn from the seed and n. Each trial is a run in a folder of its own, so
a search that was killed goes on when it is started again, and more trials can be asked for later.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from raydiar.errors import ConfigError, TrainingError
from raydiar.training.config import TrainingConfig
from raydiar.training.folder import BEST, TUNED, RunFolder
from raydiar.training.recipe import Recipe

_TRAINING = {one.name for one in fields(TrainingConfig)}
_LOG = {"learning_rate", "weight_decay"}
_STOPPED = "stopped.json"
_SCORED = "pipeline.json"
PIPELINE_ERROR = "val_pipeline_der"


@dataclass(frozen=True)
class Range:
    """What a value is drawn from.

    Attributes
    ----------
    name : str
        Of a field of `TrainingConfig`, of a parameter of the task (`margin`), or of the pipeline
        (`clustering.threshold`).
    low, high : float
    choices : tuple
        In place of `low` and `high`.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    choices: tuple = ()

    def draw(self, rng: np.random.Generator) -> Any:
        at = rng.random()
        if self.choices:
            return self.choices[min(int(at * len(self.choices)), len(self.choices) - 1)]
        if self.name in _LOG:
            return float(self.low * (self.high / self.low) ** at)
        value = self.low + at * (self.high - self.low)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return min(self.high, self.low + int(at * (self.high - self.low + 1)))
        return float(value)


def parse_range(text: str) -> Range:
    """What `--tune-over` takes: `learning_rate=1e-5:1e-3`, or `batch_size=16,32`.

    Raises
    ------
    ConfigError
    """
    import yaml

    name, separator, values = (part.strip() for part in text.partition("="))
    found = [_number(yaml.safe_load(value)) for value in re.split("[:,]", values) if value.strip()]
    if not separator or not name or not found:
        raise ConfigError(f"--tune-over takes name=low:high, or name=a,b,c, not {text!r}")
    if ":" not in values:
        return Range(name, choices=tuple(found))
    if len(found) != 2 or not all(isinstance(one, int | float) for one in found):
        raise ConfigError(f"{name} is drawn between two numbers, not from {values!r}")
    low, high = found
    if low > high or (name in _LOG and low <= 0):
        raise ConfigError(f"{name} is drawn from a range such as 1e-5:1e-3, not {values!r}")
    return Range(name, low, high)


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value  # 1e-3 is text to YAML
    except ValueError:
        return value


def default_space(recipe: Recipe) -> list[Range]:
    """Learning rates up to ten times lower or higher; and the margin, of embeddings."""
    rate = recipe.training.learning_rate
    space = [Range("learning_rate", rate / 10, rate * 10)]
    if recipe.kind == "embedding":
        space.append(Range("margin", 5.0, 30.0))
    return space


def drawn(space: Sequence[Range], seed: int, trial: int) -> dict[str, Any]:
    """Values of a trial, the same whatever else is drawn."""
    rng = np.random.default_rng([seed, trial, 31])
    return {one.name: one.draw(rng) for one in space}


def with_values(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial; parameters of the pipeline are no part of it."""
    training = {name: value for name, value in values.items() if name in _TRAINING}
    task = {n: value for n, value in values.items() if n not in _TRAINING and "." not in n}
    changed = replace(recipe, task={**recipe.task, **task})
    return changed.with_training(**training)


def pipeline_parameters(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of a pipeline among the values, as pyannote nests them."""
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        group, separator, parameter = name.partition(".")
        if separator:
            nested.setdefault(group, {})[parameter] = value
    return nested


def trial_folder(folder: str, trial: int) -> str:
    return f"{folder.rstrip('/')}/trials/{trial:04d}"


def run_trial(
    recipe: Recipe,
    folder: str,
    trial: int,
    values: Mapping[str, Any],
    report: Callable[[int, dict[str, float]], None],
    device: str = "cpu",
) -> None:
    """Train one trial in its folder, or go on with it; and score its pipeline if that is asked.

    Parameters
    ----------
    recipe : Recipe
    folder : str
        Of the search, in which the indices lie.
    values : mapping
        Of `drawn`.
    report : callable
        Takes a step and its numbers.
    """
    from raydiar.training.run import train

    where, parameters = trial_folder(folder, trial), pipeline_parameters(values)
    run = RunFolder(where)
    scored = run.read_json(_SCORED) or {"parameters": {}}
    if run.folder.exists(_STOPPED) or (_is_finished(run) and scored["parameters"] == parameters):
        status = run.status()
        report(status["step"], (status["best_validation"] or {}) | scored.get("numbers", {}))
        return
    chosen = with_values(recipe, values)
    model = chosen.model()
    task = chosen.open_task(folder, model)
    outcome = train(
        model,
        task,
        where,
        chosen.training,
        device=device,
        on_step=report,
        quiet=True,
        about=chosen.about(),
    )
    numbers = dict(outcome.best or {})
    if parameters:
        from raydiar.training.recipe import open_index

        found = pipeline_error(model, parameters, open_index(folder, "validation"))
        told = {"parameters": parameters, "numbers": {PIPELINE_ERROR: found}}
        run.publish(_SCORED, json.dumps(told).encode())
        numbers |= told["numbers"]
    report(outcome.steps, numbers)


def give_up(folder: str, trial: int) -> None:
    """Note that a trial was stopped before its end, so that nobody goes on with it."""
    run = RunFolder(trial_folder(folder, trial))
    if run.folder.exists("run.json") and not _is_finished(run):
        run.publish(_STOPPED, b"{}")


def _is_finished(run: RunFolder) -> bool:
    return bool((run.read_json("end.json") or {}).get("finished"))


def pipeline_error(model, parameters: Mapping[str, Any], index) -> float:
    """Diarization error rate of a pipeline with this network, over all recordings of an index."""
    from raydiar.diarization import Turn
    from raydiar.evaluation.diarization import diarization_errors, total_errors
    from raydiar.pipelines import Pipeline
    from raydiar.training.exporting import write_folder
    from raydiar.training.shards import opened

    recordings, starts, durations = index.regions
    errors = []
    with tempfile.TemporaryDirectory(prefix="raydiar-pipeline-") as scratch:
        pipeline = Pipeline.from_pretrained(write_folder(model, Path(scratch), parameters))
        for recording in range(len(index)):
            with opened(index.uri(recording), index.place(recording)) as source:
                found = pipeline(source)
            turns = [
                Turn(float(start), float(end), str(speaker))
                for start, end, speaker in zip(*index.turns(recording), strict=True)
            ]
            mine = recordings == recording
            regions = [
                (float(a), float(a + b)) for a, b in zip(starts[mine], durations[mine], strict=True)
            ]
            errors.append(diarization_errors(turns, found.turns, regions))
    return total_errors(errors).diarization_error_rate


# -- which was best ----------------------------------------------------------------------------


def trials_of(folder: str) -> list[dict[str, Any]]:
    """How far every trial in a folder is, in order; [] if none is there."""
    root = RunFolder(folder).folder
    found = []
    for name in root.folders("trials"):
        run = RunFolder(f"{folder.rstrip('/')}/trials/{name}")
        try:
            status = run.status()
        except TrainingError:
            continue  # it has only begun
        best = status["best_validation"] or {}
        best = best | (run.read_json(_SCORED) or {}).get("numbers", {})
        found.append({"trial": int(name), "run": run, "status": status, "numbers": best})
    return found


def choose(folder: str, space: Sequence[Range], seed: int) -> dict[str, Any]:
    """Take the best trial's network for the folder's own, and keep what all trials reached.

    Raises
    ------
    TrainingError
        If no trial has been validated.
    """
    trials = trials_of(folder)
    by_pipeline = any("." in one.name for one in space)
    monitor, mode = PIPELINE_ERROR, "min"
    if not by_pipeline and trials:
        about = trials[0]["run"].read_json("run.json")
        monitor, mode = about["monitor"], about["mode"]
    measured = [one for one in trials if monitor in one["numbers"]]
    if not measured:
        raise TrainingError(f"no trial in {folder} came as far as a validation")
    best = (min if mode == "min" else max)(measured, key=lambda one: one["numbers"][monitor])
    told = {
        "monitor": monitor,
        "best": best["trial"],
        "trials": [
            {
                "trial": one["trial"],
                **drawn(space, seed, one["trial"]),
                "step": one["status"]["step"],
                monitor: one["numbers"].get(monitor),
            }
            for one in trials
        ],
    }
    told["parameters"] = pipeline_parameters(drawn(space, seed, best["trial"]))
    target, source = RunFolder(folder), best["run"]
    for name in ("log.csv", "validation.csv", "end.json", "run.json", BEST):
        if source.folder.exists(name):
            target.publish(name, source.folder.read(name))
    target.publish(TUNED, json.dumps(told, indent=2).encode())
    return told
