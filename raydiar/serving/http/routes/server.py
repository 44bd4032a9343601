"""The server itself: is it well, how busy is it, and its page."""

from collections.abc import Iterator
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from raydiar.serving.http import reference
from raydiar.serving.http.access import UsedServices
from raydiar.serving.http.answers import StatusAnswer
from raydiar.serving.http.envelope import NO_LIVE
from raydiar.serving.http.problems import responses
from raydiar.serving.jobs.limits import QueueState
from raydiar.serving.jobs.records import KINDS

WEB = Path(__file__).parents[2] / "web"

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
    """Tell how much waits and how much runs, of each kind of job."""
    # a registry per answer: the queue is the same for all replicas, and nothing is counted here
    registry = CollectorRegistry()
    registry.register(_QueueMetrics({kind: services.jobs.queue_state(kind) for kind in KINDS}))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


@router.post("/v1/live", include_in_schema=False)
@router.get("/v1/live", include_in_schema=False)
def refuse_live() -> Response:
    raise HTTPException(501, NO_LIVE)


@router.get("/", include_in_schema=False)
def show_page() -> Response:
    return FileResponse(WEB / "index.html")


@router.get("/docs", include_in_schema=False)
def show_reference(request: Request) -> Response:
    return HTMLResponse(reference.render(request.app.openapi()))


class _QueueMetrics(Collector):
    def __init__(self, states: dict[str, QueueState]):
        self._states = states

    def collect(self) -> Iterator[Metric]:
        labels = ["kind", "state"]
        counts = GaugeMetricFamily("raydiar_jobs", "Jobs that wait and that run.", labels=labels)
        seconds = GaugeMetricFamily(
            "raydiar_audio_seconds", "Audio of jobs that wait and that run.", labels=labels
        )
        for kind, state in self._states.items():
            counts.add_metric([kind, "queued"], state.queued_jobs)
            counts.add_metric([kind, "running"], state.running_jobs)
            seconds.add_metric([kind, "queued"], state.queued_seconds)
            seconds.add_metric([kind, "running"], state.running_seconds)
        yield counts
        yield seconds
