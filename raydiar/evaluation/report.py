"""An evaluation as one HTML file that needs no network: table, pictures, and what went wrong where.

Pictures are plain SVG. The worst recordings are drawn with reference and hypothesis under each
other, speakers of the hypothesis in the colour of the reference speaker they are mapped to, and
below them where speech was missed, invented or given to the wrong speaker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from raydiar.evaluation.confidence import reliability
from raydiar.evaluation.diarization import ErrorTimeline, error_timeline
from raydiar.evaluation.recordings import Trial
from raydiar.evaluation.scoring import SHOWN, Evaluation
from raydiar.evaluation.significance import Difference

_KINDS = {"missed": "#d97706", "false_alarm": "#2563eb", "confusion": "#dc2626"}
_WIDTH = 1040  # px, of drawings
_LEFT = 120  # px, for labels
_ROW = 16
_NUM_PARTS = 20  # of a recording, in the error over time
_CELLS_DRAWN = 1200  # a picture has no more columns

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 1120px; margin: 2em auto;
  padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .25em .6em; text-align: right; border-bottom: 1px solid #e5e7eb }
th { position: sticky; top: 0; background: #fff; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; max-width: 22em; overflow-wrap: anywhere }
tr.total { font-weight: 600; border-top: 2px solid #1f2937 }
figure { margin: 1em 0; overflow-x: auto } svg { overflow: visible; padding-right: 24px }
figcaption { font-weight: 600 }
svg text { font: 11px system-ui, sans-serif; fill: #374151 }
.figure { font-size: 2.4em; font-weight: 600; margin: 0 } .note { color: #6b7280 }
.key span { display: inline-block; width: .8em; height: .8em; margin: 0 .3em 0 1em }
.scroll { overflow: auto; max-height: 70vh }
"""


