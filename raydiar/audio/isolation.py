"""Decoding in a child process: a file that crashes or stalls the decoder costs itself only.

The child is a plain interpreter with numpy, PyAV and, for remote files, fsspec. It starts once, in
a third of a second, serves recordings until one kills it, and is then replaced. Samples come back
in memory that both processes map (a memfd, passed through a socket): nothing is copied, and the
pages are freed with the array. The child answers in JSON, not in pickles: what decodes untrusted
bytes must not become a way into the parent.
"""

import builtins
import fcntl
import json
import mmap
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from raydiar import errors
from raydiar.audio import MAX_DURATION, SAMPLE_RATE, AudioInfo
from raydiar.audio.arguments import channel_index, hand_over
from raydiar.audio.decoding import decode_into, read_info
from raydiar.audio.parts import Cut, PartedPcm
from raydiar.audio.pcm import PcmBuffer
from raydiar.errors import (
    AudioDecodeError,
    DecoderCrashed,
    DecoderKilled,
    DecoderStalled,
    StorageUnavailable,
)
from raydiar.naming import local_path
from raydiar.storage import (
    BLOCK_BYTES,
    PROBE_BLOCK_BYTES,
    Reader,
    Source,
    display_name,
    is_remote,
    open_source,
)

_START_SECONDS = 120.0
_KILLED = "SIGKILL"  # which we send to a child only after we have given it up
_PULSE_SECONDS = 1.0
_GO_ON = b"go on"  # with the next part
# Audio seconds per second below which a decode counts as stalled: one busy core does hundreds.
_SLOWEST = 10.0
_MOST_MEMORY = 4 * 2**30  # bytes that a decoder may have for itself
_TOO_MUCH_MEMORY = (
    f"Decoding the recording takes more than {_MOST_MEMORY >> 30} GiB of memory. The file is "
    "probably damaged: convert it."
)


