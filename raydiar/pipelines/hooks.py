"""Hooks: what may look on while a pipeline works.

A hook is any callable `hook(step, artifact, file=…, total=…, completed=…)`, called with counts
while a step works and with its artifact once it is done. `file` is a mapping of the recording,
and what is written to it is found in the mapping that the caller gave. A hook whose
`needs_artifacts` is False is called without artifacts, which then need not be made.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, MutableMapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from raydiar.keywords import check_hook


class ProgressHook:
    """Bars on a terminal: context manager to pass as `hook=`; one bar a step.

    Parameters
    ----------
    transient : bool
        Clear the bars at the end.
    hidden : bool
        Show none, e.g. where output is no terminal.
    """

    needs_artifacts = False

    def __init__(self, transient: bool = False, hidden: bool = False):
        self.transient = transient
        self.hidden = hidden

    def __enter__(self) -> ProgressHook:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),  # standard output may be the RTTM itself
            transient=self.transient,
            disable=self.hidden,
        )
        self._tasks: dict[tuple, TaskID] = {}
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()

    def __call__(self, step, artifact=None, file=None, total=None, completed=None) -> None:
        uri = file.get("uri") if isinstance(file, Mapping) else None
        if (uri, step) not in self._tasks:
            label = f"{uri}: {step}" if uri else step
            self._tasks[uri, step] = self._progress.add_task(label, total=total or 1)
        task = self._tasks[uri, step]
        if completed is None:
            total = completed = self._progress.tasks[task].total
        self._progress.update(task, total=total, completed=min(completed, total))


class ArtifactHook:
    """Keep what steps make, in the mapping of each recording.

    Parameters
    ----------
    *artifacts : str
        Steps to keep; all by default.
    file_key : str
        Where: `file["artifact"]["segmentation"]`.
    """

    def __init__(self, *artifacts: str, file_key: str = "artifact"):
        self.artifacts = artifacts
        self.file_key = file_key

    def __enter__(self) -> ArtifactHook:
        return self

    def __exit__(self, *exception) -> None:
        pass

    def __call__(self, step, artifact=None, file=None, total=None, completed=None) -> None:
        wanted = not self.artifacts or step in self.artifacts
        if artifact is None or not wanted or not isinstance(file, MutableMapping):
            return
        kept = dict(file.get(self.file_key) or {})
        kept[step] = copy.deepcopy(artifact)
        file[self.file_key] = kept


class TimingHook:
    """Measure how long each step takes, in seconds, into the mapping of each recording.

    Steps of recordings in a list overlap, and so do segmentation and embedding: each is timed from
    its first report to its last. Steps that report no counts are not timed.

    Parameters
    ----------
    file_key : str
        Where: `file["timing"]["segmentation"]`, and "total".
    """

    needs_artifacts = False

    def __init__(self, file_key: str = "timing"):
        self.file_key = file_key

    def __enter__(self) -> TimingHook:
        self._began = time.monotonic()
        self._files: dict[int, tuple[MutableMapping, dict[str, list[float]]]] = {}
        return self

    def __exit__(self, *exception) -> None:
        total = time.monotonic() - self._began
        for file, steps in self._files.values():
            took = {step: last - first for step, (first, last) in steps.items()}
            file[self.file_key] = {"total": total, **took}

    def __call__(self, step, artifact=None, file=None, total=None, completed=None) -> None:
        if completed is None or total is None or not isinstance(file, MutableMapping):
            return
        now = time.monotonic()
        _, steps = self._files.setdefault(id(file), (file, {}))
        steps.setdefault(step, [now, now])[1] = now


class Hooks:
    """Several hooks as one."""

    def __init__(self, *hooks):
        for hook in hooks:
            check_hook(hook)
        self.hooks = hooks

    @property
    def needs_artifacts(self) -> bool:
        return any(getattr(hook, "needs_artifacts", True) for hook in self.hooks)

    def __enter__(self) -> Hooks:
        for hook in self.hooks:
            if hasattr(hook, "__enter__"):
                hook.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        for hook in reversed(self.hooks):
            if hasattr(hook, "__exit__"):
                hook.__exit__(*exception)

    def __call__(self, step, artifact=None, file=None, total=None, completed=None) -> None:
        for hook in self.hooks:
            hook(step, artifact, file=file, total=total, completed=completed)
