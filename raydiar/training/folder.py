"""The folder of a run: what it is, how far it is, what it has learnt.

    run.json                    configuration, network, data; written once
    workers.json                how many there are, and from which step on
    log.csv, validation.csv     a row every few steps, a row a validation
    checkpoints/step-*.ckpt     Lightning's, to go on from
    best.safetensors            the best network so far, or the last where nothing is validated

Local or on any storage; every file appears whole. The folder is all that a run needs to go on,
in one process or under Ray, with as many workers as before or not.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydiar.errors import TrainingError
from raydiar.storage.folder import Folder
from raydiar.storage.lock import check_lock

_CHECKPOINT = re.compile(r"step-(\d{9})\.ckpt")
BEST = "best.safetensors"
TUNED = "tuned.json"
# what may change between the parts of one run
_MAY_CHANGE = {"max_steps", "checkpoint_every", "validate_every", "log_every", "keep"}
_MAY_CHANGE |= {"num_threads", "patience"}


@dataclass(frozen=True)
class RunFolder:
    """Folder of a training run, by path or URI.

    Attributes
    ----------
    uri : str
    holder : str or None
        What the folder's lock must name for anything to be written.
    """

    uri: str
    holder: str | None = None

    @property
    def folder(self) -> Folder:
        return Folder(self.uri)

    def publish(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises
        ------
        OutputError
            If another run has taken the folder over.
        """
        if self.holder is not None:
            check_lock(self.folder, self.holder)
        self.folder.publish(name, data)

    # -- what it is ----------------------------------------------------------------------------

    def begin(self, about: dict[str, Any]) -> None:
        """Write what the run is, or check that the run in the folder is the same.

        Raises
        ------
        TrainingError
            Naming what differs.
        """
        known = self.read_json("run.json")
        if known is None:
            self.publish("run.json", json.dumps(about, indent=2).encode())
            return
        about = json.loads(json.dumps(about))
        before, now = dict(known["config"]), dict(about["config"])
        changed = {
            name: (before.get(name), now.get(name))
            for name in before.keys() | now.keys()
            if name not in _MAY_CHANGE and before.get(name) != now.get(name)
        }
        for name in ("task", "network", "data"):
            if known.get(name) != about.get(name):
                changed[name] = (known.get(name), about.get(name))
        if changed:
            listed = "; ".join(f"{n} was {a!r}, now {b!r}" for n, (a, b) in changed.items())
            raise TrainingError(
                f"{self.uri} holds another run ({listed}): take another folder, or the same options"
            )
        self.publish("run.json", json.dumps({**known, **about}, indent=2).encode())

    def read_json(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads(self.folder.read(name))
        except FileNotFoundError:
            return None

    # -- how far it is -------------------------------------------------------------------------

    def checkpoints(self) -> dict[int, str]:
        """Names of the checkpoints by their step, in order."""
        found = {}
        for name in self.folder.list("checkpoints"):
            if match := _CHECKPOINT.fullmatch(name):
                found[int(match[1])] = f"checkpoints/{name}"
        return dict(sorted(found.items()))

    def newest(self, into: str | Path) -> tuple[int, Path] | None:
        """Bring the newest checkpoint to a local folder: its step and path."""
        found = self.checkpoints()
        if not found:
            return None
        step, name = list(found.items())[-1]
        path = Path(into) / f"step-{step}.ckpt"
        path.write_bytes(self.folder.read(name))
        return step, path

    def publish_checkpoint(self, step: int, path: str | Path, keep: int) -> None:
        self.publish(f"checkpoints/step-{step:09d}.ckpt", Path(path).read_bytes())
        for name in list(self.checkpoints().values())[:-keep]:
            self.folder.fs.rm_file(self.folder.path(name))

    def rows(self, name: str) -> list[dict[str, float]]:
        """Rows of `log` or `validation`, each with its `step`."""
        try:
            text = self.folder.read(f"{name}.csv").decode()
        except FileNotFoundError:
            return []
        return [
            {key: float(value) for key, value in row.items() if value not in ("", None)}
            for row in csv.DictReader(io.StringIO(text))
        ]

    def publish_rows(self, name: str, rows: list[dict[str, float]]) -> None:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        sink = io.StringIO()
        writer = csv.DictWriter(sink, columns)
        writer.writeheader()
        writer.writerows(rows)
        self.publish(f"{name}.csv", sink.getvalue().encode())

    def publish_best(self, data: bytes) -> None:
        self.publish(BEST, data)

    def publish_workers(self, number: int, first_step: int) -> None:
        """Tell how many workers there are from a step on."""
        told = {"workers": number, "first_step": first_step, "since": time.time()}
        self.publish("workers.json", json.dumps(told).encode())

    def status(self) -> dict[str, Any]:
        """How far the run is.

        Raises
        ------
        TrainingError
            If there is none.
        """
        about = self.read_json("run.json")
        if about is None:
            raise TrainingError(f"there is no training run at {self.uri}")
        log, validation = self.rows("log"), self.rows("validation")
        checkpoints = self.checkpoints()
        last = log[-1] if log else {}
        monitor, mode = about["monitor"], about["mode"]
        measured = [row for row in validation if monitor in row]
        best = (min if mode == "min" else max)(measured, key=lambda row: row[monitor], default=None)
        step = int(last.get("step", max(checkpoints, default=0)))
        return {
            "folder": self.uri,
            "task": about["task"],
            "step": step,
            "max_steps": about["config"]["max_steps"],
            "workers": (self.read_json("workers.json") or {}).get("workers"),
            "finished": bool((self.read_json("end.json") or {}).get("finished")),
            "loss": last.get("loss"),
            "windows_per_second": last.get("windows_per_second"),
            "wait_share": last.get("wait_share"),
            "updated": last.get("time"),
            "silent_for": time.time() - last["time"] if "time" in last else None,
            "checkpoint": max(checkpoints, default=None),
            "monitor": monitor,
            "last_validation": measured[-1] if measured else None,
            "best_validation": best,
        }


def temporary_folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="raydiar-train-")
