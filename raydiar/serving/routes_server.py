"""The server itself: is it well, how busy is it, and its page."""

from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.staticfiles import StaticFiles

from raydiar.serving import reference
from raydiar.serving.access import UsedServices
from raydiar.serving.answers import StatusAnswer
from raydiar.serving.problems import responses
from raydiar.serving.queue_limits import QueueState

WEB = Path(__file__).with_name("web")

router = APIRouter(tags=["server"])
page_files = StaticFiles(directory=WEB)


@router.get("/healthz", responses=responses(503))
def check_health(services: UsedServices) -> StatusAnswer:
    """Tell whether the database answers."""
    services.jobs.queue_state()
    return StatusAnswer()


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "In Prometheus' text format.", "content": {"text/plain": {}}},
        **responses(503),
    },
)
def read_metrics(services: UsedServices) -> Response:
    """Tell how much waits and how much runs."""
    # a registry per answer: the queue is the same for all replicas, and nothing is counted here
    registry = CollectorRegistry()
    registry.register(_QueueMetrics(services.jobs.queue_state()))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/", include_in_schema=False)
def show_page() -> Response:
    return FileResponse(WEB / "index.html")


@router.get("/docs", include_in_schema=False)
def show_reference(request: Request) -> Response:
    return HTMLResponse(reference.render(request.app.openapi()))


class _QueueMetrics(Collector):
    def __init__(self, state: QueueState):
        self._state = state

    def collect(self) -> Iterator[Metric]:
        state = self._state
        counts = {"queued": state.queued_jobs, "running": state.running_jobs}
        seconds = {"queued": state.queued_seconds, "running": state.running_seconds}
        yield _gauge("raydiar_jobs", "Jobs that wait and that run.", counts)
        yield _gauge("raydiar_audio_seconds", "Audio of jobs that wait and that run.", seconds)


def _gauge(name: str, help_text: str, values: dict[str, float]) -> Metric:
    gauge = GaugeMetricFamily(name, help_text, labels=["state"])
    for state, value in values.items():
        gauge.add_metric([state], value)
    return gauge
