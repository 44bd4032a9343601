"""`run.json`: what the latest run on an output is doing or did, for whoever asks.

Every run also leaves a record of its own. They are rewritten while the run works, so that one that
was killed leaves numbers at most half a minute old.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version

from raydiar import __version__
from raydiar.corpus.watch.progress import RunSummary
from raydiar.storage.folder import PRIVATE, Folder
from raydiar.storage.lock import holder_of

RUN_FILE = f"{PRIVATE}/run.json"
RUNS = f"{PRIVATE}/runs"


def versions() -> dict[str, str]:
    """Versions that a record names, without importing what they are of."""
    found = {"raydiar": __version__, "python": platform.python_version()}
    return found | {name: version(name) for name in ("ray", "torch")}


def write_record(output: Folder, summary: RunSummary, pipeline: dict | None) -> None:
    """Publish the record of a run, and as the latest one unless another run has taken over."""
    record = json.dumps(summary.record() | {"pipeline": pipeline}, indent=2).encode()
    output.publish(f"{RUNS}/{summary.run}.json", record)
    # a run that slept so long that its lock was taken must not speak for the new one
    if holder_of(output) in (summary.run, None):
        output.publish(RUN_FILE, record)


def read_record(output: Folder) -> dict | None:
    """The record of the latest run on an output; None before the first."""
    try:
        return json.loads(output.read(RUN_FILE))
    except FileNotFoundError:
        return None
