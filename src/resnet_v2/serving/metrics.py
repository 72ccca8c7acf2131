"""What a server counts, for Prometheus."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """Counts of one server; `waiting` tells how many pictures wait, `sizes` are those that batches may have."""

    def __init__(self, waiting: Callable[[], int], sizes: list[int]) -> None:
        self._registry = own = CollectorRegistry()
        ProcessCollector(registry=own)  # memory, processor's time and open files, on Linux
        told = "Requests to /predict that were answered, by HTTP status."
        self._requests = Counter("resnet_v2_requests", told, ["status"], registry=own)
        told = "Those of them that got no classes: a status of 400 or more."
        self._errors = Counter("resnet_v2_errors", told, registry=own)
        told = "From the head of a request to /predict to the end of its answer."
        self._seconds = Histogram("resnet_v2_request_seconds", told, registry=own, buckets=SECONDS)
        told = "Pictures that the network was given at once."
        self._sizes = Histogram("resnet_v2_batch_size", told, registry=own, buckets=sizes)
        told = "Pictures that have come and have no answer yet."
        Gauge("resnet_v2_queue", told, registry=own).set_function(waiting)
        self.requests = self.errors = 0

    def batch(self, size: int) -> None:
        """The network is given so many pictures."""
        self._sizes.observe(size)

    def request(self, status: int, seconds: float) -> None:
        """A request has been answered."""
        self._requests.labels(str(status)).inc()
        self._seconds.observe(seconds)
        self.requests += 1
        if status >= 400:
            self._errors.inc()
            self.errors += 1

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)


class Measured:
    """An application whose answers to /predict are counted."""

    def __init__(self, application: ASGIApp, metrics: Metrics) -> None:
        self._application, self._metrics = application, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] != "/predict":
            await self._application(scope, receive, send)
            return
        begun, status = time.perf_counter(), 500

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._application(scope, receive, noting)
        finally:
            self._metrics.request(status, time.perf_counter() - begun)
