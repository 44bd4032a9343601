"""A job's turns, as the machine or a person left them, in the forms that other programs read."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from raydiar.diarization import Diarization, Turn, from_turns
from raydiar.formats import FORMATS

EXPORTS = {
    "rttm": ("text/plain", ".rttm"),
    "json": ("application/json", ".json"),
    "csv": ("text/csv", ".csv"),
    "srt": ("text/plain", ".srt"),
    "vtt": ("text/vtt", ".vtt"),
    "audacity": ("text/plain", ".labels.txt"),
}
"""Media type and ending, by name of the format."""


def export(
    turns: Iterable[Mapping[str, Any]], names: Mapping[str, str], uri: str, form: str
) -> str:
    """Turns as a file of a format.

    Parameters
    ----------
    turns : iterable of mappings
        `start`, `end` (s) and `speaker`.
    names : mapping
        Of speakers, by label; who has none keeps the label.
    uri : str
        Of the recording.
    form : str
        One of `EXPORTS`.

    Raises
    ------
    ValueError
        If a format cannot hold a name.
    """
    named = [
        Turn(turn["start"], turn["end"], _fitting(names, turn["speaker"], form), None)
        for turn in sorted(turns, key=lambda turn: (turn["start"], turn["end"]))
    ]
    if form == "json":
        listed = [{"start": t.start, "end": t.end, "speaker": t.speaker} for t in named]
        return json.dumps({"recording": uri, "diarization": listed}, ensure_ascii=False, indent=1)
    diarization = from_turns(uri, named)
    return _srt(diarization) if form == "srt" else FORMATS[form].text(diarization)


def _fitting(names: Mapping[str, str], label: str, form: str) -> str:
    name = " ".join((names.get(label) or label).split()) or "_"
    return name.replace(" ", "_") if form == "rttm" else name  # whose fields end at a space


def _srt(diarization: Diarization) -> str:
    blocks = []
    for number, turn in enumerate(diarization.turns, 1):
        speaker = " ".join(turn.speaker.replace("-->", "->").split())
        blocks.append(f"{number}\n{_clock(turn.start)} --> {_clock(turn.end)}\n[{speaker}]\n")
    return "\n".join(blocks)


def _clock(seconds: float) -> str:
    whole, milliseconds = divmod(round(1000 * seconds), 1000)
    minutes, whole = divmod(whole, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{whole:02},{milliseconds:03}"
