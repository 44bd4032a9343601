"""How much speaks for two groups of voices being one person: evidence that adds up.

One cosine says little in a large corpus. Means of several recordings say more, because what
differs from recording to recording (channel, room, words) averages out: a voice is taken as its
person's direction plus such noise, and each recording adds to what is known of the person. The
few numbers of this model are measured on the corpus itself, without labels: strangers are pairs
drawn at random, and one person's recordings those of groups that are linked already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from raydiar.errors import ConfigError

MATES = 3.0
"""Other recordings of its person that a voice of a corpus has on average, unless more is known."""

WORDS = ((0.9, "likely"), (0.1, "possible"), (0.0, "unlikely"))
"""What a probability is called from where on."""

LONG = 30.0
"""Seconds of speech that a voice is taken to be made of where nothing is known of it."""

_CORE = 3.0  # standard deviations up to which strangers' cosines are taken as normal
_FREEDOM = 6.0  # degrees of freedom of one person's cosines: now and then one is far off
_FEWEST = 200  # pairs that a number is measured from
_LARGEST = 50.0  # what can be known of a person: recordings share microphones and words


@dataclass(frozen=True)
class Evidence:
    """Distributions of cosines of strangers and of one person, by how much is known of each.

    Of a group of voices is known, as a ratio of signal to noise, the sum over its voices
    (`knowledge`); its reliability R, the squared cosine of its mean with the person's true
    direction, is that over one more than that. Two groups of one person have a cosine of
    √(R₁R₂) on average (Spearman and Brown, 1910).

    Attributes
    ----------
    cohesion : float
        Mean cosine of two long recordings of one person.
    within, between : float
        Variances of strangers' cosines: of what differs between recordings, and of people.
    scatter : float
        Variance of one person's cosine with their true direction, of what differs.
    floor : float
        Variance of one person's cosines that no averaging takes away.
    offset : float
        Mean cosine of strangers.
    tail : float
        How fast strangers' cosines beyond three standard deviations get rare; 1 as in a
        normal distribution, less where they are met more often.
    half : float, s
        Speech of which a voiceprint is half as reliable as of very much.
    mates : float
        Other recordings of its person that a voice has on average; of ten at most.
    embedding, embedding_mode : str
        Of the voiceprints that were measured; empty for any.
    fitted : dict
        Where the numbers are from.
    """

    cohesion: float = 0.60
    within: float = 0.011
    between: float = 0.020
    scatter: float = 0.010
    floor: float = 0.0006
    offset: float = 0.04
    tail: float = 1.0
    half: float = 1.0
    mates: float = MATES
    embedding: str = ""
    embedding_mode: str = ""
    fitted: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self):
        numbers = [getattr(self, name) for name in _NUMBERS]
        if not np.isfinite(numbers).all() or not 0 < self.cohesion < 1:
            raise ConfigError("evidence needs finite numbers, and a cohesion between 0 and 1")
        if min(self.within, self.between, self.scatter, self.tail, self.mates) <= 0:
            raise ConfigError("variances, tail and mates of evidence must be above 0")

    # -- what is known of voices ---------------------------------------------------------------

    def knowledge(self, seconds: np.ndarray) -> np.ndarray:
        """Ratio of signal to noise of voiceprints, by their speech."""
        seconds = np.maximum(np.asarray(seconds, np.float64), 0.1)
        reliability = self.cohesion * seconds / (seconds + self.half)
        return reliability / (1 - reliability)

    def weights(self, seconds: np.ndarray) -> np.ndarray:
        """Of unit vectors in the best mean of several: signal over the variance of noise."""
        known = self.knowledge(seconds)
        return np.sqrt(known * (1 + known))

    # -- what two of them say ------------------------------------------------------------------

    def log_ratio(self, cosines: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Natural logarithm of how much likelier cosines are for one person than for two.

        Parameters
        ----------
        cosines : (num_pairs,) float
            Of the weighted means of two groups.
        first, second : (num_pairs,) float
            `knowledge` of each group.

        Returns
        -------
        log_ratios : (num_pairs,) float64
            Never falling with the cosine.
        """
        cosines = np.asarray(cosines, np.float64)
        both = _reliability(first) * _reliability(second)
        means = np.sqrt(both)
        spread = np.sqrt(self.variance_of_one(both))
        below = np.minimum(cosines - means, 0) / spread
        one = -0.5 * (_FREEDOM + 1) * np.log1p(below**2 / (_FREEDOM - 2)) - np.log(spread)
        deviation = np.sqrt(self.variance_of_strangers(both))
        above = np.maximum(cosines - self.offset, 0) / deviation
        core = np.minimum(above, _CORE)
        strangers = -0.5 * (core**2 + self.tail * (above**2 - core**2)) - np.log(deviation)
        return one - strangers

    def probability(
        self, scores: np.ndarray, prior: float = 0.5, seconds: np.ndarray | float = LONG
    ) -> np.ndarray:
        """Probability that voices of so much speech are one long voice's person.

        Parameters
        ----------
        scores : (num_pairs,) float
            Cosines.
        prior : float
            How likely it was before the voices were heard, see `prior_of_size`.
        seconds : (num_pairs,) float or float, s
        """
        if not 0 < prior < 1:
            raise ConfigError(f"the prior must lie between 0 and 1, got {prior}")
        ratios = self.log_ratio(scores, self.knowledge(LONG), self.knowledge(seconds))
        logits = ratios + np.log(prior / (1 - prior))
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))

    def variance_of_strangers(self, both: np.ndarray) -> np.ndarray:
        """By the product of two reliabilities."""
        return (1 - both) * self.within + both * self.between

    def variance_of_one(self, both: np.ndarray) -> np.ndarray:
        return (1 - both) * self.scatter + self.floor

    def cosine_for(self, log_ratio: float, first: float, second: float) -> float:
        """Least cosine that says so much."""
        low, high = self.offset, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            enough = self.log_ratio(middle, first, second) >= log_ratio
            low, high = (low, middle) if enough else (middle, high)
        return high

    # -- measured on a corpus ------------------------------------------------------------------

    def of_strangers(self, cosines: np.ndarray, first: np.ndarray, second: np.ndarray) -> Evidence:
        """With what pairs of groups drawn at random say; arguments as of `log_ratio`."""
        if len(cosines) < _FEWEST:
            return self
        both = _reliability(first) * _reliability(second)
        offset = float(np.median(cosines))
        # below the middle there is nobody's other recording, and strangers lie on both sides alike
        lower = cosines < offset
        squares, both = (cosines[lower] - offset) ** 2, both[lower]
        if np.ptp(both) > 0.2:
            from scipy.optimize import nnls

            within, between = nnls(np.stack([1 - both, both], axis=1), squares)[0]
        else:
            scale = squares.mean() / self.variance_of_strangers(both).mean()
            within, between = scale * self.within, scale * self.between
        fitted = replace(
            self,
            within=float(max(within, 0.2 * self.within)),
            between=float(max(between, 0.5 * self.between)),
            offset=offset,
            fitted=dict(self.fitted) | {"strangers": len(cosines)},
        )
        # Half the square of what is standardised falls off exponentially in the tail of a normal
        # distribution: how far it lies beyond a threshold on average says all (as in peaks over
        # threshold).
        halves = np.sort(0.5 * squares / fitted.variance_of_strangers(both))
        beyond = halves[len(halves) - max(50, len(halves) // 500) :]
        excess = float((beyond - beyond[0]).mean())
        return replace(fitted, tail=float(np.clip(0.9 / max(excess, 1e-3), 0.5, 1.1)))

    def of_one(self, cosines: np.ndarray, sizes: np.ndarray, known: np.ndarray) -> Evidence:
        """With what voices of linked groups say: each with the mean of its group's others.

        Parameters
        ----------
        cosines : (num_voices,) float
        sizes : (num_voices,) float
            Recordings that the others are.
        known : (num_voices,) float
            `knowledge` of the voice itself.
        """
        if len(cosines) < _FEWEST:
            return self
        # cos = √(R₁ Rₙ): both grow with the cohesion, which is sought
        own = _reliability(known) / self.cohesion
        low, high = 0.2, 0.95
        center = float(np.median(cosines))
        for _ in range(30):
            middle = (low + high) / 2
            others = sizes * middle * own / (1 - middle * own)
            expected = float(np.median(np.sqrt(middle * own * _reliability(others))))
            low, high = (low, middle) if expected > center else (middle, high)
        cohesion = (low + high) / 2
        others = sizes * cohesion * own / (1 - cohesion * own)
        both = cohesion * own * _reliability(others)
        deviations = cosines - np.sqrt(both)
        middle_half = np.abs(deviations) < np.quantile(np.abs(deviations), 0.95)
        variance = 1.3 * float((deviations[middle_half] ** 2).mean())
        scatter = max((variance - self.floor) / float((1 - both).mean()), 0.003)
        fitted = dict(self.fitted) | {"voices of linked people": len(cosines)}
        return replace(self, cohesion=cohesion, scatter=scatter, fitted=fitted)

    # -- kept ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evidence:
        """
        Raises
        ------
        ConfigError
            If it is no evidence.
        """
        try:
            document = json.loads(text)
            numbers = {name: float(document[name]) for name in _NUMBERS}
            names = {name: str(document[name]) for name in ("embedding", "embedding_mode")}
            return cls(**numbers, **names, fitted=dict(document.get("fitted", {})))
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"not the evidence of a corpus: {error}") from error


def prior_of_size(num_voices: int, mates: float = MATES) -> float:
    """How likely a voice drawn from so many is a given person's, before anything is heard."""
    return min(mates / max(num_voices - 1, 1), 0.5)


def word_of(probability: float) -> str:
    """What a probability is called."""
    return next(word for least, word in WORDS if probability >= least)


_NUMBERS = ("cohesion", "within", "between", "scatter", "floor", "offset", "tail", "half", "mates")


def _reliability(known: np.ndarray) -> np.ndarray:
    known = np.minimum(known, _LARGEST)
    return known / (1 + known)
