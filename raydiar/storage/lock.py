"""One writer per output: a lock that its holder renews, and that silence gives away.

Write tasks outlive the driver that started them, so holding the lock is not enough: each of them
checks, before it publishes, that the lock still names its run.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time

from raydiar.errors import OutputError
from raydiar.storage.folder import PRIVATE, Folder

SILENCE = 300.0  # s

_NAME = f"{PRIVATE}/lock"


def check_lock(output: Folder, run: str) -> None:
    """Raise unless the lock of an output names this run.

    Raises
    ------
    OutputError
        If another run has taken the output over, or the lock was removed.
    """
    holder = _holder(output)
    if holder.get("run") != run:
        raise OutputError(
            f"run {run} no longer holds the lock of {output.uri} "
            f"(now: {holder.get('run', 'nobody')}), so it stops writing there"
        )


def living_holder(output: Folder) -> str | None:
    """The run that holds the lock of an output; None if there is none, or it is dead or silent."""
    holder = _holder(output)
    silent = time.time() - holder.get("renewed", 0.0) >= SILENCE
    return None if silent or _is_dead(holder) else holder.get("run")


class OutputLock:
    """The lock of an output, held inside a `with` block.

    Parameters
    ----------
    output : Folder
    run : str
    silence : float, s
        A lock not renewed for so long is anyone's. One whose process is known to be dead (same
        machine, same boot) is so at once.

    Raises
    ------
    OutputError
        On entering, if another run holds the lock.
    """

    def __init__(self, output: Folder, run: str, silence: float = SILENCE):
        self.output, self.run, self.silence = output, run, silence
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="output-lock", daemon=True)

    def __enter__(self) -> OutputLock:
        try:
            self.output.create(_NAME, self._content())
        except FileExistsError:
            holder = _holder(self.output)
            # It is ours if the answer to creating it was lost, and the client tried again.
            if holder.get("run") != self.run:
                self._take_over(holder)
        self._renewer.start()
        return self

    def __exit__(self, *_) -> None:
        self._released.set()
        self._renewer.join()
        if _holder(self.output).get("run") == self.run:
            self.output.delete(_NAME)

    def _take_over(self, holder: dict) -> None:
        quiet = time.time() - holder.get("renewed", 0.0)
        if quiet < self.silence and not _is_dead(holder):
            raise OutputError(
                f"{self.output.uri} is being written by run {holder.get('run')} on "
                f"{holder.get('host')} (process {holder.get('process')}, last heard of "
                f"{quiet:.0f} s ago). Let it finish; if it is dead, its lock falls free after "
                f"{self.silence:.0f} s of silence."
            )
        self.output.publish(_NAME, self._content())
        # of several runs that find the lock silent, the one that wrote last keeps it
        time.sleep(0.2 if self.output.is_local else 2.0)
        check_lock(self.output, self.run)

    def _renew(self) -> None:
        while not self._released.wait(self.silence / 10):
            try:
                if _holder(self.output).get("run") != self.run:
                    return  # write tasks notice by themselves
                self.output.publish(_NAME, self._content())
            except OSError:
                continue  # a moment's failure: there are nine more attempts before silence

    def _content(self) -> bytes:
        holder = {
            "run": self.run,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "machine": _machine(),
            "renewed": time.time(),
        }
        return json.dumps(holder).encode()


def _holder(output: Folder) -> dict:
    try:
        return json.loads(output.read(_NAME))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError:
        # created, and not yet written: its holder is alive
        return {"run": "that is just starting", "renewed": time.time()}


def _machine() -> str | None:
    """What process ids are unique in: one boot of one machine, and one container of it."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _is_dead(holder: dict) -> bool:
    if _machine() is None or holder.get("machine") != _machine():
        return False
    try:
        os.kill(holder["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
