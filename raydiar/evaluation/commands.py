"""`raydiar evaluate`, a thin shell over this room."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raydiar.errors import EvaluationError
from raydiar.evaluation.tables import TableFormat

_COLLAR = "Seconds not scored around each boundary of the reference, half on either side."


def evaluate(
    reference: Annotated[
        str, typer.Argument(help="The truth: an RTTM file, or a folder of RTTM files.")
    ],
    hypothesis: Annotated[
        str, typer.Argument(help="What is scored: the same, or a diarization dataset.")
    ],
    uem: Annotated[
        Path | None, typer.Option(help="UEM file or folder: what of each recording is scored.")
    ] = None,
    collar: Annotated[float, typer.Option(min=0.0, help=_COLLAR)] = 0.0,
    skip_overlap: Annotated[
        bool, typer.Option("--skip-overlap", help="Leave out where reference speakers overlap.")
    ] = False,
    compare: Annotated[
        str | None, typer.Option(help="A second hypothesis: is the difference more than chance?")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report here.")] = None,
    worst: Annotated[int, typer.Option(min=0, help="Recordings drawn in the report.")] = 10,
    format: Annotated[TableFormat, typer.Option(help="How to print the table.")] = TableFormat.text,
    ray: Annotated[
        bool, typer.Option("--ray", help="Score on a Ray cluster: for 100,000 recordings.")
    ] = False,
) -> None:
    """Score diarizations against a reference: DER and its parts, JER, speech, overlap, counts."""
    from raydiar.evaluation.recordings import match, read_recordings, read_uem
    from raydiar.evaluation.report import write_report
    from raydiar.evaluation.scoring import SHOWN, Conditions
    from raydiar.evaluation.scoring import evaluate as evaluate_here
    from raydiar.evaluation.tables import format_table

    if ray:
        from raydiar.evaluation.on_ray import evaluate_on_ray as score
    else:
        score = evaluate_here
    conditions = Conditions(collar, skip_overlap)
    truth = read_recordings(reference)
    regions = None if uem is None else read_uem(uem)
    matched = match(truth, read_recordings(hypothesis), regions)
    notes = _notes(matched, regions)
    evaluation = score(matched.trials, conditions)
    print(
        evaluation.to_json()
        if format == TableFormat.json
        else format_table(evaluation.rows(), SHOWN, format)
    )
    other = None
    for note in notes:
        print(f"raydiar: {note}", file=sys.stderr)
    if compare is not None:
        second = match(truth, read_recordings(compare), regions)
        for note in _notes(second, regions):
            print(f"raydiar: {compare}: {note}", file=sys.stderr)
        compared = score(second.trials, conditions)
        difference = evaluation.compare(compared)
        other = compare, compared, difference
    if format in (TableFormat.text, TableFormat.markdown):
        interval = evaluation.interval
        print(
            f"\nDER {interval.value:.1%}, 95 % interval {interval.low:.1%} to {interval.high:.1%}; "
            f"{conditions}"
        )
        if other is not None:
            _print_comparison(evaluation, *other)
    if report is not None:
        page = write_report(
            evaluation,
            matched.trials,
            title=f"{hypothesis} against {reference}",
            notes=notes,
            other=other,
            num_worst=worst,
        )
        try:
            report.write_text(page, encoding="utf-8")
        except OSError as error:
            raise EvaluationError(f"the report cannot be written: {error}") from error


def _notes(matched, regions) -> list[str]:
    notes = []
    if matched.missing:
        names = _some(matched.missing)
        notes.append(
            f"{len(matched.missing)} recordings have no hypothesis, all their speech counts as "
            f"missed: {names}"
        )
    if matched.extra:
        names = _some(matched.extra)
        notes.append(f"{len(matched.extra)} recordings without reference are left out: {names}")
    without = [trial.name for trial in matched.trials if trial.regions is None]
    if regions is not None and without:
        notes.append(
            f"{len(without)} recordings are not in the UEM, scored whole: {_some(without)}"
        )
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _print_comparison(evaluation, name, other, difference) -> None:
    verdict = "more than chance" if difference.significant else "no more than chance"
    print(
        f"{name}: DER {other.total.diarization_error_rate:.1%}, "
        f"{100 * difference.value:+.2f} points ({100 * difference.low:+.2f} to "
        f"{100 * difference.high:+.2f}), {verdict} (p = {difference.p:.3f}, paired permutation)"
    )
    gaps = {
        recording: other.errors[recording].errors - errors.errors
        for recording, errors in evaluation.errors.items()
    }
    for recording in sorted(gaps, key=lambda recording: -abs(gaps[recording]))[:5]:
        if gaps[recording]:
            print(f"  {recording}: {gaps[recording]:+.1f} s of errors")
