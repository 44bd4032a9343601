"""`raydiar train …`: thin, and quick to import."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from raydiar.errors import ConfigError, RaydiarError

app = typer.Typer(help="Train and fine-tune networks on your own recordings.", no_args_is_help=True)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """End the command with status 1 and the message of an error that a user can mend."""
    try:
        yield
    except RaydiarError as error:
        typer.echo(f"raydiar: {error}", err=True)
        raise typer.Exit(1) from None


_Manifest = Annotated[
    str, typer.Argument(help="CSV, JSON Lines or Parquet with columns uri, rttm and perhaps uem.")
]
_Into = Annotated[str, typer.Option("--into", help="Folder or URI of the run, new or to go on.")]
_Validate = Annotated[
    str | None, typer.Option("--validate", help="Manifest of recordings to measure on.")
]
_Workers = Annotated[
    str | None,
    typer.Option(
        "--workers", help="Train on Ray: 4, or 2-8 (elastic). Without: in this process, no Ray."
    ),
]
_MaxSteps = Annotated[int | None, typer.Option("--max-steps", help="Steps of the optimizer.")]
_BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Windows a step, of all workers together.")
]
_Rate = Annotated[float | None, typer.Option("--learning-rate")]
_Duration = Annotated[float | None, typer.Option("--duration", help="Seconds of a window.")]
_Device = Annotated[str, typer.Option("--device", help="auto, cuda or cpu.")]
_Seed = Annotated[int | None, typer.Option("--seed")]
_Tune = Annotated[
    int | None,
    typer.Option(
        "--tune", min=1, help="Try so many values by Ray Tune, and keep the best; needs --validate."
    ),
]
_TuneOver = Annotated[
    list[str] | None,
    typer.Option(
        "--tune-over",
        help="What to try: learning_rate=1e-5:1e-3, margin=5:30, clustering.threshold=0.4:0.9 or "
        "batch_size=16,32; may be repeated. Learning rate (and margin) by default.",
    ),
]
_Rooms = Annotated[
    str | None, typer.Option("--rooms", help="Folder or glob of impulse responses to train in.")
]
_Noises = Annotated[
    str | None, typer.Option("--noises", help="Folder or glob of noises to train with.")
]
_Recipe = Annotated[
    str | None, typer.Option("--recipe", help="YAML file; what is given here beside it wins.")
]
_Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="As ema=0.999, freeze=[sincnet] or augmentation.mix=0.3; may be repeated."
    ),
]


@app.command()
def segmentation(
    manifest: _Manifest,
    into: _Into,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from", help="Weights to go on from, or `scratch`; segmentation-3.0 by default."
        ),
    ] = None,
    max_steps: _MaxSteps = None,
    validate: _Validate = None,
    workers: _Workers = None,
    batch_size: _BatchSize = None,
    learning_rate: _Rate = None,
    duration: _Duration = None,
    max_speakers: Annotated[
        int | None, typer.Option("--max-speakers", help="Of a window; estimated by default.")
    ] = None,
    balance: Annotated[
        list[str] | None,
        typer.Option("--balance", help="Column of the manifest to balance over; may be repeated."),
    ] = None,
    rooms: _Rooms = None,
    noises: _Noises = None,
    device: _Device = "auto",
    seed: _Seed = None,
    recipe: _Recipe = None,
    settings: _Set = None,
    tune: _Tune = None,
    tune_over: _TuneOver = None,
) -> None:
    """Train a network that tells who of a window's speakers is active, from labelled MANIFEST.

    Run again, it goes on from the newest checkpoint in the folder.
    """
    task = _given(duration=duration, max_speakers_per_chunk=max_speakers, balance=balance)
    _train(
        "segmentation",
        manifest,
        into,
        start_from,
        "segmentation-3.0",
        validate,
        workers,
        device,
        recipe,
        task,
        _given(rooms=rooms, noises=noises),
        _given(max_steps=max_steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed),
        settings,
        tune,
        tune_over,
    )


@app.command()
def embedding(
    manifest: _Manifest,
    into: _Into,
    start_from: Annotated[
        str | None,
        typer.Option("--from", help="Weights to go on from, or `scratch`; campplus by default."),
    ] = None,
    max_steps: _MaxSteps = None,
    validate: _Validate = None,
    workers: _Workers = None,
    batch_size: _BatchSize = None,
    learning_rate: _Rate = None,
    duration: _Duration = None,
    scope: Annotated[
        str | None,
        typer.Option(
            "--scope", help="Where a label is the same person: global (default), or file."
        ),
    ] = None,
    margin: Annotated[float | None, typer.Option("--margin", help="Degrees.")] = None,
    rooms: _Rooms = None,
    noises: _Noises = None,
    device: _Device = "auto",
    seed: _Seed = None,
    recipe: _Recipe = None,
    settings: _Set = None,
    tune: _Tune = None,
    tune_over: _TuneOver = None,
) -> None:
    """Train a network that tells voices apart, from MANIFEST whose labels name persons.

    Run again, it goes on from the newest checkpoint in the folder.
    """
    _train(
        "embedding",
        manifest,
        into,
        start_from,
        "campplus",
        validate,
        workers,
        device,
        recipe,
        _given(duration=duration, scope=scope, margin=margin),
        _given(rooms=rooms, noises=noises),
        _given(max_steps=max_steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed),
        settings,
        tune,
        tune_over,
    )


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Folder or URI of a run, or weights.")],
    into: Annotated[str, typer.Option("--into", help="Folder or file to write.")],
    form: Annotated[str, typer.Option("--format", help="raydiar, pyannote or onnx.")] = "raydiar",
) -> None:
    """Write the best network of RUN in a form that others load."""
    from raydiar.training.exporting import export as export_run

    with _told_in_one_line():
        path = export_run(run, form, into)
    typer.echo(f"written: {path}")


@app.command()
def check(
    manifest: _Manifest,
    classes: Annotated[
        list[str] | None, typer.Option("--label", help="A label that may occur; all by default.")
    ] = None,
    audio: Annotated[
        bool, typer.Option("--audio/--no-audio", help="Decode every recording, too.")
    ] = True,
) -> None:
    """Say what is wrong with MANIFEST, one line a problem; status 1 if anything is."""
    from raydiar.training.check import check_manifest

    number = 0
    with _told_in_one_line():
        for problem in check_manifest(manifest, classes=classes, audio=audio):
            typer.echo(problem)
            number += 1
    if number:
        typer.echo(f"{number} problems", err=True)
        raise typer.Exit(1)
    typer.echo("no problems found")


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="Folder or URI of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Tell how far RUN is, and how good."""
    from raydiar.training.folder import RunFolder
    from raydiar.training.tuning import trials_of

    with _told_in_one_line():
        trials = trials_of(run)
        folder = RunFolder(run)
        found = None if trials and not folder.folder.exists("run.json") else folder.status()
    if as_json:
        told = {**(found or {})}
        if trials:
            told["trials"] = [{"trial": one["trial"], **one["status"]} for one in trials]
        typer.echo(json.dumps(told, indent=2))
        return
    for one in trials if found is None else ():
        typer.echo(f"trial {one['trial']}: {_described(one['status']).splitlines()[0]}")
    if found is not None:
        typer.echo(_described(found))
        if trials:
            typer.echo(_trials(run))


