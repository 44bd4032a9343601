"""Listen to recordings, and see who speaks in them, in a notebook."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from raydiar.audio import SAMPLE_RATE
from raydiar.diarization import Diarization, Turn, from_turns
from raydiar.errors import ConfigError
from raydiar.picture import draw_svg
from raydiar.pipelines.files import AudioFile


def listen(audio_file, segment=None):
    """A player of a recording, or of an excerpt.

    Parameters
    ----------
    audio_file : str, Path, binary file or mapping
        As pipelines take it.
    segment : pyannote.core.Segment, optional

    Returns
    -------
    player : IPython.display.Audio

    Raises
    ------
    ConfigError
        Where IPython is not installed.
    """
    display = _display()
    return display.Audio(_samples(audio_file, segment), rate=SAMPLE_RATE)


def preview(audio_file, segment=None, **views):
    """A player below pictures of who speaks when.

    Parameters
    ----------
    audio_file, segment
        As for `listen`.
    **views : Diarization or pyannote.core.Annotation
        What to draw, by its title: `preview(file, reference=annotation, ours=output)`.

    Returns
    -------
    shown : IPython.display.HTML
    """
    display = _display()
    start, end = (0.0, None) if segment is None else (segment.start, segment.end)
    drawn = [_turns_of(title, view, start, end) for title, view in views.items()]
    picture = draw_svg(drawn) if drawn else ""
    player = display.Audio(_samples(audio_file, segment), rate=SAMPLE_RATE)
    return display.HTML(f'<div style="overflow-x: auto">{picture}</div>{player._repr_html_()}')


def _turns_of(title: str, view, start: float, end: float | None) -> Diarization:
    """A view as turns of the excerpt, from its beginning."""
    if isinstance(view, Diarization):
        turns = list(view.turns)
        length = view.duration
    elif hasattr(view, "itertracks"):
        turns = [
            Turn(segment.start, segment.end, str(label))
            for segment, _, label in view.itertracks(yield_label=True)
        ]
        length = max((turn.end for turn in turns), default=0.0)
    else:
        raise ConfigError(f"{title}: cannot draw a {type(view).__name__}")
    end = length if end is None else end
    shown = [
        replace(turn, start=max(turn.start, start) - start, end=min(turn.end, end) - start)
        for turn in turns
        if turn.start < end and turn.end > start
    ]
    return from_turns(title, shown, max(0.0, end - start))


def _samples(audio_file, segment) -> np.ndarray:
    file = AudioFile.of(audio_file)
    if segment is not None:
        file = replace(file, start=float(segment.start), duration=float(segment.duration))
    return file.samples([])


def _display():
    try:
        from IPython import display
    except ImportError as error:
        raise ConfigError("there is no IPython here to show it: pip install ipython") from error
    return display
