"""SpeakerVerification: are the voices in two recordings one person's?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raydiar import hub
from raydiar.errors import ConfigError
from raydiar.voiceprints.verification import Calibration, cosine, default_calibration
from raydiar.weights import CAMPPLUS_ZH_EN

if TYPE_CHECKING:
    from raydiar.models import Model


@dataclass(frozen=True)
class Verdict:
    """What two recordings say.

    Attributes
    ----------
    score : float
        Cosine of the two voices, from -1 to 1.
    probability : float
        That they are one person's.
    same : bool
        Whether that is more likely than `threshold`.
    """

    score: float
    probability: float
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
    device, token, cache_dir
        As in `Model.from_pretrained`.

    Raises
    ------
    ConfigError
        There is no calibration for this embedding.
    """

    def __init__(
        self,
        embedding: Model | str | Path | dict | None = None,
        *,
        calibration: Calibration | None = None,
        prior: float = 0.5,
        threshold: float = 0.5,
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
        if calibration is None:
            mode = self._embed.embedding_mode
            calibration = default_calibration(hub.sha256_of(path), mode)
        if calibration is None:
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
        score = cosine(self.embed(first), self.embed(second))
        probability = float(self.calibration.probability(score, self.prior)[0])
        return Verdict(float(score[0]), probability, probability > self.threshold)

    def embed(self, recording) -> np.ndarray:
        """(1, dimension) float32: the voice of a recording."""
        if isinstance(recording, np.ndarray):
            return np.atleast_2d(recording).astype(np.float32)
        return self._embed(recording)
