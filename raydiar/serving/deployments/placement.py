"""Where a server's parts run, and where they listen."""

import math
import os
from dataclasses import dataclass
from ipaddress import ip_address

import ray
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client

from raydiar.corpus.job.placement import THREADS_PER_ACTOR, fit_actors, place
from raydiar.errors import ConfigError
from raydiar.serving.settings import ServeSettings
from raydiar.serving.storage.database import is_single_node, open_database, parse_url
from raydiar.serving.storage.keys import KeyRing

# What is not inference shares one CPU, the one that `fit_actors` leaves free: most of it waits.
# Every further worker wants more.
WORKER_CPUS = 0.4
RESOLVE_CPUS = 0.4
INGRESS_CPUS = 0.1
SEARCH_CPUS = 0.1

_FEW = 4  # replicas, whose networks any machine has the memory for
_GPU_SLICE_SECONDS, _CPU_SLICE_SECONDS = 120.0, 30.0

_SECRETS = {"database": "RAYDIAR_DATABASE", "webhook_secret": "RAYDIAR_WEBHOOK_SECRET"}
_WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class InferencePlacement:
    """What a replica that holds the networks is given.

    Attributes
    ----------
    device : str
        "cuda" or "cpu"
    num_cpus : int
        That it asks Ray for.
    num_threads : int
        Of torch on a CPU, at most; no more than there are cores.
    num_gpus : float
        Less than one where replicas share a GPU.
    min_replicas, max_replicas : int
    slice_seconds : float, s
        Audio of a slice at most.
    """

    device: str
    num_cpus: int
    num_threads: int
    num_gpus: float
    min_replicas: int
    max_replicas: int
    slice_seconds: float


def place_inference(settings: ServeSettings) -> InferencePlacement:
    """Choose the device and what each replica is given of the Ray cluster.

    Raises
    ------
    ConfigError
        If there is no such device, or so many replicas do not fit.
    """
    placement = place(settings.device)
    if placement.device == "cuda":
        least, most = _replicas(settings, 1)
        # where GPUs may still come, no replica need share one
        share = 1.0 if placement.max_actors is None else min(1.0, placement.max_actors / most)
        # GPUs are whole, or whole parts of one
        share = share if share == 1.0 else 1.0 / math.ceil(1.0 / share)
        slice_seconds = settings.slice_seconds or _GPU_SLICE_SECONDS
        return InferencePlacement("cuda", 1, 1, share, least, most, slice_seconds)
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    others = settings.num_workers * (WORKER_CPUS + RESOLVE_CPUS) + INGRESS_CPUS + SEARCH_CPUS
    cpus[cpus.index(max(cpus))] -= math.ceil(round(others - 1.0, 3))
    free = sum(max(0, node - 1) for node in cpus)
    # Threads of a replica wait for each other whenever one of them is interrupted, and here much
    # else runs: more replicas than for a corpus, but every one holds the networks.
    default = max(1, sum((node - 1) // THREADS_PER_ACTOR for node in cpus), min(free, _FEW))
    least, most = _replicas(settings, default)
    _, num_cpus = fit_actors(cpus, most, per_feeder=math.inf)
    # what waits most of the time is no reason for a core to: a replica that has a node to itself
    # may use all its cores
    num_threads = num_cpus + (most <= len(cpus))
    # finer than on a GPU: the slices of one short recording run on several replicas at a time
    slice_seconds = settings.slice_seconds or _CPU_SLICE_SECONDS
    return InferencePlacement("cpu", num_cpus, num_threads, 0.0, least, most, slice_seconds)


def _replicas(settings: ServeSettings, default: int) -> tuple[int, int]:
    least = settings.num_inference_replicas
    if least is None:
        least = min(default, settings.max_inference_replicas or default)
    return least, max(least, settings.max_inference_replicas or least)


def completed(settings: ServeSettings) -> ServeSettings:
    """Settings with what the environment adds, and paths that hold in every process here.

    `RAYDIAR_DATABASE` and `RAYDIAR_WEBHOOK_SECRET` stand for settings that were not given: they
    hold what should not be in a configuration file.

    Raises
    ------
    ConfigError
        If the database's URL makes no sense.
    """
    here = {
        name: os.environ[variable]
        for name, variable in _SECRETS.items()
        if os.environ.get(variable) and name not in settings.model_fields_set
    }
    database = parse_url(here.get("database", settings.database))
    here["database"] = database.render_as_string(hide_password=False)
    for name in ("media", "index", "pipeline"):
        path = getattr(settings, name)
        # a pipeline may also be the name of a repository
        if path and "://" not in path and (name != "pipeline" or os.path.exists(path)):
            here[name] = os.path.abspath(path)
    return settings.model_copy(update=here)


def check_shared(settings: ServeSettings) -> None:
    """Refuse what several nodes cannot share.

    Raises
    ------
    ConfigError
    """
    if is_single_node(settings.database):
        raise ConfigError(
            "the Ray cluster has, or may grow to, several nodes, which cannot share a SQLite "
            "database: set `database` to postgresql+psycopg://user:password@host/name"
        )
    if "://" not in settings.media or settings.media.startswith("file://"):
        raise ConfigError(
            "the Ray cluster has, or may grow to, several nodes, which cannot share the folder "
            f"{settings.media}: set `media` to s3://bucket/prefix"
        )


def check_keys(settings: ServeSettings, host: str | None) -> bool:
    """Whether every caller is welcome, because there are no API keys.

    Raises
    ------
    ConfigError
        If there are none and others than this machine reach the address that Serve listens on, or
        if there were some and all are revoked: that is meant to keep somebody out.
    """
    ring = KeyRing(open_database(settings.database))
    if ring.has_keys():
        return False
    way_out = (
        "make one with `raydiar serve keys create NAME --database URL` (for this server's "
        "database), set RAYDIAR_API_KEYS"
    )
    if not is_loopback(host):
        raise ConfigError(
            f"there are no API keys, and others can reach {host}: {way_out}, or listen on 127.0.0.1"
        )
    if ring.had_keys() and not settings.no_keys:
        raise ConfigError(
            f"all API keys are revoked, and without one everybody on this machine may call: "
            f"{way_out}, or say that this is meant with --no-keys"
        )
    return True


def http_options() -> HTTPOptions:
    """How Serve listens; how it will by default where it does not run yet."""
    client = _get_global_client(raise_if_no_controller_running=False)
    return HTTPOptions() if client is None else client.http_config


def default_url() -> str:
    """Where clients on this machine or in this network reach Serve."""
    options = http_options()
    host = options.host or "127.0.0.1"
    host = ray.util.get_node_ip_address() if host in _WILDCARDS else host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{options.port}{options.root_path}"


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches an address; None is none at all."""
    try:
        return host in (None, "localhost") or ip_address(host).is_loopback
    except ValueError:
        return False
