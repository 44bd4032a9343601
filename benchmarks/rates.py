"""Turn what was measured on a machine into rates for `raydiar plan --rates`.

    python benchmarks/rates.py --json rates.json               from .bench/results (make bench)
    python benchmarks/rates.py --job OUTPUT --json rates.json  from a job on that machine or cluster

A job is the only way to measure a GPU. Where it took GPUs, name their kind with `--gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

from raydiar.corpus.output import dataset
from raydiar.corpus.watch.record import read_record
from raydiar.storage.folder import Folder

RESULTS = Path(__file__).resolve().parents[1] / ".bench/results"


def rates_of_benchmarks(results: Path, machine: str) -> dict[str, dict]:
    """Rates from those results that are there."""
    rates: dict[str, dict] = {}

    def add(name: str, value: float, unit: str, benchmark: str) -> None:
        source = f"measured: make bench BENCH={benchmark}, {machine}"
        rates[name] = {"value": float(f"{value:.4g}"), "unit": unit, "source": source}

    def read(benchmark: str):
        path = results / f"{benchmark}.json"
        return json.loads(path.read_text()) if path.exists() else None

    for row in read("decoding") or []:
        name = row["file"].replace(".ogg", ".opus")
        speed = row["times_real_time"]["child"]
        add(f"decode/{name}", speed, "x real time per core", "decoding")
    for embedding in ("campplus", "resnet34"):
        if result := read(embedding):
            speed = 1 / (result["raydiar"]["real_time_factor"] * result["threads"])
            add(f"inference/cpu/{embedding}", speed, "x real time per core", embedding)
    if result := read("resolve_long"):
        per_hour = result["seconds"] / result["hours"]
        add("resolve", per_hour, "core-seconds per hour of audio", "resolve_long")
    if (result := read("ray_overhead")) and result["overhead"] > 0:
        unit = "of the time that the steps take"
        add("overhead", result["overhead"], unit, "ray_overhead")
    return rates


def rates_of_job(output: str, gpu: str | None, embedding: str, machine: str) -> dict[str, dict]:
    """Rates from the seconds that the steps of a job's latest run took, and the size of its rows.

    Decoding is left out: a job decodes what it finds, in formats nobody counts.
    """
    folder = Folder(output)
    record = read_record(folder)
    if record is None or not record["step_seconds"].get("inference"):
        raise SystemExit(f"{output} holds no record of a run that diarized something")
    audio_seconds, spent = record["audio_seconds"], record["step_seconds"]
    source = f"measured: {audio_seconds / 3600:.1f} h in run {record['run']}, {machine}"
    if (record["device"] == "cuda") != bool(gpu):
        raise SystemExit(f"the run took {record['device']}: --gpu names the kind of its GPUs")
    speed = audio_seconds / spent["inference"]
    unit = "x real time per GPU"
    if not gpu:
        speed, unit = speed / record["placement"]["num_threads"], "x real time per core"
    values = {
        f"inference/{gpu or 'cpu'}/{embedding}": (speed, unit),
        "resolve": (3600 * spent["resolve"] / audio_seconds, "core-seconds per hour of audio"),
    }
    written = dataset.open(output).to_table(["duration"]).column("duration")
    hours = sum(seconds or 0.0 for seconds in written.to_pylist()) / 3600
    values["output"] = (sum(folder.list().values()) / hours, "bytes per hour of audio")
    return {
        name: {"value": float(f"{value:.4g}"), "unit": unit, "source": source}
        for name, (value, unit) in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="of make bench")
    parser.add_argument("--job", metavar="OUTPUT", help="a job's output instead of benchmarks")
    parser.add_argument("--gpu", help="kind of GPU of the job, e.g. h100")
    parser.add_argument("--embedding", default="campplus", help="network of the job's pipeline")
    parser.add_argument("--machine", default=f"{os.cpu_count()} x {platform.machine()}")
    parser.add_argument("--json", type=Path, required=True, help="rates file to write")
    arguments = parser.parse_args()
    if arguments.job:
        rates = rates_of_job(arguments.job, arguments.gpu, arguments.embedding, arguments.machine)
    else:
        rates = rates_of_benchmarks(arguments.results, arguments.machine)
    lines = [f"  {json.dumps(name)}: {json.dumps(rate)}" for name, rate in rates.items()]
    arguments.json.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(rates)} rates in {arguments.json}")


if __name__ == "__main__":
    main()
