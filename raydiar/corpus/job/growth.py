"""What an autoscaler does, where there is one: seen from what it did, never from what it might.

Open-source Ray tells nobody the limits of its worker groups. What it tells is which nodes are being
started; so a question is answered by wanting something and looking.
"""

from __future__ import annotations

import json
import time
from contextlib import suppress

import ray

# in which an autoscaler, which looks around every 5 s, has begun to start a node if it can
_BEGUN_SECONDS = 30.0
# in which a machine with a GPU has been found, started and given its image
_COME_SECONDS = 20 * 60.0


def first_gpus(begun: float = _BEGUN_SECONDS, come: float = _COME_SECONDS) -> tuple[int, str]:
    """Ask a cluster without a node for a GPU.

    Parameters
    ----------
    begun, come : float, s
        How long to wait until the cluster starts something, and until a GPU is there.

    Returns
    -------
    num_gpus : int
        That are there then; 0 if the cluster has none to bring.
    reason : str
        What was found, for the log.
    """
    wanted = ray.remote(num_cpus=0, num_gpus=1, max_retries=-1)(_nothing).remote()
    asked = time.monotonic()
    starts = False
    try:
        while time.monotonic() - asked < (come if starts else begun):
            if gpus := _num_gpus():
                return gpus, "a GPU came"
            refused, launching = _answer()
            if refused:
                return 0, "the cluster has no GPU to bring"
            starts |= launching
            time.sleep(0.5)
    finally:
        ray.cancel(wanted, force=True)
    if starts:
        return 0, f"no GPU came in {come / 60:.0f} minutes"
    return 0, f"nothing was started for a GPU in {begun:.0f} s"


def is_growing() -> bool:
    """Whether an autoscaler is at work."""
    with suppress(Exception):
        if _state().autoscaler_state_version:
            return True
    types = _report().get("node_type_mapping") or {}
    # without an autoscaler each node is a type of its own
    return any(not str(kind).startswith("node_") for kind in types.values())


def _nothing() -> None:
    pass


def _num_gpus() -> int:
    return int(sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]))


def _answer() -> tuple[bool, bool]:
    """Whether the autoscaler refuses to bring a GPU, and whether it is starting nodes, or tries."""
    refused = launching = False
    with suppress(Exception):  # no interface of Ray's that is promised to stay
        state = _state()
        wanted = [request.resources_bundle for request in state.infeasible_resource_requests]
        refused = any("GPU" in bundle for bundle in wanted)
        launching = bool(
            state.pending_instance_requests
            or state.pending_instances
            or state.failed_instance_requests
        )
    report = _report()
    launching |= any(
        report.get(key) for key in ("pending_nodes", "pending_launches", "failed_nodes")
    )
    return refused, launching


def _state():
    """What the second version of Ray's autoscaler reports."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    reply = GetClusterStatusReply()
    gcs = GcsClient(ray.get_runtime_context().gcs_address)
    reply.ParseFromString(gcs.get_cluster_status(timeout_s=5))
    return reply.autoscaling_state


def _report() -> dict:
    """What the first version of Ray's autoscaler reports."""
    from ray.experimental.internal_kv import _internal_kv_get

    with suppress(Exception):
        return json.loads(_internal_kv_get("__autoscaling_status")).get("autoscaler_report") or {}
    return {}
