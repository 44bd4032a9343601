"""What a finished job answers: a diarization in the words of the REST interface.

Pure functions of plain data. Times are in seconds, to the millisecond; confidences whole numbers
from 0 to 100.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from raydiar.diarization import Diarization, Turn, from_turns
from raydiar.errors import EnrolmentError
from raydiar.formats import FORMATS
from raydiar.local_speakers import LocalSpeakers
from raydiar.serving.results import voiceprint_text
from raydiar.voiceprints.enrolment import check_clip
from raydiar.windows import coverage, overlap_sum

MAX_VOICEPRINT_SECONDS = 30.0
MAX_SCORES = 250_000  # of frames, in an output: 70 min of them, and for a day 0.4 s each
_BLOCK_WINDOWS = 1024


@dataclass(frozen=True)
class FrameConfidence:
    """How sure the segmentation is of who is active, frame by frame.

    Attributes
    ----------
    score : (num_frames,) uint8, 0 to 100
    resolution : float, s
        From one frame to the next.
    """

    score: np.ndarray = field(repr=False)
    resolution: float


def frame_confidence(local: LocalSpeakers) -> FrameConfidence:
    """Confidence of each frame up to the end of a recording.

    A window is as sure of a frame as of its least sure local speaker, active or not; a frame's
    confidence is the mean over its windows. Of long recordings, several frames make up one, so
    that there are at most `MAX_SCORES`; the resolution tells.

    Parameters
    ----------
    local : LocalSpeakers
        Of the whole recording.
    """
    grid = local.grid
    sure = np.empty((local.num_windows, grid.num_frames), np.uint8)
    for start in range(0, local.num_windows, _BLOCK_WINDOWS):
        block = slice(start, start + _BLOCK_WINDOWS)
        posteriors = local.posteriors[block]
        active = local.active(start, start + _BLOCK_WINDOWS).astype(bool)
        sure[block] = np.where(active, posteriors, 255 - posteriors).min(axis=2)
    covered = coverage(local.num_windows, grid)
    num_covered = np.flatnonzero(covered)[-1] + 1
    mean = overlap_sum(sure, grid, np.int32) / (255.0 * np.maximum(covered, 1))
    mean[num_covered:] = mean[num_covered - 1]  # windows end some frames before the recording
    resolution = grid.frame_step / grid.sample_rate
    num_frames = min(len(mean), int(np.ceil(local.duration / resolution)))
    return _merged(mean, num_frames, resolution)


def _merged(mean: np.ndarray, num_frames: int, resolution: float) -> FrameConfidence:
    """Confidence of the first frames, of several together where they are too many."""
    width = -(-num_frames // MAX_SCORES)
    starts = np.arange(0, num_frames, width)
    merged = np.add.reduceat(mean[:num_frames], starts) / np.diff([*starts, num_frames])
    return FrameConfidence(np.rint(100.0 * merged).astype(np.uint8), width * resolution)


def diarize_output(
    request: Mapping[str, Any],
    diarization: Diarization,
    confidence: FrameConfidence | None,
    embedding: str,
    embedding_mode: str,
) -> dict[str, Any]:
    """Output of a diarization job.

    Parameters
    ----------
    request : mapping
        Of the job, see `raydiar.serving.http.schemas.DiarizeRequest`.
    diarization : Diarization
    confidence : FrameConfidence or None
        Needed when the request asks for `confidence`.
    embedding, embedding_mode : str
        Of the voiceprints.
    """
    with_confidence = bool(request.get("turnLevelConfidence"))
    output: dict[str, Any] = {"diarization": segments(diarization.turns, with_confidence)}
    if request.get("exclusive"):
        output["exclusiveDiarization"] = segments(diarization.exclusive_turns, with_confidence)
    if request.get("confidence"):
        if confidence is None:
            raise ValueError("the request asks for the confidence of frames, and there is none")
        output["confidence"] = {
            "score": confidence.score.tolist(),
            "resolution": confidence.resolution,
        }
    if request.get("speakerVoiceprints"):
        output["speakerVoiceprints"] = {
            speaker.speaker: voiceprint_text.encode(speaker.embedding, embedding, embedding_mode)
            if speaker.embedding is not None and np.any(speaker.embedding)
            else None
            for speaker in diarization.speakers
        }
    if diarization.warnings:
        output["warning"] = " ".join(diarization.warnings)
    return output


def voiceprint_output(
    diarization: Diarization, embedding: str, embedding_mode: str
) -> dict[str, Any]:
    """Output of a voiceprint job: the voiceprint of the one person of a clip.

    Raises
    ------
    EnrolmentError
        If the clip is longer than 30 s, others speak in it, or there is too little speech.
    """
    if diarization.duration > MAX_VOICEPRINT_SECONDS:
        raise EnrolmentError(
            f"{diarization.uri}: {diarization.duration:.1f} s are too long for a voiceprint. Cut "
            f"out at most {MAX_VOICEPRINT_SECONDS:.0f} s in which one person speaks."
        )
    speaker = check_clip(diarization)
    return {"voiceprint": voiceprint_text.encode(speaker.embedding, embedding, embedding_mode)}


def segments(turns: Iterable[Turn], with_confidence: bool = False) -> list[dict[str, Any]]:
    """Turns as the interface lists them; `confidence` names the turn's own speaker only."""
    listed = []
    for turn in turns:
        segment = {
            "start": round(turn.start, 3),
            "end": round(turn.end, 3),
            "speaker": turn.speaker,
        }
        if with_confidence and turn.confidence is not None:
            segment["confidence"] = {turn.speaker: round(100.0 * turn.confidence)}
        listed.append(segment)
    return listed


# -- other formats -----------------------------------------------------------------------------


def from_output(output: str, uri: str) -> Diarization:
    """The diarization in a job's output (JSON); exclusive where that was asked for."""
    document = json.loads(output)
    turns = []
    for segment in document.get("exclusiveDiarization", document["diarization"]):
        label = segment["speaker"]
        percent = segment.get("confidence", {}).get(label)
        confidence = None if percent is None else percent / 100.0
        turns.append(Turn(segment["start"], segment["end"], label, confidence))
    return from_turns(uri, turns)


def to_csv(diarization: Diarization) -> str:
    """A header and a row per turn, see `Diarization.csv_rows`."""
    return FORMATS["csv"].text(diarization)


def uri_of(filename: str | None) -> str:
    """Name of a recording in RTTM and CSV after the file that a client sent; never empty."""
    # a client on Windows may send a whole path
    name = PurePosixPath((filename or "").replace("\\", "/")).stem
    return re.sub(r"[^\w.-]+", "_", name)[:200].strip("_") or "recording"
