"""From a job to its output: get the recording, decode, infer slice by slice, resolve, write down.

Nothing here knows of Serve, nor of leases: networks and clustering are two coroutine functions, and
whoever cancels a `Processor` stops all that it began.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from raydiar.audio.isolation import IsolatedDecoder
from raydiar.diarization import Diarization
from raydiar.errors import (
    AudioNotFound,
    DecoderCrashed,
    DecoderKilled,
    DecoderStalled,
    MediaTooLarge,
    RaydiarError,
    RecordingTooLong,
)
from raydiar.local_speakers import LocalSpeakers
from raydiar.serving.deployments.inference import PcmSlice, cut
from raydiar.serving.failures import message
from raydiar.serving.jobs.records import Job
from raydiar.serving.media.names import SCHEME, media_key
from raydiar.serving.outbound.addresses import FetchPolicy, url_label
from raydiar.serving.outbound.fetching import fetch
from raydiar.serving.results.identification import identify_output
from raydiar.serving.results.output import (
    MAX_VOICEPRINT_SECONDS,
    diarize_output,
    frame_confidence,
    voiceprint_output,
)
from raydiar.serving.results.waveform import peaks
from raydiar.serving.settings import ServeSettings
from raydiar.serving.stores import Stores
from raydiar.serving.work.budget import SAMPLE_BYTES, PcmBudget
from raydiar.voiceprints.verification import Calibration, default_calibration
from raydiar.windows import WindowGrid

VOICEPRINT_BYTES = 100 * 2**20
WAVEFORM = "waveform"  # beside what clients see of an output

T = TypeVar("T")

_DECODED, _INFERRED = 0.1, 0.9  # of the progress


@dataclass
class Progress:
    """How far a job is: a fraction, and its audio in seconds once it is known."""

    fraction: float = 0.0
    audio_seconds: float | None = None


@dataclass(frozen=True)
class Voiceprints:
    """Of what embedding the voiceprints of a pipeline are."""

    embedding: str
    embedding_mode: str
    dimension: int

    def calibration(self) -> Calibration | None:
        return default_calibration(self.embedding, self.embedding_mode)


class Processor:
    """
    Parameters
    ----------
    settings : ServeSettings
    stores : Stores
    voiceprints : Voiceprints
    grid : WindowGrid
    slice_seconds : float, s
        Audio of a slice at most.
    in_flight : int
        Slices of one recording that may be under way at a time.
    infer : coroutine function of PcmSlice to LocalSpeakers
    resolve : coroutine function of (LocalSpeakers, uri, bounds) to Diarization
    """

    def __init__(
        self,
        settings: ServeSettings,
        stores: Stores,
        voiceprints: Voiceprints,
        grid: WindowGrid,
        slice_seconds: float,
        in_flight: int,
        infer: Callable[[PcmSlice], Awaitable[LocalSpeakers]],
        resolve: Callable[[LocalSpeakers, str, dict], Awaitable[Diarization]],
    ):
        self._settings = settings
        self._stores = stores
        self._voiceprints = voiceprints
        self._calibration = voiceprints.calibration()
        self._grid = grid
        self._slice_seconds = slice_seconds
        self._in_flight = in_flight
        self._infer_slice = infer
        self._resolve = resolve
        self._decoders = _Decoders(settings.jobs_per_worker, settings.decode_time_limit)
        self._budget = PcmBudget(int(1e9 * settings.worker_pcm_gb))

    def close(self) -> None:
        """End the decoding processes."""
        self._decoders.close()

    async def __call__(self, job: Job, path: Path, progress: Progress) -> dict[str, Any]:
        """The output of a job.

        Parameters
        ----------
        job : Job
        path : Path
            Where `recording` has it.
        progress : Progress
            Kept up to date.

        Raises
        ------
        Exception
            See `raydiar.serving.failures`.
        """
        max_seconds = self._settings.max_hours * 3600.0
        if job.kind == "voiceprint":
            max_seconds = min(max_seconds, MAX_VOICEPRINT_SECONDS)
        try:
            stated = await self._decoders.stated_seconds(str(path))
        except RaydiarError as error:
            raise type(error)(message(error, job.media, str(path))) from error
        progress.audio_seconds = stated
        expected = max_seconds if stated is None else min(max_seconds, _with_margin(stated))
        try:
            return await self._within(job, path, progress, expected, max_seconds)
        except _LongerThanStated:
            return await self._within(job, path, progress, max_seconds, max_seconds)

    async def _within(
        self, job: Job, path: Path, progress: Progress, seconds: float, max_seconds: float
    ) -> dict[str, Any]:
        """The output of a job whose recording lasts so long at most, with memory for as much."""
        async with self._budget.room(int(seconds * self._grid.sample_rate) * SAMPLE_BYTES):
            samples, warnings = await self._samples(job, path, seconds, max_seconds)
            progress.audio_seconds = len(samples) / self._grid.sample_rate
            progress.fraction = _DECODED
            waveform = await asyncio.to_thread(peaks, samples)
            local = await self._infer(samples, progress, job.owner)
            del samples
        names = {
            "num_speakers": "numSpeakers",
            "min_speakers": "minSpeakers",
            "max_speakers": "maxSpeakers",
        }
        bounds = {name: job.request.get(key) for name, key in names.items()}
        diarization = await self._resolve(local, url_label(job.media), bounds)
        diarization = replace(diarization, warnings=(*warnings, *diarization.warnings))
        output = await asyncio.to_thread(self._output, job, diarization, local)
        return output | {WAVEFORM: waveform}

    async def _samples(
        self, job: Job, path: Path, seconds: float, max_seconds: float
    ) -> tuple[np.ndarray, list[str]]:
        """PCM of a recording, and what its client should know of it."""
        label = url_label(job.media)
        try:
            warnings: list[str] = []
            samples = await self._decoders.decode(str(path), seconds, warnings)
            return samples, [text.replace(str(path), label) for text in warnings]
        except RecordingTooLong as error:
            if seconds < max_seconds:
                raise _LongerThanStated from error
            limit = f"{max_seconds:g} s" if max_seconds < 3600 else f"{max_seconds / 3600:g} h"
            raise RecordingTooLong(
                f"{label}: lasts longer than {limit}. Send an excerpt."
            ) from error
        except RaydiarError as error:
            raise type(error)(message(error, job.media, str(path))) from error

    @asynccontextmanager
    async def recording(self, job: Job) -> AsyncIterator[Path]:
        """A file of this machine with the recording, while the block lasts.

        Raises
        ------
        MediaTooLarge, AudioNotFound, UrlRefused, FetchFailed, StorageDenied, StorageUnavailable
        """
        max_bytes = self._settings.max_bytes
        if job.kind == "voiceprint":
            max_bytes = min(max_bytes, VOICEPRINT_BYTES)
        async with self._local_path(job, max_bytes) as path:
            if os.path.getsize(path) > max_bytes:
                label = url_label(job.media)
                raise MediaTooLarge(f"{label}: larger than {max_bytes} bytes. Send an excerpt.")
            yield path

    @asynccontextmanager
    async def _local_path(self, job: Job, max_bytes: int) -> AsyncIterator[Path]:
        if job.media.startswith(SCHEME):
            record = await asyncio.to_thread(
                self._stores.media_records.get, job.owner, media_key(job.media)
            )
            if record is None or record.state != "uploaded":
                raise AudioNotFound(
                    f"{job.media}: nothing was uploaded there, or it has expired. Send it again."
                )
            async with self._stores.media.local_path(job.owner, record.key) as path:
                yield path
            return
        policy = FetchPolicy(
            allow_hosts=self._settings.allow_hosts,
            allow_buckets=self._settings.allow_buckets,
            max_bytes=max_bytes,
        )
        with tempfile.TemporaryDirectory(prefix="raydiar-") as folder:
            path = Path(folder) / "media"
            await fetch(job.media, path, policy)
            yield path

    async def _infer(self, samples: np.ndarray, progress: Progress, owner: str) -> LocalSpeakers:
        """All slices of a recording, few enough at a time that others come between."""
        room = asyncio.Semaphore(self._in_flight)
        total = self._grid.num_windows(len(samples))

        async def infer(one: PcmSlice) -> LocalSpeakers:
            async with room:
                local = await self._infer_slice(one)
            progress.fraction += (_INFERRED - _DECODED) * one.num_windows / total
            return local

        try:
            async with asyncio.TaskGroup() as group:
                slices = cut(samples, self._grid, self._slice_seconds, owner)
                tasks = [group.create_task(infer(one)) for one in slices]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return await asyncio.to_thread(LocalSpeakers.concat, [task.result() for task in tasks])

    def _output(self, job: Job, diarization: Diarization, local: LocalSpeakers) -> dict[str, Any]:
        embedding = (self._voiceprints.embedding, self._voiceprints.embedding_mode)
        if job.kind == "voiceprint":
            return voiceprint_output(diarization, *embedding)
        confidence = frame_confidence(local) if job.request.get("confidence") else None
        if job.kind == "identify":
            return identify_output(
                job.request, diarization, confidence, self._calibration, *embedding
            )
        return diarize_output(job.request, diarization, confidence, *embedding)


class _LongerThanStated(Exception):
    """A recording lasts longer than its header says, for which too little memory is held."""


def _with_margin(stated: float) -> float:
    return 1.02 * stated + 30.0  # headers are not exact


class _Decoders:
    """Decoding processes, each for one recording at a time; they start when they are needed."""

    def __init__(self, size: int, time_limit: float):
        self._time_limit = time_limit
        self._free: list[IsolatedDecoder] = []
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="decode")

    async def decode(self, path: str, max_seconds: float, warnings: list[str]) -> np.ndarray:
        """PCM of a file; a cancellation kills the process that decodes it."""
        return await self._run(
            lambda one: one.decode(path, max_duration=max_seconds, warnings=warnings)
        )

    async def stated_seconds(self, path: str) -> float | None:
        """How long a file says that it lasts; None if it does not, or is no recording.

        Raises
        ------
        DecoderCrashed, DecoderStalled, DecoderKilled
        """
        try:
            return (await self._run(lambda one: one.probe(path))).duration
        except (DecoderCrashed, DecoderStalled, DecoderKilled):
            raise
        except RaydiarError:
            return None  # decoding it will tell why

    async def _run(self, ask: Callable[[IsolatedDecoder], T]) -> T:
        decoder = self._free.pop() if self._free else IsolatedDecoder(self._time_limit)
        call = partial(ask, decoder)
        running = asyncio.get_running_loop().run_in_executor(self._threads, call)
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            while not running.done():
                if decoder.pid is not None:
                    with suppress(ProcessLookupError):
                        os.kill(decoder.pid, signal.SIGKILL)
                await asyncio.wait([running], timeout=0.1)
            running.exception()  # seen: nobody waits for it any more
            raise
        finally:
            self._free.append(decoder)

    def close(self) -> None:
        for decoder in self._free:
            decoder.close()
        self._threads.shutdown(wait=False)
