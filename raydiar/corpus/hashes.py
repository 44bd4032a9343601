"""By which recordings are told apart in a job of any size: 128-bit hashes of their ids, sorted."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np


def hash_ids(recording_ids: Iterable[str]) -> np.ndarray:
    """128-bit hashes by which recordings are told apart, in a job of any size.

    Returns
    -------
    hashes : (num_recordings,) S16
    """
    digests = (blake2b(name.encode(), digest_size=16).digest() for name in recording_ids)
    return np.frombuffer(b"".join(digests), dtype="S16")


def is_member(hashes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of `hashes` (num_recordings,) stand in the sorted array `known`, as bool."""
    if not len(known):
        return np.zeros(len(hashes), bool)
    found = np.searchsorted(known, hashes)
    return known[np.minimum(found, len(known) - 1)] == hashes
