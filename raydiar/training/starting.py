"""Start a recipe, or go on with it: in this process, or on Ray's workers."""

from __future__ import annotations

import os
import uuid
from typing import Any

from raydiar.storage.folder import Folder
from raydiar.storage.lock import OutputLock
from raydiar.training.folder import RunFolder
from raydiar.training.recipe import Recipe, prepare


def start(
    recipe: Recipe,
    folder: str | os.PathLike,
    *,
    workers: int | tuple[int, int] | None = None,
    device: str = "auto",
    quiet: bool = False,
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
    folder = os.fspath(folder)
    with OutputLock(Folder(folder), uuid.uuid4().hex):
        prepare(recipe, folder)
        if workers is None:
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
            )
        else:
            from raydiar.training.ray import train_on_ray

            train_on_ray(recipe, folder, workers=workers, device=device, **ray_options)
        return RunFolder(folder).status()
