"""The server for tests of its page: the real routes, queue and pipeline, without Ray."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from serving_services import make_services, serving

from raydiar.audio import decode
from raydiar.diarization import Diarization
from raydiar.errors import JobCanceled, RaydiarError
from raydiar.serving.http.services import Services
from raydiar.serving.media.names import media_key
from raydiar.serving.results.output import diarize_output, frame_confidence
from raydiar.serving.results.waveform import peaks

BOUNDS = {"num_speakers": "numSpeakers", "min_speakers": "minSpeakers"}
BOUNDS["max_speakers"] = "maxSpeakers"


@contextmanager
def pipeline_process() -> Iterator[Executor]:
    """A process with the default pipeline: torch slows down in a second thread of one."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        yield executor


@cache
def _pipeline():
    import torch

    from raydiar import Pipeline

    torch.set_num_threads(1)  # two wait for each other where others work
    return Pipeline.from_pretrained()


@cache
def _local_inference():
    from raydiar.pipelines.config import DEFAULT
    from raydiar.pipelines.speaker_diarization import local_inference

    _pipeline()  # sets torch's threads
    return local_inference(DEFAULT.localize())


def describe() -> dict[str, str]:
    return _pipeline().describe()


def diarize(path: str, request: dict[str, Any]) -> tuple[Diarization, dict[str, Any]]:
    """A recording's diarization, and the output of the job that asked for it."""
    bounds = {name: request.get(key) for name, key in BOUNDS.items()}
    [local] = _local_inference()([decode(path)])
    diarization = _pipeline().resolve(local, uri=Path(path).stem, **bounds)
    confidence = frame_confidence(local)
    voiceprints = [describe()[name] for name in ("embedding", "embedding_mode")]
    return diarization, diarize_output(request, diarization, confidence, *voiceprints)


class Worker:
    """Does one job after another in a thread.

    Attributes
    ----------
    go : threading.Event
        While it is not set, a job that was begun stays at 40 percent.
    """

    def __init__(self, services: Services, executor: Executor):
        self.go = threading.Event()
        self.go.set()
        self._services = services
        self._executor = executor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            job = self._services.jobs.claim("worker", 60.0)
            if job is not None:
                self._do(job)

    def _do(self, job) -> None:
        jobs, media = self._services.jobs, self._services.media
        path = Path(media.uri) / media.path_of(job.owner, media_key(job.media))
        try:
            while not self.go.wait(0.05):
                if self._stop.is_set():
                    return
                jobs.renew(job, 60.0, progress=0.4)
            _, output = self._executor.submit(diarize, str(path), job.request).result()
            samples = decode(path)
            jobs.renew(job, 60.0, audio_seconds=len(samples) / 16000)
            jobs.succeed(job, output, peaks(samples))
        except JobCanceled:
            pass
        except RaydiarError as error:
            jobs.fail(job, str(error).replace(str(path), job.media))


@contextmanager
def page_server(
    folder: Path, executor: Executor, search: Callable | None = None, **options
) -> Iterator[tuple[Services, Worker]]:
    """A server and its worker.

    Parameters
    ----------
    folder : Path
    executor : Executor
        See `pipeline_process`.
    search : callable, optional
        See `Services`.
    options
        Of `make_services`, and `anonymous`.
    """
    anonymous = options.pop("anonymous", True)
    pipeline = executor.submit(describe).result()
    services = replace(
        make_services(folder, **options),
        embedding=pipeline["embedding"],
        embedding_mode=pipeline["embedding_mode"],
        dimension=192,
        search=search,
        anonymous=anonymous,
    )
    with serving(services) as services:
        worker = Worker(services, executor)
        try:
            yield services, worker
        finally:
            worker.stop()
