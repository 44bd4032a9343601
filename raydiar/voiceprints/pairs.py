"""SpeakerVerification: are the voices in two recordings one person's?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raydiar import hub
from raydiar.clustering.plda import PLDA
from raydiar.errors import ConfigError, InvalidSamples
from raydiar.keywords import known_keywords
from raydiar.voiceprints.verification import (
    Calibration,
    Cohort,
    cosine,
    default_calibration,
    plda_scores,
)
from raydiar.weights import CAMPPLUS_ZH_EN

if TYPE_CHECKING:
    from raydiar.models import Model


@dataclass(frozen=True)
class Verdict:
    """What two recordings say.

    Attributes
    ----------
    score : float
        Cosine of the two voices, from -1 to 1; with a cohort normalised, in deviations; with a
        PLDA its log-likelihood ratio.
    probability : float or None
        That they are one person's; None with a cohort, whose strangers give a threshold only.
    same : bool
        Whether that is more likely than `threshold`; with a cohort, whether so few strangers
        score so high.
    """

    score: float
    probability: float | None
    same: bool

    def __bool__(self) -> bool:
        return self.same


class SpeakerVerification:
    """Compares the voices of two recordings, each of one person.

    Parameters
    ----------
    embedding : Model, str, Path or dict, optional
        CAM++ by default, without a token.
    calibration : Calibration, optional
        What scores mean; by default the one that is shipped for the embedding.
    prior : float
        How likely the two are one person before anything is heard.
    threshold : float
        Probability above which they are said to be.
    cohort : Cohort, optional
        Scores are measured against those with its voices (AS-norm), e.g. `Cohort.of` an index of
        the same embedding.
    plda : PLDA, optional
        Compares in place of the cosine; made for this embedding.
    false_accept_rate : float
        How often a stranger may be taken for the person, with a cohort.
    device, token, cache_dir
        As in `Model.from_pretrained`.

    Raises
    ------
    ConfigError
        There is no calibration for this embedding, or cohort or PLDA are of another.
    """

    @known_keywords
    def __init__(
        self,
        embedding: Model | str | Path | dict | None = None,
        *,
        calibration: Calibration | None = None,
        prior: float = 0.5,
        threshold: float = 0.5,
        cohort: Cohort | None = None,
        plda: PLDA | None = None,
        false_accept_rate: float = 0.01,
        device: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
    ):
        from raydiar.models.loading import WEIGHTS_FILE
        from raydiar.pipelines.given import weights_of
        from raydiar.pipelines.speaker_embedding import SpeakerEmbedding

        for name, value in (("prior", prior), ("threshold", threshold)):
            if not 0 < value < 1:
                raise ConfigError(f"{name} must be between 0 and 1, not {value!r}")
        weights = weights_of(embedding, cache_dir) or CAMPPLUS_ZH_EN
        path = weights.fetch(WEIGHTS_FILE, token, cache_dir)
        self._embed = SpeakerEmbedding(embedding=path, device=device)
        if cohort is not None and plda is not None:
            raise ConfigError("compare by a cohort or by a PLDA, not by both")
        dimension = self._embed.dimension
        for what, own in (
            ("cohort", dimension if cohort is None else cohort.vectors.shape[1]),
            ("PLDA", dimension if plda is None else plda.dimension),
        ):
            if own != dimension:
                raise ConfigError(
                    f"the {what} is of voices of {own} dimensions, {weights} gives {dimension}"
                )
        self._cohort, self._plda = cohort, plda
        self._least = None if cohort is None else cohort.threshold(false_accept_rate)
        by_cosine = cohort is None and plda is None
        if calibration is None and by_cosine:
            mode = self._embed.embedding_mode
            calibration = default_calibration(hub.sha256_of(path), mode)
        if calibration is None and by_cosine:
            raise ConfigError(
                f"no calibration is shipped for {weights}: make one with "
                "`raydiar voiceprint calibrate`, and pass it as `calibration`"
            )
        self.calibration = calibration
        self.prior = prior
        self.threshold = threshold

    def __call__(self, first, second) -> Verdict:
        """
        Parameters
        ----------
        first, second : path, URI, open file, mapping, or (1, dimension) array
            Recordings (see `raydiar.pipelines.files.AudioFile.of`), or voices that `embed` gave.

        Raises
        ------
        InvalidSamples
            A recording that is too short, or without a voice.
        AudioDecodeError, AudioNotFound, StorageDenied, StorageUnavailable
        """
        voices = self.embed(first), self.embed(second)
        if self._cohort is not None:
            score = float(self._cohort.scores(*voices)[0])
            return Verdict(score, None, score >= self._least)
        if self._plda is not None:
            score = float(plda_scores(self._plda, *voices)[0])
            logit = np.clip(score + np.log(self.prior / (1 - self.prior)), -500, 500)
            probability = float(1 / (1 + np.exp(-logit)))
            return Verdict(score, probability, probability > self.threshold)
        score = cosine(*voices)
        probability = float(self.calibration.probability(score, self.prior)[0])
        return Verdict(float(score[0]), probability, probability > self.threshold)

    def embed(self, recording) -> np.ndarray:
        """(1, dimension) float32: the voice of a recording."""
        if isinstance(recording, np.ndarray):
            voice = np.atleast_2d(recording).astype(np.float32)
            wanted = (1, self._embed.dimension)
            if voice.shape != wanted or not np.isfinite(voice).all():
                raise InvalidSamples(
                    f"a voice is an array of {wanted} numbers, without NaN, not {voice.shape}"
                )
            return voice
        return self._embed(recording)
