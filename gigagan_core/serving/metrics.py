"""What Prometheus is told: requests, latencies, batches, the queue."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gigagan_core.serving.jobs import Batch

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PICTURES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "gigagan_requests", "Requests answered.", ("endpoint", "status"), registry=registry
        )
        self.seconds = Histogram(
            "gigagan_request_seconds",
            "From a request's headers to its answer.",
            ("endpoint",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.pictures = Counter("gigagan_pictures", "Pictures made.", ("kind",), registry=registry)
        self.batch_pictures = Histogram(
            "gigagan_batch_pictures", "Pictures of one forward pass.", buckets=_PICTURES, registry=registry
        )
        self.batch_seconds = Histogram(
            "gigagan_batch_seconds", "Of one batch in a replica.", buckets=_SECONDS, registry=registry
        )
        self.waiting = Gauge(
            "gigagan_waiting_requests", "Requests accepted and not answered yet.", registry=registry
        )
        self.retries = Counter(
            "gigagan_retries", "Requests given to another replica, since theirs died.", registry=registry
        )
        self.replicas = Gauge("gigagan_ready_replicas", "Replicas that serve.", registry=registry)

    def count_batches(self, batches: Iterable[Batch | None]) -> None:
        """Batches as the pictures tell of them."""
        for batch in batches:
            if batch is not None:
                self.batch_pictures.observe(batch.pictures)
                self.batch_seconds.observe(batch.seconds)

    def text(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)


class Measured:
    """ASGI middleware: counts and times the requests to some paths, whatever becomes of them."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        path = scope.get("path")
        if scope["type"] != "http" or path not in self._paths:
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - started)