def write_report(
    evaluation: Evaluation,
    trials: Sequence[Trial],
    *,
    title: str = "Diarization evaluation",
    notes: Sequence[str] = (),
    other: tuple[str, Evaluation, Difference] | None = None,
    num_worst: int = 10,
) -> str:
    """The report as text of an HTML file.

    Parameters
    ----------
    trials : sequence of Trial
        Those that were evaluated.
    notes : sequence of str
        Lines for the head, e.g. recordings without a hypothesis.
    other : tuple of (name, Evaluation, Difference), optional
        A second system, compared on the same recordings.
    num_worst : int
        Recordings drawn, those with the most seconds of errors first.
    """
    by_name = {trial.name: trial for trial in trials}
    condition = evaluation.conditions
    timelines = {
        name: error_timeline(
            trial.reference,
            trial.hypothesis,
            trial.regions,
            condition.collar,
            condition.skip_overlap,
        )
        for name, trial in by_name.items()
    }
    parts = [_head(evaluation, title, notes)]
    if other is not None:
        parts.append(_comparison(evaluation, *other))
    worst = evaluation.worst(num_worst)
    parts += [
        "<h2>Worst recordings</h2>",
        '<p class="note">By seconds of errors. Speakers of the hypothesis have the colour of the '
        "reference speaker they are mapped to, grey ones have none."
        f"</p>{_key()}",
        *(_recording(by_name[name], evaluation, timelines[name]) for name in worst),
        "<h2>Errors over time</h2>",
        _over_time(timelines.values()),
        "<h2>Number of speakers</h2>",
        _counts(evaluation),
        "<h2>Confidence of turns</h2>",
        _confidence(trials),
        "<h2>All recordings</h2>",
        _table(evaluation),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _head(evaluation: Evaluation, title: str, notes: Sequence[str]) -> str:
    total, interval = evaluation.total, evaluation.interval
    speech = total.total or 1.0
    lines = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return (
        f"<h1>{escape(title)}</h1>"
        f'<p class="figure">DER {total.diarization_error_rate:.1%}</p>'
        f"<p>95 % interval {interval.low:.1%} to {interval.high:.1%} (recordings drawn anew). "
        f"Missed speech {total.missed / speech:.1%}, false alarm {total.false_alarm / speech:.1%}, "
        f"confusion {total.confusion / speech:.1%}. JER {total.jaccard_error_rate:.1%}.</p>"
        f"<p>{total.num_recordings} recordings, {total.evaluated / 3600:.2f} h scored, "
        f"{total.total / 3600:.2f} h of speech; {escape(str(evaluation.conditions))}. "
        f"Right number of speakers in {total.count_exact} of {total.num_recordings}.</p>{lines}"
    )


def _comparison(
    evaluation: Evaluation, name: str, other: Evaluation, difference: Difference
) -> str:
    verdict = (
        "more than chance" if difference.significant else "no more than chance would bring about"
    )
    gaps = {
        recording: other.errors[recording].errors - errors.errors
        for recording, errors in evaluation.errors.items()
    }
    rows = "".join(
        f"<tr><td>{escape(recording)}</td>"
        f"<td>{evaluation.errors[recording].diarization_error_rate:.1%}</td>"
        f"<td>{other.errors[recording].diarization_error_rate:.1%}</td>"
        f"<td>{gaps[recording]:+.1f}</td></tr>"
        for recording in sorted(gaps, key=lambda recording: -abs(gaps[recording]))[:15]
    )
    return (
        f"<h2>Against {escape(name)}</h2>"
        f"<p>It has DER {other.total.diarization_error_rate:.1%}: a difference of "
        f"{100 * difference.value:+.2f} points ({100 * difference.low:+.2f} to "
        f"{100 * difference.high:+.2f}), {verdict} (p = {difference.p:.3f}, paired permutation "
        "test). Where they differ most:</p>"
        "<table><tr><th>recording</th><th>this</th><th>other</th><th>seconds of errors, other "
        f"minus this</th></tr>{rows}</table>"
    )


def _key() -> str:
    names = {"missed": "missed speech", "false_alarm": "false alarm", "confusion": "confusion"}
    items = "".join(
        f'<span style="background:{colour}"></span>{names[kind]}' for kind, colour in _KINDS.items()
    )
    return f'<p class="key">{items}</p>'


def _colour(number: int) -> str:
    # the golden angle keeps neighbours apart, however many there are; lightness tells near hues
    return f"hsl({(number * 137.508) % 360:.0f} 55% {(42, 58, 30)[number % 3]}%)"


def _recording(trial: Trial, evaluation: Evaluation, timeline: ErrorTimeline) -> str:
    errors = evaluation.errors[trial.name]
    speakers = sorted({turn.speaker for turn in trial.reference})
    colours = {speaker: _colour(number) for number, speaker in enumerate(speakers)}
    found = sorted(
        {turn.speaker for turn in trial.hypothesis},
        key=lambda label: (timeline.mapping.get(label, "\uffff"), label),
    )
    times = [turn.start for turn in (*trial.reference, *trial.hypothesis)]
    ends = [turn.end for turn in (*trial.reference, *trial.hypothesis)]
    start, end = min(times, default=0.0), max(ends, default=1.0)
    scale = (_WIDTH - _LEFT) / max(end - start, 1e-3)
    shapes, y = [], 4.0
    for rows, turns, colour_of in (
        (speakers, trial.reference, colours.get),
        (found, trial.hypothesis, lambda label: colours.get(timeline.mapping.get(label))),
    ):
        for label in rows:
            shapes.append(
                f'<text x="{_LEFT - 6}" y="{y + 11:.0f}" text-anchor="end">{escape(label[:18])}'
                "</text>"
            )
            spans = [(turn.start, turn.end) for turn in turns if turn.speaker == label]
            shapes.append(
                _bars(spans, start, scale, y + 2, _ROW - 4, colour_of(label) or "#9ca3af")
            )
            y += _ROW
        y += 8
    for kind, colour in _KINDS.items():
        wrong = getattr(timeline, kind) > 0
        spans = list(zip(timeline.starts[wrong], timeline.ends[wrong], strict=True))
        shapes.append(_bars(spans, start, scale, y, 6, colour))
        y += 7
    y += 4
    for second in _ticks(start, end):
        x = _LEFT + (second - start) * scale
        shapes.append(f'<text x="{x:.0f}" y="{y + 11:.0f}" text-anchor="middle">{_clock(second)}')
        shapes.append("</text>")
    height = y + 18
    rate = errors.diarization_error_rate
    caption = f"{escape(trial.name)}: DER {rate:.1%}, {errors.errors:.1f} s of errors"
    if not trial.found:
        caption += ", no hypothesis"
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg width="{_WIDTH}" height="{height:.0f}" role="img">{"".join(shapes)}</svg></figure>'
    )


def _bars(spans, start: float, scale: float, y: float, height: float, colour: str) -> str:
    """One path of all bars; those closer than a pixel become one, or long files are megabytes."""
    merged: list[list[float]] = []
    finest = max(1.0, (_WIDTH - _LEFT) / _CELLS_DRAWN)
    for begin, end in sorted(spans):
        left = _LEFT + (begin - start) * scale
        right = max(_LEFT + (end - start) * scale, left + 0.5)
        if merged and left - merged[-1][1] < finest / 2:
            merged[-1][1] = max(merged[-1][1], right)
        else:
            merged.append([left, right])
    path = "".join(
        f"M{left:.1f} {y:.0f}H{right:.1f}v{height:.0f}H{left:.1f}z" for left, right in merged
    )
    return f'<path d="{path}" fill="{colour}"/>' if path else ""


