"""Where webhooks arrive: a server on a socket of this machine, which answers as a test wants."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

ANSWER = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"


@attrs.frozen
class Hook:
    """A request that came: names of headers in lower case."""

    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def said(self) -> dict[str, Any]:
        """The body."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def tails(self) -> dict[str, str]:
        """Of the streams with something to do, where they end."""
        return {s["path"]: s["tail_offset"] for s in self.said["streams"] if s["has_pending"]}


def answer(body: bytes = b"", status: str = "200 OK") -> bytes:
    """A whole answer."""
    return ANSWER % (status.encode(), len(body), body)


DONE = answer(b'{"done":true}')
LATER = answer()


NOTHING = Hook("", {}, b"")


class Receiver:
    """What came to a server, in order.

    Attributes:
        reply: makes the answer to a request; None: the connection is closed without.
        port: where it listens.
        connections: how many there were.
        most: how many there were at once.
    """

    def __init__(self) -> None:
        self.reply: Callable[[Hook], Awaitable[bytes | None]] = later
        self.port = 0
        self.connections = 0
        self.most = 0
        self._now = 0
        self._send, self._came = trio.open_memory_channel[Hook](1000)

    def url(self, path: str = "/hook", host: str = "127.0.0.1", scheme: str = "http") -> str:
        """A URL that goes there."""
        return f"{scheme}://{host}:{self.port}{path}"

    def answers(self, data: bytes) -> None:
        """Answer so from now on."""

        async def reply(_: Hook) -> bytes:
            return data

        self.reply = reply

    async def next(self) -> Hook:
        """The next request."""
        with trio.fail_after(10_000):
            return await self._came.receive()

    def nothing(self) -> bool:
        """Whether none came that was not taken."""
        return not self._came.statistics().current_buffer_used

    async def serve(self, stream: trio.abc.Stream) -> None:
        """A connection."""
        self.connections += 1
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            hook = await _read(stream)
            if hook is None:  # it speaks another protocol, or went away
                data = await self.reply(NOTHING)
                await stream.send_all(data or b"")
                return
            self._send.send_nowait(hook)
            data = await self.reply(hook)
            if data is not None:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass  # it did not wait
        finally:
            self._now -= 1
            await trio.aclose_forcefully(stream)


async def later(_: Hook) -> bytes:
    return LATER


async def _read(stream: trio.abc.Stream) -> Hook | None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some()
        data += piece
        if not piece or not data.isascii():
            return None
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive_some()
    method, target, _ = first.split(" ")
    assert method == "POST"
    return Hook(target, headers, body)


@asynccontextmanager
async def open_receiver(tls: ssl.SSLContext | None = None) -> AsyncGenerator[Receiver]:
    """Serve in this block."""
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        if tls is None:
            (listener, *_) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            receiver.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, receiver.serve, [listener])
        else:
            (listener, *_) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            receiver.port = listener.socket.getsockname()[1]
            secure = trio.SSLListener(listener, tls, https_compatible=True)
            nursery.start_soon(trio.serve_listeners, _quiet(receiver.serve), [secure])
        yield receiver
        nursery.cancel_scope.cancel()


def _quiet(
    serve: Callable[[trio.abc.Stream], Awaitable[None]],
) -> Callable[[trio.abc.Stream], Awaitable[None]]:
    """A handshake that fails ends its connection only."""

    async def handle(stream: trio.abc.Stream) -> None:
        try:
            await serve(stream)
        except (trio.BrokenResourceError, ssl.SSLError):
            await trio.aclose_forcefully(stream)

    return handle
