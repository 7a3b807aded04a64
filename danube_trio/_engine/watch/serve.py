"""Offering statistics to whoever asks on this machine: the tasks behind the socket.

**The talk** is lines of JSON. The server begins and says who it is; the client asks once; then come
snapshots, and at the end why there are no more::

    <  {"schema": 1, "kind": "wal", "name": "/data/orders", "pid": 4711, ...}
    >  {"every": 0.5}
    <  {"time": 1758383000.1, "elapsed": 12.5, "statistics": {...}}
    <  ...
    <  {"end": "the log was left"}

A request may have ``every`` (seconds between snapshots; without it there is one), ``count`` (that
many, then the end) and, of a storage, ``topic``. What is wrong with one is answered with
``{"error": ...}``. Fields may be added without a new schema; who reads must expect both more and
fewer than it knows.

**Nobody who watches is waited for.** A client has a task of its own, and one snapshot at a time:
the next is made when the last has gone out. One that does not take it is left, and so is one that
asks for nothing. There is a limit to how many there are and how much they may say.

**The engine comes first.** Snapshots are made one at a time, and after each there is a rest of
many times what it took, so looking takes a few percent of the loop at most, whatever is asked for
and by how many. Who waits meanwhile shares the next one. Nobody gets one that is older than its
request.

**A bug here** ends the offer, is logged, and touches no log: who only looks must not break things.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from danube_trio._core.plain import from_json, to_plain
from danube_trio._engine.watch.socket import Offer, close_in_child
from danube_trio._version import __version__
from danube_trio.errors import DanubeError

log = logging.getLogger("danube_trio.watch")

T = TypeVar("T")

SCHEMA = 1
MAX_CLIENTS = 8
MAX_REQUEST_BYTES = 1024
MIN_EVERY, MAX_EVERY = 0.05, 3600.0
REQUEST_SECONDS = 10.0  # for asking
SEND_SECONDS = 5.0  # for taking a snapshot
GOODBYE_SECONDS = 0.2
# Rest after a snapshot: so many times what it took, but a view should still move. Guesses.
REST = 20
MAX_REST_SECONDS = 2.0
# Not accepting for so long when this process has no more descriptors. A guess.
NO_FILES_SECONDS = 0.25
NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class RequestError(ValueError):
    """What a client asks for cannot be had; the text is for it."""


@attrs.frozen
class Request:
    """What a client asks for."""

    every: float | None = None
    count: int | None = None
    topic: str | None = None

    @classmethod
    def parse(cls, line: bytes) -> Request:
        """Raises RequestError."""
        try:
            found = from_json(line)
        except ValueError:
            raise RequestError('a request is a line of JSON, such as {"every": 0.5}') from None
        if not isinstance(found, dict):
            raise RequestError('a request is a JSON object, such as {"every": 0.5}')
        fields = cast("dict[str, Any]", found)
        every, count, topic = (fields.get(name) for name in ("every", "count", "topic"))
        if every is not None and not (_is_number(every) and MIN_EVERY <= every <= MAX_EVERY):
            raise RequestError(f"every: must be seconds, between {MIN_EVERY} and {MAX_EVERY}")
        if count is not None and not (_is_number(count) and count >= 1 and count == int(count)):
            raise RequestError("count: must be a whole number, 1 or more")
        if topic is not None and not isinstance(topic, str):
            raise RequestError("topic: must be the name of a topic")
        if every is None:
            count = 1
        return cls(every, None if count is None else int(count), topic)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15


class Source(Protocol):
    """What there is to see.

    Attributes:
        kind: what the statistics are of: ``wal``, ``storage``, ...
        name: of this one, for people.
    """

    kind: str
    name: str

    async def snapshot(self, request: Request) -> dict[str, Any]:
        """Plain data: ``statistics``, and whatever belongs to them. Raises RequestError."""
        ...


class StatisticsSource:
    """The `Source` of one object's `statistics()`."""

    def __init__(self, kind: str, name: str, statistics: Callable[[], Any]) -> None:
        self.kind = kind
        self.name = name
        self._statistics = statistics

    async def snapshot(self, request: Request) -> dict[str, Any]:
        """See `Source`."""
        if request.topic is not None:
            raise RequestError(f"topic: this is one {self.kind}, not a storage of many topics")
        found = self._statistics()
        if isinstance(found, Awaitable):
            try:
                found = await cast("Awaitable[object]", found)
            except DanubeError as error:
                raise RequestError(f"the statistics cannot be had: {error}") from error
        return {"statistics": to_plain(found)}


@attrs.define(eq=False)
class _Client:
    scope: trio.CancelScope
    between_lines: bool = True


@attrs.frozen
class _Snapshot:
    topic: str | None
    began: float
    line: bytes


