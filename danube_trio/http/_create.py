"""PUT: make a stream, or find that it is there; also as a fork of another."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import trio

from danube_trio import StartPosition, StreamMessage
from danube_trio.http._append import accept, payloads_of
from danube_trio.http._entries import Entry, Origin
from danube_trio.http._fields import (
    DEFAULT_TYPE,
    JSON,
    content_type,
    is_true,
    kind,
    moment,
    number,
)
from danube_trio.http._names import canonical, new_topic
from danube_trio.http._offsets import parse, token
from danube_trio.http._request import Refusal, Request, Response
from danube_trio.http._service import Service
from danube_trio.http._stream import MAX_DEPTH, Stream
from danube_trio.http._writers import marks


@attrs.frozen
class Wanted:
    """What a PUT asks for.

    Attributes:
        type: the content type, or None.
        ttl, expires_at: at most one of them.
        closed: whether it is to be closed from the beginning.
        source: the path of the stream to fork, or None.
        asked, sub: where to fork it; None: at its end.
    """

    type: str | None
    ttl: int | None
    expires_at: str | None
    closed: bool
    source: str | None
    asked: int | None
    sub: int


def wanted(request: Request, limit: int) -> Wanted:
    """Read the headers. Refuses with 400."""
    headers = request.headers
    given = headers.get("content-type")
    ttl, expires_at = headers.get("stream-ttl"), headers.get("stream-expires-at")
    if ttl is not None and expires_at is not None:
        raise Refusal(400, "Stream-TTL and Stream-Expires-At exclude each other")
    if expires_at is not None:
        moment(expires_at, "Stream-Expires-At")
    source = headers.get("stream-forked-from")
    asked, sub = headers.get("stream-fork-offset"), headers.get("stream-fork-sub-offset")
    if source is None and (asked is not None or sub is not None):
        raise Refusal(400, "a fork needs Stream-Forked-From")
    found = Wanted(
        content_type(given) if given is not None else None,
        number(ttl, "Stream-TTL") if ttl is not None else None,
        expires_at,
        is_true(headers, "stream-closed"),
        _path_of(source, request.root, limit) if source is not None else None,
        parse(asked, "Stream-Fork-Offset") if asked is not None else None,
        number(sub, "Stream-Fork-Sub-Offset") if sub is not None else 0,
    )
    if found.sub and found.asked is None:
        raise Refusal(400, "Stream-Fork-Sub-Offset needs Stream-Fork-Offset")
    return found


def _path_of(source: str, root: str, limit: int) -> str:
    """The canonical path in the path of a URL on this server."""
    if not source.startswith(root):
        raise Refusal(404, f"Stream-Forked-From names no stream of this server, below {root}")
    return canonical(source[len(root) :].encode("latin-1"), limit)


async def create(service: Service, request: Request) -> Response:
    """Answer a PUT."""
    ask = wanted(request, service.config.max_path_bytes)
    if ask.source is not None and not request.may("read", ask.source):
        raise Refusal(403, "you may not read the stream to be forked")
    async with service.registry.making(request.path):
        found = await service.find(request.path)
        if found is not None:
            return await _there(service, found, ask)
        stream = await _make(service, request, ask)
    service.use(stream)
    assert stream.seen is not None
    return _answer(201, stream, stream.seen, {"location": request.base_url + stream.path})


async def _there(service: Service, stream: Stream, ask: Wanted) -> Response:
    """It is there: 200 if it is what is asked for, else 409."""
    if not stream.live:
        raise Refusal(409, "this stream was deleted, and its forks are still there")
    entry, seen = stream.entry, await service.seen(stream)
    if not _same(entry, ask) or seen[1] is not ask.closed:
        raise Refusal(409, "there is a stream with another configuration")
    service.use(stream)
    return _answer(200, stream, seen)


def _same(entry: Entry, ask: Wanted) -> bool:
    origin = entry.origin
    if (origin is None) != (ask.source is None):
        return False
    asked = ask.type or (DEFAULT_TYPE if origin is None else entry.content_type)
    if kind(asked) != kind(entry.content_type):
        return False
    if origin is not None:
        if (origin.path, origin.sub) != (ask.source, ask.sub):
            return False
        if ask.asked != origin.asked and ask.asked != _asked(entry):
            return False
        if ask.ttl is None and ask.expires_at is None:
            return True  # it inherited them
    if ask.ttl != entry.ttl or (ask.expires_at is None) != (entry.expires_at is None):
        return False
    if ask.expires_at is None or entry.expires_at is None:
        return True
    return moment(ask.expires_at, "") == moment(entry.expires_at, "")


def _asked(entry: Entry) -> int:
    """Where a fork begins, without its sub-offset."""
    origin = entry.origin
    assert origin is not None
    return entry.base if origin.asked is None else origin.asked


async def _make(service: Service, request: Request, ask: Wanted) -> Stream:
    source: Stream | None = None
    first: list[bytes] = []
    now = service.clock()
    made = Entry(
        request.path,
        new_topic(service.config.namespace, request.path),
        ask.type or DEFAULT_TYPE,
        created_at=now,
        ttl=ask.ttl,
        expires_at=ask.expires_at,
        renewed_at=now,
    )
    if ask.source is not None:
        source = await _source(service, ask)
        base, first = await _fork_point(service, source, ask)
        made = _inherits(made, source.entry, ask, base)
    first += payloads_of(kind(made.content_type), request.body, may_be_empty=True)
    intent = 0
    if first or ask.closed:
        intent = await service.registry.intend(made.topic)
    try:
        seen = (made.base, False)
        if intent:
            seen = await _begin(service, made, first, closed=ask.closed)
        if source is not None and not source.live:
            raise Refusal(404, "the stream to be forked was deleted just now")
        stream = await service.registry.publish(made, source, intent)
    except BaseException:
        if intent:
            service.registry.throw(made.topic)
        raise
    if stream.moved(*seen):
        service.appended(stream)
    return stream


async def _begin(
    service: Service, made: Entry, first: Sequence[bytes], *, closed: bool
) -> tuple[int, bool]:
    """Write the first records, durably. Returns where they end, and whether that is closed."""
    draft = Stream(made, 0)
    async with service.writing(draft) as (wal, writers):
        while True:
            try:
                found = marks(None, None, closes=closed)
                end = accept(wal, writers, first, found, int(service.clock() * 1000))
                break
            except trio.WouldBlock:
                await wal.wait_durable(wal.next_offset)
        await service.durable(draft, wal, writers, end)
    assert draft.seen is not None
    return draft.seen


# ---- forks


async def _source(service: Service, ask: Wanted) -> Stream:
    assert ask.source is not None
    source = await service.find(ask.source)
    if source is None:
        raise Refusal(404, "there is no such stream to fork")
    if not source.live:
        raise Refusal(409, "the stream to be forked was deleted")
    if ask.type is not None and kind(ask.type) != source.kind:
        raise Refusal(409, f"the content type of what is forked is {source.entry.content_type}")
    if source.depth >= MAX_DEPTH:
        raise Refusal(409, f"a stream may be a fork of a fork {MAX_DEPTH} times at most")
    return source


async def _fork_point(service: Service, source: Stream, ask: Wanted) -> tuple[int, list[bytes]]:
    """Where the fork's own records begin, and the piece of a record that is the first of them."""
    end, _ = await service.seen(source)
    base = end if ask.asked is None else ask.asked
    if base > end:
        raise Refusal(400, "Stream-Fork-Offset is beyond the end of the stream")
    if not ask.sub:
        return base, []
    if source.kind == JSON:
        if base + ask.sub > end:
            raise Refusal(400, "Stream-Fork-Sub-Offset is beyond the end of the stream")
        return base + ask.sub, []
    record = await _record(service, source, base) if base < end else b""
    if ask.sub > len(record):
        raise Refusal(400, "Stream-Fork-Sub-Offset is beyond the record at Stream-Fork-Offset")
    if ask.sub == len(record):
        return base + 1, []
    return base, [record[: ask.sub]]


