"""Devices and nodes that a job does without, because they failed again.

One GPU of eight may be broken, or the driver of all eight. So a GPU that fails twice is left out,
by its number, and a node as soon as two of its GPUs have failed; on CPUs, a node that fails twice.
Nothing is left out that nothing else could stand in for: better a bad device than none.

Ray knows no way to leave a place out. It would start the process that ended there again, since
that place is free. So an actor without work takes the place before Ray does. Which of a node's GPUs
it is given is Ray's choice: if it is a good one, it is given back, and the next process that is
given the bad one asks, is refused and ends, and the place is taken anew.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raydiar.corpus.job.places import Place, alive_nodes

MOST_DEVICE_FAILURES = 2
# packs that a device has to do after a failure to be trusted again
TRUSTED_AFTER = 20
_CRUMB = 0.1  # CPUs

_Device = tuple[str, tuple[str, ...]]  # a node, and the numbers of GPUs on it


class Exclusion:
    """Which places a job does without; held by its `Coordinator`.

    Parameters
    ----------
    notify : callable
        Takes a line when something is left out.
    """

    def __init__(self, notify: Callable[[str], None]):
        self._notify = notify
        self._failures: Counter[_Device] = Counter()
        self._done_since: Counter[_Device] = Counter()  # packs after the last of these
        self._nodes: set[str] = set()
        self._devices: set[_Device] = set()
        self._holds: dict[object, object] = {}

    def failed(self, place: Place, error: str) -> None:
        """Count a failure of a device, and do without it, or its node, if that is too many."""
        device = (place.node, place.devices)
        self._failures[device] += 1
        self._done_since[device] = 0
        failed = [other for other in self._failures if other[0] == place.node]
        total = sum(self._failures[other] for other in failed)
        of_node = not place.devices or len(failed) > 1
        where = f"node {place.address} ({place.node[:8]})"
        if not self._is_excluded(place):
            if of_node and total >= MOST_DEVICE_FAILURES and self._elsewhere(place):
                self._nodes.add(place.node)
                what = "its device" if len(failed) == 1 else f"{len(failed)} of its GPUs"
                self._tell(f"{where} is left out: {what}", total, error)
            elif (
                place.devices
                and self._failures[device] >= MOST_DEVICE_FAILURES
                and self._others(place)
            ):
                self._devices.add(device)
                numbers = ", ".join(place.devices)
                what = f"GPU {numbers} of {where} is left out: it"
                self._tell(what, self._failures[device], error)
        if self._is_excluded(place):
            self._hold(place)

    def _tell(self, what: str, times: int, error: str) -> None:
        self._notify(f"{what} failed {times} times, lastly with: {error}")

    def succeeded(self, place: Place) -> None:
        """Count a pack that was done, after which a device may be trusted again."""
        device = (place.node, place.devices)
        self._done_since[device] += 1
        if self._done_since[device] >= TRUSTED_AFTER:
            self._failures.pop(device, None)

    def admits(self, place: Place) -> bool:
        """Whether a process may work at a place; if not, the place is taken from Ray."""
        if not self._is_excluded(place):
            return True
        if not self._others(place):  # they are lost
            self._nodes.clear()
            self._devices.clear()
            return True
        self._hold(place)
        return False

    def _is_excluded(self, place: Place) -> bool:
        return place.node in self._nodes or (place.node, place.devices) in self._devices

    def _others(self, place: Place) -> bool:
        """Whether another place could take a process in place of this one, were it free."""
        if place.devices and place.node not in self._nodes:
            gpus = alive_nodes().get(place.node, {}).get("GPU", 0)
            left_out = {n for node, numbers in self._devices if node == place.node for n in numbers}
            if gpus - len(left_out | set(place.devices)) >= place.gpus:
                return True
        return self._elsewhere(place)

    def _elsewhere(self, place: Place) -> bool:
        """Whether another node could."""
        return any(
            node != place.node
            and node not in self._nodes
            and resources.get("GPU", 0) >= place.gpus
            and resources.get("CPU", 0) >= place.cpus
            for node, resources in alive_nodes().items()
        )

    def _hold(self, place: Place) -> None:
        """Take what a process leaves at an excluded place, before Ray starts it there again.

        All but a crumb, on which the cheap tasks after inference run: Ray Data counts on these
        CPUs, and decoding that waits for the networks may keep all others.
        """
        there = NodeAffinitySchedulingStrategy(place.node, soft=False)
        cpus = max(0.0, place.cpus - _CRUMB)
        hold = ray.remote(_Hold).options(
            num_cpus=cpus, num_gpus=place.gpus, scheduling_strategy=there
        )
        actor = hold.remote()  # which lives as long as its handle
        if place.node in self._nodes:
            self._holds[actor] = None
        elif (place.node, place.devices) not in self._holds:
            self._holds[place.node, place.devices] = asyncio.create_task(self._keep(actor, place))

    async def _keep(self, actor, place: Place) -> None:
        """Keep an actor if it was given what is left out; let it go otherwise."""
        device = (place.node, place.devices)
        with suppress(ray.exceptions.RayError):  # its node was lost
            if await actor.devices.remote() == place.devices:
                self._holds[device] = actor
                return
        self._holds.pop(device, None)


class _Hold:
    """Does nothing, with the resources it holds."""

    def devices(self) -> tuple[str, ...]:
        return tuple(map(str, ray.get_gpu_ids()))
