"""uvicorn, as the page and the server run it: with limits of connections and of time, and a clean end."""

import asyncio
import logging
import signal
import socket

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT_SECONDS = 5  # of a connection on which no whole request arrives
CONNECTIONS = 500  # that may be open; beyond them the one that has brought no whole request for longest is cut


def run(application: ASGIApp, listening: socket.socket, last_seconds: int = 1) -> None:
    """Serve until a signal ends it; requests that are being answered then have `last_seconds` more.

    SIGTERM ends it without an error, SIGINT with KeyboardInterrupt.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # a line for each damaged form
    # uvicorn takes signals itself, ends, and raises them again for whoever had them before.
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(configured(application, last_seconds)).run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, before)


def configured(application: ASGIApp, last_seconds: int) -> uvicorn.Config:
    """What uvicorn is told."""
    return uvicorn.Config(
        application,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,  # uvicorn's own closes the handlers of all other libraries, and absl's its stream with it
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=last_seconds,
    )


class Connection(H11Protocol):
    """A connection that is cut when it brings something, or nothing yet, but no whole head of a request in time.

    uvicorn itself waits for ever. The time of a request's body and of its answer is the application's matter.
    """

    _deadline: asyncio.TimerHandle | None = None
    _since = 0.0  # when its last request was whole, or itself was new

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._make_room()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.more_body:
            self._since = self.loop.time()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _make_room(self) -> None:
        """Cut another connection that only waits where there are too many; those that are being answered stay."""
        if len(self.connections) < CONNECTIONS:
            return
        others = [one for one in self.connections if isinstance(one, Connection) and one.waits and one is not self]
        if others:
            oldest = min(others, key=lambda one: one._since)
            self.connections.discard(oldest)
            oldest.transport.abort()

    @property
    def waits(self) -> bool:
        """Whether it has still to bring something before it can be answered."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(SILENT_SECONDS, self.transport.abort)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