def _described(found: dict[str, Any]) -> str:
    silent = found["silent_for"]
    state = "finished" if found["finished"] else f"last heard of {silent or 0:.0f} s ago"
    lines = [f"{found['task']}: step {found['step']} of {found['max_steps']}, {state}"]
    if (found["workers"] or 1) > 1:
        lines.append(f"{found['workers']} workers")
    if found["loss"] is not None:
        lines.append(
            f"loss {found['loss']:.4f}, {found['windows_per_second']:.1f} windows/s, "
            f"{100 * found['wait_share']:.0f} % of the time spent waiting for data"
        )
    for name in ("last_validation", "best_validation"):
        if row := found[name]:
            value = row[found["monitor"]]
            lines.append(
                f"{name.replace('_', ' ')}: {found['monitor'][4:]} {value:.4f} "
                f"at step {int(row['step'])}"
            )
    checkpoint = found["checkpoint"]
    lines.append(
        "no checkpoint yet" if checkpoint is None else f"newest checkpoint: step {checkpoint}"
    )
    return "\n".join(lines)


def _trials(folder: str) -> str:
    """A line for each trial, the best marked."""
    from raydiar.training.folder import TUNED, RunFolder

    tuned = RunFolder(folder).read_json(TUNED)
    lines = []
    for row in tuned["trials"]:
        values = {name: one for name, one in row.items() if name not in ("trial", "step")}
        told = ", ".join(
            f"{name.removeprefix('val_')} {value:.4g}"
            if isinstance(value, float)
            else f"{name} -"
            if value is None
            else f"{name} {value}"
            for name, value in values.items()
        )
        mark = "  <- best" if row["trial"] == tuned["best"] else ""
        lines.append(f"trial {row['trial']}: {told} after {row['step']} steps{mark}")
    return "\n".join(lines)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _train(
    kind,
    manifest,
    into,
    start_from,
    default,
    validate,
    workers,
    device,
    recipe,
    task,
    augmentation,
    training,
    settings,
    tune,
    tune_over,
) -> None:
    from raydiar.training.folder import RunFolder
    from raydiar.training.recipe import Recipe
    from raydiar.training.starting import start

    with _told_in_one_line():
        chosen = _settings(settings or [])
        strange = [
            n for n in chosen if "." in n and n.partition(".")[0] not in ("task", "augmentation")
        ]
        if strange:
            raise ConfigError(f"--set {strange[0]}: parts are `task` and `augmentation`")
        training |= {name: value for name, value in chosen.items() if "." not in name}
        task |= _of("task", chosen)
        augmentation |= _of("augmentation", chosen)
        overrides: dict[str, Any] = {"kind": kind, "manifest": manifest}
        overrides |= _given(validate=validate)
        if start_from is not None:
            overrides["pretrained"] = None if start_from == "scratch" else start_from
        if recipe is not None:
            made = Recipe.read(recipe, training=training, **overrides)
            made = Recipe.from_mapping(
                {
                    **vars(made),
                    "task": {**made.task, **task},
                    "augmentation": {**made.augmentation, **augmentation},
                }
            )
        else:
            overrides.setdefault("pretrained", default)
            if overrides["pretrained"] is not None:
                # what has learnt already is changed with care
                training.setdefault("learning_rate", 1e-4)
            made = Recipe.from_mapping(
                {**overrides, "task": task, "augmentation": augmentation, "training": training}
            )
        begun = time.monotonic()
        if tune_over and tune is None:
            raise ConfigError("--tune-over says what to try: say how often by --tune")
        found = start(
            made,
            into,
            workers=_workers(workers),
            device=device,
            trials=tune,
            tune_over=tune_over or (),
        )
    typer.echo(_described(found))
    if tune is not None:
        typer.echo(_trials(into))
    typer.echo(f"took {time.monotonic() - begun:.0f} s")
    if RunFolder(into).folder.exists("best.safetensors"):
        typer.echo(f"use it: raydiar train export {into} --into {kind}-model")


