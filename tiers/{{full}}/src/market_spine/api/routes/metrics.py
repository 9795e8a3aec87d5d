"""What Prometheus asks of the API: its requests, and the figures of the ledger."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from market_spine.api import docs
from market_spine.api.routing import ThreadedRoute
from market_spine.observability.instruments import registry

router = APIRouter(tags=["health"], route_class=ThreadedRoute)

SOME_TEXT = 'spine_http_requests_total{method="GET",route="/executions",status="200"} 7.0\n'
AS_TEXT: docs.Responses = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}, "example": SOME_TEXT}}}
}


@router.get("/metrics", response_class=Response, responses=AS_TEXT | docs.failures(503))
def read_metrics() -> Response:
    """Tell Prometheus what this process has counted, and how the system is by its ledger."""
    return Response(generate_latest(registry()), media_type=CONTENT_TYPE_LATEST)
