"""`raydiar evaluate`, `benchmark`, `optimize` and `ablate`: thin, and quick to import."""

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
        str,
        typer.Argument(
            help="The truth: an RTTM file, or a folder of RTTM files; or words with speakers, as "
            "STM, CTM or JSON."
        ),
    ],
    hypothesis: Annotated[
        str,
        typer.Argument(
            help="What is scored: the same, or a diarization dataset, which also says whose the "
            "words of the truth are."
        ),
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
    """Score diarizations against a reference: DER and its parts, JER, speech, overlap, counts.

    Where the truth is words, cpWER: words with those who said them.
    """
    from raydiar.evaluation.words import has_words

    if has_words(reference):
        others = {
            "--uem": uem is not None,
            "--collar": bool(collar),
            "--skip-overlap": skip_overlap,
            "--report": report is not None,
            "--ray": ray,
        }
        if unfit := [name for name, given in others.items() if given]:
            raise EvaluationError(f"{reference} holds words: {', '.join(unfit)} is for turns")
        _evaluate_words(reference, hypothesis, compare, format)
        return
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


def _evaluate_words(reference: str, hypothesis: str, compare: str | None, form) -> None:
    from raydiar.evaluation.attribution import SHOWN, score_words
    from raydiar.evaluation.recordings import read_recordings
    from raydiar.evaluation.tables import format_table
    from raydiar.evaluation.words import has_words, read_words

    truth = read_words(reference)

    def score(source: str):
        if has_words(source):
            found = read_words(source)
        else:
            found = {name: each.turns for name, each in read_recordings(source).items()}
        attribution, missing, extra = score_words(truth, found)
        if missing:
            print(
                f"raydiar: {source}: {len(missing)} recordings have no hypothesis, all their words "
                f"count as deleted: {_some(missing)}",
                file=sys.stderr,
            )
        if extra:
            print(
                f"raydiar: {source}: {len(extra)} recordings without reference are left out: "
                f"{_some(extra)}",
                file=sys.stderr,
            )
        return attribution

    attribution = score(hypothesis)
    print(format_table(attribution.rows(), SHOWN, form))
    if form not in (TableFormat.text, TableFormat.markdown):
        return
    interval = attribution.interval
    print(f"\ncpWER {interval.value:.1%}, 95 % interval {interval.low:.1%} to {interval.high:.1%}")
    if not has_words(hypothesis):
        print("words of the reference, given to whoever speaks in the hypothesis")
    if compare is not None:
        other = score(compare)
        _print_comparison(attribution, compare, other, attribution.compare(other))


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
        f"{name}: {other.measure} {other.interval.value:.1%}, "
        f"{100 * difference.value:+.2f} points ({100 * difference.low:+.2f} to "
        f"{100 * difference.high:+.2f}), {verdict} (p = {difference.p:.3f}, paired permutation)"
    )
    gaps = {
        recording: other.errors[recording].errors - errors.errors
        for recording, errors in evaluation.errors.items()
    }
    for recording in sorted(gaps, key=lambda recording: -abs(gaps[recording]))[:5]:
        if gaps[recording]:
            print(f"  {recording}: {gaps[recording]:+.1f} {other.unit} of errors")


_PIPELINE = "Hub repository, directory, config, exact or soft; default embedded."