class IsolatedDecoder:
    """`decode` and `probe` of `raydiar.audio` in a child process of their own.

    Keep one per worker process, or per thread: calls from several threads wait for each other.
    The child ends with `close`, with this object, and with this process however that dies.

    Parameters
    ----------
    time_limit : float, seconds
        A call that takes longer has stalled; a tenth of the audio decoded so far is added to it.
    """

    def __init__(self, time_limit: float = 120.0):
        self.time_limit = time_limit
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._was_killed = False

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *exc_info) -> None:
        self.close()

    def close(self) -> None:
        """End the child. Another call would start a new one."""
        with self._lock:
            self._discard_child()

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        return self._child.process.pid if self._child else None

    def decode(
        self,
        source: Source,
        *,
        start: float = 0.0,
        duration: float | None = None,
        channel: int | str | None = None,
        max_duration: float = MAX_DURATION,
        storage_options: dict[str, Any] | None = None,
        warnings: list[str] | None = None,
    ) -> np.ndarray:
        """As `raydiar.audio.decode`; a file object is copied to the child whole.

        Returns
        -------
        samples : (num_samples,) int16
            In shared memory that belongs to this array alone.

        Raises
        ------
        DecoderCrashed, DecoderStalled
            If the child died of this recording, or had to be killed.
        DecoderKilled
            If something else killed the child: the kernel, when memory is short. The next call
            decodes alone, of all decoders of this user on this machine.
        StorageUnavailable
            Also if it had to be killed while it waited for remote storage.
        Exception
            Whatever `raydiar.audio.decode` raises.
        """
        excerpt = {
            "start": start,
            "duration": duration,
            "channel": channel_index(channel),
            "max_duration": max_duration,
        }
        with _anonymous_file("pcm") as pcm:
            reply = self._ask(source, storage_options, excerpt, [pcm])
            samples = _mapped(pcm, reply["num_samples"])
        hand_over(reply["warnings"], warnings)
        return samples

    def parts(
        self,
        source: Source,
        cut: Cut,
        *,
        start: float = 0.0,
        duration: float | None = None,
        channel: int | str | None = None,
        max_duration: float = MAX_DURATION,
        storage_options: dict[str, Any] | None = None,
        warnings: list[str] | None = None,
    ) -> Iterator[tuple[np.ndarray, int, bool]]:
        """As `decode`, but long recordings come in parts, while they are decoded.

        The child waits until the next part is asked for, so that memory holds but a few. Where
        several tracks are mixed, or samples are floats whose scale shows in the end only, it
        decodes all before the first part leaves. Take all parts or close the generator: until then
        this decoder serves nobody else.

        Yields
        ------
        samples : (num_samples,) int16
            In shared memory that belongs to this array alone.
        place : int
            Of the first of these samples.
        last : bool
            Whether there are no more; `warnings` are then complete.

        Raises
        ------
        Exception
            As `decode`, perhaps after some parts.
        """
        excerpt = {
            "start": start,
            "duration": duration,
            "channel": channel_index(channel),
            "max_duration": max_duration,
            "cut": asdict(cut),
        }
        with _anonymous_file("pcm") as pcm:
            reply = yield from self._asking(source, storage_options, excerpt, [pcm])
            samples = _mapped(pcm, reply["num_samples"])
        hand_over(reply["warnings"], warnings)
        yield samples, reply["place"], True

    def probe(self, source: Source, *, storage_options: dict[str, Any] | None = None) -> AudioInfo:
        """As `raydiar.audio.probe`, with the failures of `decode`."""
        return AudioInfo(**self._ask(source, storage_options, None, [])["info"])

    def _ask(self, *request) -> dict[str, Any]:
        asking = self._asking(*request)
        try:
            while True:
                next(asking)
        except StopIteration as ended:
            return ended.value

    def _asking(
        self, source, storage_options, excerpt, descriptors
    ) -> Generator[tuple[np.ndarray, int, bool], None, dict[str, Any]]:
        """Give parts as they come, if any were asked for, and return the reply."""
        label = display_name(source)
        with ExitStack() as stack:
            if hasattr(source, "read"):
                uri, remote = None, False
                descriptors = [*descriptors, stack.enter_context(_copied(source))]
            else:
                uri = os.fspath(source)
                remote = is_remote(uri)
                # the child keeps the working directory that it was started in
                path = local_path(uri)
                uri = uri if path is None else os.path.abspath(path)
            stack.enter_context(self._lock)
            stack.enter_context(_room(alone=self._was_killed, patience=self.time_limit))
            if self._child is not None and self._child.process.poll() is not None:
                self._discard_child()  # it died while it had nothing to do: nobody's fault
            if self._child is None:
                self._child = _Child()
            try:
                request = (uri, label, storage_options, excerpt)
                child = self._child
                reply = yield from child.exchange(
                    request, descriptors, label, remote, self.time_limit
                )
                self._was_killed = False
            except BaseException as error:
                self._was_killed = isinstance(error, DecoderKilled)
                # Dead, killed, or interrupted: what it might still answer belongs to nobody.
                self._discard_child()
                raise
        if "error" in reply:
            raise _rebuilt(reply["error"])
        return reply

    def _discard_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


