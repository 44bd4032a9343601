"""Clustering for requests: LocalSpeakers in, Diarization out, on a CPU."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from ray import serve

from raydiar.clustering import PLDA, CountingParameters, resolve
from raydiar.clustering.resolve import Clustering
from raydiar.diarization import Diarization
from raydiar.local_speakers import LocalSpeakers
from raydiar.pipelines.config import LocalPipeline

ONGOING = 4  # at a time in a replica, so that short recordings pass a long one


@dataclass(frozen=True)
class Resolver:
    """`raydiar.clustering.resolve` with the parameters of a pipeline, which needs no torch.

    Attributes
    ----------
    clustering : Clustering
    plda : PLDA or None
    min_duration_off : float, s
    counting : CountingParameters or None
    """

    clustering: Clustering
    plda: PLDA | None = field(repr=False)
    min_duration_off: float
    counting: CountingParameters | None = None

    @classmethod
    def of(cls, pipeline: LocalPipeline) -> "Resolver":
        plda = PLDA.load(pipeline.plda) if pipeline.plda else None
        config = pipeline.config
        return cls(config.clustering, plda, config.min_duration_off, config.counting)

    def __call__(self, local: LocalSpeakers, uri: str, **bounds: int | None) -> Diarization:
        """
        Parameters
        ----------
        local : LocalSpeakers
            Of a whole recording.
        uri : str
        bounds
            `num_speakers`, `min_speakers`, `max_speakers`.
        """
        return resolve(
            local,
            self.clustering,
            plda=self.plda,
            min_duration_off=self.min_duration_off,
            counting=self.counting,
            uri=uri,
            **bounds,
        )


@serve.deployment(max_ongoing_requests=ONGOING)
class ResolveDeployment:
    """A replica that clusters."""

    def __init__(self, resolver: Resolver):
        self._resolver = resolver
        self._threads = ThreadPoolExecutor(ONGOING)

    async def resolve(
        self, local: LocalSpeakers, uri: str, bounds: dict[str, int | None]
    ) -> Diarization:
        call = partial(self._resolver, local, uri, **bounds)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)
