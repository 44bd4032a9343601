"""The same recording again: uploads of uploads, mirrors, other encodings.

Such copies are no evidence: sixty of them say as much as one, and fill the neighbours of each
other. They are found by what they hold, not by their names: as many voices, each with a nearly
equal voice of nearly equal speech in the other.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from raydiar.voiceprints.neighbors import Neighbors

ALIKE = 0.97
"""Cosine of a voice in two encodings of a recording, at least; another day gives .9 at most."""

ALONE = 0.985
"""The same where one voice is all that the recordings have in common."""

_SECONDS = 0.5  # that speech may differ by: turns begin and end a frame earlier or later …
_SHARE = 0.02  # … and that share of it


def reposts(pairs: Neighbors, recordings: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Voices that are one and the same utterance.

    Parameters
    ----------
    pairs : Neighbors
    recordings : (num_voices,) int64
        Number of each voice's recording.
    seconds : (num_voices,) float
        Of speech.

    Returns
    -------
    originals : (num_voices,) int64
        The voice that stands for each, itself for most; that of most speech, of equals the first.
    """
    number = len(recordings)
    near = np.flatnonzero(pairs.scores >= ALIKE)
    a, b = pairs.first[near], pairs.second[near]
    slack = np.maximum(_SECONDS, _SHARE * np.maximum(seconds[a], seconds[b]))
    fits = (np.abs(seconds[a] - seconds[b]) <= slack) & (recordings[a] != recordings[b])
    a, b, scores = a[fits], b[fits], pairs.scores[near[fits]]
    if not len(a):
        return np.arange(number)
    num_voices = np.bincount(recordings)
    low, high = np.minimum(recordings[a], recordings[b]), np.maximum(recordings[a], recordings[b])
    _, which = np.unique(low * len(num_voices) + high, return_inverse=True)
    which = which.ravel()
    # a voice counts once, however many of the other recording resemble it
    matched = np.minimum(
        _distinct(which, np.where(recordings[a] == low, a, b)),
        _distinct(which, np.where(recordings[a] == low, b, a)),
    )[which]
    all_of_it = matched == np.maximum(num_voices[low], num_voices[high])
    copies = all_of_it & ((matched > 1) | (scores >= ALONE))
    graph = coo_array((np.ones(copies.sum(), bool), (a[copies], b[copies])), shape=(number,) * 2)
    labels = connected_components(graph, directed=False)[1]
    order = np.lexsort((np.arange(number), -seconds, labels))
    leaders = order[np.append(True, np.diff(labels[order]) > 0)]
    return leaders[labels]


def _distinct(which: np.ndarray, voices: np.ndarray) -> np.ndarray:
    """How many different voices each group of pairs has on one side."""
    once = np.unique(np.stack([which, voices]), axis=1)
    return np.bincount(once[0])
