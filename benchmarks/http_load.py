"""A client that costs as little as it can: whole requests are prepared, answers barely read.

On a machine with two processors the client has one of them, so whatever it does is missing in what
is measured. It is asyncio's plain protocols, which cost about 15 us a request.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from functools import partial
from time import perf_counter
from urllib.parse import urlsplit

__all__ = ["Target", "fan_out", "latencies", "posts", "put"]

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_END = b"\r\n\r\n"
WAIT_SECONDS = 60.0


class Target:
    """A server, and requests to it.

    Args:
        url: of the place where the streams are.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self._path = parts.path.rstrip("/")

    def request(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/octet-stream"
    ) -> bytes:
        """A whole request."""
        head = (
            f"{method} {self._path}/{path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


class _Poster(asyncio.Protocol):
    """One connection that sends a request again as soon as it was answered."""

    def __init__(self, request: bytes, take: Callable[[], bool]) -> None:
        self._request = request
        self._take = take
        self._data = b""
        self._transport: asyncio.Transport | None = None
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def go(self) -> None:
        """Send the next one, unless it was enough."""
        assert self._transport is not None
        if self._take():
            self._transport.write(self._request)
        else:
            self._transport.close()
            self.over.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(_END)
        if end < 0:
            return
        found = _LENGTH.search(self._data, 0, end)
        size = end + len(_END) + (int(found[1]) if found else 0)
        if len(self._data) < size:
            return
        if self._data[9:11] != b"20":
            self.over.set_exception(RuntimeError(self._data[:size].decode("latin-1")))
            return
        self._data = self._data[size:]
        self.go()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_exception(exc or ConnectionError("the server closed the connection"))


async def put(target: Target, path: str, kind: str) -> None:
    """Make a stream."""
    await _posts(target, [target.request("PUT", path, kind=kind)], 1)


async def _posts(target: Target, requests: list[bytes], count: int) -> float:
    left = count

    def take() -> bool:
        nonlocal left
        left -= 1
        return left >= 0

    loop = asyncio.get_running_loop()
    posters: list[_Poster] = []
    for request in requests:
        _, poster = await loop.create_connection(
            partial(_Poster, request, take), target.host, target.port
        )
        posters.append(poster)
    started = perf_counter()
    for poster in posters:
        poster.go()
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*(poster.over for poster in posters))
    return perf_counter() - started


async def posts(
    target: Target, path: str, body: bytes, kind: str, connections: int, count: int
) -> float:
    """Append `count` times, over so many connections at once. Returns the seconds."""
    request = target.request("POST", path, body, kind)
    return await _posts(target, [request] * connections, count)


class _Reader:
    """An SSE reader that counts the data events that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = b""
        self.events = 0

    @classmethod
    async def open(cls, target: Target, path: str) -> _Reader:
        reader, writer = await asyncio.open_connection(target.host, target.port)
        writer.write(target.request("GET", f"{path}?offset=now&live=sse"))
        found = cls(reader, writer)
        await reader.readuntil(b"upToDate")
        return found

    async def wait_for(self, text: bytes) -> None:
        """Wait until this text came."""
        data = self._rest
        while (at := data.find(text)) < 0:
            self._rest = data[-len(text) :]
            data = self._rest + await self._reader.read(1 << 16)
        self._rest = data[at + len(text) :]

    def close(self) -> None:
        self._writer.close()


async def latencies(target: Target, path: str, count: int) -> list[float]:
    """Seconds from before a POST until its event has come, of one reader, one after the other."""
    reader = await _Reader.open(target, path)
    found: list[float] = []
    streams = await asyncio.open_connection(target.host, target.port)
    async with asyncio.timeout(WAIT_SECONDS):
        for number in range(count):
            body = b"event-%06d;" % number
            started = perf_counter()
            streams[1].write(target.request("POST", path, body, "text/plain"))
            await reader.wait_for(body)
            found.append(perf_counter() - started)
            await streams[0].readuntil(_END)
    streams[1].close()
    reader.close()
    return found


async def fan_out(target: Target, path: str, readers: int, count: int) -> float:
    """Append `count` times, each when all readers have the one before. Returns the seconds."""
    open_readers = [await _Reader.open(target, path) for _ in range(readers)]
    streams = await asyncio.open_connection(target.host, target.port)
    started = perf_counter()
    async with asyncio.timeout(WAIT_SECONDS):
        for number in range(count):
            body = b"event-%06d;" % number
            streams[1].write(target.request("POST", path, body, "text/plain"))
            await asyncio.gather(*(reader.wait_for(body) for reader in open_readers))
            await streams[0].readuntil(_END)
    seconds = perf_counter() - started
    for reader in open_readers:
        reader.close()
    streams[1].close()
    return seconds