class _Child:
    """A running child process and the socket to it."""

    def __init__(self):
        self._socket, theirs = socket.socketpair()
        with theirs:
            code = (
                f"import sys; sys.path[:] = {sys.path!r}; "
                f"from raydiar.audio.isolation import serve; serve({theirs.fileno()})"
            )
            # Not multiprocessing: its children import the parent's main module, torch and all.
            self.process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,  # when this closes, the child ends
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self._connection = Connection(os.dup(self._socket.fileno()))
        self.end = weakref.finalize(self, _end, self.process, self._socket, self._connection)
        try:
            started = self._receive(_START_SECONDS) is not None
        except (EOFError, OSError):
            started = False
        if not started:
            self.end()
            raise RuntimeError("The process that decodes audio did not start; see its stderr.")

    def exchange(self, request, descriptors, label, remote, time_limit):
        """Send a request and wait for its reply, as long as the child makes progress.

        Yields
        ------
        samples, place, last
            Of parts, if that was asked for. The time until the next is not the child's.

        Returns
        -------
        reply : dict
        """
        started, decoded, counted = time.monotonic(), 0, 0
        limit, reading = time_limit, remote
        try:
            self._send(request, descriptors)
            while True:
                reply = self._receive(started + limit - time.monotonic())
                if reply is None:
                    break
                if "part" in reply:
                    part = self._take(**reply["part"])
                    yield part
                    del part
                    self._connection.send_bytes(_GO_ON)
                    started, counted = time.monotonic(), decoded
                    limit = time_limit
                elif "pulse" in reply:
                    reading, decoded = reply["pulse"]["reading"], reply["pulse"]["num_samples"]
                    limit = time_limit + max(0, decoded - counted) / SAMPLE_RATE / _SLOWEST
                else:
                    return reply
        except (EOFError, OSError) as error:
            cause = self._cause_of_death()
            if cause == _KILLED:
                raise DecoderKilled(
                    f"{label}: the process that decodes it was killed, most likely by the kernel "
                    "for want of memory. Give the machine more, or let fewer processes share it."
                ) from error
            raise DecoderCrashed(
                f"{label}: the process that decodes it died ({cause}). The file "
                "is probably damaged in a way that FFmpeg does not survive: convert it."
            ) from error
        if remote and reading:
            raise StorageUnavailable(
                f"{label}: the storage stopped answering; given up after {limit:.0f} s. "
                "Try again later."
            )
        raise DecoderStalled(
            f"{label}: decoding did not finish in {limit:.0f} s. Check that the file plays, "
            "convert it, or raise the time limit."
        )

    def _send(self, request, descriptors: list[int]) -> None:
        socket.send_fds(self._socket, [b"\0"], descriptors)
        self._connection.send_bytes(pickle.dumps(request))

    def _take(self, num_samples: int, place: int) -> tuple[np.ndarray, int, bool]:
        """The part that follows the message that announced it."""
        _, [descriptor], _, _ = socket.recv_fds(self._socket, 1, 1)
        try:
            return _mapped(descriptor, num_samples), place, False
        finally:
            os.close(descriptor)

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None if none comes in time."""
        if not self._connection.poll(max(0.0, seconds)):
            return None
        return json.loads(self._connection.recv_bytes(2**20))

    def _cause_of_death(self) -> str:
        try:
            status = self.process.wait(10)
        except subprocess.TimeoutExpired:
            return "it closed its connection"
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _mapped(descriptor: int, num_samples: int) -> np.ndarray:
    return np.frombuffer(mmap.mmap(descriptor, 2 * num_samples), np.int16)


def _end(process: subprocess.Popen, carrier: socket.socket, connection: Connection) -> None:
    process.kill()
    carrier.close()
    connection.close()
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(10)


def _rebuilt(error: dict[str, Any]) -> Exception:
    """The exception that a child reports, by name: ours, a builtin one, or RuntimeError."""
    kind = getattr(errors, error["type"], None) or getattr(builtins, error["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        return RuntimeError(f"{error['type']}: {error['message']}")
    if error["errno"] is not None:
        return kind(error["errno"], error["message"])
    return kind(error["message"])


@contextmanager
def _room(alone: bool, patience: float):
    """Room to decode on this machine: beside all others, or alone where memory does not do for all.

    Who wants to be alone holds back those who come, and waits at most `patience` seconds for
    those who are there.
    """
    stem = os.path.join(tempfile.gettempdir(), f"raydiar-decoding-{os.getuid()}")
    with ExitStack() as stack:
        try:
            door, room = (stack.enter_context(open(f"{stem}.{n}", "w")) for n in ("door", "room"))
        except OSError:  # nowhere to write: no reason not to decode
            yield
            return
        fcntl.flock(door, fcntl.LOCK_EX)
        if not alone:
            fcntl.flock(room, fcntl.LOCK_SH)
            fcntl.flock(door, fcntl.LOCK_UN)
        deadline = time.monotonic() + patience
        while alone and time.monotonic() < deadline:
            try:
                fcntl.flock(room, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        yield


@contextmanager
def _anonymous_file(name: str):
    """Descriptor of a file that lives in memory (where there is no memfd, on disk), nameless."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create(f"raydiar-{name}")
    else:
        with tempfile.TemporaryFile(prefix=f"raydiar-{name}-") as file:
            descriptor = os.dup(file.fileno())
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _copied(source):
    """Descriptor of a copy of a file object, from its beginning if it can seek."""
    with _anonymous_file("source") as descriptor:
        with open(descriptor, "wb", closefd=False) as copy:
            if getattr(source, "seekable", lambda: False)():
                source.seek(0)
            shutil.copyfileobj(source, copy)
        yield descriptor


# -- in the child ----------------------------------------------------------------------------------


