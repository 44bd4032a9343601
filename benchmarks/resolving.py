"""Soft counting against the exact reproduction of the reference, on sets made by resolving_sets.py.

    python benchmarks/resolving.py choose --into .bench/resolving
    python benchmarks/resolving.py choose --into .bench/resolving --speech 0.35 --overlap 0.4

Recordings that were inferred without embeddings are scored under true clustering: what counting
changes shows there, what clustering makes of it does not.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from resolving_sets import SETS, read

from raydiar.clustering import CountingParameters, resolve
from raydiar.clustering.reconstruction import count_speakers
from raydiar.evaluation.ablation import activity_of, reference_labels, turns_of_labels
from raydiar.evaluation.diarization import diarization_errors
from raydiar.evaluation.scoring import NO_COLLAR, Evaluation
from raydiar.evaluation.tables import format_table, percent
from raydiar.pipelines.config import EXACT, SOFT


def scored(recordings, config, kind: str) -> Evaluation:
    errors = {}
    for name, local, _, truth in recordings:
        if kind == "local":
            found = resolve(local, config.clustering, counting=config.counting).turns
        else:
            active = activity_of(truth, local)
            labels, count = reference_labels(local, active), count_speakers(local, config.counting)
            found = turns_of_labels(local, labels, count, len(active), config.min_duration_off)
        errors[name] = diarization_errors(truth, found, [(0.0, local.duration)])
    return Evaluation(errors, NO_COLLAR)


def part(evaluation: Evaluation, condition: str) -> Evaluation:
    kept = {
        name: errors
        for name, errors in evaluation.errors.items()
        if condition == "all" or name.rsplit("-", 2)[0] == condition
    }
    return Evaluation(kept, NO_COLLAR)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=[*SETS, "clips"])
    parser.add_argument("--into", type=Path, default=Path(".bench/resolving"))
    parser.add_argument("--speech", type=float, default=SOFT.counting.speech)
    parser.add_argument("--overlap", type=float, default=SOFT.counting.overlap)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    counting = CountingParameters(arguments.speech, arguments.overlap)
    results = {}
    for kind, title in (("local", "whole pipeline"), ("heard", "true clustering")):
        recordings = read(arguments.into, arguments.name, kind)
        if not recordings:
            continue
        hours = sum(local.duration for _, local, *_ in recordings) / 3600
        print(f"{arguments.name}, {title}: {len(recordings)} recordings, {hours:.2f} h")
        systems = [
            scored(recordings, config, kind) for config in (EXACT, replace(SOFT, counting=counting))
        ]
        conditions = sorted({name.rsplit("-", 2)[0] for name, *_ in recordings})
        rows = []
        for condition in (*(conditions if arguments.name != "clips" else ()), "all"):
            exact, soft = (part(system, condition) for system in systems)
            change = exact.compare(soft)
            row = {"condition": condition, "recordings": len(exact.errors)}
            for title, system in (("exact", exact), ("soft", soft)):
                total = system.total
                row |= {
                    title: total.diarization_error_rate,
                    f"{title} missed": total.missed / total.total,
                    f"{title} false": total.false_alarm / total.total,
                    f"{title} confused": total.confusion / total.total,
                    f"{title} count": total.count_error / total.num_recordings,
                }
            row |= {"points": change.value, "low": change.low, "high": change.high, "p": change.p}
            row["errors"] = soft.total.errors / max(exact.total.errors, 1e-9) - 1
            rows.append(row)
        shown = dict.fromkeys(rows[0], percent) | {"condition": str, "recordings": str}
        shown |= {"p": "{:.4f}".format, "points": _points, "low": _points, "high": _points}
        shown |= dict.fromkeys(("exact count", "soft count"), "{:.2f}".format)
        print(format_table(rows, shown, "text"), flush=True)
        results[kind] = rows
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2, default=_plain))


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _plain(value):
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    main()
