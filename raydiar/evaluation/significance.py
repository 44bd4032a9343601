"""How far a figure can be trusted: recordings drawn anew, and two systems exchanged at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 2_000
_DRAWS_AT_ONCE = 2**22  # numbers


@dataclass(frozen=True)
class Interval:
    """A rate and the interval that holds it with a confidence of 95 %."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Second system minus first.

    Attributes
    ----------
    value, low, high : float
        Of the rates, with a bootstrap interval of 95 %.
    p : float
        How likely a difference at least so large is if both systems were equally good.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def significant(self) -> bool:
        return self.p < 0.05


def bootstrap(
    errors: np.ndarray, totals: np.ndarray, num_draws: int = NUM_DRAWS, seed: int = 0
) -> Interval:
    """Interval of a rate, by the percentiles of recordings drawn with replacement.

    Parameters
    ----------
    errors, totals : (num_recordings,) float
        The rate is the sum of the ones divided by the sum of the others.
    num_draws, seed : int

    Notes
    -----
    Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation",
    2004.
    """
    errors, totals = np.asarray(errors, float), np.asarray(totals, float)
    rates = _rates(np.stack([errors]), totals, num_draws, seed)[0]
    low, high = np.percentile(rates, [2.5, 97.5])
    return Interval(_rate(errors.sum(), totals.sum()), float(low), float(high))


def difference(
    first: np.ndarray,
    second: np.ndarray,
    totals: np.ndarray,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Difference:
    """Compare two systems on the same recordings.

    Parameters
    ----------
    first, second : (num_recordings,) float
        Errors of the two.
    totals : (num_recordings,) float
        What both are divided by.

    Notes
    -----
    `p` is of the paired permutation test (Noreen, "Computer-intensive methods for testing
    hypotheses", 1989): the two results of each recording are exchanged or not, by a coin.
    """
    first, second, totals = (np.asarray(x, float) for x in (first, second, totals))
    rates = _rates(np.stack([first, second]), totals, num_draws, seed)
    low, high = np.percentile(rates[1] - rates[0], [2.5, 97.5])
    gaps = second - first
    observed = abs(gaps.sum())
    generator = np.random.default_rng(seed)
    as_large, drawn = 0, 0
    size = max(1, _DRAWS_AT_ONCE // max(1, len(gaps)))
    while drawn < num_draws:
        signs = generator.integers(0, 2, (min(size, num_draws - drawn), len(gaps))) * 2 - 1
        as_large += int((np.abs(signs @ gaps) >= observed * (1 - 1e-12)).sum())
        drawn += len(signs)
    value = _rate(second.sum(), totals.sum()) - _rate(first.sum(), totals.sum())
    return Difference(value, float(low), float(high), (as_large + 1) / (num_draws + 1))


def _rates(errors: np.ndarray, totals: np.ndarray, num_draws: int, seed: int) -> np.ndarray:
    """(num_systems, num_draws): the rate of each system on recordings drawn with replacement."""
    generator = np.random.default_rng(seed)
    number = len(totals)
    shares = np.full(number, 1 / number)
    rates, drawn = [], 0
    size = max(1, _DRAWS_AT_ONCE // number)
    while drawn < num_draws:
        times = generator.multinomial(number, shares, min(size, num_draws - drawn))
        sums = times @ totals
        rates.append((times @ errors.T / np.where(sums > 0, sums, 1)[:, None]).T)
        drawn += len(times)
    return np.concatenate(rates, 1)


def _rate(errors: float, total: float) -> float:
    return float(errors / total) if total else float(errors > 0)
