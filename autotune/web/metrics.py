"""/metrics, /healthz, /readyz: for those who keep the server running."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from autotune.jobs import JobStatus
from autotune.service import Service
from autotune.web.document import problems
from autotune.web.methods import METHODS

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
UNMATCHED = "unmatched"


@dataclass(frozen=True)
class JobCounts(Collector):
    """Jobs by status, counted when somebody asks."""

    service: Service

    def collect(self) -> Iterator[Metric]:
        counts = self.service.counts()
        family = GaugeMetricFamily("autotune_jobs", "Jobs in the database, by status.", labels=["status"])
        for status in JobStatus:
            family.add_metric([status], counts.get(status, 0))
        yield family


class Metrics:
    """Of one app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.requests = Counter("autotune_requests", "Requests answered.", labels, registry=self.registry)
        self.seconds = Histogram(
            "autotune_request_seconds",
            "Time to the beginning of an answer.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )


@dataclass(frozen=True)
class Timed:
    """Counts and times requests by the route that answered them, never by a path that somebody made up."""

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", UNMATCHED)
                method = scope["method"] if scope["method"] in METHODS else "other"
                self.metrics.requests.labels(method, route, message["status"]).inc()
                self.metrics.seconds.labels(method, route).observe(time.perf_counter() - started)
            await send(message)

        await self.app(scope, receive, sending)


def health(service: Service) -> APIRouter:
    router = APIRouter(tags=["operations"], responses=problems(503))

    @router.get("/healthz", summary="Whether the server answers")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz", summary="Whether it can use its database")
    def readyz() -> dict[str, str]:
        service.check()
        return {"status": "ready"}

    return router


def exposition(service: Service, metrics: Metrics) -> APIRouter:
    metrics.registry.register(JobCounts(service))
    router = APIRouter(tags=["operations"])

    @router.get("/metrics", summary="For Prometheus", response_class=PlainTextResponse)
    def exposed() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return router
