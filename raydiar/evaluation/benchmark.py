"""Accuracy and speed of a pipeline on corpora with references, beside published figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raydiar.errors import EvaluationError
from raydiar.evaluation.recordings import Regions, Trial, turns_of
from raydiar.evaluation.references import References, manifest_folder
from raydiar.evaluation.scoring import NO_COLLAR, Conditions, Evaluation, evaluate
from raydiar.evaluation.tables import percent

_TENTHS = "{:.1f}".format


@dataclass(frozen=True)
class Measured:
    """One corpus.

    Attributes
    ----------
    name : str
    evaluation : Evaluation
    trials : list of Trial
    speed : float or None
        Times real time, decoding to rows, of the run that did the work; None if all was done
        before.
    num_failed : int
        Recordings with an error row, all of whose speech counts as missed.
    """

    name: str
    evaluation: Evaluation
    trials: list[Trial] = field(repr=False)
    speed: float | None
    num_failed: int

    def row(self, published: Mapping[str, float] | None = None) -> dict:
        """Of the table that `columns` describes."""
        total, interval = self.evaluation.total, self.evaluation.interval
        speech = total.total or 1.0
        return {
            "corpus": self.name,
            "recordings": total.num_recordings,
            "hours": total.evaluated / 3600,
            "DER": interval.value,
            "low": interval.low,
            "high": interval.high,
            "missed": total.missed / speech,
            "false alarm": total.false_alarm / speech,
            "confusion": total.confusion / speech,
            "JER": total.jaccard_error_rate,
            "count exact": total.count_exact / max(1, total.num_recordings),
            "count error": total.count_error / max(1, total.num_recordings),
            "failed": self.num_failed,
            "x real time": self.speed,
            **{system: rate / 100 for system, rate in (published or {}).items()},
        }


def columns(published: Mapping[str, Mapping[str, float]]) -> dict[str, Callable]:
    """Columns of the table and how they are shown, with one for each published system.

    Parameters
    ----------
    published : dict
        DER in percent by corpus and system.
    """
    shown: dict[str, Callable] = {"corpus": str, "recordings": str, "hours": _TENTHS}
    rates = ("DER", "low", "high", "missed", "false alarm", "confusion", "JER", "count exact")
    shown |= dict.fromkeys(rates, percent)
    shown |= {"count error": "{:.2f}".format, "failed": str, "x real time": _TENTHS}
    systems = [system for of_corpus in published.values() for system in of_corpus]
    return shown | dict.fromkeys(systems, percent)


def run_benchmark(
    name: str,
    manifest: str,
    output: str,
    *,
    conditions: Conditions = NO_COLLAR,
    pipeline: str | None = None,
    **options,
) -> Measured:
    """Diarize a manifest with references by the corpus job, or go on with it, and score it.

    Parameters
    ----------
    name : str
        Of the corpus, in the table.
    manifest : str
        With a column `rttm`, and `uem` where only parts are scored; see `References`.
    output : str
        Dataset, new or of an earlier run.
    options
        Of `raydiar.corpus.job.run.diarize_corpus`.

    Raises
    ------
    EvaluationError
        If a recording has no reference; before any work where the column is missing.
    """
    from raydiar.corpus.inputs.manifest import read_manifest
    from raydiar.corpus.job.run import diarize_corpus
    from raydiar.corpus.output import dataset

    if "rttm" not in read_manifest(manifest).carried.names:
        raise EvaluationError(f"{manifest} has no column `rttm`: nothing to score against")
    summary = diarize_corpus(manifest, output, pipeline, **options)
    references = References(manifest_folder(manifest))
    wanted = {"recording_id", "uri", "status", "start", "duration", "requested", "turns"}
    wanted |= {"rttm", "uem"}
    opened = dataset.open(output)
    trials, num_failed = [], 0
    present = [column for column in opened.schema.names if column in wanted]
    for row in opened.to_table(present).sort_by("recording_id").to_pylist():
        truth, regions = references.of(row)
        num_failed += row["status"] != "ok"
        if regions is None:
            regions = _excerpt(row)
        found = turns_of(row) if row["status"] == "ok" else ()
        trials.append(Trial(row["recording_id"], truth.turns, found, regions))
    speed = summary.speed if summary.num_ok else None
    return Measured(name, evaluate(trials, conditions), trials, speed, num_failed)


def _excerpt(row: dict) -> Regions | None:
    """What of the file was asked for; None for all of it."""
    start, duration = row["start"] or 0.0, row["requested"]["duration"]
    if duration is None and not start:
        return None
    return [(start, start + (duration or row["duration"]))]
