"""Work that may end the process that does it: counted for the whole job, by what ended it.

Ray repeats such work without end. Here three causes are told apart. A node that was lost costs
nobody an attempt: spot machines go all the time. A device that fails counts against itself and its
node (`exclusion`). A process that dies alone, for want of memory or by a crash, counts against the
pack it was at. The job stops when one pack was tried too often.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import ray

from raydiar.corpus.job.exclusion import Exclusion
from raydiar.corpus.job.places import Place, alive_nodes
from raydiar.errors import JobFailed

MOST_ATTEMPTS = 4  # at one pack, each of which ended its process, before the job stops
_NOT_ADMITTED_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Attempts:
    """The coordinator, as a process sees it that is about to do something dangerous.

    Parameters
    ----------
    coordinator : handle of a `Coordinator` actor
    """

    def __init__(self, coordinator):
        self._coordinator = coordinator
        self._place = Place.here()

    def check_admitted(self) -> None:
        """End this process if the job does without its place; Ray starts another elsewhere."""
        if not ray.get(self._coordinator.admits.remote(self._place)):
            # while there is no other place it comes back here: not too often
            time.sleep(_NOT_ADMITTED_SECONDS)
            os._exit(1)

    def begin(self, key: tuple, what: str) -> str | None:
        """Say that something begins that may end this process. Gives the reason not to, if any."""
        return ray.get(self._coordinator.begin.remote(key, what, Place.here()))

    def end(self, key: tuple) -> None:
        """Say that it is done."""
        self._coordinator.end.remote(key, self._place)

    def give(self, key: tuple) -> None:
        """Say that something is about to be given that a next attempt will not give again."""
        ray.get(self._coordinator.give.remote(key))

    def given(self, key: tuple) -> int:
        """How often that was said, over all attempts."""
        return ray.get(self._coordinator.given.remote(key))

    @contextmanager
    def at(self, key: tuple, what: str) -> Iterator[None]:
        """Do something that may end this process; key and words say what.

        Raises
        ------
        JobFailed
            If it has ended too many.
        """
        if refusal := self.begin(key, what):
            raise JobFailed(refusal)
        yield
        self.end(key)

    def device_failed(self, key: tuple, what: str, error: Exception) -> None:
        """End this process, whose device failed: Ray starts another and repeats the pack.

        Raises
        ------
        JobFailed
            If that has happened too often.
        """
        report = self._coordinator.device_failed.remote(key, what, self._place, _in_one_line(error))
        if refusal := ray.get(report):
            raise JobFailed(refusal) from error
        os._exit(1)


def _in_one_line(error: Exception) -> str:
    first, *_ = str(error).strip().splitlines() or [repr(error)]
    return first[:500]


class Notices:
    """Passes on what the coordinator finds worth telling, inside a `with` block.

    Parameters
    ----------
    coordinator : handle of a `Coordinator` actor
    told : list of str
        Grows by what is told.
    tell : callable
    every : float, s
        At most.
    """

    def __init__(self, coordinator, told: list[str], tell: Callable[[str], None], every=5.0):
        self._coordinator, self._told, self._tell, self._every = coordinator, told, tell, every
        self._next = 0.0

    def __enter__(self) -> Notices:
        return self

    def __exit__(self, *_) -> None:
        self._next = 0.0
        self.pass_on()

    def pass_on(self) -> None:
        """Tell what is new."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        with suppress(ray.exceptions.RayError):  # a notice is not worth more than the job
            new = ray.get(self._coordinator.notices.remote(len(self._told)), timeout=10)
            for notice in new:
                self._told.append(notice)
                self._tell(notice)


@dataclass
class _Work:
    """Something that has ended a process, or may."""

    at: Place | None = None  # while it is under way
    deaths: int = 0
    given: int = 0
    for_memory: int = 0
    device_failures: list[str] = field(default_factory=list)  # addresses of their nodes


class Coordinator:
    """An actor that counts attempts, and with which the job's inference actors end."""

    def __init__(self):
        self._work: dict[tuple, _Work] = {}
        self._notices: list[str] = []
        self._exclusion = Exclusion(self._notices.append)

    async def begin(self, key: tuple, what: str, place: Place) -> str | None:
        """Note that an attempt begins. Gives the reason why there shall be none, if so."""
        work = self._work.setdefault(key, _Work())
        if work.at is not None and work.at.node in alive_nodes():
            work.deaths += 1
            kills = place.memory_kills - work.at.memory_kills if place.node == work.at.node else 0
            work.for_memory += kills > 0 or _killed_by_ray(work.at.worker)
        work.at = place
        return _death_notice(what, work) if work.deaths >= MOST_ATTEMPTS else None

    async def end(self, key: tuple, place: Place) -> None:
        self._work.pop(key, None)
        self._exclusion.succeeded(place)

    async def give(self, key: tuple) -> None:
        """Count what a generator is about to give, over all its attempts."""
        self._work.setdefault(key, _Work()).given += 1

    async def given(self, key: tuple) -> int:
        return self._work.get(key, _Work()).given

    async def device_failed(self, key: tuple, what: str, place: Place, error: str) -> str | None:
        """Note a failure. Gives the reason why the job must stop, if so."""
        work = self._work.setdefault(key, _Work())
        work.at = None  # its process ends by itself
        work.device_failures.append(place.address)
        if len(work.device_failures) >= MOST_ATTEMPTS:
            nodes = sorted(set(work.device_failures))
            plural = "s" if len(nodes) > 1 else ""
            return (
                f"the device of node{plural} {', '.join(nodes)} failed {MOST_ATTEMPTS} times at "
                f"{what}, lastly with: {error}. Take the node out, or choose smaller batches if "
                "memory was short."
            )
        self._exclusion.failed(place, error)
        return None

    async def admits(self, place: Place) -> bool:
        """Whether the job does not do without a place."""
        return self._exclusion.admits(place)

    async def notices(self, known: int = 0) -> list[str]:
        """What the user should hear of, from the notice of this number on."""
        return self._notices[known:]

    async def outlive(self) -> None:
        """Return never: a caller learns from the exception that this actor was ended."""
        await asyncio.Event().wait()


def _killed_by_ray(worker: str) -> bool:
    """Whether Ray ended a process because its node ran out of memory."""
    from ray._raylet import WorkerID
    from ray.core.generated import common_pb2, gcs_pb2

    with suppress(Exception):  # no interface of Ray's that is promised to stay
        found = ray._private.state.state._connect_and_get_accessor().get_worker_info(
            WorkerID(bytes.fromhex(worker))
        )
        exit_type = gcs_pb2.WorkerTableData.FromString(found).exit_type
        return exit_type == common_pb2.WorkerExitType.NODE_OUT_OF_MEMORY
    return False


def _death_notice(what: str, work: _Work) -> str:
    if work.for_memory:
        cause = f"{work.for_memory} of them for want of memory"
        way_out = "give the nodes more, or let fewer processes share one"
    else:
        cause = "not for want of memory, as far as the nodes can tell"
        way_out = "Ray's logs of their nodes may say why (raylet.out, worker-*.err)"
    return f"{work.deaths} processes died of {what}, {cause}: {way_out}."
