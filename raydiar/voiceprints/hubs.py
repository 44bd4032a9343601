"""Voices that resemble everybody, and people who are none: noise, jingles, music.

Two signs, both without labels. A hub has many neighbours that do not resemble each other. And
what is one person's is hardly ever heard as two speakers of one recording, again and again.
"""

from __future__ import annotations

import numpy as np

from raydiar.voiceprints.neighbors import Neighbors

MIN_NEIGHBORS = 10
"""Of a voice before it can be a hub."""

MIN_RECORDINGS = 10
"""Of a person before they can be told to be none."""

MAX_DOUBLED = 0.3
"""Share of a person's recordings in which they may be two speakers or more."""

_SAMPLE = 24  # neighbours of a voice that are compared with each other


def hub_voices(vectors: np.ndarray, pairs: Neighbors) -> np.ndarray:
    """Which voices have many neighbours that are strangers to each other.

    Were the neighbours one person's, they would resemble each other as they resemble the voice;
    if they have nothing in common but the voice, only as the square of that. Nearer to the
    square is a hub.

    Returns
    -------
    hubs : (num_voices,) bool
    """
    number = len(vectors)
    hubs = np.zeros(number, bool)
    rows = np.concatenate([pairs.first, pairs.second])
    others = np.concatenate([pairs.second, pairs.first])
    scores = np.tile(pairs.scores, 2)
    order = np.lexsort((-scores, rows))
    starts = np.searchsorted(rows[order], np.arange(number + 1))
    for voice in np.flatnonzero(np.diff(starts) >= MIN_NEIGHBORS):
        # evenly from all: the nearest alone may be one person's beside a hundred strangers
        own = order[starts[voice] : starts[voice + 1]]
        own = own[np.linspace(0, len(own) - 1, min(len(own), _SAMPLE)).astype(int)]
        near = vectors[others[own]]
        between = near @ near.T
        count = len(near)
        mutual = (between.sum() - np.trace(between)) / (count * (count - 1))
        mean = scores[own].mean()
        hubs[voice] = mutual < (mean + 2 * mean**2) / 3
    return hubs


def doubled_people(
    people: np.ndarray, recordings: np.ndarray, min_recordings: int = MIN_RECORDINGS
) -> np.ndarray:
    """Which people are heard as two speakers in too many of their recordings.

    Parameters
    ----------
    people : (num_voices,) int64
        Labels 0, 1, …; -1 for a voice that is left out.
    recordings : (num_voices,) int64

    Returns
    -------
    doubled : (num_people,) bool
    """
    kept = people >= 0
    number = int(people.max(initial=-1)) + 1
    heard, times = np.unique(
        people[kept] * (recordings.max(initial=0) + 1) + recordings[kept], return_counts=True
    )
    owner = heard // (recordings.max(initial=0) + 1)
    num_recordings = np.bincount(owner, minlength=number)
    num_doubled = np.bincount(owner, times > 1, minlength=number)
    enough = num_recordings >= min_recordings
    return enough & (num_doubled > MAX_DOUBLED * np.maximum(num_recordings, 1))
