"""`open_metrics_server`: prometheus_client's own HTTP server, for as long as a block is open.

It runs in threads of its own. That is deliberate: the answer to a scrape is put together and
compressed there, away from the loop, which only gives the figures (see `_runs`), and the server is
one that is well kept. Programs that have an ASGI server anyway mount `prometheus_client`'s
``make_asgi_app`` in it instead.

Each connection has a thread. One that asks for nothing, or does not take what it asked for, is left
after `IDLE_SECONDS`: else it would keep its thread and descriptor for ever, even beyond the block.
"""

from __future__ import annotations

import threading
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import trio
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.registry import Collector
from trio.lowlevel import enable_ki_protection

__all__ = ["open_metrics_server"]

IDLE_SECONDS = 10.0  # what Prometheus itself waits for an answer, by default


def open_metrics_server(
    port: int = 9464, *, host: str = "127.0.0.1", registry: Collector = REGISTRY
) -> AbstractAsyncContextManager[int]:
    """Serve metrics: ``async with open_metrics_server(9464):``; the block gets the port.

    Args:
        port: 0 is any that is free.
        host: the default can be reached from this machine only; ``0.0.0.0`` is all addresses.
        registry: what is served.

    Raises, on entering: OSError if the port is taken.
    """
    return _MetricsServer(port, host, registry)


class _Handler(WSGIRequestHandler):
    """One connection, which has its limit."""

    def setup(self) -> None:
        """For each step on the connection."""
        super().setup()
        self.connection.settimeout(IDLE_SECONDS)

    def handle(self) -> None:
        """Who is too slow is left, and need not be told."""
        with suppress(TimeoutError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""


class _MetricsServer(AbstractAsyncContextManager[int]):
    def __init__(self, port: int, host: str, registry: Collector) -> None:
        self._serve = partial(start_http_server, port, host, registry)
        self._limiter = trio.CapacityLimiter(1)  # that leaving never stands in line
        self._running: tuple[WSGIServer, threading.Thread] | None = None

    @enable_ki_protection
    async def __aenter__(self) -> int:
        if self._running is not None:
            raise RuntimeError("open_metrics_server(...) can be entered once: call it again")
        await trio.lowlevel.checkpoint()
        with trio.CancelScope(shield=True):  # it looks the host's name up, and no more
            self._running = await trio.to_thread.run_sync(self._start, limiter=self._limiter)
        assert self._running is not None
        port: int = self._running[0].server_address[1]
        return port

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with trio.CancelScope(shield=True):
            # Not abandoned: it takes half a second at most, in which the loop goes on.
            await trio.to_thread.run_sync(self._stop, limiter=self._limiter)

    def _start(self) -> tuple[WSGIServer, threading.Thread]:
        server, thread = self._serve()
        server.RequestHandlerClass = _Handler  # before anybody knows the port
        return server, thread

    def _stop(self) -> None:
        assert self._running is not None
        server, thread = self._running
        server.shutdown()
        server.server_close()
        thread.join()
