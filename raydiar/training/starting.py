"""Start a recipe, or go on with it: in this process, or on Ray's workers."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Sequence
from typing import Any

from raydiar.errors import ConfigError
from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock
from raydiar.training.folder import RunFolder
from raydiar.training.recipe import Recipe, prepare
from raydiar.training.tuning import choose, default_space, parse_range


def start(
    recipe: Recipe,
    folder: str | os.PathLike,
    *,
    workers: int | tuple[int, int] | None = None,
    device: str = "auto",
    quiet: bool = False,
    trials: int | None = None,
    tune_over: Sequence[str] = (),
    **ray_options: Any,
) -> dict[str, Any]:
    """Train until it is done, from the newest checkpoint in the folder if there is one.

    Parameters
    ----------
    recipe : Recipe
    folder : str or path
        Of the run: local, or for workers on several machines any storage that all of them reach.
    workers : int or (int, int), optional
        On Ray: so many, or elastic between two numbers. Without, in this process.
    device : str
        "auto", "cuda" or "cpu".
    quiet : bool
    trials : int, optional
        So many runs with other values, by Ray Tune; the folder then holds the best of them.
    tune_over : sequence of str
        What is drawn for each, see `raydiar.training.tuning.parse_range`.
    **ray_options
        Of `raydiar.training.ray.train_on_ray`.

    Returns
    -------
    status : dict
        Of `RunFolder.status`.

    Raises
    ------
    OutputError
        If another process trains in this folder.
    TrainingError, ManifestError, ConfigError, WeightsNotFound, CheckpointError
    """
    if trials is not None and recipe.validate is None:
        raise ConfigError(
            "trials are compared on recordings that none learnt from: give --validate"
        )
    if workers is not None or trials is not None:
        from raydiar.corpus.job.bookkeeping import check_paths

        check_paths(into=folder, manifest=recipe.manifest, validate=recipe.validate)
    space = [parse_range(text) for text in tune_over] or default_space(recipe)
    folder, holder = os.fspath(folder), uuid.uuid4().hex
    with OutputLock(Folder(folder), holder, say=_say):
        prepare(recipe, folder)
        if trials is not None:
            from raydiar.training.ray import tune_on_ray

            tune_on_ray(recipe, folder, trials, space, device=device)
            choose(folder, space, recipe.training.seed)
        elif workers is None:
            from raydiar.training.run import train

            model = recipe.model()
            task = recipe.open_task(folder, model)
            train(
                model,
                task,
                folder,
                recipe.training,
                device=device,
                quiet=quiet,
                about=recipe.about(),
                holder=holder,
            )
        else:
            from raydiar.training.ray import train_on_ray

            train_on_ray(
                recipe, folder, workers=workers, device=device, holder=holder, **ray_options
            )
        return RunFolder(folder).status()


def _say(line: str) -> None:
    print(f"raydiar: {line}", file=sys.stderr, flush=True)
