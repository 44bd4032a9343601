"""The server as an application of Ray Serve.

    clients ──HTTP──▶ ingress ──▶ database ◀── workers ──▶ inference (GPU), resolve
                        └──▶ search

The ingress answers from the database; workers take jobs out of it and have them done. Requests
that would be lost with a process never hold the work: any replica may die at any time.

    serve run raydiar.serving.app:build device=cpu
    serve deploy cluster/serve.yaml
"""

from contextlib import suppress
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from raydiar.corpus.job.placement import spans_nodes
from raydiar.errors import ConfigError, QueueFull
from raydiar.pipelines.config import LocalPipeline, PipelineConfig
from raydiar.pipelines.config_file import load_config
from raydiar.serving.deployments.inference import (
    LocalInferenceDeployment,
    most_batch_seconds,
    slices_in_flight,
    slices_per_batch,
)
from raydiar.serving.deployments.placement import (
    INGRESS_CPUS,
    RESOLVE_CPUS,
    SEARCH_CPUS,
    WORKER_CPUS,
    InferencePlacement,
    check_keys,
    check_shared,
    completed,
    default_url,
    http_options,
    is_loopback,
    place_inference,
)
from raydiar.serving.deployments.resolving import ResolveDeployment, Resolver
from raydiar.serving.deployments.search import VoiceSearchDeployment
from raydiar.serving.failures import cause_of
from raydiar.serving.http.api import create_api
from raydiar.serving.http.services import Services
from raydiar.serving.settings import ServeSettings
from raydiar.serving.stores import open_stores
from raydiar.serving.work.processing import Voiceprints
from raydiar.serving.work.worker import WorkerDeployment
from raydiar.windows import WindowGrid


def build(args: ServeSettings) -> serve.Application:
    """The application; Serve's command line and configuration files call this.

    Parameters
    ----------
    args : ServeSettings

    Raises
    ------
    ConfigError
        If several nodes could not share the database or the uploads, if there is no API key and
        Serve listens to others than this machine, or if a setting makes no sense here.
    """
    if not ray.is_initialized():
        ray.init()
    settings = completed(args)
    several = spans_nodes()
    if several:
        check_shared(settings)
    anonymous = check_keys(settings, http_options().host)
    config = load_config(settings.pipeline)
    pipeline = config.localize()
    voiceprints = Voiceprints(
        pipeline.hashes["embedding"], pipeline.embedding_mode, pipeline.dimension
    )
    public_url = settings.public_url or default_url()
    placement = place_inference(settings)
    inference = _inference(settings, placement, config if several else pipeline)
    resolving = ResolveDeployment.options(
        num_replicas=settings.num_workers, ray_actor_options={"num_cpus": RESOLVE_CPUS}
    ).bind(Resolver.of(pipeline))
    worker = WorkerDeployment.options(
        num_replicas=settings.num_workers, ray_actor_options={"num_cpus": WORKER_CPUS}
    ).bind(
        settings,
        public_url,
        voiceprints,
        _grid(pipeline),
        placement.slice_seconds,
        slices_in_flight(settings, placement),
        inference,
        resolving,
    )
    search = None
    if settings.index is not None:
        search = VoiceSearchDeployment.options(ray_actor_options={"num_cpus": SEARCH_CPUS}).bind(
            settings.index,
            voiceprints.embedding,
            voiceprints.embedding_mode,
            settings.index_shards,
        )
    return Ingress.options(
        num_replicas=2 if several else 1, ray_actor_options={"num_cpus": INGRESS_CPUS}
    ).bind(settings, public_url, voiceprints, anonymous, worker, search)


# most of them wait: uploads, and sync jobs; beyond, the proxy answers 503 at once
@serve.deployment(max_ongoing_requests=1000, max_queued_requests=200)
@serve.ingress()
class Ingress:
    """A replica that answers HTTP.

    Parameters
    ----------
    settings : ServeSettings
    public_url : str
    voiceprints : Voiceprints
    anonymous : bool
        See `Services`.
    worker : DeploymentHandle
        Told when there is something to do.
    search : DeploymentHandle or None
    """

    def __init__(
        self,
        settings: ServeSettings,
        public_url: str,
        voiceprints: Voiceprints,
        anonymous: bool,
        worker: DeploymentHandle,
        search: DeploymentHandle | None,
    ):
        if anonymous and not is_loopback(http_options().host):
            # built before Serve was told where to listen
            raise ConfigError("there are no API keys, and others can reach this server")
        stores = open_stores(settings, public_url)
        self._services = Services(
            settings=settings,
            jobs=stores.jobs,
            versions=stores.versions,
            media=stores.media,
            media_records=stores.media_records,
            keys=stores.keys,
            webhook_secrets=stores.webhook_secrets,
            search=None if search is None else _searching(search),
            embedding=voiceprints.embedding,
            embedding_mode=voiceprints.embedding_mode,
            dimension=voiceprints.dimension,
            anonymous=anonymous,
            wake=_waking(worker),
        )

    def __serve_build_asgi_app__(self):
        return create_api(self._services, tells_request_id=False)


def _waking(handle: DeploymentHandle):
    def wake() -> None:
        with suppress(Exception):  # the job is in the queue, and workers look there anyway
            handle.wake.remote()

    return wake


def _searching(handle: DeploymentHandle):
    async def search(
        voiceprints: np.ndarray, k: int, include_turns: bool, where: dict[str, Any] | None
    ) -> list[list[dict[str, Any]]]:
        try:
            return await handle.search.remote(voiceprints, k, include_turns, where)
        except RayTaskError as error:
            raise cause_of(error) from None
        except BackPressureError as error:
            raise QueueFull("others search already; try again in 5 s", 5.0) from error

    return search


def _inference(
    settings: ServeSettings,
    placement: InferencePlacement,
    pipeline: LocalPipeline | PipelineConfig,
) -> serve.Application:
    seconds = most_batch_seconds(settings, placement)
    return LocalInferenceDeployment.options(
        max_ongoing_requests=2 * seconds,  # a batch that runs and the next, of shortest clips
        autoscaling_config=AutoscalingConfig(
            min_replicas=placement.min_replicas,
            max_replicas=placement.max_replicas,
            target_ongoing_requests=2.0 * slices_per_batch(settings, placement),
        ),
        ray_actor_options={"num_cpus": placement.num_cpus, "num_gpus": placement.num_gpus},
    ).bind(pipeline, placement.device, placement.num_threads, seconds)


def _grid(pipeline: LocalPipeline) -> WindowGrid:
    from raydiar.inference.segmenter import Segmenter
    from raydiar.models import Model

    network = Model.from_pretrained(pipeline.segmentation)
    return Segmenter(network, pipeline.config.segmentation_step).grid
