"""Who the speakers of a recording are, among voiceprints that a client sent along."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from raydiar.diarization import Diarization
from raydiar.serving.results import voiceprint_text
from raydiar.serving.results.output import FrameConfidence, diarize_output
from raydiar.voiceprints.segments import unit_vectors
from raydiar.voiceprints.verification import Calibration

_LEAST_THRESHOLD = 0.5  # percent: confidences round to whole numbers, and 0 has no logarithm


def identify_output(
    request: Mapping[str, Any],
    diarization: Diarization,
    confidence: FrameConfidence | None,
    calibration: Calibration | None,
    embedding: str,
    embedding_mode: str,
) -> dict[str, Any]:
    """Output of an identification job: that of a diarization job, and who is who.

    Speakers without a voiceprint (nowhere long enough alone) match nobody.

    Parameters
    ----------
    request : mapping
        Of the job, see `raydiar.serving.http.schemas.IdentifyRequest`.
    diarization : Diarization
    confidence : FrameConfidence or None
    calibration : Calibration or None
        Of cosines of this embedding. It makes confidences probabilities of being the same person;
        without one they are cosines, negative ones 0.
    embedding, embedding_mode : str

    Raises
    ------
    VoiceprintTextError
        If a voiceprint of the request cannot be read.
    """
    output = diarize_output(request, diarization, confidence, embedding, embedding_mode)
    labels = [given["label"] for given in request["voiceprints"]]
    known = np.stack(
        [
            voiceprint_text.decode(given["voiceprint"], embedding, embedding_mode)
            for given in request["voiceprints"]
        ]
    )
    heard = [s for s in diarization.speakers if s.embedding is not None and np.any(s.embedding)]
    percents = {s.speaker: np.zeros(len(labels), np.int64) for s in diarization.speakers}
    matches: dict[str, str] = {}
    if heard:
        scores = unit_vectors(np.stack([s.embedding for s in heard])) @ unit_vectors(known).T
        found = _percents(scores, calibration)
        matching = request.get("matching", {})
        threshold = matching.get("threshold", 0)
        gains = _gains(scores, found, calibration, threshold)
        chosen = _assigned if matching.get("exclusive", True) else _nearest
        for row, column in chosen(gains, found >= threshold):
            matches[heard[row].speaker] = labels[column]
        percents |= {s.speaker: row for s, row in zip(heard, found, strict=True)}
    output["identification"] = [
        {**segment, "speaker": matches.get(segment["speaker"], segment["speaker"])}
        for segment in _without_confidence(output["diarization"])
    ]
    output["voiceprints"] = [
        {
            "speaker": speaker,
            "match": matches.get(speaker),
            "confidence": dict(zip(labels, row.tolist(), strict=True)),
        }
        for speaker, row in percents.items()
    ]
    return output


def _without_confidence(segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Segments less what names their diarized speaker."""
    return [{name: segment[name] for name in ("start", "end", "speaker")} for segment in segments]


def _percents(scores: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """(num_speakers, num_labels) int64 confidences, from 0 to 100."""
    shares = np.clip(scores, 0.0, 1.0) if calibration is None else calibration.probability(scores)
    return np.rint(100.0 * shares).astype(np.int64)


def _gains(
    scores: np.ndarray, percents: np.ndarray, calibration: Calibration | None, threshold: float
) -> np.ndarray:
    """By how much each pair is better than the threshold; 0 for pairs below it.

    In log-likelihood ratios where they are known: their sum is how much likelier one matching of
    several speakers is than another, which sums of probabilities are not.
    """
    if calibration is None:
        above = scores - threshold / 100.0
    else:
        share = np.clip(threshold, _LEAST_THRESHOLD, 100.0 - _LEAST_THRESHOLD) / 100.0
        above = calibration.log_likelihood_ratio(scores) - np.log(share / (1.0 - share))
    return np.where(percents >= threshold, above, 0.0)


def _assigned(gains: np.ndarray, eligible: np.ndarray) -> list[tuple[int, int]]:
    """Pairs that are best together when nobody is two speakers."""
    pairs = zip(*linear_sum_assignment(gains, maximize=True), strict=True)
    return [(row, column) for row, column in pairs if eligible[row, column]]


def _nearest(gains: np.ndarray, eligible: np.ndarray) -> list[tuple[int, int]]:
    """The best label of each speaker."""
    best = np.where(eligible, gains, -np.inf).argmax(axis=1)
    return [(row, column) for row, column in enumerate(best) if eligible[row, column]]
