"""Is this the same person? Scores of pairs of voiceprints, and what they mean.

A score becomes a probability through a log-likelihood ratio, so that it can be told how likely
two voices are one person before anything is heard: `prior`. Rates of false accepts come from
the scores of different people directly, without a model, and no further than trials reach.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from raydiar.clustering.plda import PLDA
from raydiar.errors import ConfigError
from raydiar.voiceprints.segments import unit_vectors

if TYPE_CHECKING:
    from raydiar.voiceprints.index import VoiceprintIndex

METHODS = ("logistic", "isotonic")
_STRANGERS = 50_000  # pairs of a cohort that its thresholds are from
_RATES = np.geomspace(0.5, 1e-6, 60)
_SMALLEST_COUNT = 10  # false accepts behind the smallest rate that a calibration states


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows.

    Parameters
    ----------
    first, second : (num_trials, dimension) float32

    Returns
    -------
    scores : (num_trials,) float32
    """
    return np.einsum("td,td->t", unit_vectors(first), unit_vectors(second))


def plda_scores(plda: PLDA, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Log-likelihood ratio of one against two people, by a PLDA's two-covariance model.

    Source: Ioffe, "Probabilistic linear discriminant analysis", ECCV 2006. In the space of
    `PLDA` a person's mean varies by `phi` along each axis, and voiceprints around it by one.

    Parameters
    ----------
    first, second : (num_trials, dimension) float32
        Raw embeddings: the PLDA centres them, so those of an index, which are unit vectors,
        do not fit.

    Returns
    -------
    scores : (num_trials,) float64
    """
    a, b = plda(first), plda(second)
    between = plda.phi
    total = 1 + between
    determinant = total**2 - between**2
    together = (total * (a**2 + b**2) - 2 * between * a * b) / determinant + np.log(determinant)
    apart = (a**2 + b**2) / total + 2 * np.log(total)
    return 0.5 * (apart - together).sum(axis=1)


@dataclass(frozen=True)
class Cohort:
    """Adaptive symmetric score normalisation (AS-norm).

    A voice that resembles many others scores high with all of them. Its scores are therefore
    measured against those with the `top` most similar voices of a cohort. Source: Matějka et
    al., "Analysis of score normalization in multilingual speaker recognition", Interspeech 2017.

    Attributes
    ----------
    vectors : (num_voices, dimension) float32
        Unit vectors, of many people; a person asked about should hardly be among them.
    top : int
    """

    vectors: np.ndarray = field(repr=False)
    top: int = 200

    def __post_init__(self):
        if self.vectors.ndim != 2 or len(self.vectors) < 2 or self.top < 2:
            raise ConfigError("score normalisation needs a cohort of at least two voices")

    @classmethod
    def of(cls, index: VoiceprintIndex, size: int = 10_000, top: int = 200) -> Cohort:
        """Voices drawn from an index, the same each time."""
        rng = np.random.default_rng(0)
        total = sum(int(segment.searched.sum()) for segment in index.segments)
        chosen = np.sort(rng.choice(total, min(size, total), replace=False))
        vectors, start = [np.empty((0, index.dimension), np.float32)], 0
        for _, block in index.stream():
            inside = chosen[(chosen >= start) & (chosen < start + len(block))]
            vectors.append(block[inside - start])
            start += len(block)
        return cls(np.concatenate(vectors), top)

    def statistics(self, voiceprints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each voiceprint's scores with its nearest voices.

        Returns
        -------
        means, deviations : (num_voiceprints,) float32
        """
        top = min(self.top, len(self.vectors))
        means, deviations = np.empty((2, len(voiceprints)), np.float32)
        for start in range(0, len(voiceprints), 1024):
            part = slice(start, start + 1024)
            scores = unit_vectors(voiceprints[part]) @ self.vectors.T
            nearest = np.partition(scores, -top, axis=1)[:, -top:]
            means[part], deviations[part] = nearest.mean(axis=1), nearest.std(axis=1)
        return means, np.maximum(deviations, 1e-6)

    def scores(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Normalised cosine of each pair of rows, (num_trials,) float32."""
        raw = cosine(first, second)
        (m1, d1), (m2, d2) = self.statistics(first), self.statistics(second)
        return 0.5 * ((raw - m1) / d1 + (raw - m2) / d2)

    def threshold(self, false_accept_rate: float) -> float:
        """Normalised cosine that this share of strangers reaches: of pairs of the cohort itself.

        Raises
        ------
        ConfigError
            If its pairs are too few to know so small a rate.
        """
        rng = np.random.default_rng(0)
        first, second = rng.integers(len(self.vectors), size=(2, _STRANGERS))
        pairs = np.unique(np.stack([first, second], axis=1)[first != second], axis=0)
        if not _SMALLEST_COUNT / len(pairs) <= false_accept_rate < 1:
            raise ConfigError(
                f"a cohort of {len(self.vectors):,} voices knows false-accept rates from "
                f"{_SMALLEST_COUNT / len(pairs):.2g} on, not {false_accept_rate:.2g}"
            )
        means, deviations = self.statistics(self.vectors)
        a, b = pairs.T
        raw = np.einsum("td,td->t", self.vectors[a], self.vectors[b])
        scores = 0.5 * ((raw - means[a]) / deviations[a] + (raw - means[b]) / deviations[b])
        return float(np.quantile(scores, 1 - false_accept_rate))


@dataclass(frozen=True)
class Calibration:
    """What scores mean, fitted from labelled trials.

    Attributes
    ----------
    embedding, embedding_mode : str
        Of the voiceprints that it holds for.
    scoring : str
        "cosine", "as-norm" or "plda".
    method : str
        "logistic" or "isotonic".
    scores, ratios : tuple of float
        Log-likelihood ratios at rising scores, with lines in between. Beyond them a logistic
        one goes on along its line; an isotonic one stays as it is.
    thresholds, false_accept_rates : tuple of float
        Rising thresholds and the share of different people that score at least so high.
    fitted : dict
        How: data, numbers of people and trials, durations.
    """

    embedding: str
    embedding_mode: str
    scoring: str
    method: str
    scores: tuple[float, ...]
    ratios: tuple[float, ...]
    thresholds: tuple[float, ...]
    false_accept_rates: tuple[float, ...]
    fitted: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self):
        pairs = ((self.scores, self.ratios), (self.thresholds, self.false_accept_rates))
        for x, y in pairs:
            if len(x) != len(y) or len(x) < 2 or not np.isfinite([*x, *y]).all():
                raise ConfigError("a calibration needs two tables of at least two finite points")
            if np.any(np.diff(x) < 0):
                raise ConfigError("scores and thresholds of a calibration must rise")
        if np.any(np.diff(self.ratios) < 0) or np.any(np.diff(self.false_accept_rates) > 0):
            raise ConfigError("a calibration must not give a higher score a lower meaning")
        if self.method not in METHODS:
            raise ConfigError(f"unknown method of calibration {self.method!r}: one of {METHODS}")

    @classmethod
    def fit(
        cls,
        scores: np.ndarray,
        targets: np.ndarray,
        *,
        embedding: str,
        embedding_mode: str,
        scoring: str = "cosine",
        method: str = "logistic",
        fitted: Mapping[str, Any] | None = None,
    ) -> Calibration:
        """Fit to labelled trials; both kinds of trial weigh the same, whatever their number.

        Parameters
        ----------
        scores : (num_trials,) float
        targets : (num_trials,) bool
            Whether it is the same person.

        Raises
        ------
        ConfigError
            With too few trials: at least 10 of the same and 20 of different people.
        """
        scores, targets = np.asarray(scores, np.float64), np.asarray(targets, bool)
        num_targets = int(targets.sum())
        num_others = len(targets) - num_targets
        if num_targets < 10 or num_others < 2 * _SMALLEST_COUNT:
            raise ConfigError(
                f"{num_targets} trials of the same and {num_others} of different people are too "
                f"few to fit a calibration: 10 and {2 * _SMALLEST_COUNT} are the least"
            )
        weights = np.where(targets, 0.5 / num_targets, 0.5 / num_others)
        points = (_logistic if method == "logistic" else _isotonic)(scores, targets, weights)
        rates = _RATES[_RATES * num_others >= _SMALLEST_COUNT]
        thresholds = np.quantile(scores[~targets], 1 - rates)
        return cls(
            embedding=embedding,
            embedding_mode=embedding_mode,
            scoring=scoring,
            method=method,
            scores=tuple(points[0].tolist()),
            ratios=tuple(points[1].tolist()),
            thresholds=tuple(thresholds.tolist()),
            false_accept_rates=tuple(rates.tolist()),
            fitted=dict(fitted or {}) | {"target trials": num_targets, "other trials": num_others},
        )

    def log_likelihood_ratio(self, scores: np.ndarray) -> np.ndarray:
        """Natural logarithm of how much likelier a score is for one person than for two."""
        scores = np.asarray(scores, np.float64)
        if self.method == "isotonic":
            return np.interp(scores, self.scores, self.ratios)
        (s0, *_, s1), (r0, *_, r1) = self.scores, self.ratios
        return r0 + (scores - s0) * ((r1 - r0) / (s1 - s0))

    def probability(self, scores: np.ndarray, prior: float = 0.5) -> np.ndarray:
        """Probability of being the same person.

        Parameters
        ----------
        scores : array of float
        prior : float
            How likely it was before the voices were heard. 0.5 suits a claim to be verified;
            among the nearest of a million voices most are other people, and so is less.

        Returns
        -------
        probabilities : array of float64, of the shape of `scores`
        """
        if not 0 < prior < 1:
            raise ConfigError(f"the prior must lie between 0 and 1, got {prior}")
        logits = self.log_likelihood_ratio(scores) + np.log(prior / (1 - prior))
        return 1 / (1 + np.exp(-np.clip(logits, -500, 500)))

    def score(self, probability: float, prior: float = 0.5) -> float:
        """Least score with this probability of being the same person.

        Raises
        ------
        ConfigError
            If no score that the trials reached means so much.
        """
        wanted = np.log(probability / (1 - probability)) - np.log(prior / (1 - prior))
        (s0, *_, s1), (r0, *_, r1) = self.scores, self.ratios
        if self.method == "logistic":
            return float(s0 + (wanted - r0) * ((s1 - s0) / (r1 - r0)))
        if wanted > r1:
            raise ConfigError(
                f"no score of this isotonic calibration makes one person {probability:.2%} "
                f"probable where {prior:.2g} of the pairs are: fit a logistic one"
            )
        return float(np.interp(wanted, self.ratios, self.scores))

    def threshold(self, false_accept_rate: float) -> float:
        """Score that this share of different people reaches.

        Raises
        ------
        ConfigError
            If the trials were too few to know so small a rate.
        """
        low, high = self.false_accept_rates[-1], self.false_accept_rates[0]
        if not low * (1 - 1e-9) <= false_accept_rate <= high:
            raise ConfigError(
                f"this calibration knows false-accept rates from {low:.2g} to {high:.2g}, not "
                f"{false_accept_rate:.2g}"
            )
        rates = np.log(self.false_accept_rates[::-1])
        return float(np.interp(np.log(false_accept_rate), rates, self.thresholds[::-1]))

    def false_accept_rate(self, threshold: float) -> float:
        """Share of different people that score at least so high, within what trials reached."""
        rates = np.log(self.false_accept_rates)
        return float(np.exp(np.interp(threshold, self.thresholds, rates)))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Calibration:
        """
        Raises
        ------
        ConfigError
            If it is not a calibration.
        """
        try:
            document = json.loads(text)
            tables = ("scores", "ratios", "thresholds", "false_accept_rates")
            tuples = {name: tuple(map(float, document[name])) for name in tables}
            return cls(**{**document, **tuples})
        except (ValueError, TypeError, KeyError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"not a calibration: {error}") from error


def default_calibration(embedding: str, embedding_mode: str) -> Calibration | None:
    """The calibration that is shipped for cosines of an embedding; None if there is none."""
    folder = resources.files("raydiar.voiceprints") / "calibrations"
    for file in folder.iterdir():
        if file.name.endswith(".json"):
            calibration = Calibration.from_json(file.read_bytes())
            if (calibration.embedding, calibration.embedding_mode) == (embedding, embedding_mode):
                return calibration
    return None


def _logistic(scores, targets, weights):
    from sklearn.linear_model import LogisticRegression

    center, scale = scores.mean(), scores.std()
    # next to no regularisation, but enough for scores that do not overlap
    model = LogisticRegression(C=1e4, max_iter=1000)
    model.fit((scores[:, None] - center) / scale, targets, sample_weight=weights * len(weights))
    ends = np.array([scores.min(), scores.max()])
    return ends, model.coef_[0, 0] * (ends - center) / scale + model.intercept_[0]


def _isotonic(scores, targets, weights):
    from sklearn.isotonic import IsotonicRegression

    # no trial says more than that its kind was not met so often
    least = 1 / (2 * targets.sum() + 2)
    model = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip")
    model.fit(scores, targets, sample_weight=weights)
    shares = model.y_thresholds_
    return model.X_thresholds_, np.log(shares / (1 - shares))