class Watch:
    """The server of one offer. `start` it, and `aclose` it before its source goes.

    Args:
        offer: the socket.
        source: what it shows.
        run: runs what blocks for a moment off the event loop.
    """

    def __init__(
        self, offer: Offer, source: Source, run: Callable[[Callable[[], None]], Awaitable[None]]
    ) -> None:
        self._offer = offer
        self._source = source
        self._run_blocking = run
        self._listener = trio.socket.from_stdlib_socket(offer.sock)
        close_in_child(self._listener)
        self._began = trio.current_time()
        self._accepting = trio.CancelScope()
        self._clients: set[_Client] = set()
        self._turn = trio.Lock()
        self._latest: _Snapshot | None = None
        self._rest_until = self._began
        self._ending = ""
        self._started = False
        self._ended = trio.Event()

    def start(self, nursery: trio.Nursery) -> None:
        """Start the tasks, shielded: they end by `aclose`."""
        self._started = True
        nursery.start_soon(self._run, name=f"danube_trio watch {self._source.name}")

    async def aclose(self, reason: str) -> None:
        """Tell every client why, end the tasks, and remove the name. Idempotent.

        Takes a fraction of a second at most, whatever the clients do. Cancellation: none.
        """
        with trio.CancelScope(shield=True):
            self._ending = self._ending or reason
            self._accepting.cancel()
            for client in self._clients:
                client.scope.cancel()
            if self._started:
                await self._ended.wait()
            await self._run_blocking(self._offer.remove_name)
            self._listener.close()

    @enable_ki_protection
    async def _run(self) -> None:
        try:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as nursery:
                    with self._accepting:
                        await self._accept(nursery)
        except Exception:
            log.exception("%s cannot be watched any more: a bug", self._source.name)
        finally:
            self._ended.set()

    async def _accept(self, nursery: trio.Nursery) -> None:
        while True:
            try:
                sock, _ = await self._listener.accept()
            except ConnectionError:
                continue  # it went before it was served
            except OSError as error:
                if error.errno not in NO_FILES:
                    raise
                log.debug("a client has to wait: %s", error)
                await trio.sleep(NO_FILES_SECONDS)
                continue
            close_in_child(sock)
            client = _Client(trio.CancelScope())
            full = len(self._clients) >= MAX_CLIENTS
            self._clients.add(client)
            nursery.start_soon(self._serve, trio.SocketStream(sock), client, full)
            if len(self._clients) > 2 * MAX_CLIENTS:
                await trio.sleep(GOODBYE_SECONDS)  # for those who are being told that it is full

    # ---- one client

    @enable_ki_protection
    async def _serve(self, stream: trio.SocketStream, client: _Client, full: bool) -> None:
        try:
            with client.scope:
                if full:
                    client.between_lines = False
                    await self._refuse(stream)
                else:
                    await self._talk(stream, client)
            if self._ending and client.between_lines:
                await _say(stream, _line({"end": self._ending}), GOODBYE_SECONDS)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.debug("a client of %s went", self._source.name)
        except Exception:
            log.exception("a client of %s is left: a bug", self._source.name)
        finally:
            self._clients.discard(client)
            await trio.aclose_forcefully(stream)

    async def _refuse(self, stream: trio.SocketStream) -> None:
        text = f"{MAX_CLIENTS} programs watch already, which is all that may: try again later"
        await _say(stream, _line({"error": text}), GOODBYE_SECONDS)

    async def _talk(self, stream: trio.SocketStream, client: _Client) -> None:
        await self._send(stream, client, _line(self._hello()))
        try:
            request = Request.parse(await _read_line(stream))
            await self._send_snapshots(stream, client, request)
        except RequestError as error:
            await self._send(stream, client, _line({"error": str(error)}))

    async def _send_snapshots(
        self, stream: trio.SocketStream, client: _Client, request: Request
    ) -> None:
        left, due = request.count, trio.current_time()
        while True:
            await self._send(stream, client, await self._snapshot(request))
            if left is not None:
                left -= 1
                if left == 0:
                    await self._send(stream, client, _line({"end": "that was all"}))
                    return
            assert request.every is not None
            # What is late is not made up for.
            due = max(due + request.every, trio.current_time())
            with trio.move_on_at(due):
                await stream.receive_some(1)
                return  # it went, or says what it may not

    async def _snapshot(self, request: Request) -> bytes:
        """A line with a snapshot that was begun after this call."""
        asked = trio.current_time()
        async with self._turn:
            latest = self._latest
            if latest is None or latest.topic != request.topic or latest.began <= asked:
                await trio.sleep_until(self._rest_until)
                self._latest = latest = await self._make(request)
                took = trio.current_time() - latest.began
                self._rest_until = trio.current_time() + min(REST * took, MAX_REST_SECONDS)
        return latest.line

    async def _make(self, request: Request) -> _Snapshot:
        began = trio.current_time()
        found = await self._source.snapshot(request)
        about = {"time": time.time(), "elapsed": began - self._began}
        return _Snapshot(request.topic, began, _line({**about, **found}))

    async def _send(self, stream: trio.SocketStream, client: _Client, line: bytes) -> None:
        client.between_lines = False
        await _say(stream, line, SEND_SECONDS)
        client.between_lines = True

    def _hello(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "kind": self._source.kind,
            "name": self._source.name,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "program": os.path.basename(sys.argv[0]) if sys.argv else "",
            "version": __version__,
        }


def _line(found: dict[str, Any]) -> bytes:
    return json.dumps(found, separators=(",", ":"), allow_nan=False).encode() + b"\n"


async def _say(stream: trio.SocketStream, line: bytes, seconds: float) -> None:
    """Send a line. Raises trio.TooSlowError if it is not taken."""
    with trio.fail_after(seconds):
        await stream.send_all(line)


async def _read_line(stream: trio.SocketStream) -> bytes:
    """The request. Raises RequestError, trio.TooSlowError."""
    data = b""
    with trio.fail_after(REQUEST_SECONDS):
        while b"\n" not in data:
            more = await stream.receive_some(MAX_REQUEST_BYTES + 1 - len(data))
            if not more:
                raise trio.BrokenResourceError("it asked for nothing")
            data += more
            if len(data) > MAX_REQUEST_BYTES:
                raise RequestError(f"a request has at most {MAX_REQUEST_BYTES} bytes")
    line, _, more = data.partition(b"\n")
    if more:
        raise RequestError("a connection is for one request: nothing may follow it")
    return line
