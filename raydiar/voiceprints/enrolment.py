"""Named people: learned from clips, and recognised among the speakers of a recording.

Enrolled voiceprints lie in the index beside those of recordings, one a clip, marked by their
name; searches of the corpus do not see them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.optimize import linear_sum_assignment

from raydiar.audio import hand_over
from raydiar.diarization import Diarization, Speaker
from raydiar.errors import ConfigError, EnrolmentError, VoiceprintNotFound
from raydiar.naming import public_uri
from raydiar.voiceprints import builder
from raydiar.voiceprints.index import VoiceprintIndex
from raydiar.voiceprints.search import check_pipeline, heard, main_speaker, voiceprint_of
from raydiar.voiceprints.searchable import SearchableIndex
from raydiar.voiceprints.segments import unit_vectors
from raydiar.voiceprints.verification import Calibration

if TYPE_CHECKING:
    from raydiar.pipelines import SpeakerDiarization

MIN_SECONDS = 5.0
"""Speech that a clip must have to enrol a person."""

MAX_OTHERS = 0.1
"""Share of a clip's speech that may be other people's; diarization errs by as much."""

MAX_CLIPPED = 0.002
"""Share of samples within 1 % of the loudest; unclipped speech has a tenth of that at most."""


@dataclass(frozen=True)
class Identity:
    """Who a speaker of a recording is; `name` is None for "unknown".

    Attributes
    ----------
    speaker : Speaker
    name : str or None
    score : float
        Cosine with the person of that name, or with the most similar one where unknown.
    probability : float
        Of being that person.
    """

    speaker: Speaker
    name: str | None
    score: float
    probability: float


def enroll(
    uri: str, name: str, clips: Sequence, pipeline: SpeakerDiarization
) -> list[tuple[str, float]]:
    """Learn a person from clips in which nobody else speaks; more clips may follow later.

    Parameters
    ----------
    uri : str
        Of the index.
    name : str
    clips : sequence
        Whatever `pipeline` takes.

    Returns
    -------
    learned : list of (str, float)
        Each clip and its seconds of speech.

    Raises
    ------
    EnrolmentError
        If a clip is not good enough; nobody is enrolled then.
    VoiceprintIndexError
        If the pipeline's voiceprints are not those of the index.
    """
    if not name.strip():
        raise EnrolmentError("a person needs a name")
    index = VoiceprintIndex.open(uri)
    check_pipeline(index, pipeline)
    speakers, clip_uris = [], []
    for clip in clips:
        clip_uris.append(public_uri(str(clip)))
        speakers.append(_only_speaker(clip, pipeline))
    recording_ids = [f"enrolment of {name}: {clip}" for clip in clip_uris]
    if len(set(recording_ids)) < len(recording_ids) or len(
        index.ids_where(pc.field("recording_id").isin(recording_ids))
    ):
        raise EnrolmentError(f"{name!r} is enrolled from one of these clips already")
    rows = pa.table(
        {
            "recording_id": recording_ids,
            "uri": clip_uris,
            "speaker": [speaker.speaker for speaker in speakers],
            "seconds": [speaker.embedding_seconds for speaker in speakers],
            "num_embeddings": [speaker.num_embeddings for speaker in speakers],
            "name": [name] * len(speakers),
        }
    )
    builder.add_rows(uri, rows, np.stack([speaker.embedding for speaker in speakers]))
    return [(clip, s.embedding_seconds) for clip, s in zip(clip_uris, speakers, strict=True)]


def _only_speaker(clip, pipeline: SpeakerDiarization) -> Speaker:
    from raydiar.pipelines.files import AudioFile

    file, label, told = AudioFile.of(clip), public_uri(str(clip)), []
    samples = file.samples(told)
    hand_over(told, None)
    check_not_clipped(samples, label)
    waveform = samples[None].astype(np.float32) / (32768 if samples.dtype == np.int16 else 1)
    return check_clip(
        pipeline({"uri": label, "waveform": waveform, "sample_rate": 16000}),
    )


def check_clip(output: Diarization) -> Speaker:
    """The one speaker of a diarized clip.

    Raises
    ------
    EnrolmentError
        If there are others, or too little speech.
    """
    try:
        main = main_speaker(output)
    except VoiceprintNotFound as error:
        raise EnrolmentError(str(error)) from None
    others = sum(s.speech_seconds for s in output.speakers) - main.speech_seconds
    if others > MAX_OTHERS * (main.speech_seconds + others):
        raise EnrolmentError(
            f"{output.uri}: {output.num_speakers} people speak in it, {main.speech_seconds:.1f} s "
            f"and {others:.1f} s. Cut it down to one of them."
        )
    if main.embedding_seconds < MIN_SECONDS:
        raise EnrolmentError(
            f"{output.uri}: {main.embedding_seconds:.1f} s of speech are too little to know a "
            f"person by; give at least {MIN_SECONDS:.0f} s"
        )
    return main


def check_not_clipped(samples: np.ndarray, label: str) -> None:
    """
    Parameters
    ----------
    samples : (num_samples,) int16 or float32

    Raises
    ------
    EnrolmentError
        If the loudest samples are cut off at one level.
    """
    loudness = np.abs(samples.astype(np.float32))
    peak = loudness.max(initial=0.0)
    share = float(np.mean(loudness >= 0.99 * peak)) if peak else 0.0
    if share > MAX_CLIPPED:
        raise EnrolmentError(
            f"{label}: {share:.1%} of its samples are cut off at their peak (clipping), which "
            "changes the voice. Record it at a lower level."
        )


def identify(
    index: SearchableIndex,
    output: Diarization,
    calibration: Calibration,
    *,
    false_accept_rate: float = 0.01,
    prior: float | None = None,
) -> list[Identity]:
    """Name the speakers of a recording; nobody is two of them.

    Parameters
    ----------
    output : Diarization
        Made with the pipeline of the index.
    calibration : Calibration
    false_accept_rate : float
        How often a stranger may be given a name. It is shared among the enrolled people; where
        that is less than the calibration knows, the least that it knows is taken for each.
    prior : float, optional
        Of `Identity.probability`: how likely a speaker is a given one of the enrolled people. By
        default one in two is one of them, each as likely.

    Returns
    -------
    identities : list of Identity
        One per speaker that has a voiceprint, in the recording's order.

    Raises
    ------
    VoiceprintNotFound
        If nobody is enrolled, or no speaker has a voiceprint.
    """
    names = index.names()
    if not names:
        raise VoiceprintNotFound(f"nobody is enrolled in {index.folder.uri}")
    if not 0 < false_accept_rate < 1:
        raise ConfigError(f"a false-accept rate lies between 0 and 1, not {false_accept_rate}")
    prior = 0.5 / len(names) if prior is None else prior
    speakers = heard(output)
    known = np.stack([voiceprint_of(index, name) for name in names])
    scores = unit_vectors(np.stack([s.embedding for s in speakers])) @ known.T
    least, most = calibration.false_accept_rates[-1], calibration.false_accept_rates[0]
    rate = min(max(false_accept_rate / len(names), least), most)
    gains = np.maximum(scores - calibration.threshold(rate), 0)
    matched = dict(zip(*linear_sum_assignment(gains, maximize=True), strict=True))
    identities = []
    for row, speaker in enumerate(speakers):
        column = matched.get(row)
        if column is None or gains[row, column] == 0:
            column = None
        score = float(scores[row].max() if column is None else scores[row, column])
        probability = float(calibration.probability(score, prior))
        name = None if column is None else names[column]
        identities.append(Identity(speaker, name, score, probability))
    return identities
