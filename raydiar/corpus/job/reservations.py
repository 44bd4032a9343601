"""What drivers that were killed still hold of a cluster, and how that is given back.

Ray Data shares the CPUs and GPUs of a cluster among its executions: a detached actor keeps what
each has asked for, until it takes that back or has not repeated it for three minutes. A driver that
is killed takes nothing back. Whoever goes on with its job, on the same cluster, is given what is
left beside a dead one's share: a quarter of the cluster was measured. So the executions of a job
carry the number of their driver in their names, and a job begins by ending what drivers asked for
that are dead.
"""

from __future__ import annotations

import logging
import re
from contextlib import suppress

import ray

_COORDINATOR = {"name": "AutoscalingCoordinator", "namespace": "AutoscalingCoordinator"}
_OURS = re.compile(r"data-raydiar-([0-9a-f]+)_")
_PATIENCE = 10.0  # s

logger = logging.getLogger(__name__)


def execution_name() -> str:
    """Name of a dataset that is executed here, which Ray Data's reservations are made under."""
    return f"raydiar-{ray.get_runtime_context().get_job_id()}"


def release_dead() -> list[str]:
    """Take back what dead drivers have reserved; the names under which they had.

    None of it is any interface of Ray's that is promised to stay: where it is another, a job that
    takes over begins slowly, and nothing else is lost.
    """
    held: list[str] = []
    with suppress(Exception):
        coordinator = ray.get_actor(**_COORDINATOR)
        held = reserved_by_dead()
        for name in held:
            ray.get(coordinator.cancel_request.remote(name), timeout=_PATIENCE)
            logger.info("took back what a dead driver had reserved: %s", name)
    return held


def reserved_by_dead() -> list[str]:
    """Names under which dead drivers of jobs have reserved something.

    Raises
    ------
    Exception
        If no execution of Ray Data has been there yet, or its insides have changed.
    """
    coordinator = ray.get_actor(**_COORDINATOR)
    # by value: the actor's process may not have raydiar
    names = coordinator.__ray_call__.remote(lambda self: list(self._ongoing_reqs))
    dead = {job["JobID"] for job in ray._private.state.jobs() if job["IsDead"]}
    found = ((_OURS.match(name), name) for name in ray.get(names, timeout=_PATIENCE))
    return [name for ours, name in found if ours is not None and ours[1] in dead]
