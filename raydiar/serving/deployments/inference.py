"""Local inference for requests: slices of PCM of many recordings share batches.

A recording comes in slices, each with the samples of its windows only, so that a long one neither
travels whole nor keeps short ones waiting. All of torch runs in one thread of its own: once a
second thread of a process computes, GNU OpenMP makes the networks five times slower on a CPU.
"""

import asyncio
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from ray import serve

from raydiar.corpus.job.placement import num_cores
from raydiar.errors import DeviceFailed
from raydiar.failures import is_device_error, is_out_of_memory
from raydiar.local_speakers import LocalSpeakers
from raydiar.pipelines.config import LocalPipeline, PipelineConfig
from raydiar.serving.deployments.batching import Batching
from raydiar.serving.deployments.placement import InferencePlacement
from raydiar.serving.logs import get_logger
from raydiar.serving.settings import ServeSettings
from raydiar.windows import WindowGrid

_GOODBYE_SECONDS = 0.5  # in which the replies of a failed device still leave

logger = get_logger("ray.serve")


@dataclass(frozen=True)
class PcmSlice:
    """Consecutive windows of a recording, with their samples only.

    Attributes
    ----------
    samples : (num_samples,) int16
        From the start of the first window to the end of the last, or of the recording.
    first_window, num_windows : int
    recording_samples : int
        Length of the whole recording.
    owner : str
        Whose it is: those who ask at the same time are served in turn.
    """

    samples: np.ndarray = field(repr=False)
    first_window: int
    num_windows: int
    recording_samples: int
    owner: str = ""


def cut(
    samples: np.ndarray, grid: WindowGrid, slice_seconds: float, owner: str = ""
) -> Iterator[PcmSlice]:
    """Cut a recording into slices of at most `slice_seconds`, or one window.

    Parameters
    ----------
    samples : (num_samples,) int16
    grid : WindowGrid
    slice_seconds : float
    owner : str
    """
    beyond_first = slice_seconds * grid.sample_rate - grid.window_samples
    most = 1 + max(0, int(beyond_first // grid.step_samples))
    total = grid.num_windows(len(samples))
    for first in range(0, total, most):
        count = min(most, total - first)
        start = first * grid.step_samples
        stop = start + (count - 1) * grid.step_samples + grid.window_samples
        yield PcmSlice(samples[start:stop], first, count, len(samples), owner)


class SliceInference:
    """Local inference on slices, in whichever process and thread it is called.

    Parameters
    ----------
    pipeline : LocalPipeline or PipelineConfig
        The latter is brought to this machine first.
    device : str
    num_threads : int
        Of torch, on a CPU; no more than there are cores.
    """

    def __init__(self, pipeline: LocalPipeline | PipelineConfig, device: str, num_threads: int):
        import torch

        from raydiar.inference.health import HealthCheck
        from raydiar.pipelines.speaker_diarization import local_inference

        if device == "cpu":
            torch.set_num_threads(min(num_threads, num_cores()))
        if isinstance(pipeline, PipelineConfig):
            pipeline = pipeline.localize()
        self._inference = local_inference(pipeline, device)
        self._health = HealthCheck(self._inference)
        self.grid = self._inference.grid

    def __call__(self, slices: list[PcmSlice]) -> list[LocalSpeakers | Exception]:
        """Infer all slices together; if that fails each alone, so that one fails alone.

        Raises
        ------
        Exception
            What a device caused.
        """
        try:
            return self._run(slices)
        except Exception as error:
            if is_device_error(error) or is_out_of_memory(error):
                raise
            if (wrong := self._health.failure()) is not None:
                raise DeviceFailed(f"{error} (a known window fails as well: {wrong})") from error
            if len(slices) == 1:
                return [error]
            return [result for one in slices for result in self([one])]

    def _run(self, slices: list[PcmSlice]) -> list[LocalSpeakers]:
        results = self._inference(one.samples for one in slices)
        return [_placed(*pair) for pair in zip(results, slices, strict=True)]


def _placed(local: LocalSpeakers, of: PcmSlice) -> LocalSpeakers:
    """Local speakers of a slice that was inferred as a recording of its own, in their recording."""
    return replace(
        local,
        num_samples=of.recording_samples,
        first_window=of.first_window,
        owners=local.owners + np.array([of.first_window, 0], np.int32),
    )


@serve.deployment(health_check_period_s=2, graceful_shutdown_wait_loop_s=0.5)
class LocalInferenceDeployment:
    """A replica with the networks; its process ends when its device fails, and Serve starts anew.

    Parameters
    ----------
    pipeline, device, num_threads
        See `SliceInference`.
    max_batch_seconds : int
        See `most_batch_seconds`.
    """

    def __init__(
        self,
        pipeline: LocalPipeline | PipelineConfig,
        device: str,
        num_threads: int,
        max_batch_seconds: int,
    ):
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="torch")
        self._inference = self._thread.submit(
            SliceInference, pipeline, device, num_threads
        ).result()
        step = self._inference.grid.step_samples / self._inference.grid.sample_rate
        # by windows, not by duration: a short clip costs a whole one
        self._batching = Batching(
            self._infer_batch,
            lambda one: one.num_windows * step,
            max_batch_seconds,
            owner=lambda one: one.owner,
        )

    async def infer(self, one: PcmSlice) -> LocalSpeakers:
        """Local speakers of a slice.

        Raises
        ------
        DeviceFailed
            The GPU is lost: ask again, another replica answers.
        """
        return await self._batching(one)

    async def _infer_batch(self, slices: list[PcmSlice]) -> list[LocalSpeakers | Exception]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._inference, slices)
        except Exception as error:
            if not (is_device_error(error) or is_out_of_memory(error)):
                raise
            logger.error("the device failed, this replica ends: %s", error)
            # after a CUDA error every call of the process may fail
            loop.call_later(_GOODBYE_SECONDS, os._exit, 1)
            raise DeviceFailed(f"the device failed: {error}") from None


def most_batch_seconds(settings: ServeSettings, placement: InferencePlacement) -> int:
    """Audio of a batch, at least one slice.

    On a CPU it is one slice: larger batches gain nothing there, and keep others waiting.
    """
    one_slice = math.ceil(placement.slice_seconds)
    on_cpu = placement.device == "cpu"
    return one_slice if on_cpu else max(one_slice, int(settings.batch_seconds))


def slices_per_batch(settings: ServeSettings, placement: InferencePlacement) -> int:
    return most_batch_seconds(settings, placement) // math.ceil(placement.slice_seconds)


def slices_in_flight(settings: ServeSettings, placement: InferencePlacement) -> int:
    """Slices of one recording that may be under way: two batches for every replica."""
    return 2 * placement.max_replicas * slices_per_batch(settings, placement)
