"""Prometheus metrics of a job, recorded by the driver from receipts as they come.

Ray's agent on the driver's node serves them, each with `ray_` before its name. It keeps the counts
of a histogram's buckets, so that quantiles are right and its sum is approximate.
"""

from __future__ import annotations

from collections import Counter as Counts

from ray.util.metrics import Counter, Gauge, Histogram

from raydiar.corpus.watch.progress import STEPS, RunSummary
from raydiar.storage import display_name

_LATENCIES = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]  # s


class JobMetrics:
    """Metrics of the job that writes one output, which labels all of them."""

    def __init__(self, output: str):
        self._labels = {"output": display_name(output)}
        self._audio = self._counter("audio_seconds", "Audio diarized")
        self._recordings = self._counter("recordings", "Rows written", "status")
        self._errors = self._counter("errors", "Error rows written", "type")
        self._latency = Histogram(
            "raydiar_step_seconds", "Of one pack in a step", _LATENCIES, ("output", "step")
        )

        self._queues = self._gauge("queued_packs", "Waiting before a stage", "stage")
        self._actors = self._gauge("actors", "Inference actors", "state")
        self._actor_time = self._counter("actor_seconds", "Of the inference actors", "state")
        self._rate = self._gauge("hours_per_hour", "Audio diarized in an hour, since the start")
        self._cost = self._gauge("cost_per_hour", "Of an hour of audio, at the price given")
        self._told = {"busy": 0.0, "waiting": 0.0}

    def _gauge(self, name: str, description: str, *labels: str) -> Gauge:
        return Gauge(f"raydiar_{name}", description, ("output", *labels))

    def _counter(self, name: str, description: str, *labels: str) -> Counter:
        return Counter(f"raydiar_{name}", description, ("output", *labels))

    def add(self, receipt: dict) -> None:
        """Record what a write task published (`stages.RECEIPT`)."""
        self._inc(self._audio, receipt["audio_seconds"])
        self._inc(self._recordings, receipt["ok"], status="ok")
        self._inc(self._recordings, len(receipt["errors"]), status="error")
        for kind, count in Counts(receipt["errors"]).items():
            self._inc(self._errors, count, type=kind)
        for step in STEPS:
            for seconds in receipt[f"{step}_seconds"]:
                self._latency.observe(seconds, self._labels | {"step": step})

    def watch(self, summary: RunSummary) -> None:
        """Record what is seen of the job now: queues, actors, rate and cost."""
        summary.tick()
        for stage, depth in summary.queues.items():
            self._queues.set(depth, self._labels | {"stage": stage})
        busy = summary.num_busy_actors
        states = {"busy": busy, "waiting": summary.num_actors - busy}
        for state, number in states.items():
            self._actors.set(number, self._labels | {"state": state})
        waiting = summary.waiting_seconds
        for state, total in {"busy": summary.actor_seconds - waiting, "waiting": waiting}.items():
            self._inc(self._actor_time, total - self._told[state], state=state)
            self._told[state] = total
        self._rate.set(summary.hours_per_hour, self._labels)
        if summary.cost_per_hour is not None:
            self._cost.set(summary.cost_per_hour, self._labels)

    def _inc(self, counter: Counter, value: float, **labels: str) -> None:
        if value:  # Ray refuses 0
            counter.inc(value, self._labels | labels)
