"""Error rates of speaker verification, from scores of labelled trials."""

from __future__ import annotations

import numpy as np


def error_rates(
    scores: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Misses and false accepts at every threshold that makes a difference.

    Parameters
    ----------
    scores : (num_trials,) float
        Higher for the same person.
    targets : (num_trials,) bool
        Whether it is the same person.

    Returns
    -------
    thresholds : (num_thresholds,) float64
        Rising; trials of at least this score are accepted. The last accepts none.
    miss_rates : (num_thresholds,) float64
        Share of target trials refused; rising.
    false_accept_rates : (num_thresholds,) float64
        Share of non-target trials accepted; falling.

    Raises
    ------
    ValueError
        Without trials of both kinds, or with scores that are not numbers.
    """
    scores, targets = np.asarray(scores, np.float64), np.asarray(targets, bool)
    if scores.shape != targets.shape or scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError("scores must be numbers, one for each of `targets`")
    genuine, impostor = np.sort(scores[targets]), np.sort(scores[~targets])
    if not len(genuine) or not len(impostor):
        raise ValueError("error rates need target and non-target trials")
    thresholds = np.append(np.unique(scores), np.inf)
    missed = np.searchsorted(genuine, thresholds, side="left") / len(genuine)
    accepted = 1 - np.searchsorted(impostor, thresholds, side="left") / len(impostor)
    return thresholds, missed, accepted


def equal_error_rate(scores: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    """Where as many target trials are refused as non-target ones accepted.

    Between two thresholds, the rates are taken to change along a line.

    Returns
    -------
    rate : float
    threshold : float
    """
    thresholds, missed, accepted = error_rates(scores, targets)
    after = int(np.argmax(missed >= accepted))
    if after == 0:
        return float((missed[0] + accepted[0]) / 2), float(thresholds[0])
    before = after - 1
    gap_before = accepted[before] - missed[before]
    gap_after = missed[after] - accepted[after]
    share = gap_before / (gap_before + gap_after)
    rate = missed[before] + share * (missed[after] - missed[before])
    threshold = thresholds[after] if np.isfinite(thresholds[after]) else thresholds[before]
    return float(rate), float(threshold)


def min_dcf(
    scores: np.ndarray,
    targets: np.ndarray,
    p_target: float = 0.01,
    c_miss: float = 1.0,
    c_false_accept: float = 1.0,
) -> float:
    """Smallest normalised detection cost over all thresholds (NIST SRE evaluation plans).

    Parameters
    ----------
    p_target : float
        How likely a trial is a target trial.
    c_miss, c_false_accept : float
        Costs of the two errors.

    Returns
    -------
    cost : float
        1 is the cost of always giving the cheaper answer.
    """
    _, missed, accepted = error_rates(scores, targets)
    cost = c_miss * p_target * missed + c_false_accept * (1 - p_target) * accepted
    return float(cost.min() / min(c_miss * p_target, c_false_accept * (1 - p_target)))
