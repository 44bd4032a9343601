"""The turns of a recording as a plain SVG: one line per speaker over the time, nothing to install.

A notebook shows it in place of a Diarization; `raydiar plot` writes it to a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from raydiar.diarization import Diarization, Turn

# Okabe and Ito's colours, which the colour-blind can tell apart, then darker ones of the same.
_COLORS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#d55e00",
    "#cc79a7",
    "#56b4e9",
    "#8a6d00",
    "#004d40",
    "#7b3294",
    "#5c5c5c",
)
_ROW, _BAR, _TITLE, _AXIS, _MARGIN = 24, 16, 26, 26, 12
_LETTER = 7.2  # width of a letter of the labels, in pixels
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)
_HAIR = 0.25  # pixels: what lies closer together cannot be told apart


def draw_svg(diarizations: Iterable[Diarization], width: int = 960) -> str:
    """Draw the turns of each recording, one below the other.

    Parameters
    ----------
    diarizations : iterable of Diarization
    width : int, pixels

    Returns
    -------
    svg : str
        A document of its own, on white. Pointing at a bar shows whose it is, and when.
    """
    panels, top = [], _MARGIN
    diarizations = list(diarizations)
    longest = max((len(label) for d in diarizations for label in d.labels()), default=0)
    left = min(_MARGIN + longest * _LETTER + 8, width / 3)
    for diarization in diarizations:
        panel, height = _panel(diarization, left, width - _MARGIN - 18, top)
        panels += panel
        top += height + _MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top:g}" '
        f'viewBox="0 0 {width} {top:g}" font-family="Helvetica, Arial, sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *panels, "</svg>"])


def _panel(diarization: Diarization, left: float, right: float, top: float):
    """Elements of one recording's picture, and its height in pixels."""
    labels = diarization.labels()
    length = max([diarization.duration, *(turn.end for turn in diarization.turns)])
    title = f"{diarization.uri}: {_plural(len(labels), 'speaker')}, {clock(length, length)}"
    duration = length or 1.0
    scale = (right - left) / duration
    floor = top + _TITLE + _ROW * max(1, len(labels))
    elements = [_text(_MARGIN, top + 13, title, 'font-weight="bold"')]
    for seconds in _ticks(duration, right - left):
        x = left + seconds * scale
        elements.append(
            f'<path d="M{x:.2f} {top + _TITLE - 4} V{floor + 4:g}" stroke="#dddddd"/>'
            + _text(x, floor + 18, clock(seconds, duration), 'text-anchor="middle" fill="#555555"')
        )
    if not labels:
        elements.append(_text(left + 6, top + _TITLE + _BAR, "nobody speaks", 'fill="#555555"'))
    room = int((left - _MARGIN - 8) / _LETTER)
    for row, label in enumerate(labels):
        y, color = top + _TITLE + row * _ROW, _COLORS[row % len(_COLORS)]
        shown = label if len(label) <= max(room, 3) else label[: max(room, 3) - 1] + "…"
        elements.append(_text(left - 8, y + 12.5, shown, 'text-anchor="end" fill="#222222"'))
        elements.append(f'<g fill="{color}">')
        turns = [turn for turn in diarization.turns if turn.speaker == label]
        for start, end, note in _bars(turns, scale, duration):
            x, breadth = left + start * scale, max((end - start) * scale, 0.5)
            elements.append(
                f'<rect x="{x:.2f}" y="{y}" width="{breadth:.2f}" height="{_BAR}" '
                f'rx="{min(2, breadth / 4):.2f}"><title>{escape(note)}</title></rect>'
            )
        elements.append("</g>")
    return elements, floor + _AXIS - top


def _bars(turns: Sequence[Turn], scale: float, duration: float):
    """(start, end, note) of each bar of one speaker: turns that no eye can part are one."""
    group: list[Turn] = []
    for turn in sorted(turns, key=lambda turn: turn.start):
        if group and (turn.start - max(t.end for t in group[-1:])) * scale > _HAIR:
            yield _bar(group, duration)
            group = []
        group.append(turn)
    if group:
        yield _bar(group, duration)


def _bar(turns: Sequence[Turn], duration: float) -> tuple[float, float, str]:
    start, end = turns[0].start, max(turn.end for turn in turns)
    note = f"{turns[0].speaker}: {clock(start, duration, 2)} – {clock(end, duration, 2)}"
    if len(turns) > 1:
        note += f" ({len(turns)} turns)"
    elif turns[0].confidence is not None:
        note += f", confidence {turns[0].confidence:.2f}"
    return start, end, note


def _ticks(duration: float, width: float) -> list[float]:
    """Round times, at most one in 70 pixels."""
    steps = (*_STEPS, *(86400 * days for days in (0.25, 0.5, 1, 2, 5, 10, 30, 100)))
    step = next((s for s in steps if s * width / duration >= 70), steps[-1])
    return [round(number * step, 6) for number in range(int(duration / step + 1e-9) + 1)]


def clock(seconds: float, longest: float, digits: int = 0) -> str:
    """A time as people read it: seconds below a minute, else m:ss or h:mm:ss."""
    if longest < 60:
        return f"{seconds:.{max(digits, 1)}f} s"
    whole = round(seconds, digits)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(int(minutes), 60)
    tail = f"{rest:0{3 + digits if digits else 2}.{digits}f}"
    return f"{hours}:{minutes:02d}:{tail}" if longest >= 3600 else f"{minutes}:{tail}"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.2f}" y="{y:g}" {attributes}>{escape(text)}</text>'