def serve(descriptor: int) -> None:
    """Answer requests from a socket until it closes: the main function of the child."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    threading.Thread(target=_die_with_parent, daemon=True).start()
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory runs out, the kernel shall take the child, not the host
    _limit_resources()
    carrier, connection = socket.socket(fileno=descriptor), Connection(os.dup(descriptor))
    connection.send_bytes(b'{"ready": true}')
    while True:
        marker, descriptors, _, _ = socket.recv_fds(carrier, 1, 2)
        if not marker:
            return
        try:
            request = pickle.loads(connection.recv_bytes())
            reply = _answer(request, descriptors, carrier, connection)
        except MemoryError:
            reply = {"error": _report(AudioDecodeError(_TOO_MUCH_MEMORY))}
        except Exception as error:
            reply = {"error": _report(error)}
        for received in descriptors:
            os.close(received)
        connection.send_bytes(json.dumps(reply).encode())


def _limit_resources() -> None:
    """What no recording needs more of than this; PCM is shared memory, and does not count."""
    most = {
        resource.RLIMIT_DATA: _MOST_MEMORY,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in most.items():
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            limit = min(limit, hard)
        with suppress(OSError, ValueError):
            resource.setrlimit(kind, (limit, limit))


def _answer(
    request, descriptors: list[int], carrier: socket.socket, connection: Connection
) -> dict[str, Any]:
    uri, label, storage_options, excerpt = request
    cut = excerpt.pop("cut", None) if excerpt else None
    with ExitStack() as stack:
        pcm = _SharedPcm(descriptors[0]) if excerpt else None
        if cut is not None:
            pcm = PartedPcm(pcm, Cut(**cut), lambda *part: pulse.hand_on(carrier, *part))
        pulse = stack.enter_context(_Pulse(connection, pcm))
        if uri is None:
            copy = stack.enter_context(open(descriptors[-1], "rb", closefd=False))
            pulse.reader = Reader(copy, label)
        else:
            block_bytes = BLOCK_BYTES if excerpt else PROBE_BLOCK_BYTES
            opened = open_source(uri, storage_options, block_bytes)
            pulse.reader = stack.enter_context(opened)
        if not excerpt:
            return {"info": asdict(read_info(pulse.reader))}
        warnings: list[str] = []
        decode_into(pcm, pulse.reader, **excerpt, warnings=warnings)
        if cut is None:
            return {"num_samples": pcm.num_samples, "warnings": warnings}
        pcm.end()
        return {"num_samples": pcm.kept.num_samples, "place": pcm.given, "warnings": warnings}


def _report(error: Exception) -> dict[str, Any]:
    number = getattr(error, "errno", None)  # of an OSError; ours have none
    message = str(error) if number is None else error.strerror
    return {"type": type(error).__name__, "message": message, "errno": number}


def _die_with_parent() -> None:
    """End at once when the parent does: its end of our stdin closes, however it dies."""
    sys.stdin.buffer.read()
    os._exit(1)


class _SharedPcm(PcmBuffer):
    """Samples in a file that the parent maps as well."""

    def __init__(self, descriptor: int):
        super().__init__()
        self._descriptor = descriptor

    def _resized(self, memory: mmap.mmap | None, num_bytes: int) -> mmap.mmap:
        os.ftruncate(self._descriptor, num_bytes)  # what is not written takes no memory
        return mmap.mmap(self._descriptor, num_bytes)


class _Pulse:
    """Tells the parent every second how far the decoder is, and whether it waits for its source."""

    def __init__(self, connection: Connection, pcm: PcmBuffer | PartedPcm | None):
        self.reader: Reader | None = None
        self._connection = connection
        self._sending = threading.Lock()  # is held while the parent is at a part
        self._pcm = pcm
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "_Pulse":
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._done.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._done.wait(_PULSE_SECONDS):
            pulse = {
                "num_samples": self._pcm.num_samples if self._pcm else 0,
                "reading": self.reader is None or self.reader.reading,
            }
            with self._sending:
                self._connection.send_bytes(json.dumps({"pulse": pulse}).encode())

    def hand_on(self, carrier: socket.socket, samples: np.ndarray, place: int) -> None:
        """Give the parent a part, and wait until it asks for the next."""
        part = {"num_samples": len(samples), "place": place}
        with _anonymous_file("part") as descriptor, self._sending:
            with open(descriptor, "wb", closefd=False) as file:
                file.write(samples)
            self._connection.send_bytes(json.dumps({"part": part}).encode())
            socket.send_fds(carrier, [b"\0"], [descriptor])
            self._connection.recv_bytes()