async def _record(service: Service, source: Stream, offset: int) -> bytes:
    part = next(p for p in source.parts() if p.end is None or offset < p.end)
    start = StartPosition.offset(offset - part.base)
    async with service.storage.topic(part.topic) as wal:
        message = await anext(wal.reader(start, count=1))
    if not isinstance(message, StreamMessage):
        raise Refusal(500, "the record there is damaged")
    return message.payload


def _inherits(made: Entry, source: Entry, ask: Wanted, base: int) -> Entry:
    """A fork's document: what it does not say is its source's."""
    assert ask.source is not None
    ttl, expires_at = ask.ttl, ask.expires_at
    if ttl is None and expires_at is None:
        ttl, expires_at = source.ttl, source.expires_at
    return attrs.evolve(
        made,
        content_type=ask.type or source.content_type,
        base=base,
        ttl=ttl,
        expires_at=expires_at,
        origin=Origin(ask.source, source.topic, ask.asked, ask.sub),
    )


def _answer(
    status: int, stream: Stream, seen: tuple[int, bool], more: dict[str, str] | None = None
) -> Response:
    headers = {"content-type": stream.entry.content_type, "stream-next-offset": token(seen[0])}
    if seen[1]:
        headers["stream-closed"] = "true"
    return Response(status, {**headers, **(more or {})})
