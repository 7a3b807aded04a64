"""POST: append, close, or both.

The checks and their order are the protocol's: whether the stream is closed comes first, so that a
writer learns of it whatever else is wrong; then the content type; then what the producer sent
before; then ``Stream-Seq``, which is of the stream, not of a writer.

A batch that the same producer sent before is answered like the first time, when that one is
durable. That holds for a closed stream, too: what was accepted before the closing was not refused
because of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from danube_trio import StreamMessage, Wal
from danube_trio._core.plain import json_elements
from danube_trio.http._fields import JSON, Sent, identifier, is_true, kind, sent
from danube_trio.http._offsets import token
from danube_trio.http._request import Refusal, Request, Response
from danube_trio.http._service import Service
from danube_trio.http._stream import Stream
from danube_trio.http._writers import Producer, Writers, marks


async def append(service: Service, request: Request) -> Response:
    """Answer a POST."""
    stream = await service.stream(request.path)
    headers = request.headers
    closes = is_true(headers, "stream-closed")
    if not (request.body or closes):
        raise Refusal(400, "the body is empty, which only closing allows (Stream-Closed: true)")
    who = sent(headers)
    writer_seq = headers.get("stream-seq")
    if writer_seq is not None:
        writer_seq = identifier(writer_seq, "Stream-Seq")
    async with service.writing(stream) as (wal, writers):
        while True:
            known = _check(stream, writers, request, who, closes)
            if known is not None:
                return await _repeated(service, stream, wal, writers, known)
            if who is None and writers.closed:  # closing what is closed
                await service.durable(stream, wal, writers, writers.end)
                return _answer(204, stream, writers.data_end, closed=True)
            if writer_seq is not None:
                writers.check_writer_seq(writer_seq)
            payloads = payloads_of(stream.kind, request.body)
            try:
                found = marks(who, writer_seq, closes=closes)
                end = accept(wal, writers, payloads, found, int(service.clock() * 1000))
                break
            except trio.WouldBlock:
                await wal.wait_durable(wal.next_offset)
        data_end = writers.data_end
        await service.durable(stream, wal, writers, end)
        service.use(stream)
        if writers.worth_a_note:
            service.unnoted[stream] = None
    if who is None:
        return _answer(204, stream, data_end, closed=closes)
    status = 200 if request.body else 204
    return _answer(status, stream, data_end, closed=closes, said=_said(who.epoch, who.seq))


def accept(
    wal: Wal, writers: Writers, payloads: Sequence[bytes], found: dict[str, str], time: int
) -> int:
    """Accept a batch with these marks now. Returns its end in the topic's log.

    Args:
        time: in milliseconds since 1970, as the log gives it to plain payloads.

    Raises trio.WouldBlock, and what accepting raises.
    """
    last = payloads[-1] if payloads else b""
    if found:
        dressed = StreamMessage(last, publish_time=time, attributes=found)
        receipt = wal.append_batch_nowait([*payloads[:-1], dressed])
    else:
        receipt = wal.append_batch_nowait(payloads)
    writers.accepted(receipt.offsets, sum(map(len, payloads)), last, found)
    return receipt.offsets.stop


def payloads_of(kind: str, body: bytes, *, may_be_empty: bool = False) -> list[bytes]:
    """The messages in a body. Refuses with 400 what is no JSON where it must be."""
    if not body:
        return []
    if kind != JSON:
        return [body]
    try:
        found = json_elements(body)
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not (found or may_be_empty):
        raise Refusal(400, "the body is an empty array: there is nothing to append")
    return found


def _check(
    stream: Stream, writers: Writers, request: Request, who: Sent | None, closes: bool
) -> Producer | None:
    """The producer, if the batch was sent before; None if it may be appended, or close again."""
    if writers.closed:
        return _check_closed(stream, writers, request, who, closes)
    if request.body:
        given = request.headers.get("content-type")
        if given is None:
            raise Refusal(400, "Content-Type is missing")
        if kind(given) != stream.kind:
            raise Refusal(409, f"the stream's content type is {stream.entry.content_type}")
    if who is None:
        return None
    known = writers.repeated(who)
    if known is None:
        writers.check_next(who)
    return known


def _check_closed(
    stream: Stream, writers: Writers, request: Request, who: Sent | None, closes: bool
) -> Producer | None:
    if who is None:
        if closes and not request.body:
            return None
    elif (known := writers.repeated(who)) is not None:
        return known
    at = token(stream.entry.base + writers.data_end)
    raise Refusal(409, "the stream is closed", {"stream-closed": "true", "stream-next-offset": at})


async def _repeated(
    service: Service, stream: Stream, wal: Wal, writers: Writers, known: Producer
) -> Response:
    await service.durable(stream, wal, writers, known.end)
    service.use(stream)
    closed = writers.closed and wal.durable_end >= writers.end
    data_end = min(writers.data_end, wal.durable_end)
    return _answer(204, stream, data_end, closed=closed, said=_said(known.epoch, known.seq))


def _said(epoch: int, seq: int) -> dict[str, str]:
    return {"producer-epoch": str(epoch), "producer-seq": str(seq)}


def _answer(
    status: int,
    stream: Stream,
    data_end: int,
    *,
    closed: bool,
    said: dict[str, str] | None = None,
) -> Response:
    headers = {"stream-next-offset": token(stream.entry.base + data_end), **(said or {})}
    if closed:
        headers["stream-closed"] = "true"
    return Response(status, headers)