def _settings(settings: list[str]) -> dict[str, Any]:
    """From `ema=0.999` to values by their names."""
    import yaml

    chosen = {}
    for setting in settings:
        name, separator, text = (part.strip() for part in setting.partition("="))
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            separator = ""
        if not separator or not name:
            raise ConfigError(f"--set takes name=value, not {setting!r}")
        if isinstance(value, str):
            with suppress(ValueError):
                value = float(value)  # 1e-3, which is text to YAML
        chosen[name] = value
    return chosen


def _of(group: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of one part of a recipe, as `task.max_speakers_per_chunk`, without its name."""
    return {
        name.partition(".")[2]: value
        for name, value in settings.items()
        if name.partition(".")[0] == group and "." in name
    }


def _workers(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if match is None or int(match[1]) < 1 or (match[2] and int(match[2]) < int(match[1])):
        raise ConfigError(f"--workers is a number from 1, or a range such as 2-8, not {text!r}")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])


def main(kind: str, arguments: list[str]) -> None:
    """What `jobs/train_*.py` run: a command, on Ray unless told otherwise."""
    import typer.main

    arguments = [
        part
        for one in arguments
        for part in (one.split("=", 1) if one.startswith("--manifest=") else [one])
    ]
    if "--manifest" in arguments:
        at = arguments.index("--manifest")
        arguments = [*arguments[at + 1 : at + 2], *arguments[:at], *arguments[at + 2 :]]
    if not any(one == "--workers" or one.startswith("--workers=") for one in arguments):
        arguments = [*arguments, "--workers", "1"]
    typer.main.get_command(app)([kind, *arguments])
