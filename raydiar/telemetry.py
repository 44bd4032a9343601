"""Telemetry: off unless the operator turns it on, and then to the operator's own collector.

What leaves is counts and durations, by OpenTelemetry's OTLP over HTTP: how many networks and
pipelines were loaded, how many recordings were processed, how long they last and how long that
took; each with the name of the class, and raydiar's version. No name of a file, speaker, machine
or person, no id, nothing that was said. Nothing is sent, or even imported, while it is off, and
nothing without an endpoint:

    PYANNOTE_METRICS_ENABLED=1 OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 raydiar …

Needs `pip install 'raydiar[telemetry]'`.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("", "0", "false", "no", "off")
_INTERVAL = 60_000  # ms from one export to the next; the last one is at the end of the process
_TIMEOUT = 5.0  # s for one export: a collector that is down costs no more

_choice: bool | None = None  # of this process
_instruments: dict[str, Any] | None = None


def set_telemetry_metrics(enabled: bool, save_choice_as_default: bool = False) -> None:
    """Turn telemetry on or off.

    Parameters
    ----------
    enabled : bool
    save_choice_as_default : bool
        Also for later processes of this user, where neither they nor `PYANNOTE_METRICS_ENABLED`
        say otherwise.
    """
    global _choice
    if not isinstance(enabled, bool):
        raise TypeError(f"telemetry is on (True) or off (False), not {enabled!r}")
    _choice = enabled
    if save_choice_as_default:
        path = _settings_path()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"enabled": enabled}) + "\n")
    if enabled and _endpoint() is None:
        _warn_without_endpoint()


def is_enabled() -> bool:
    """Whether telemetry is on: as this process, the environment, or the user's default says."""
    if _choice is not None:
        return _choice
    value = os.environ.get("PYANNOTE_METRICS_ENABLED")
    if value is not None:
        value = value.strip().lower()
        if value not in (*_TRUE, *_FALSE):
            warnings.warn(f"PYANNOTE_METRICS_ENABLED={value} is taken as off", stacklevel=2)
        return value in _TRUE
    try:
        return json.loads(_settings_path().read_text()).get("enabled") is True
    except (OSError, ValueError, AttributeError):
        return False


def set_opentelemetry_log_level(level: str | int) -> None:
    """How much OpenTelemetry says on this process's log, e.g. of a collector that is down."""
    logging.getLogger("opentelemetry").setLevel(level.upper() if isinstance(level, str) else level)


# -- what raydiar tells ------------------------------------------------------------------------


def model_loaded(model: object) -> None:
    """Count a network."""
    if is_enabled():
        _add("raydiar.models", 1, model)


def pipeline_loaded(pipeline: object) -> None:
    """Count a pipeline."""
    if is_enabled():
        _add("raydiar.pipelines", 1, pipeline)


def recording_processed(pipeline: object, seconds: float | None, took: float) -> None:
    """Count a recording, its duration and how long it took, in seconds."""
    if is_enabled():
        _add("raydiar.recordings", 1, pipeline)
        _add("raydiar.processing", took, pipeline)
        if seconds is not None:
            _add("raydiar.audio", seconds, pipeline)


def _add(name: str, amount: float, of: object) -> None:
    instruments = _open()
    if instruments is not None:
        instruments[name].add(amount, {"class": type(of).__name__})


def _open() -> dict[str, Any] | None:
    """The instruments, made on first need; None where nothing can be sent."""
    global _instruments
    if _instruments is None:
        _instruments = _make() or {}
    return _instruments or None


def _make() -> dict[str, Any] | None:
    endpoint = _endpoint()
    if endpoint is None:
        _warn_without_endpoint()
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
    except ImportError:
        warnings.warn(
            "telemetry is on, but OpenTelemetry is not installed: pip install "
            "'raydiar[telemetry]'; nothing is sent",
            stacklevel=2,
        )
        return None
    from raydiar import __version__

    exporter = OTLPMetricExporter(endpoint=endpoint, timeout=_TIMEOUT)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=_INTERVAL)
    # made by hand: the usual resource knows the process, the host and more
    resource = Resource({"service.name": "raydiar", "service.version": __version__})
    provider = MeterProvider([reader], resource=resource)
    meter = provider.get_meter("raydiar", __version__)
    counters = {
        "raydiar.models": ("1", "networks loaded"),
        "raydiar.pipelines": ("1", "pipelines loaded"),
        "raydiar.recordings": ("1", "recordings processed"),
        "raydiar.audio": ("s", "duration of the recordings processed"),
        "raydiar.processing": ("s", "time that processing them took"),
    }
    made: dict[str, Any] = {
        name: meter.create_counter(name, unit, about) for name, (unit, about) in counters.items()
    }
    return made


def _endpoint() -> str | None:
    """Where the operator wants it: OpenTelemetry's own variables."""
    if endpoint := os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"):
        return endpoint
    if endpoint := os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return endpoint.rstrip("/") + "/v1/metrics"
    return None


def _warn_without_endpoint() -> None:
    warnings.warn(
        "telemetry is on, but goes nowhere: name your collector in OTEL_EXPORTER_OTLP_ENDPOINT",
        stacklevel=3,
    )


def _settings_path() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "raydiar" / "telemetry.json"
