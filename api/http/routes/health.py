"""For whatever watches the service: whether it lives, whether it is ready, and its metrics."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from api.http.authorisation import Searcher
from api.http.problems import Problem, problem, problem_responses
from api.http.readiness import shortcomings
from api.http.service import ServiceDep

router = APIRouter(tags=["operation"])

_METRICS_EXAMPLE = """# HELP sightline_requests_total Requests by route and status
# TYPE sightline_requests_total counter
sightline_requests_total{route="/v1/collections/{collection}/search",status="200"} 1027.0
"""


class AliveBody(BaseModel):
    """It lives."""

    status: Literal["alive"] = "alive"


class ReadyBody(BaseModel):
    """It is ready."""

    status: Literal["ready"] = "ready"


@router.get("/livez")
async def livez() -> AliveBody:
    """Whether the process answers at all; asks nothing of anything, so that a database that is away is no reason to restart it."""
    return AliveBody()


@router.get("/readyz", response_model=ReadyBody, responses={503: {"model": Problem}})
def readyz(request: Request, service: ServiceDep) -> ReadyBody | Response:
    """Whether requests should come: 503 while a model is missing, a migration is pending, the catalogue is away, or all is still cold."""
    missing = shortcomings(service)
    if missing:
        return problem(request, 503, kind="NotReady", detail="; ".join(missing))
    return ReadyBody()


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"example": _METRICS_EXAMPLE}}, "description": "Prometheus's text format"},
        **problem_responses(401, 403, 422, 429, 503),
    },
)
def metrics(service: ServiceDep, actor: Searcher) -> Response:
    """Metrics for Prometheus; they name collections, so that the key has to be for all."""
    actor.require_all_collections()
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
