"""The connections of a server: hypercorn answers, and here is what keeps it within bounds.

hypercorn speaks HTTP/1.1 and HTTP/2 on trio, and has a function that serves an application. It is
not used: with it (0.17 and 0.18) one request that its parser does not expect ends the whole server
(a ``:path`` in HTTP/2 that is not ASCII; data of a request that was answered already), an answer
before the end of a long body may leave its connection open for ever, the number of connections has
no limit, and a client that reads nothing is waited for without end, also at the end of the server.
So the listening, the transports and the end are ours, and of hypercorn there is the class that
serves one connection. `Connections` has them all::

    listen --> accept --> wait for room --> (TLS) --> hypercorn <--> Exchange <--> site
                                |                         |
                                |                     Connection: deadlines
                 closes the one that is idle longest

**Deadlines of a connection.** `Connection` is the stream that hypercorn reads and writes.

- A request's head, and a TLS handshake, must be whole `head_seconds` after it began: after the
  connection was accepted, and after the first byte of a later one.
- Where no request is open, the connection is closed after `idle_seconds`. (This is also the time
  of a head that began before the answer to the request before it had ended.)
- While a request is open nothing is wanted of its client, who may be waiting for data. How long a
  body may take, the streams say.
- What is sent must be taken, `PIECE_BYTES` within `send_seconds`, in HTTP/2 by each request's own
  window, too. Who does not is cut, and costs no more than one such piece.
- When the client has gone, its requests have `LINGER_SECONDS` to notice. In HTTP/2 hypercorn lets
  one that waits for a window wait for ever.

**Answers before the end of a body.** A client that is told 413 may go on sending. If the connection
were closed at once, the system would throw the answer away with what nobody read. So the end of an
answer waits until the client has sent the rest, which is read and dropped, for `LINGER_SECONDS`
at most; then the connection is cut.

**Disconnects.** hypercorn tells an application ``http.disconnect`` also when its own answer has
ended, while it is still at work in the call that sent the end. An application that is cancelled by
that would leave the connection half closed. So it is told when the call has returned.

**Too many.** When as many connections are open as may be, the next one waits, and the one that has
been idle longest is closed for it; then those that become idle.

**The end.** `stop` is set: nothing is accepted any more, whoever waits for data is answered, idle
connections are closed, and those that are in use are waited for. What is open after `grace`
seconds, or when `hurry` is set, is cut.

What fails in a connection ends that connection.
"""

from __future__ import annotations

import logging
import math
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ssl import SSLContext
from typing import Any, Protocol

import attrs
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from danube_trio.http._asgi import App, Message, Receive, Scope, Send

log = logging.getLogger("danube_trio.http.server")

# What is handed to the system at once. A client must read that much in `send_seconds`.
PIECE_BYTES = 1 << 16
# How long a client may go on sending after it was answered, and a request go on without its client;
# a guess. (nginx waits for 5 s.)
LINGER_SECONDS = 2.0
# Requests that were reset by their client may still run, so there are more of them than open ones.
RUNNING_FACTOR = 2

_THROW_AWAY = struct.pack("ii", 1, 0)
_KEY = "danube_trio.connection"
# Somebody else has closed it, or is at it.
_GONE = (trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError)


@attrs.frozen(kw_only=True)
class Limits:
    """What a client may cost.

    Attributes:
        connections: that are open at a time.
        head_bytes: largest head of a request; more is 431, or in HTTP/2 the end of the connection.
        head_seconds: how long a head, or a TLS handshake, may take.
        idle_seconds: how long a connection stays open without a request.
        send_seconds: how long a client may take to read `PIECE_BYTES`.
        requests: at a time in one connection, which HTTP/2 can have.
    """

    connections: int
    head_bytes: int
    head_seconds: float
    idle_seconds: float
    send_seconds: float
    requests: int = 100


class Tls(Protocol):
    """What connections that come now are to have."""

    context: SSLContext


