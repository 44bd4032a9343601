"""ProgressHook: bars on a terminal while a pipeline works."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressHook:
    """Context manager to pass as `hook=`; one bar a step.

    A hook is any callable `hook(step, artifact, file=…, total=…, completed=…)`, called with counts
    while a step works and with its artifact once it is done.

    Parameters
    ----------
    transient : bool
        Clear the bars at the end.
    """

    def __init__(self, transient: bool = False):
        self.transient = transient

    def __enter__(self) -> ProgressHook:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True),  # standard output may be the RTTM itself
            transient=self.transient,
        )
        self._tasks: dict[tuple, TaskID] = {}
        self._progress.start()
        return self

    def __exit__(self, *exception) -> None:
        self._progress.stop()

    def __call__(self, step, artifact=None, file=None, total=None, completed=None) -> None:
        uri = file.get("uri") if isinstance(file, dict) else None
        if (uri, step) not in self._tasks:
            label = f"{uri}: {step}" if uri else step
            self._tasks[uri, step] = self._progress.add_task(label, total=total or 1)
        task = self._tasks[uri, step]
        if completed is None:
            total = completed = self._progress.tasks[task].total
        self._progress.update(task, total=total, completed=min(completed, total))
