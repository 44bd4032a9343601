"""What linking is told: how sure it must be, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass

from raydiar.errors import ConfigError
from raydiar.voiceprints.evidence import MATES, prior_of_size
from raydiar.voiceprints.verification import Calibration, default_calibration

MIN_IDENTITY_SECONDS = 10.0
"""Speech of a person, over all recordings, below which voices are not linked."""


@dataclass(frozen=True)
class LinkingParameters:
    """
    Attributes
    ----------
    probability : float
        Of being one person, from which on two voices or groups of them are linked.
    prior : float, optional
        How likely two voices of the corpus are one person before they are heard. By default
        from `recordings_per_person`: among n voices, so many less one of n - 1 are the same.
    recordings_per_person : float
    threshold : float, optional
        Cosine from which on two single voices of long speech are linked, in place of the above.
        What groups of them need follows from it.
    neighbors : int
        Most similar voices of each that are looked at.
    one_recording : bool
        Two speakers of one recording are two people, unless evidence is very strong that
        diarization took one for two.
    exact : bool, optional
        Compare every pair; by default up to 200,000 voices, and on a GPU.
    probes : int, optional
        Lists that each voice is compared with where not; by default 3 % of them.
    within : str, optional
        Carried column of the index (channel, feed, show): voices are linked within each of its
        values first, where two are much likelier to be one person.
    min_seconds : float, s
        `MIN_IDENTITY_SECONDS`.
    """

    probability: float = 0.9
    prior: float | None = None
    recordings_per_person: float = 1 + MATES
    threshold: float | None = None
    neighbors: int = 30
    one_recording: bool = True
    exact: bool | None = None
    probes: int | None = None
    within: str | None = None
    min_seconds: float = MIN_IDENTITY_SECONDS

    def __post_init__(self):
        if not 0 < self.probability < 1:
            raise ConfigError(f"probability must lie between 0 and 1, got {self.probability}")
        if self.prior is not None and not 0 < self.prior < 1:
            raise ConfigError(f"the prior must lie between 0 and 1, got {self.prior}")
        if self.threshold is not None and not -1 < self.threshold < 1:
            raise ConfigError(f"a threshold is a cosine, got {self.threshold}")
        if not self.recordings_per_person > 1:
            raise ConfigError("recordings_per_person must be more than 1")
        if self.neighbors < 1 or (self.probes is not None and self.probes < 1):
            raise ConfigError("neighbors and probes must be at least 1")
        if not 0 <= self.min_seconds < float("inf"):
            raise ConfigError(f"min_seconds must be 0 or more, got {self.min_seconds}")

    def prior_of(self, num_voices: int) -> float:
        """How likely two of so many voices are one person before they are heard."""
        if self.prior is not None:
            return self.prior
        return prior_of_size(num_voices, self.recordings_per_person - 1)

    def threshold_for(self, num_voices: int, calibration: Calibration | None) -> float | None:
        """Cosine that links two voices where it is given, or follows from a calibration.

        Returns
        -------
        threshold : float or None
            None for the calibration that is shipped: linking measures its own on the corpus.

        Raises
        ------
        ConfigError
            If there is neither a threshold nor a calibration.
        """
        if self.threshold is not None:
            return self.threshold
        if calibration is None:
            raise ConfigError(
                "no calibration is shipped for this embedding: give one, or a threshold"
            )
        if calibration == default_calibration(calibration.embedding, calibration.embedding_mode):
            return None
        # a table of false accepts ends where its trials did
        prior = max(self.prior_of(num_voices), calibration.false_accept_rates[-1])
        return calibration.score(self.probability, min(prior, 0.5))