class Connections:
    """The connections of a server.

    Args:
        app: what answers: an ASGI callable. It is not told of the server's lifespan.
        limits: what a client may cost.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app = app
        self.limits = limits
        self._open: set[Connection] = set()
        self._room = trio.Semaphore(limits.connections, max_value=limits.connections)
        self._waiting = 0
        self._empty = trio.Event()
        self._context = WorkerContext(None)
        self._config = _hypercorn_config(limits)

    def __repr__(self) -> str:
        return f"<Connections, {len(self._open)} open>"

    @property
    def crowded(self) -> bool:
        """Somebody waits for room."""
        return self._waiting > 0

    async def serve(
        self,
        listeners: Sequence[tuple[trio.SocketListener, Tls | None]],
        *,
        stop: trio.Event,
        stopping: Callable[[], object],
        hurry: trio.Event,
        grace: float,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> int:
        """Serve until `stop` is set, and then what is under way.

        Args:
            listeners: each with what has its TLS context then, or None. They are closed.
            stop: nothing more is accepted then.
            stopping: is called then, before anything is waited for.
            hurry: nothing is waited for any more then.
            grace: seconds that requests have to their end.

        Returns how many connections were cut.
        """
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as accepting:
                for listener, tls in listeners:
                    accepting.start_soon(
                        partial(
                            trio.serve_listeners,
                            partial(self._serve_one, tls),
                            [_Roomy(listener, self)],
                            handler_nursery=nursery,
                        )
                    )
                task_status.started()
                await stop.wait()
                accepting.cancel_scope.cancel()
            stopping()
            await self._context.terminated.set()
            for connection in tuple(self._open):
                connection.end_if_new()
            await self._wait_empty(hurry, grace)
            left = tuple(self._open)
            for connection in left:
                connection.cut()
            nursery.cancel_scope.cancel()
        return len(left)

    async def _wait_empty(self, hurry: trio.Event, grace: float) -> None:
        """Until no connection is open, `grace` seconds are over, or `hurry` is set."""
        self._empty = trio.Event()
        if not self._open:
            return
        with trio.move_on_after(grace) as scope:
            async with trio.open_nursery() as nursery:

                async def cancelled_by(event: trio.Event) -> None:
                    await event.wait()
                    scope.cancel()

                nursery.start_soon(cancelled_by, hurry)
                nursery.start_soon(cancelled_by, self._empty)

    # ---- room

    async def enter(self) -> None:
        """Wait until there is room for one more."""
        try:
            self._room.acquire_nowait()
        except trio.WouldBlock:
            pass
        else:
            return
        idle = [each for each in self._open if each.idle_since is not None]
        if idle:
            min(idle, key=lambda each: each.idle_since or 0.0).end()
        self._waiting += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting -= 1

    # ---- one

    async def _serve_one(self, tls: Tls | None, transport: trio.SocketStream) -> None:
        connection = Connection(transport, self)
        self._open.add(connection)
        try:
            stream: Any = connection
            if tls is not None:
                stream = trio.SSLStream(
                    connection, tls.context, server_side=True, https_compatible=True
                )
            server = _Server(
                ASGIWrapper(self._exchange),
                self._config,
                self._context,
                ConnectionState({_KEY: connection}),
                stream,
            )
            with connection.scope:
                await server.run()
        except Exception as error:
            _say_cut(error)
        except BaseExceptionGroup as group:
            ends, errors = group.split(trio.Cancelled)
            if errors is not None:
                _say_cut(errors)
            if ends is not None:
                raise ends from None
        finally:
            self._open.discard(connection)
            self._room.release()
            if not self._open:
                self._empty.set()

    async def _exchange(self, scope: Any, receive: Any, send: Any) -> None:
        connection: Connection = scope["state"].pop(_KEY)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection.begin(two=scope["http_version"] == "2")
        try:
            exchange = Exchange(connection, scope, receive, send)
            if _head_bytes(scope) > self.limits.head_bytes:
                await exchange.refuse_head()
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except Exception:
            # It was begun and cannot be finished: its reader must notice.
            connection.cut()
        finally:
            connection.finish()


def _head_bytes(scope: Scope) -> int:
    """Of a request: hypercorn has a limit for heads that come in pieces only."""
    size = len(scope["raw_path"]) + len(scope["query_string"])
    return size + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


def _say_cut(error: BaseException) -> None:
    """A client can do this as often as it wants, so it is no warning."""
    log.info("a connection was cut", exc_info=error)


def _hypercorn_config(limits: Limits) -> Config:
    config = Config()
    config.errorlog = log
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.head_bytes
    config.h2_max_header_list_size = limits.head_bytes
    config.h2_max_concurrent_streams = limits.requests
    config.ssl_handshake_timeout = limits.head_seconds
    # `Connection` closes idle ones.
    config.keep_alive_timeout = math.inf
    # In HTTP/2 it would end the requests that are open then.
    config.keep_alive_max_requests = sys.maxsize
    return config


class _Server(TCPServer):
    """hypercorn's, for one connection."""

    async def _read_data(self) -> None:
        await super()._read_data()
        # Else it would be waited for: it closes connections that are idle, and this one has ended.
        await self.idle_task.stop()


