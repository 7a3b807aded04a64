"""GET that waits: long-poll, and Server-Sent Events.

Whoever waits at the end of a stream holds no log open, and no lock: `Stream.changed` wakes them. A
stream that is deleted, or a server that stops, ends every wait at once.
"""

from __future__ import annotations

import base64
import json
import random
import re

import trio

from danube_trio.http._fields import is_text
from danube_trio.http._offsets import token
from danube_trio.http._read import Chunk, one_value, read, said, start_of, wait_for_change
from danube_trio.http._request import Refusal, Request, Response
from danube_trio.http._service import Service
from danube_trio.http._stream import Stream

# Cursors are the protocol's: numbers of intervals of so many seconds since 2024-10-09.
CURSOR_SECONDS = 20
CURSOR_EPOCH = 1_728_432_000
# How far a cursor is moved on that would come again, in seconds.
JITTER_SECONDS = 3600

_LINE_END = re.compile(rb"\r\n|\n|\r")


def cursor(service: Service, given: str | None) -> str:
    """The cursor of an answer: of now, and after the one that was given."""
    now = int(service.clock() - CURSOR_EPOCH) // CURSOR_SECONDS
    if given is None or not (given.isascii() and given.isdigit() and len(given) <= 18):
        return str(now)
    if int(given) < now:
        return str(now)
    return str(int(given) + max(1, random.randint(1, JITTER_SECONDS) // CURSOR_SECONDS))


def _seat(service: Service) -> None:
    if service.stopping:
        raise Refusal(503, "the server is stopping", {"retry-after": "1"})
    if service.waiting >= service.config.max_waiting:
        raise Refusal(429, "too many readers wait already", {"retry-after": "5"})


async def long_poll(service: Service, request: Request) -> Response:
    """Answer a GET with ``live=long-poll``."""
    stream, text = await _wanted(service, request)
    _seat(service)
    start = await start_of(service, stream, text)
    service.waiting += 1
    try:
        await wait_for_change(service, stream, start, service.config.long_poll_seconds)
    finally:
        service.waiting -= 1
    if not stream.live:
        raise Refusal(404, "this stream was deleted")
    chunk = await read(service, stream, start)
    headers = said(stream, chunk, "no-store")
    if not chunk.closed:
        headers["stream-cursor"] = cursor(service, one_value(request, "cursor"))
    if chunk.payloads:
        return Response(200, headers, chunk.body(stream.kind))
    return Response(204, headers)


async def sse(service: Service, request: Request) -> Response:
    """Answer a GET with ``live=sse``."""
    stream, text = await _wanted(service, request)
    _seat(service)
    start = await start_of(service, stream, text)
    headers = {"content-type": "text/event-stream", "cache-control": "no-cache"}
    if not is_text(stream.kind):
        headers["stream-sse-data-encoding"] = "base64"
    given = one_value(request, "cursor")
    return Response(200, headers, feed=Events(service, stream, start, given))


async def _wanted(service: Service, request: Request) -> tuple[Stream, str]:
    text = one_value(request, "offset")
    if text is None:
        raise Refusal(400, "a live read needs the parameter offset")
    stream = await service.stream(request.path)
    service.use(stream)
    return stream, text


class Events:
    """The events of one SSE answer: data and, after each, how far that went."""

    def __init__(self, service: Service, stream: Stream, start: int, given: str | None) -> None:
        self._service = service
        self._stream = stream
        self._at = start
        self._given = given
        self._ends = trio.current_time() + service.config.sse_seconds
        self._first = True
        self._over = False
        service.waiting += 1
        self._seated = True

    def close(self) -> None:
        """Nobody wants the rest. Idempotent."""
        self._over = True
        if self._seated:
            self._seated = False
            self._service.waiting -= 1

    async def next(self) -> bytes:
        """The next events; empty at the end."""
        service, stream = self._service, self._stream
        if not self._first and not self._over:
            left = self._ends - trio.current_time()
            await wait_for_change(service, stream, self._at, left)
            self._over = not stream.live or trio.current_time() >= self._ends
        if self._over:
            self.close()
            return b""
        chunk = await read(service, stream, self._at)
        if not (chunk.payloads or chunk.closed or self._first):
            self.close()  # the server stops, or has waited long enough
            return b""
        self._first, self._at, self._over = False, chunk.end, chunk.closed
        return events(stream.kind, chunk, cursor(service, self._given))


def events(kind: str, chunk: Chunk, cursor: str) -> bytes:
    """The events of a chunk."""
    control: dict[str, object] = {"streamNextOffset": token(chunk.end)}
    if chunk.closed:
        control |= {"streamClosed": True, "upToDate": True}
    else:
        control["streamCursor"] = cursor
        if chunk.up_to_date:
            control["upToDate"] = True
    said = json.dumps(control, separators=(",", ":")).encode()
    after = b"event: control\ndata:" + said + b"\n\n"
    if not chunk.payloads:
        return after
    body = chunk.body(kind)
    if not is_text(kind):
        body = base64.b64encode(body)
    lines = _LINE_END.sub(b"\ndata:", b"\n" + body)
    # Who reads an event takes one space away behind the colon: a line's own is the second.
    lines = lines.replace(b"\ndata: ", b"\ndata:  ")
    return b"event: data" + lines + b"\n\n" + after
