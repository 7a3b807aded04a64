"""GET: what a stream has from an offset on, now or when it comes.

A read walks the parts of the stream (see `Stream.parts`) from the offset on and takes whole records
until they are `max_read_bytes`, at least one. The answer says where the next read begins. How far
it may go is what `Stream.seen` said when it began, so no read meets what is not durable, and none
that a source got after it was forked.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from danube_trio import Gap, Reader, StartPosition, StreamMessage
from danube_trio.http._fields import JSON
from danube_trio.http._names import id_of
from danube_trio.http._offsets import BEGINNING, NOW, parse, token
from danube_trio.http._request import Refusal, Request, Response
from danube_trio.http._service import Service
from danube_trio.http._stream import Part, Stream


@attrs.frozen(eq=False)
class Chunk:
    """Some records of a stream.

    Attributes:
        start: the offset that was asked for.
        end: where the next read begins.
        payloads: of the records.
        up_to_date: nothing more is durable.
        closed: nor will be.
    """

    start: int
    end: int
    payloads: Sequence[bytes]
    up_to_date: bool
    closed: bool

    def body(self, kind: str) -> bytes:
        """As the stream's content type has it."""
        if kind == JSON:
            return b"[" + b",".join(self.payloads) + b"]"
        return b"".join(self.payloads)


async def read(service: Service, stream: Stream, start: int) -> Chunk:
    """The records from `start` on, up to about `max_read_bytes`.

    Raises:
        Refusal: 400 for an offset beyond the end, 410 for one before what is kept, 500 for damage.
    """
    end, closed = await service.seen(stream)
    if start > end:
        raise Refusal(400, "the offset is beyond the end of the stream")
    payloads: list[bytes] = []
    at, room = start, service.config.max_read_bytes
    for part in stream.parts():
        stop = end if part.end is None else min(part.end, end)
        if not part.start <= at < stop:
            continue
        at, room = await _read_part(service, part, at, stop, room, payloads)
        if room <= 0:
            break
    return Chunk(start, at, payloads, at >= end, closed and at >= end)


async def _read_part(
    service: Service, part: Part, at: int, stop: int, room: int, payloads: list[bytes]
) -> tuple[int, int]:
    """Read on in one topic. Returns how far that went, and what room is left."""
    async with service.storage.topic(part.topic) as wal:
        reader: Reader[StreamMessage | Gap]
        reader = wal.reader(StartPosition.offset(at - part.base), end=stop - part.base)
        while room > 0 and (items := await reader.next_batch()):
            for item in items:
                if isinstance(item, Gap):
                    if payloads:
                        return at, 0  # what is before it is whole
                    raise Refusal(500, "stored data is damaged: see the server's own log")
                if room <= 0:
                    return at, 0
                payloads.append(item.payload)
                room -= len(item.payload)
                at = part.base + item.offset + 1
    return at, room


async def first_offset(service: Service, stream: Stream) -> int:
    """Where the oldest data is that is kept."""
    part = stream.parts()[0]
    end = part.end if part.end is not None else (await service.seen(stream))[0]
    if end == part.start:
        return end
    async with service.storage.topic(part.topic) as wal:
        return min(part.base + wal.start_offset, end)


async def start_of(service: Service, stream: Stream, text: str | None) -> int:
    """The offset that is meant: a token, the beginning (also None), or now."""
    if text == NOW:
        return (await service.seen(stream))[0]
    if text is None or text == BEGINNING:
        return await first_offset(service, stream)
    return parse(text)


async def catch_up(service: Service, request: Request) -> Response:
    """Answer a GET that does not wait."""
    stream = await service.stream(request.path)
    text = one_value(request, "offset")
    service.use(stream)
    start = await start_of(service, stream, text)
    if text == NOW:
        end, closed = await service.seen(stream)
        chunk = Chunk(end, end, (), True, closed)
        return Response(200, said(stream, chunk, "no-store"), chunk.body(stream.kind))
    chunk = await read(service, stream, start)
    etag = f'"{id_of(stream.topic)}:{chunk.start}:{chunk.end}{":c" if chunk.closed else ""}"'
    headers = said(stream, chunk, _cache(service)) | {"etag": etag}
    if etag in _tags(request.headers.get("if-none-match", "")):
        return Response(304, headers)
    return Response(200, headers, chunk.body(stream.kind))


def one_value(request: Request, name: str) -> str | None:
    """The value of a parameter that may be there once, and not be empty."""
    values = request.query.get(name)
    if values is None:
        return None
    if len(values) > 1 or not values[0]:
        raise Refusal(400, f"the parameter {name} must be there once, with a value")
    return values[0]


def said(stream: Stream, chunk: Chunk, cache: str) -> dict[str, str]:
    """The headers that every answer with data has."""
    headers = {
        "content-type": stream.entry.content_type,
        "stream-next-offset": token(chunk.end),
        "cache-control": cache,
    }
    if chunk.up_to_date:
        headers["stream-up-to-date"] = "true"
    if chunk.closed:
        headers["stream-closed"] = "true"
    return headers


def _cache(service: Service) -> str:
    if service.config.cache == "no-store":
        return "no-store"
    return f"{service.config.cache}, max-age=60, stale-while-revalidate=300"


def _tags(text: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in text.split(",")]


async def head(service: Service, request: Request) -> Response:
    """Answer a HEAD."""
    stream = await service.stream(request.path)
    end, closed = await service.seen(stream)
    headers = {
        "content-type": stream.entry.content_type,
        "stream-next-offset": token(end),
        "cache-control": "no-store",
    }
    if stream.entry.ttl is not None:
        headers["stream-ttl"] = str(stream.entry.ttl)
    if stream.entry.expires_at is not None:
        headers["stream-expires-at"] = stream.entry.expires_at
    if closed:
        headers["stream-closed"] = "true"
    return Response(200, headers)


async def delete(service: Service, request: Request) -> Response:
    """Answer a DELETE."""
    stream = await service.stream(request.path)
    await service.registry.end(stream)
    return Response(204)


async def wait_for_change(service: Service, stream: Stream, at: int, seconds: float) -> None:
    """Wait until there is something from offset `at` on, or the stream ends, or time is over."""
    with trio.move_on_after(seconds):
        while not service.stopping and stream.live:
            end, closed = await service.seen(stream)
            if end != at or closed:
                return
            await stream.changed.wait()