class _Roomy(trio.abc.Listener[trio.SocketStream]):
    """A listener that waits for room."""

    def __init__(self, listener: trio.SocketListener, connections: Connections) -> None:
        self._listener = listener
        self._connections = connections

    async def accept(self) -> trio.SocketStream:
        """The next connection, when there is room for it."""
        stream = await self._listener.accept()
        try:
            await self._connections.enter()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()


class Connection(trio.abc.HalfCloseableStream):
    """The transport of one connection, and its deadlines.

    Attributes:
        idle_since: when its last request ended, if none is open; None too if there was none yet.
        scope: in which it is served.
    """

    def __init__(self, stream: trio.SocketStream, connections: Connections) -> None:
        self._stream = stream
        self._connections = connections
        self.limits = connections.limits
        self._requests = 0
        self._two = False
        self._heard = False
        self._in_head = True  # of the first request, from here on
        self._deadline = trio.current_time() + self.limits.head_seconds
        self._receiving: trio.CancelScope | None = None
        self._over = False  # the client sends nothing more, or is not listened to any more
        self._closed = False
        self.idle_since: float | None = None
        self.scope = trio.CancelScope()

    @property
    def socket(self) -> trio.socket.SocketType:
        """Of the transport: hypercorn asks it for addresses."""
        return self._stream.socket

    # ---- requests

    def begin(self, *, two: bool) -> None:
        """A request has come; `two`: in HTTP/2."""
        self._requests += 1
        self._two = two
        self._in_head = False
        self.idle_since = None
        self._move_deadline(math.inf)
        if self._requests > RUNNING_FACTOR * self.limits.requests:
            self.cut()

    def finish(self) -> None:
        """A request was answered, or given up."""
        self._requests -= 1
        if self._requests:
            return
        self.idle_since = now = trio.current_time()
        crowded = self._connections.crowded
        self._move_deadline(now if crowded else now + self.limits.idle_seconds)

    def _move_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if self._receiving is not None:
            self._receiving.deadline = deadline

    # ---- ends

    def end(self) -> None:
        """Close it as if the client had, as soon as nothing is under way in it."""
        self._move_deadline(-math.inf)

    def end_if_new(self) -> None:
        """Close it if nothing was heard of the client."""
        if not self._heard:
            self.end()

    def cut(self) -> None:
        """Close it now, whatever is under way in it. What was not sent yet is thrown away."""
        self._over = True
        with suppress(OSError):  # it is closed already
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _THROW_AWAY)
        self._stream.socket.close()
        self.scope.cancel()

    def _gone(self) -> None:
        """The client sends nothing more."""
        self._over = True
        self.scope.deadline = min(self.scope.deadline, trio.current_time() + LINGER_SECONDS)

    # ---- the stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, to a client that reads."""
        if not data:
            await trio.lowlevel.checkpoint()
        with memoryview(data) as view:
            for at in range(0, len(view), PIECE_BYTES):
                try:
                    with trio.move_on_after(self.limits.send_seconds) as scope:
                        await self._stream.send_all(view[at : at + PIECE_BYTES])
                except (
                    trio.BusyResourceError
                ):  # with the end: hypercorn sends in one task at a time
                    raise trio.BrokenResourceError("it is being closed") from None
                if scope.cancelled_caught:
                    self.cut()
                    raise trio.BrokenResourceError("the client does not read")

    async def wait_send_all_might_not_block(self) -> None:
        """As a stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive, from a client that keeps its deadlines; who does not has nothing more to say."""
        if self._over:
            await trio.lowlevel.checkpoint()
            return b""
        data: bytes | bytearray = b""
        with trio.CancelScope(deadline=self._deadline) as scope:
            self._receiving = scope
            try:
                data = await self._stream.receive_some(max_bytes)
            finally:
                self._receiving = None
        self._heard = True
        if not data:
            self._gone()
        if not self._requests and not self._in_head and not self._two:
            self._in_head = True
            self.idle_since = None
            self._move_deadline(trio.current_time() + self.limits.head_seconds)
        return data

    async def send_eof(self) -> None:
        """Say that nothing more will be sent."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it, and let the client have read what was sent."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        try:
            # What is received while nobody reads would make the system throw away what was sent.
            if not self._over and self._receiving is None:
                with trio.move_on_after(LINGER_SECONDS), suppress(*_GONE):
                    await self._stream.send_eof()
                    while await self._stream.receive_some(PIECE_BYTES):
                        pass
        finally:
            # hypercorn may be waiting for what cannot come any more.
            self.scope.cancel()
            await trio.aclose_forcefully(self._stream)


class Exchange:
    """A request and its answer, between hypercorn and the application.

    An answer that is whole before the request is ends when the request does; see above.
    """

    def __init__(self, connection: Connection, scope: Scope, receive: Receive, send: Send) -> None:
        self._connection = connection
        self._receive = receive
        self._send = send
        self._two = scope["http_version"] == "2"
        # In HTTP/1.1 a head says whether there is a body.
        self._received = not self._two and not any(
            name.lower() in (b"content-length", b"transfer-encoding")
            for name, _ in scope["headers"]
        )
        self._ending = False
        self._ended = trio.Event()

    async def receive(self) -> Message:
        """The next message for the application."""
        message = await self._receive()
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._received = True
        if message["type"] == "http.disconnect" and self._ending:
            await self._ended.wait()
        return message

    async def send(self, message: Message) -> None:
        """A message of the application."""
        if self._two and message["type"] == "http.response.start":
            # HTTP/2 has no such header, and hypercorn would send nothing at all.
            headers = [each for each in message["headers"] if each[0].lower() != b"connection"]
            message = {**message, "headers": headers}
        if message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send_in_time(message)
            return
        self._ending = True
        try:
            await self._send_last(message)
        finally:
            self._ended.set()

    async def refuse_head(self) -> None:
        """Answer a request whose head is too large, as hypercorn does."""
        headers = [(b"content-length", b"0"), (b"connection", b"close")]
        await self.send({"type": "http.response.start", "status": 431, "headers": headers})
        await self.send({"type": "http.response.body", "body": b""})

    async def _send_in_time(self, message: Message) -> None:
        if not self._two:  # `Connection` sees to that
            await self._send(message)
            return
        pieces = 1 + len(message.get("body", b"")) // PIECE_BYTES
        with trio.move_on_after(self._connection.limits.send_seconds * pieces) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            self._connection.cut()

    async def _send_last(self, message: Message) -> None:
        if self._received:
            await self._send_in_time(message)
            return
        if message.get("body"):
            await self._send_in_time({**message, "more_body": True})
        with trio.move_on_after(LINGER_SECONDS):
            while not self._received:
                await self.receive()
        if not self._received:
            self._connection.cut()
        async with trio.open_nursery() as nursery:
            # hypercorn may wait until there is room for more of the request, and for its end.
            nursery.start_soon(self._drop)
            await self._send_in_time({"type": "http.response.body", "body": b""})
            nursery.cancel_scope.cancel()

    async def _drop(self) -> None:
        while (await self._receive())["type"] == "http.request":
            pass
