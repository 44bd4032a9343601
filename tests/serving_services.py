"""A server's services in a folder, and a worker that answers whatever it is told to."""

import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import uvicorn

from raydiar.diarization import Diarization, Speaker, Turn
from raydiar.serving.http.api import create_api
from raydiar.serving.http.services import Services
from raydiar.serving.jobs.limits import QueueLimits
from raydiar.serving.jobs.store import JobStore
from raydiar.serving.jobs.versions import Versions
from raydiar.serving.media.records import MediaRecords
from raydiar.serving.media.store import MediaStore
from raydiar.serving.results.identification import identify_output
from raydiar.serving.results.output import FrameConfidence, diarize_output, voiceprint_output
from raydiar.serving.settings import ServeSettings
from raydiar.serving.storage.database import open_database
from raydiar.serving.storage.keys import KeyRing
from raydiar.serving.storage.secrets import WebhookSecrets

EMBEDDING = "ab" * 32
MODE = "whole-window"
DIMENSION = 8
CONFIDENCE = FrameConfidence(np.array([90, 80, 100], np.uint8), 0.016875)


def make_services(folder, url="http://localhost", limits=None, **settings) -> Services:
    database = open_database(f"sqlite:///{folder}/server.sqlite")
    unlimited = {"reads_per_minute": 0, "submissions_per_minute": 0}
    settings = ServeSettings(media=str(folder / "media"), **(unlimited | settings))
    return Services(
        settings=settings,
        jobs=JobStore(database, limits or QueueLimits()),
        versions=Versions(database),
        media=MediaStore(settings.media, "0123456789abcdef", url),
        media_records=MediaRecords(database, settings.media_hours),
        keys=KeyRing(database, environ={}),
        webhook_secrets=WebhookSecrets(database, {}),
        search=None,
        embedding=EMBEDDING,
        embedding_mode=MODE,
        dimension=DIMENSION,
    )


def voice(*numbers: float) -> np.ndarray:
    return np.array([*numbers, *[0.0] * (DIMENSION - len(numbers))], np.float32)


def conversation(uri="talk") -> Diarization:
    """Two people who overlap from 4 to 5 s."""
    return Diarization(
        uri=uri,
        duration=12.0,
        turns=(
            Turn(0.0, 5.0, "SPEAKER_00", 0.914),
            Turn(4.0, 12.0, "SPEAKER_01", 0.8),
        ),
        exclusive_turns=(
            Turn(0.0, 4.5, "SPEAKER_00", 0.93),
            Turn(4.5, 12.0, "SPEAKER_01", 0.82),
        ),
        speakers=(
            Speaker("SPEAKER_00", 5.0, 4.0, 3, voice(1.0, 0.1)),
            Speaker("SPEAKER_01", 8.0, 7.0, 5, voice(0.1, 1.0)),
        ),
    )


def monologue(uri="ann", vector=None) -> Diarization:
    vector = voice(1.0) if vector is None else vector
    turns = (Turn(0.5, 9.5, "SPEAKER_00", 0.95),)
    return Diarization(uri, 10.0, turns, turns, (Speaker("SPEAKER_00", 9.0, 9.0, 7, vector),))


def answer(job) -> dict:
    """What a worker makes of a job, without listening."""
    if job.kind == "voiceprint":
        return voiceprint_output(monologue(job.media), EMBEDDING, MODE)
    talk = (job.request, conversation(job.media), CONFIDENCE)
    if job.kind == "diarize":
        return diarize_output(*talk, EMBEDDING, MODE)
    return identify_output(*talk, None, EMBEDDING, MODE)


@contextmanager
def working(jobs: JobStore, work=None):
    """A worker in a thread; `work` takes a job and gives its output, or raises why it failed."""
    stop = threading.Event()

    def run():
        while not stop.is_set():
            job = jobs.claim("worker", 60.0)
            if job is None:
                stop.wait(0.02)
                continue
            try:
                output = (work or answer)(job)
            except Exception as error:
                jobs.fail(job, str(error))
            else:
                jobs.succeed(job, output)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


@contextmanager
def serving(services: Services):
    """A real HTTP server; gives the services that know its address."""
    config = uvicorn.Config("", port=0, log_level="error")
    socket = config.bind_socket()
    url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    services = replace(services, media=replace(services.media, public_url=url))
    config.app = create_api(services)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield services
    finally:
        server.should_exit = True
        thread.join(10)
