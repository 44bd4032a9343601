"""What is wrong with a training manifest, found before training."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from raydiar.audio import SAMPLE_RATE, decode
from raydiar.errors import RaydiarError
from raydiar.training.manifest import LabelledRecording, read_any
from raydiar.training.shards import opened

_CLOSE = 0.05  # s, by which labels may end later than the audio: rounding of label files


def check_manifest(
    source,
    *,
    classes: Collection[str] | None = None,
    audio: bool = True,
    threads: int = 4,
) -> Iterator[str]:
    """One line for each problem of a training manifest, as it is found.

    Parameters
    ----------
    source
        What `raydiar.training.manifest.read_any` takes.
    classes : collection of str, optional
        Labels that may occur; any by default.
    audio : bool
        Decode every recording, which finds damage and samples that are no numbers.
    threads : int
    """
    names: Counter[str] = Counter()
    places: dict[tuple, str] = {}
    recordings = []
    for recording in read_any(source):
        names[recording.recording_id] += 1
        if names[recording.recording_id] == 2:
            yield f"{recording.recording_id}: is in the manifest more than once"
        place = (recording.uri, recording.channel, tuple(recording.regions))
        if place in places and places[place] != recording.recording_id:
            yield (
                f"{recording.recording_id}: is the same audio as {places[place]} ({recording.uri})"
            )
        places.setdefault(place, recording.recording_id)
        yield from _problems_of_labels(recording, classes)
        recordings.append(recording)
    if not recordings:
        yield f"{source}: holds no recordings"
    if audio:
        with ThreadPoolExecutor(threads) as pool:
            for problem in pool.map(_problem_of_audio, recordings):
                if problem is not None:
                    yield problem


def _problems_of_labels(
    recording: LabelledRecording, classes: Collection[str] | None
) -> Iterator[str]:
    name, starts, ends = recording.recording_id, recording.starts, recording.ends
    if not len(starts):
        yield f"{name}: nobody speaks in it, by its labels"
        return
    if recording.duration is not None and ends.max() > recording.duration + _CLOSE:
        yield (
            f"{name}: labels go on until {ends.max():.2f} s, but the audio ends at "
            f"{recording.duration:.2f} s"
        )
    if len(empty := np.flatnonzero(ends <= starts)):
        yield f"{name}: {len(empty)} turns without a length, the first at {starts[empty[0]]:.2f} s"
    if len(early := np.flatnonzero(starts < 0)):
        yield f"{name}: {len(early)} turns start before the recording"
    turns = Counter(zip(starts.tolist(), ends.tolist(), recording.speakers, strict=True))
    if repeated := [turn for turn, count in turns.items() if count > 1]:
        start, _, speaker = repeated[0]
        yield (
            f"{name}: {len(repeated)} turns are there more than once, the first is {speaker}'s at "
            f"{start:.2f} s"
        )
    if not any(end > start for start, end in recording.regions):
        yield f"{name}: no part of it is labelled, by its UEM or `duration`"
    unknown = sorted(
        label
        for label in set(recording.speakers)
        if label in ("", "<NA>") or (classes is not None and label not in classes)
    )
    if unknown:
        yield f"{name}: unknown labels {', '.join(map(repr, unknown[:10]))}"


def _problem_of_audio(recording: LabelledRecording) -> str | None:
    name = recording.recording_id
    try:
        with opened(recording.uri, recording.place) as source:
            samples = decode(source, channel=recording.channel)
    except RaydiarError as error:
        return f"{name}: {error}"
    except OSError as error:
        return f"{name}: {os.strerror(error.errno or 0)}"
    if not samples.any():
        return f"{name}: is silent all through ({len(samples) / SAMPLE_RATE:.1f} s)"
    if recording.duration is None:
        return recording.problem
    return None
