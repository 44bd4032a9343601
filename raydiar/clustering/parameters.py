"""Parameters of each clustering method, and the number of speakers asked for.

Defaults are those published with speaker-diarization-3.1 (agglomerative) and
speaker-diarization-community-1 (VBx).
"""

import math
import operator
from dataclasses import dataclass

from raydiar.errors import ConfigError

MOST_SPEAKERS = 255
"""Of one recording. More are asked for as another way to say "no limit"."""

LINKAGES = ("average", "centroid", "complete", "median", "single", "ward", "weighted")


@dataclass(frozen=True)
class AgglomerativeParameters:
    """Agglomerative hierarchical clustering (AHC).

    Attributes
    ----------
    method : str
        One of the seven linkages of `LINKAGES`.
    min_cluster_size : int
        Clusters with fewer embeddings join the nearest larger one. Recordings with fewer than ten
        times as many embeddings use a tenth of what they have.
    threshold : float
        Distance at which the dendrogram is cut: Euclidean between unit vectors for the linkages
        "centroid", "median" and "ward", cosine for the others.
    """

    method: str = "centroid"
    min_cluster_size: int = 12
    threshold: float = 0.7045654963945799

    def __post_init__(self):
        if self.method not in LINKAGES:
            raise ConfigError(f"unknown linkage {self.method!r}: choose one of {LINKAGES}")
        if _integer("min_cluster_size", self.min_cluster_size) < 1:
            raise ConfigError(f"min_cluster_size must be at least 1, got {self.min_cluster_size}")
        _positive("threshold", self.threshold, zero=True)


@dataclass(frozen=True)
class VBxParameters:
    """Variational Bayes clustering of PLDA-whitened embeddings.

    Attributes
    ----------
    threshold : float
        Distance at which the agglomerative start is cut (centroid linkage of unit vectors).
    Fa, Fb : float
        Weight of the evidence, and of the prior that keeps speakers few.
    """

    threshold: float = 0.6
    Fa: float = 0.07
    Fb: float = 0.8

    def __post_init__(self):
        _positive("threshold", self.threshold, zero=True)
        _positive("Fa", self.Fa)
        _positive("Fb", self.Fb)


@dataclass(frozen=True)
class KMeansParameters:
    """K-means on unit vectors; has no parameter, but needs to be told the number of speakers."""


@dataclass(frozen=True)
class CountingParameters:
    """How many speak at once, from what windows believe rather than from what they decided.

    A window's decision needs one set of speakers to be likelier than any other, silence among
    them; speech that several windows half hear is lost that way. Here beliefs are averaged first.

    Attributes
    ----------
    speech : float
        Mean probability from which somebody speaks.
    overlap : float
        Mean probability from which somebody else speaks besides.
    """

    speech: float = 0.4
    overlap: float = 0.4

    def __post_init__(self):
        for name in ("speech", "overlap"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
                raise ConfigError(f"counting.{name} must lie between 0 and 1, got {value!r}")


@dataclass(frozen=True)
class SpeakerBounds:
    """Least and most speakers a recording may have; `maximum` None is no limit.

    `warnings` tell what was asked for and is not heeded.
    """

    minimum: int = 1
    maximum: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def exact(self) -> int | None:
        """The number of speakers when the bounds leave no choice."""
        return self.minimum if self.minimum == self.maximum else None

    def clamped(self, most: int) -> "SpeakerBounds":
        """The same for a recording that cannot have more than `most` speakers."""
        maximum = most if self.maximum is None else min(self.maximum, most)
        return SpeakerBounds(min(self.minimum, most), maximum, self.warnings)

    def nearest(self, number: int) -> int:
        """The number within the bounds that is nearest to `number`."""
        if number < self.minimum:
            return self.minimum
        return number if self.maximum is None else min(number, self.maximum)

    def __str__(self) -> str:
        if self.exact is not None:
            return str(self.exact)
        if self.maximum is None:
            return f"at least {self.minimum}"
        return f"{self.minimum} to {self.maximum}"


def speaker_bounds(
    num_speakers: int | None = None,
    min_speakers: int | None = None,
    max_speakers: int | None = None,
) -> SpeakerBounds:
    """Bounds from what the caller asked for; None and 0 both mean "not given".

    `num_speakers` wins over the other two. What is above `MOST_SPEAKERS` is taken as that, with a
    warning.

    Raises
    ------
    ConfigError
        If a number is negative or not an integer, or the minimum is above the maximum.
    """
    numbers = {"num": num_speakers, "min": min_speakers, "max": max_speakers}
    for name, value in numbers.items():
        numbers[name] = _integer(f"{name}_speakers", value or 0)
        if numbers[name] < 0:
            raise ConfigError(f"{name}_speakers must not be negative, got {value}")
    minimum = numbers["num"] or numbers["min"] or 1
    maximum = numbers["num"] or numbers["max"] or None
    if maximum is not None and minimum > maximum:
        raise ConfigError(f"min_speakers ({minimum}) is above max_speakers ({maximum})")
    warnings = tuple(
        f"{name}_speakers={value} is taken as {MOST_SPEAKERS}, the most that a recording can have"
        for name, value in numbers.items()
        if value > MOST_SPEAKERS and (name == "num" or not numbers["num"])
    )
    if maximum is not None:
        maximum = min(maximum, MOST_SPEAKERS)
    return SpeakerBounds(min(minimum, MOST_SPEAKERS), maximum, warnings)


def _integer(name: str, value) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be an integer, got {value!r}") from None


def _positive(name: str, value, zero: bool = False) -> None:
    number = isinstance(value, (int, float)) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero):
        raise ConfigError(f"{name} must be {'zero or ' if zero else ''}positive, got {value!r}")
