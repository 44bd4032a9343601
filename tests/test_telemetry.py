"""By default nothing leaves this machine; turned on, counts and durations and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from scripted_web import serving, status

from raydiar import telemetry

# Runs the default pipeline and a few switches; tells every address that was connected to.
SCRIPT = """
import json, sys
connected = []
sys.addaudithook(lambda event, args: event == "socket.connect" and connected.append(args[1]))
exec(sys.stdin.read())
from raydiar import Pipeline
pipeline = Pipeline.from_pretrained()
pipeline({"audio": sys.argv[1], "uri": "secret name"}, num_speakers=1)
list(pipeline([sys.argv[1]]))
print(json.dumps([connected, "opentelemetry.exporter" in sys.modules]))
"""


def run(talk: Path, collector: str | None, home: Path, code="", **environment):
    """(addresses connected to, whether an exporter was imported, standard error)."""
    names = ("PYANNOTE_METRICS_ENABLED", "OTEL_EXPORTER_OTLP_ENDPOINT")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    if collector is not None:
        clean["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(talk)],
        input=code,
        env={**clean, "XDG_CONFIG_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return (*json.loads(result.stdout.splitlines()[-1]), result.stderr)


@pytest.fixture
def collector():
    with serving({"/v1/metrics": status(200)}) as web:
        yield web


@pytest.fixture
def talk_wav(talk, tmp_path):
    path = tmp_path / "a private talk.wav"
    path.write_bytes(talk)
    return path


def test_by_default_nothing_leaves(talk_wav, collector, tmp_path):
    connected, imported, _ = run(talk_wav, collector.url, tmp_path)
    assert (connected, imported) == ([], False)
    assert not collector.requests
    assert not list(tmp_path.glob("raydiar")), "no choice is written that nobody made"


def test_exactly_what_leaves(talk_wav, collector, tmp_path):
    code = "from raydiar.telemetry import set_telemetry_metrics; set_telemetry_metrics(True)"
    run(talk_wav, collector.url, tmp_path, code)
    assert {(method, path) for method, path, _, _ in collector.requests} == {
        ("POST", "/v1/metrics")
    }
    body = b"".join(body for *_, body in collector.requests)
    sent = _decoded(body, collector.requests[0][2])
    values = {}
    attributes = set()
    for resource in sent.resource_metrics:
        assert {a.key: a.value.string_value for a in resource.resource.attributes} == {
            "service.name": "raydiar",
            "service.version": "0.1.0",
        }
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.sum.data_points:
                    attributes |= {(a.key, a.value.string_value) for a in point.attributes}
                    kind = point.attributes[0].value.string_value
                    values[metric.name, kind] = point.as_int or point.as_double
    assert {name for name, _ in values} == {
        "raydiar.models",
        "raydiar.pipelines",
        "raydiar.recordings",
        "raydiar.audio",
        "raydiar.processing",
    }
    assert {key for key, _ in attributes} == {"class"}
    assert values["raydiar.pipelines", "SpeakerDiarization"] == 1
    assert values["raydiar.recordings", "SpeakerDiarization"] == 2
    assert values["raydiar.audio", "SpeakerDiarization"] == pytest.approx(10.0)
    assert values["raydiar.processing", "SpeakerDiarization"] > 0
    for private in (b"private", b"secret", os.uname().nodename.encode(), b"/tmp"):
        assert private not in body


def _decoded(body: bytes, headers) -> ExportMetricsServiceRequest:
    import gzip

    if headers.get("Content-Encoding") == "gzip":
        body = gzip.decompress(body)
    return ExportMetricsServiceRequest.FromString(body)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    monkeypatch.setattr(telemetry, "_choice", None)
    monkeypatch.setattr(telemetry, "_instruments", None)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in list(os.environ):
        if name.startswith(("OTEL_", "PYANNOTE_METRICS")):
            monkeypatch.delenv(name)
    return monkeypatch


def test_switches(fresh, tmp_path):
    assert not telemetry.is_enabled()
    fresh.setenv("PYANNOTE_METRICS_ENABLED", "true")
    assert telemetry.is_enabled()
    fresh.setenv("PYANNOTE_METRICS_ENABLED", "perhaps")
    with pytest.warns(UserWarning, match="taken as off"):
        assert not telemetry.is_enabled()
    fresh.delenv("PYANNOTE_METRICS_ENABLED")
    with pytest.warns(UserWarning, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        telemetry.set_telemetry_metrics(True, save_choice_as_default=True)
    assert telemetry.is_enabled()
    # a later process of this user
    fresh.setattr(telemetry, "_choice", None)
    assert telemetry.is_enabled()
    fresh.setenv("PYANNOTE_METRICS_ENABLED", "0")
    assert not telemetry.is_enabled()
    fresh.delenv("PYANNOTE_METRICS_ENABLED")
    telemetry.set_telemetry_metrics(False, save_choice_as_default=True)
    fresh.setattr(telemetry, "_choice", None)
    assert not telemetry.is_enabled()
    (tmp_path / "raydiar" / "telemetry.json").write_text("[damaged")
    assert not telemetry.is_enabled()
    with pytest.raises(TypeError):
        telemetry.set_telemetry_metrics("no")
    telemetry.set_opentelemetry_log_level("ERROR")


def test_on_without_an_endpoint_sends_nothing(fresh):
    with pytest.warns(UserWarning, match="goes nowhere"):
        telemetry.set_telemetry_metrics(True)
    with pytest.warns(UserWarning, match="goes nowhere"):
        telemetry.recording_processed(fresh, 1.0, 1.0)
    telemetry.recording_processed(fresh, 1.0, 1.0)  # told once