def _ticks(start: float, end: float) -> list[float]:
    step = next(
        (step for step in (1, 5, 10, 30, 60, 300, 600, 1800, 3600) if (end - start) / step <= 12),
        7200,
    )
    first = math.ceil(start / step)
    return [number * step for number in range(first, math.floor(end / step) + 1)]


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _over_time(timelines) -> str:
    """Rates of the three errors in twentieths of the recordings."""
    sums = {name: np.zeros(_NUM_PARTS) for name in ("total", *_KINDS)}
    for timeline in timelines:
        if not len(timeline.starts):
            continue
        first, last = timeline.starts[0], timeline.ends[-1]
        edges = np.linspace(first, last, _NUM_PARTS + 1)
        for name, sum_ in sums.items():
            values = getattr(timeline, name)
            # integral of a step function, read at the edges of the parts
            seconds = np.concatenate([[0], np.cumsum(values * (timeline.ends - timeline.starts))])
            knots = np.concatenate([timeline.starts, timeline.ends[-1:]])
            sum_ += np.diff(np.interp(edges, knots, seconds))
    total = np.where(sums["total"] > 0, sums["total"], np.inf)
    width, height, top = 46, 160, 10
    highest = max(float((sum(sums[kind] for kind in _KINDS) / total).max()), 1e-3)
    shapes = []
    for part in range(_NUM_PARTS):
        y = top + height
        for kind, colour in _KINDS.items():
            share = sums[kind][part] / total[part]
            tall = height * share / highest
            y -= tall
            shapes.append(
                f'<rect x="{_LEFT / 2 + part * width:.0f}" y="{y:.1f}" width="{width - 4}" '
                f'height="{tall:.1f}" fill="{colour}"><title>{share:.1%}</title></rect>'
            )
    for share in (0.0, highest / 2, highest):
        y = top + height * (1 - share / highest)
        shapes.append(f'<text x="4" y="{y + 4:.0f}">{share:.0%}</text>')
    shapes.append(f'<text x="{_LEFT / 2}" y="{top + height + 16}">start</text>')
    end = _LEFT / 2 + _NUM_PARTS * width - 4
    shapes.append(f'<text x="{end}" y="{top + height + 16}" text-anchor="end">end</text>')
    return (
        '<p class="note">Share of the speech in each twentieth of the recordings.</p>'
        f'{_key()}<figure><svg width="{_WIDTH}" height="{top + height + 24}">{"".join(shapes)}'
        "</svg></figure>"
    )


def _counts(evaluation: Evaluation) -> str:
    true = sorted({pair[0] for pair in evaluation.counts})
    found = sorted({pair[1] for pair in evaluation.counts})
    head = "".join(f"<th>{number}</th>" for number in found)
    rows = []
    most = max(evaluation.counts.values())
    for number in true:
        cells = []
        for other in found:
            times = evaluation.counts.get((number, other), 0)
            shade = f"rgba({'22,163,74' if number == other else '220,38,38'},{0.6 * times / most})"
            cells.append(f'<td style="background:{shade}">{times or ""}</td>')
        rows.append(f"<tr><td>{number}</td>{''.join(cells)}</tr>")
    return (
        '<p class="note">Recordings; rows: true number, columns: found.</p>'
        f'<div class="scroll"><table><tr><th>true \\ found</th>{head}</tr>{"".join(rows)}</table>'
        "</div>"
    )


def _confidence(trials: Sequence[Trial]) -> str:
    found = reliability(trials)
    if found is None:
        return '<p class="note">The hypothesis has no confidences (RTTM holds none).</p>'
    size, left, top = 220, 40, 10
    shapes = [
        f'<path d="M{left} {top + size}L{left + size} {top}" stroke="#9ca3af" '
        'stroke-dasharray="4"/>'
    ]
    most = found.seconds.max()
    for expected, seen, seconds in zip(found.expected, found.seen, found.seconds, strict=True):
        if seconds:
            shapes.append(
                f'<circle cx="{left + size * expected:.1f}" cy="{top + size * (1 - seen):.1f}" '
                f'r="{2 + 8 * math.sqrt(seconds / most):.1f}" fill="#2563eb" fill-opacity=".6">'
                f"<title>expected {expected:.2f}, seen {seen:.2f}, {seconds:.0f} s</title></circle>"
            )
    shapes.append(f'<text x="{left}" y="{top + size + 18}">expected share of right time →</text>')
    shapes.append(f'<text x="4" y="{top + 10}">1</text><text x="4" y="{top + size}">0</text>')
    error = found.expected_calibration_error
    return (
        f"<p>Expected calibration error {error:.3f}. A dot is a bin of confidence, its size the "
        "time in it; above the line turns are right more often than they claim.</p>"
        f'<figure><svg width="300" height="{top + size + 24}">{"".join(shapes)}</svg></figure>'
    )


def _table(evaluation: Evaluation) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in SHOWN)
    rows = []
    for row in evaluation.rows():
        cells = "".join(f"<td>{escape(show(row[name]))}</td>" for name, show in SHOWN.items())
        kind = ' class="total"' if row["recording"] == "TOTAL" else ""
        rows.append(f"<tr{kind}>{cells}</tr>")
    note = '<p class="note">Seconds, and shares in percent.</p>'
    return f'{note}<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
