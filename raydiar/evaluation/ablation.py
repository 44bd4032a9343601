"""Where the errors of a pipeline come from: each step is replaced by what the reference says.

Done on LocalSpeakers, so that the ordinary code does the rest: an oracle of clustering gives each
local speaker to the reference speaker it overlaps most; an oracle of segmentation gives each window
the activity of the reference. Voices are not embedded again: under reference segmentation a speaker
has the voice of the local speaker it overlaps most, which mixes in a little of that one's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from raydiar.clustering import resolve
from raydiar.clustering.assignment import UNASSIGNED
from raydiar.clustering.reconstruction import count_speakers, reconstruct
from raydiar.diarization import Turn
from raydiar.evaluation.diarization import DiarizationErrors, diarization_errors
from raydiar.evaluation.tuning import Objective
from raydiar.local_speakers import LocalSpeakers, pack_activity

# what is taken from the reference in each row
ABLATIONS = {
    "as it is": (),
    "counting": ("counting",),
    "clustering": ("clustering",),
    "segmentation": ("segmentation",),
    "clustering, counting": ("clustering", "counting"),
    "segmentation, clustering": ("segmentation", "clustering"),
}


def activity_of(turns: Sequence[Turn], local: LocalSpeakers) -> np.ndarray:
    """(num_speakers, total_frames) bool: reference speakers, by label, in each frame's middle."""
    labels = sorted({turn.speaker for turn in turns})
    grid = local.grid
    times = grid.frame_time(np.arange(grid.total_frames(local.num_windows)))
    active = np.zeros((len(labels), len(times)), bool)
    number = {label: index for index, label in enumerate(labels)}
    for turn in turns:
        first, last = np.searchsorted(times, [turn.start, turn.end])
        active[number[turn.speaker], first:last] = True
    return active


def reference_labels(local: LocalSpeakers, truth: np.ndarray) -> np.ndarray:
    """The reference speaker of each local speaker.

    Parameters
    ----------
    truth : (num_speakers, total_frames) bool
        See `activity_of`.

    Returns
    -------
    labels : (num_embeddings,) int64
        UNASSIGNED for a local speaker that overlaps nobody.
    """
    labels = np.full(len(local.owners), UNASSIGNED, np.int64)
    offsets = local.grid.frame_offsets(local.num_windows)
    for window in np.unique(local.owners[:, 0]):
        rows = np.flatnonzero(local.owners[:, 0] == window)
        start = offsets[window]
        spoken = truth[:, start : start + local.grid.num_frames]
        active = local.active(window, window + 1)[0][: spoken.shape[1]]
        shared = spoken.astype(np.float32) @ active[:, local.owners[rows, 1]]
        # one reference speaker is not two local ones of a window
        speakers, columns = linear_sum_assignment(shared, maximize=True)
        paired = shared[speakers, columns] > 0
        labels[rows[columns[paired]]] = speakers[paired]
    return labels


def with_segmentation(local: LocalSpeakers, truth: np.ndarray) -> LocalSpeakers:
    """The same with the activity of the reference, of the three who speak most in each window."""
    grid, most = local.grid, local.num_speakers
    active = np.zeros((local.num_windows, grid.num_frames, most), np.uint8)
    owners, embeddings = [], []
    nothing = np.full(local.dimension, np.nan, np.float32)
    for window, start in enumerate(grid.frame_offsets(local.num_windows)):
        spoken = truth[:, start : start + grid.num_frames]
        seconds = spoken.sum(1)
        chosen = np.sort(np.argsort(-seconds, kind="stable")[:most])
        rows = np.flatnonzero(local.owners[:, 0] == window)
        heard = local.active(window, window + 1)[0][: spoken.shape[1], local.owners[rows, 1]]
        for column, speaker in enumerate(chosen[seconds[chosen] > 0]):
            active[window, : spoken.shape[1], column] = spoken[speaker]
            owners.append((window, column))
            shared = spoken[speaker].astype(np.float32) @ heard
            nearest = rows[shared.argmax()] if len(rows) and shared.max() > 0 else None
            embeddings.append(nothing if nearest is None else local.embeddings[nearest])
    return replace(
        local,
        activity=pack_activity(active),
        posteriors=active * np.uint8(255),
        owners=np.array(owners, np.int32).reshape(-1, 2),
        embeddings=np.array(embeddings, np.float32).reshape(len(owners), local.dimension),
    )


def turns_of_labels(
    local: LocalSpeakers,
    labels: np.ndarray,
    count: np.ndarray,
    num_clusters: int,
    min_duration_off: float,
) -> list[Turn]:
    """Turns of local speakers whose voices are known; see `reconstruct`."""
    runs, _ = reconstruct(local, labels, count, num_clusters, min_duration_off)
    starts = local.grid.frame_time(runs.start)
    ends = np.minimum(local.grid.frame_time(runs.stop), local.duration)
    times = zip(starts.tolist(), ends.tolist(), runs.cluster.tolist(), strict=True)
    return [Turn(start, end, str(cluster)) for start, end, cluster in times]


def ablate(objective: Objective) -> dict[str, DiarizationErrors]:
    """Errors with each of `ABLATIONS`, summed over the recordings of a search's folder.

    Raises
    ------
    EvaluationError
        If a recording has no reference.
    """
    config = objective.pipeline.config
    sums = dict.fromkeys(ABLATIONS, DiarizationErrors())
    for recording, local, turns, regions in objective.recordings:
        shift = recording["start"] or 0.0
        moved = [Turn(t.start - shift, t.end - shift, t.speaker) for t in turns]
        truth = activity_of(moved, local)
        for name, oracles in ABLATIONS.items():
            changed = with_segmentation(local, truth) if "segmentation" in oracles else local
            # what the reference says is sure: believed or decided is the same
            count = count_speakers(changed, config.counting)
            if "counting" in oracles:
                count = truth.sum(0).astype(np.uint8)
            if "clustering" in oracles:
                labels = reference_labels(changed, truth)
                found = turns_of_labels(changed, labels, count, len(truth), config.min_duration_off)
            else:
                found = resolve(
                    changed,
                    config.clustering,
                    plda=objective.plda,
                    min_duration_off=config.min_duration_off,
                    count=count,
                ).turns
            sums[name] += diarization_errors(
                moved,
                found,
                [(start - shift, end - shift) for start, end in regions or ()]
                or [(0.0, local.duration)],
                objective.conditions.collar,
                objective.conditions.skip_overlap,
            )
    return sums