def benchmark(
    manifests: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MANIFEST]…",
            help="Manifests with a column `rttm`, and `uem` if need be; with --recipe, the folder "
            "of the corpus.",
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Instead of a manifest, a corpus on disk: ami, voxconverse, aishell4, dihard3, "
            "callhome, alimeeting or msdwild."
        ),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of the recipe's corpus, beside manifests.")
    ] = None,
    into: Annotated[
        Path, typer.Option(help="Folder of manifests and datasets; run again to go on.")
    ] = Path("benchmark"),
    pipeline: Annotated[str | None, typer.Option(help=_PIPELINE)] = None,
    collar: Annotated[float, typer.Option(min=0.0, help=_COLLAR)] = 0.0,
    skip_overlap: Annotated[
        bool, typer.Option("--skip-overlap", help="Leave out where reference speakers overlap.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    format: Annotated[TableFormat, typer.Option(help="How to print the table.")] = TableFormat.text,
    report: Annotated[
        Path | None, typer.Option(help="Folder for an HTML report of each corpus.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")] = None,
) -> None:
    """Diarize corpora with references by the corpus job, and print accuracy and speed."""
    from raydiar.evaluation.benchmark import columns, run_benchmark
    from raydiar.evaluation.recipes import RECIPES, write_manifests
    from raydiar.evaluation.report import write_report
    from raydiar.evaluation.scoring import Conditions
    from raydiar.evaluation.tables import format_table

    if recipe is not None and corpus is None and manifests:
        *manifests, folder = manifests
        corpus = Path(folder)
    named = {Path(manifest).stem: manifest for manifest in manifests or ()}
    if len(named) != len(manifests or ()):
        raise EvaluationError("two manifests have one name: a corpus is called as its manifest is")
    published = {}
    if recipe is not None:
        if corpus is None:
            raise EvaluationError("--recipe needs the folder where the corpus lies")
        made = write_manifests(recipe, corpus, into / "manifests")
        named |= {title: str(path) for title, path in made.items()}
        published = RECIPES[recipe].published
    if not named:
        raise EvaluationError("give a manifest, or --recipe and the folder of a corpus")
    conditions = Conditions(collar, skip_overlap)
    rows = []
    for title, manifest in named.items():
        slug = Path(manifest).stem
        measured = run_benchmark(
            title,
            manifest,
            str(into / slug),
            conditions=conditions,
            pipeline=pipeline,
            device=device,
            token=token,
        )
        rows.append(measured.row(published.get(title)))
        if report is not None:
            report.mkdir(parents=True, exist_ok=True)
            page = write_report(measured.evaluation, measured.trials, title=title)
            (report / f"{slug}.html").write_text(page, encoding="utf-8")
    shown = {title: rates for title, rates in published.items() if title in named}
    print(format_table(rows, columns(shown), format))
    if format in (TableFormat.text, TableFormat.markdown):
        print(f"\nPercent; low and high: 95 % interval of DER. {conditions}.")
        if shown:
            print("Other systems: as published, collar 0, overlap scored.")


def optimize(
    manifest: Annotated[str, typer.Argument(help="With a column `rttm`, and `uem` if need be.")],
    into: Annotated[Path, typer.Option(help="Folder of the search; run again to go on.")],
    pipeline: Annotated[str | None, typer.Option(help=_PIPELINE)] = None,
    num_trials: Annotated[int, typer.Option(min=2, help="In all, those done before included.")] = (
        100
    ),
    workers: Annotated[
        int, typer.Option(min=1, help="Trials at a time, as actors on Ray; 1 needs none.")
    ] = 1,
    collar: Annotated[float, typer.Option(min=0.0, help=_COLLAR)] = 0.0,
    skip_overlap: Annotated[
        bool, typer.Option("--skip-overlap", help="Leave out where reference speakers overlap.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    token: Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")] = None,
) -> None:
    """Search a pipeline's hyper-parameters on labelled recordings; the networks run once."""
    from raydiar.evaluation.scoring import Conditions
    from raydiar.evaluation.tuning import optimize as search

    tuned = search(
        manifest,
        into,
        pipeline,
        num_trials=num_trials,
        workers=workers,
        conditions=Conditions(collar, skip_overlap),
        device=device,
        seed=seed,
        token=token,
        report=lambda line: print(line, file=sys.stderr),
    )
    print(tuned)
    print(f"written: {into / 'config.yaml'}")


def ablate(
    manifest: Annotated[str, typer.Argument(help="With a column `rttm`, and `uem` if need be.")],
    into: Annotated[Path, typer.Option(help="Folder, new or of `raydiar optimize`.")],
    pipeline: Annotated[str | None, typer.Option(help=_PIPELINE)] = None,
    collar: Annotated[float, typer.Option(min=0.0, help=_COLLAR)] = 0.0,
    skip_overlap: Annotated[
        bool, typer.Option("--skip-overlap", help="Leave out where reference speakers overlap.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    format: Annotated[TableFormat, typer.Option(help="How to print the table.")] = (
        TableFormat.text
    ),
    token: Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")] = None,
) -> None:
    """Say where errors come from: each step in turn is replaced by what the reference says."""
    from raydiar.evaluation.ablation import ablate as measure
    from raydiar.evaluation.scoring import Conditions
    from raydiar.evaluation.tables import format_table, percent
    from raydiar.evaluation.tuning import prepare_objective

    objective = prepare_objective(
        manifest,
        into,
        pipeline,
        conditions=Conditions(collar, skip_overlap),
        device=device,
        token=token,
        report=lambda line: print(line, file=sys.stderr),
    )
    rows = [
        {
            "from the reference": name,
            "DER": errors.diarization_error_rate,
            "missed": errors.missed / (errors.total or 1),
            "false alarm": errors.false_alarm / (errors.total or 1),
            "confusion": errors.confusion / (errors.total or 1),
            "count error": errors.count_error / max(1, errors.num_recordings),
        }
        for name, errors in measure(objective).items()
    ]
    shown = {"from the reference": str}
    shown |= dict.fromkeys(("DER", "missed", "false alarm", "confusion"), percent)
    print(format_table(rows, shown | {"count error": "{:.2f}".format}, format))
