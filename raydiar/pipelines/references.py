"""Speakers named after those of a reference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from raydiar.diarization import Diarization
from raydiar.errors import ConfigError

if TYPE_CHECKING:
    from pyannote.core import Annotation


def named_as(output: Diarization, reference: Annotation) -> Diarization:
    """The same with the names of a reference, as they fit best; others keep their labels.

    Speakers and names are matched one to one so that they have most time in common.

    Raises
    ------
    ConfigError
        The reference is no Annotation.
    """
    if not hasattr(reference, "labels") or not hasattr(reference, "itertracks"):
        raise ConfigError(
            f'"annotation" must be an Annotation of pyannote.core, not {type(reference).__name__}'
        )
    names, labels = reference.labels(), output.labels()
    shared = np.zeros((len(names), len(labels)))
    for segment, _, name in reference.itertracks(yield_label=True):
        for turn in output.turns:
            seconds = min(segment.end, turn.end) - max(segment.start, turn.start)
            shared[names.index(name), labels.index(turn.speaker)] += max(0.0, seconds)
    pairs = zip(*linear_sum_assignment(-shared), strict=True)
    mapping = {labels[j]: str(names[i]) for i, j in pairs if shared[i, j] > 0}
    taken = set(mapping.values())
    for label in labels:
        if label not in mapping:
            free = label
            while free in taken:  # a reference may call somebody SPEAKER_01, too
                free += "_"
            mapping[label] = free
            taken.add(free)

    def renamed(items):
        return tuple(replace(item, speaker=mapping[item.speaker]) for item in items)

    return replace(
        output,
        turns=renamed(output.turns),
        exclusive_turns=renamed(output.exclusive_turns),
        speakers=tuple(sorted(renamed(output.speakers), key=lambda one: one.speaker)),
    )
