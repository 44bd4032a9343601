"""One writer per output: a lock that its holder renews, and that silence gives away.

Whether a lock is silent is told by one clock only, that of whoever waits for it: it looks at the
lock again and again, and takes it over, by compare-and-swap, when it has not changed for as long
as its holder promised to renew it. Two machines' clocks are never compared. Write tasks outlive
the driver that started them, so holding the lock is not enough: each of them checks, before it
publishes, that the lock still names its run.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from raydiar.errors import OutputError
from raydiar.storage.folder import PRIVATE, Folder, FolderConflict, usable

SILENCE = 300.0  # s

_NAME = f"{PRIVATE}/lock"
_RENEWALS = 10  # in the time of silence that gives a lock away
_FREE = b"{}"  # left by a holder that ended, where a file cannot be deleted on a condition


def check_lock(output: Folder, run: str) -> None:
    """Raise unless the lock of an output names this run.

    Raises
    ------
    OutputError
        If another run has taken the output over, or the lock was removed.
    """
    now = holder_of(output)
    if now != run:
        raise OutputError(
            f"run {run} no longer holds the lock of {output.uri} (now: {now or 'nobody'}), "
            "so it stops writing there"
        )


def holder_of(output: Folder) -> str | None:
    """The run that the lock of an output names, be it alive or not; None if there is none."""
    try:
        return _parsed(output.read(_NAME)).get("run")
    except FileNotFoundError:
        return None


def living_holder(output: Folder) -> str | None:
    """The run that holds the lock of an output; None if there is none, or it is dead or silent."""
    try:
        holder = _parsed(output.read(_NAME))
        if not holder or _is_dead(holder):
            return None
        quiet = _quiet(holder)
        if quiet is None:
            quiet = output.age(_NAME)
    except FileNotFoundError:
        return None
    return None if quiet >= _silence(holder, SILENCE) else holder.get("run")


class OutputLock:
    """The lock of an output, held inside a `with` block.

    Parameters
    ----------
    output : Folder
    run : str
    silence : float, s, optional
        A lock not renewed for so long is anyone's. One whose process is known to be dead (same
        machine, same boot) is so at once.
    say : callable, optional
        Takes a line that says what is waited for.

    Raises
    ------
    OutputError
        On entering, if another run holds the lock and was seen to renew it, which takes a tenth
        of the time of silence, or if the output cannot be used.
    """

    def __init__(
        self,
        output: Folder,
        run: str,
        silence: float | None = None,
        say: Callable[[str], None] | None = None,
    ):
        self.output, self.run, self.say = output, run, say
        self.silence = SILENCE if silence is None else silence
        self._renewals = 0
        self._released = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="output-lock", daemon=True)

    def __enter__(self) -> OutputLock:
        with usable(self.output):
            self._acquire()
        self._renewer.start()
        return self

    def __exit__(self, kind, *_) -> None:
        self._released.set()
        self._renewer.join()
        try:
            with usable(self.output):
                self._release()
        except Exception:
            if kind is None:  # what ended the run is worth more than this
                raise

    def _acquire(self) -> None:
        seen, since = None, 0.0
        while True:
            content, version = self.output.read_version(_NAME)
            if content is None:
                with suppress(FileExistsError):
                    self.output.create(_NAME, self._content())
                    return
                continue
            holder = _parsed(content)
            # ours: the answer to writing it was lost, and the client tried again
            if holder.get("run") == self.run:
                return
            now = time.monotonic()
            if seen is None:
                seen, since = version, now - (_quiet(holder) or 0.0)
                if _is_running(holder):
                    self._refuse(holder)
            elif version != seen and content != _FREE:
                self._refuse(holder)  # it was seen to renew it, or another was quicker
            silence = _silence(holder, self.silence)
            if content == _FREE or _is_dead(holder) or now - since >= silence:
                try:
                    self.output.replace(_NAME, self._content(), version)
                    return
                except FolderConflict:
                    continue
            self._tell(holder, silence - (now - since))
            time.sleep(min(5.0, silence / 20))

    def _tell(self, holder: dict, seconds: float) -> None:
        if self.say is not None:
            self.say(
                f"{self.output.uri} is locked by {_named(holder)}. If that is dead, its lock "
                f"falls free in {seconds:.0f} s, for which this run waits."
            )
            self.say = None

    def _refuse(self, holder: dict) -> None:
        raise OutputError(
            f"{self.output.uri} is being written by {_named(holder)}, which is alive. Let it "
            f"finish, or end it; a lock falls free after {_silence(holder, self.silence):.0f} s "
            "without a sign of its holder."
        )

    def _release(self) -> None:
        content, version = self.output.read_version(_NAME)
        if content is None or _parsed(content).get("run") != self.run:
            return
        # on a condition: whoever slept just here must not take the next holder's lock away
        with suppress(FolderConflict):
            if self.output.is_local:
                self.output.remove(_NAME, version)
            else:
                self.output.replace(_NAME, _FREE, version)

    def _renew(self) -> None:
        while not self._released.wait(self.silence / _RENEWALS):
            # Whatever it is, it may pass: storage clients raise much that is no OSError, and
            # there are nine more attempts before silence.
            with suppress(Exception):
                content, version = self.output.read_version(_NAME)
                if content is None or _parsed(content).get("run") != self.run:
                    return  # write tasks notice by themselves
                self.output.replace(_NAME, self._content(), version)

    def _content(self) -> bytes:
        self._renewals += 1
        holder = {
            "run": self.run,
            "host": socket.gethostname(),
            "process": os.getpid(),
            "started": _process_status(os.getpid())[1],
            "machine": _machine(),
            "monotonic": time.monotonic(),  # means something on the same machine only
            "silence": self.silence,
            "renewals": self._renewals,
        }
        return json.dumps(holder).encode()


def _parsed(content: bytes) -> dict:
    """What a lock says; nothing of one that a kill left empty where files have no links."""
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {}


def _named(holder: dict) -> str:
    if not holder.get("run"):
        return "a run that left no name"
    return f"run {holder['run']} on {holder.get('host')} (process {holder.get('process')})"


def _silence(holder: dict, mine: float) -> float:
    """Seconds after which a lock is anyone's: as its holder promised, if it did."""
    return max(mine, holder.get("silence") or 0.0) if holder else mine


def _machine() -> str | None:
    """What process ids are unique in: one boot of one machine, and one container of it."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()}:{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return None


def _process_status(process: int) -> tuple[str, int | None]:
    """State of a process of this machine ("" if there is none), and when it was started."""
    try:
        with open(f"/proc/{process}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except OSError:
        return "", None


def _is_here(holder: dict) -> bool:
    return _machine() is not None and holder.get("machine") == _machine()


def _quiet(holder: dict) -> float | None:
    """Seconds since a lock was renewed, if its holder's clock is this machine's."""
    if not _is_here(holder) or "monotonic" not in holder:
        return None
    return max(0.0, time.monotonic() - holder["monotonic"])


def _is_dead(holder: dict) -> bool:
    """Whether the process that holds a lock is known to have ended."""
    if not _is_here(holder):
        return False
    state, started = _process_status(holder["process"])
    # a zombie has ended, and a process of another start only has the number
    return state in ("", "Z", "X") or started != holder.get("started", started)


def _is_running(holder: dict) -> bool:
    """Whether the process that holds a lock is known to run, and to have renewed it in time."""
    quiet = _quiet(holder)
    if quiet is None or _is_dead(holder):
        return False
    in_time = quiet < 2 * _silence(holder, 0.0) / _RENEWALS
    return in_time and _process_status(holder["process"])[0] not in ("T", "t")
