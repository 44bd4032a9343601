"""Hits, named speakers and people as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import pandas as pd
import pyarrow as pa

from raydiar.diarization import Turn
from raydiar.voiceprints.enrolment import Identity
from raydiar.voiceprints.evidence import word_of
from raydiar.voiceprints.search import Hit

_SHOWN_TURNS = 3
_SHOWN_PEOPLE = 20
_SHOWN_RECORDINGS = 3


def hit_table(label: str, hits: Sequence[Hit], turns: Mapping[int, Sequence[Turn]]) -> str:
    """Who, where, when and how sure, a line each under the voice that was sought."""
    if not hits:
        return f"{label}\n  nobody"
    rows = [("sure", "score", "speaker", "recording", "when")]
    for hit in hits:
        sure = "-" if hit.probability is None else told(hit.probability)
        when = _when(turns.get(hit.id, ()))
        rows.append((sure, f"{hit.score:.3f}", hit.speaker, hit.recording_id, when))
    return f"{label}\n{_aligned(rows)}"


def told(probability: float) -> str:
    """A word, and the number behind it; no number is more sure than its model can be."""
    percent = "over 99 %" if probability > 0.99 else f"{100 * probability:.0f} %"
    percent = "under 1 %" if probability < 0.01 else percent
    return f"{word_of(probability)}, {percent}"


def hits_as_json(label: str, hits: Sequence[Hit], turns: Mapping[int, Sequence[Turn]]) -> str:
    """JSON Lines, one a hit, with all its turns."""
    return "\n".join(
        json.dumps(
            {"query": label, **asdict(hit), "turns": [asdict(t) for t in turns.get(hit.id, ())]},
            default=str,
        )
        for hit in hits
    )


def identity_table(identities: Sequence[Identity]) -> str:
    """Speakers and their names, a line each."""
    rows = [("speaker", "name", "sure", "score", "speech")]
    for identity in identities:
        speaker = identity.speaker
        known = identity.name is not None
        rows.append(
            (
                speaker.speaker,
                identity.name if known else "unknown",
                told(identity.probability) if known else "-",
                f"{identity.score:.3f}",
                f"{speaker.speech_seconds:.1f} s",
            )
        )
    return _aligned(rows)


def people_table(identities: pa.Table) -> str:
    """Those who are heard in most recordings, a line each, and how many more there are."""
    columns = ["identity", "recording_id", "speaker", "seconds", "name"]
    frame = identities.select(columns).to_pandas()
    people = frame.groupby("identity").agg(
        recordings=("recording_id", "nunique"), seconds=("seconds", "sum"), name=("name", "first")
    )
    order = ["recordings", "seconds"]
    shown = people.sort_values(order, ascending=False, kind="stable").head(_SHOWN_PEOPLE)
    voices = frame[frame["identity"].isin(shown.index)].groupby("identity")
    rows = [("person", "recordings", "speech", "heard as")]
    for identity, own in ((identity, voices.get_group(identity)) for identity in shown.index):
        person = shown.loc[identity]
        label = str(identity) if pd.isna(person["name"]) else f"{identity} {person['name']}"
        heard = [
            f"{speaker} of {recording}"
            for recording, speaker in zip(own["recording_id"], own["speaker"], strict=True)
        ]
        more = len(heard) - _SHOWN_RECORDINGS
        text = ", ".join(heard[:_SHOWN_RECORDINGS]) + (f" and {more} more" if more > 0 else "")
        rows.append((label, str(person["recordings"]), f"{person['seconds']:.1f} s", text))
    if len(people) > len(shown):
        rows.append(("…", "", "", f"and {len(people) - len(shown):,} more people"))
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _when(turns: Sequence[Turn]) -> str:
    shown = ", ".join(f"{_clock(t.start)}-{_clock(t.end)}" for t in turns[:_SHOWN_TURNS])
    more = len(turns) - _SHOWN_TURNS
    return f"{shown} and {more} more" if more > 0 else shown


def _clock(seconds: float) -> str:
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
