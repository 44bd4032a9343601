"""Diarization by a service: pyannoteAI's premium models, or any server that speaks its interface.

Recordings leave this machine. Local files are uploaded as they are; excerpts, single channels and
waveforms as 16 kHz mono FLAC.
"""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from raydiar.audio import SAMPLE_RATE, probe
from raydiar.clustering.parameters import speaker_bounds
from raydiar.diarization import Diarization, Turn, from_turns
from raydiar.errors import ConfigError, RaydiarError, RemoteJobFailed
from raydiar.pipelines.files import AudioFile
from raydiar.pipelines.pipeline import Pipeline
from raydiar.pipelines.remote_client import RemoteClient
from raydiar.storage import open_source

_AT_ONCE = 4  # recordings on their way, of a list
_NAME = re.compile(r"pyannote/speaker-diarization-(?P<model>precision-[\w.]+)")


def remote_model(checkpoint: Any) -> str | None:
    """The `model` of the service that a pipeline's name asks for, None if it is run here."""
    match = _NAME.fullmatch(checkpoint) if isinstance(checkpoint, str) else None
    return match["model"] if match else None


class RemoteDiarization(Pipeline):
    """Who spoke when, as a service answers it.

    Parameters
    ----------
    model : str
        Passed on as it is: "precision-2", "precision-3", …
    token : str, optional
        API key; by default `$PYANNOTEAI_API_KEY`.
    base_url : str, optional
        Of another server than pyannoteAI's; by default `$PYANNOTEAI_API_URL`.
    timeout : float, optional
        Seconds to wait for a job; for ever by default.

    Raises
    ------
    ConfigError, RemoteDenied, RemoteUnavailable
        The key is tried at once.
    """

    def __init__(
        self,
        model: str = "precision-2",
        token: str | None = None,
        base_url: str | None = None,
        timeout: float | None = None,
    ):
        super().__init__()
        self.model = model
        self.timeout = timeout
        self._client = RemoteClient(token, base_url)

    def to(self, device) -> RemoteDiarization:
        """Nothing to move: the service chooses its own device."""
        return self

    def cuda(self, index: int | None = None) -> RemoteDiarization:
        return self

    def instantiate(self, params: Mapping[str, Any]) -> RemoteDiarization:
        """
        Raises
        ------
        ConfigError
            If there is anything to set: the service keeps its parameters to itself.
        """
        if params:
            raise ConfigError(f"{self.model} runs elsewhere: it has no parameters to set")
        return self

    def apply(
        self,
        file: AudioFile,
        hook: Callable | None = None,
        num_speakers: int | None = None,
        min_speakers: int | None = None,
        max_speakers: int | None = None,
    ) -> Diarization:
        """Diarize one recording; parameters and results as of `SpeakerDiarization`.

        A hook hears of the steps "upload" (bytes), "job" and "discrete_diarization". The voices
        stay with the service: `speaker_embeddings` are unknown.

        Raises
        ------
        AudioDecodeError, AudioNotFound, ConfigError
        RemoteDenied, RemoteRefused, RemoteUnavailable, RemoteJobFailed
        """
        speaker_bounds(num_speakers, min_speakers, max_speakers)
        bounds = {
            "numSpeakers": num_speakers,
            "minSpeakers": min_speakers,
            "maxSpeakers": max_speakers,
        }
        given = {name: number for name, number in bounds.items() if number is not None}
        return self._one(file, given, hook)

    def _many(self, files: Iterable[AudioFile], hook, on_error, options: dict):
        def submit(file: AudioFile) -> Future:
            return threads.submit(self.apply, file, hook, **self._options_of(file, options))

        waiting: deque[tuple[AudioFile, Future]] = deque()
        with ThreadPoolExecutor(_AT_ONCE, "raydiar-remote") as threads:
            try:
                left = iter(files)
                while True:
                    for file in left:
                        waiting.append((file, submit(file)))
                        if len(waiting) == _AT_ONCE:
                            break
                    if not waiting:
                        return
                    file, future = waiting.popleft()
                    try:
                        output = future.result()
                    except RaydiarError as error:
                        if on_error is None:
                            raise
                        on_error(file.original, error)
                    else:
                        yield file.original, output
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _one(self, file: AudioFile, bounds: dict[str, int], hook: Callable | None) -> Diarization:
        def tell(step: str, artifact=None, **counts) -> None:
            if hook is not None:
                hook(step, artifact, file={"uri": file.uri}, **counts)

        warnings: list[str] = []
        with _to_send(file, warnings) as (body, num_bytes, duration):
            tell("upload", total=num_bytes, completed=0)
            url = self._client.upload(
                body, num_bytes, lambda sent: tell("upload", total=num_bytes, completed=sent)
            )
        request = {
            "url": url,
            "model": self.model,
            "turnLevelConfidence": True,
            "exclusive": True,
            **bounds,
        }
        tell("job", total=1, completed=0)
        created = self._client.call("POST", "/diarize", request)
        if not isinstance(created.get("jobId"), str):
            raise RemoteJobFailed(f"{self._client.url}/diarize names no job")
        output = self._client.wait(created["jobId"], self.timeout)
        tell("job", total=1, completed=1)
        for told in (created.get("warning"), output.get("warning")):
            warnings += [told] if told and told not in warnings else []
        diarization = _diarization(output, file, duration, tuple(warnings))
        tell("discrete_diarization", diarization.speaker_diarization)
        return diarization


@contextmanager
def _to_send(file: AudioFile, warnings: list[str]) -> Iterator[tuple[BinaryIO, int, float | None]]:
    """The bytes to upload, how many, and how many seconds they last."""
    partial = file.start or file.duration is not None or file.channel not in (None, "mix")
    if file.waveform is not None or partial:
        samples = file.samples(warnings)
        body = _flac(samples)
        yield body, len(body.getvalue()), len(samples) / SAMPLE_RATE
        return
    with open_source(file.source) as reader:
        duration = probe(reader).duration  # what is no audio is not sent
        yield reader, reader.size(), duration


def _flac(samples: np.ndarray) -> io.BytesIO:
    """(num_samples,) int16 or float32 in [-1, 1] as a FLAC file."""
    import av

    if samples.dtype != np.int16:
        samples = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype(np.int16)
    body = io.BytesIO()
    with av.open(body, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        for start in range(0, len(samples), SAMPLE_RATE):
            block = np.ascontiguousarray(samples[None, start : start + SAMPLE_RATE])
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return body


def _diarization(
    output: dict[str, Any], file: AudioFile, duration: float | None, warnings: tuple[str, ...]
) -> Diarization:
    turns = _turns(output.get("diarization"))
    exclusive = _turns(output.get("exclusiveDiarization") or [])
    found = from_turns(file.uri, turns, duration)
    whole = Diarization(
        uri=file.uri,
        duration=found.duration,
        turns=found.turns,
        exclusive_turns=tuple(sorted(exclusive, key=lambda t: (t.start, t.end, t.speaker))),
        speakers=found.speakers,
        clustering="remote",
        warnings=warnings,
    )
    return whole.shifted(file.start)


def _turns(segments: Any) -> list[Turn]:
    try:
        turns = []
        for segment in segments:
            label = str(segment["speaker"])
            percent = (segment.get("confidence") or {}).get(label)
            confidence = None if percent is None else float(percent) / 100.0
            turns.append(Turn(float(segment["start"]), float(segment["end"]), label, confidence))
        return turns
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise RemoteJobFailed(f"the service's answer is no diarization: {error!r}") from error
