"""`open_metrics_server`: prometheus_client's WSGI application, for as long as a block is open.

It runs in threads of its own, on the standard library's server. That is deliberate: the answer to a
scrape is put together and compressed there, away from the loop, which only gives the figures (see
`_collector`). Programs that have an ASGI server anyway mount `prometheus_client`'s
``make_asgi_app`` in it instead.

Each connection has a thread and a descriptor, of which the log needs some, too. So there are at
most `MAX_CONNECTIONS`; whoever comes then waits in the system's queue, which costs the program
nothing. One that asks for nothing, or does not take what it asked for, is left after
`IDLE_SECONDS`.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import AbstractAsyncContextManager, suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import trio
from prometheus_client import (
    REGISTRY,
    make_wsgi_app,  # pyright: ignore[reportUnknownVariableType]  # a Callable of anything
)
from prometheus_client.registry import Collector
from trio.lowlevel import enable_ki_protection

IDLE_SECONDS = 10.0  # what Prometheus itself waits for an answer, by default
MAX_CONNECTIONS = 16  # a guess: a few servers that scrape, and a person who looks
THREAD_NAME = "danube-trio-metrics"
LOOK_SECONDS = 0.1  # how soon a server that cannot accept looks again, also whether it is to end


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


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection, and a bound on them."""

    daemon_threads = True
    request_queue_size = 64  # of those that wait

    def __init__(self, *args: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(*args)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept the next one, if there may be one more. An OSError means: not now."""
        if not self._free.acquire(timeout=LOOK_SECONDS):
            raise BlockingIOError
        try:
            return super().get_request()
        except BaseException:
            self._free.release()
            time.sleep(LOOK_SECONDS)  # out of descriptors, say: it is still there, and ready
            raise

    def shutdown_request(self, request: Any) -> None:
        """Called once for each that was accepted, however it ended."""
        try:
            super().shutdown_request(request)
        finally:
            self._free.release()


class _MetricsServer(AbstractAsyncContextManager[int]):
    def __init__(self, port: int, host: str, registry: Collector) -> None:
        self._address = host, port
        self._app: Any = make_wsgi_app(registry)
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
    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            # Not abandoned: it takes half a second at most, in which the loop goes on.
            await trio.to_thread.run_sync(self._stop, limiter=self._limiter)

    def _start(self) -> tuple[WSGIServer, threading.Thread]:
        host, port = self._address
        family, *_, found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        kind = type("_Server", (_Server,), {"address_family": family})
        server: WSGIServer = make_server(str(found[0]), port, self._app, kind, _Handler)
        thread = threading.Thread(target=server.serve_forever, name=THREAD_NAME, daemon=True)
        thread.start()
        return server, thread

    def _stop(self) -> None:
        assert self._running is not None
        server, thread = self._running
        server.shutdown()
        server.server_close()
        thread.join()
