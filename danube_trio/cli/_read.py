"""``danube-trio replay`` and ``tail``: records to stdout."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import sys
from collections.abc import AsyncGenerator, Callable
from typing import Any

import attrs
import trio

from danube_trio._core.codec import CODECS, Codec
from danube_trio._follow import Follower, open_follower
from danube_trio._reader import Reader
from danube_trio._replica import Replica, open_replica
from danube_trio._source import StartPosition
from danube_trio.cli._failures import complain
from danube_trio.cli._values import Start, time_text
from danube_trio.cli._where import Where
from danube_trio.message import Gap, Record

__all__ = ["print_records"]

_LENGTH = struct.Struct("<I")
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Format = Callable[[list[Any]], bytes]


@attrs.frozen(kw_only=True)
class _Wanted:
    """What to print: from `start`, or the `last` so many records."""

    start: Start | None = None
    last: int = 0
    until: int | None = None
    count: int | None = None
    follow: bool = False
    as_json: bool = False
    raw: bool = False
    skip_corrupt: bool = False


def print_records(directory: str | None, file_name: str, where: Where, **wanted: Any) -> bool:
    """Run either command; True if damaged records were stepped over."""
    what = _Wanted(**wanted)
    if what.as_json and what.raw:
        raise ValueError("--json and --raw exclude each other")
    return trio.run(_print_records, directory, file_name, where, what)


@contextlib.asynccontextmanager
async def _open(
    directory: str | None, file_name: str, where: Where, *, skip: bool
) -> AsyncGenerator[Follower | Replica]:
    """The log in a directory, with its store beside, or in a store alone."""
    policy: Any = "skip" if skip else "refuse"
    async with contextlib.AsyncExitStack() as stack:
        corner = None
        if where.wanted(directory):
            corner = await stack.enter_async_context(where.open())
        if directory is not None:
            store, catalog = (corner.store, corner.catalog()) if corner is not None else (None,) * 2
            follower = open_follower(
                directory, file_name=file_name, on_corruption=policy, store=store, catalog=catalog
            )
            yield await stack.enter_async_context(follower)
            return
        assert corner is not None
        if skip:
            raise ValueError("--skip-corrupt needs DIR: a store has no way around damage")
        replica = open_replica(corner.store, catalog=corner.catalog())
        yield await stack.enter_async_context(replica)


async def _print_records(
    directory: str | None, file_name: str, where: Where, wanted: _Wanted
) -> bool:
    out = sys.stdout.buffer
    gaps = False
    async with _open(directory, file_name, where, skip=wanted.skip_corrupt) as follower:
        to_bytes = _format(wanted, CODECS[follower.codec])
        async for batch in _reader(follower, wanted).batches():
            if wanted.skip_corrupt and any(isinstance(item, Gap) for item in batch):
                gaps = True
                batch = _without_gaps(batch, keep=wanted.as_json)
            out.write(to_bytes(batch))
            if wanted.follow:
                out.flush()
    out.flush()
    return gaps


def _reader(follower: Follower | Replica, wanted: _Wanted) -> Reader[Any]:
    end: Any = None if wanted.follow else "current"
    if wanted.until is not None:
        if wanted.until > follower.durable_end:
            raise ValueError(
                f"--until {wanted.until} is beyond the end of the log, which is "
                f"{follower.durable_end}"
            )
        end = wanted.until
    if wanted.start is None:
        first = max(follower.start_offset, follower.durable_end - wanted.last)
        start = StartPosition.offset(first)
    else:
        start = _position(*wanted.start)
    if wanted.as_json:
        return follower.reader(start, end=end, count=wanted.count, raw=True)
    return follower.reader(start, end=end, count=wanted.count)


def _position(kind: str, value: float) -> StartPosition:
    match kind:
        case "earliest":
            return StartPosition.earliest()
        case "latest":
            return StartPosition.latest()
        case "offset":
            return StartPosition.offset(int(value))
        case _:
            return StartPosition.timestamp(value)


def _without_gaps(batch: list[Any], *, keep: bool) -> list[Any]:
    """Say what is missing; JSON has it in its place, too."""
    for item in batch:
        if isinstance(item, Gap):
            complain(f"records {item.start} to {item.end} cannot be read: {item.reason}")
    return [item for item in batch if keep or not isinstance(item, Gap)]


# ---- output


def _format(wanted: _Wanted, codec: Codec) -> Format:
    if wanted.as_json:
        return lambda batch: "".join([_json_line(item, codec) for item in batch]).encode()
    return _raw if wanted.raw else _lines


def _lines(batch: list[Any]) -> bytes:
    payloads: list[bytes] = [message.payload for message in batch]
    payloads.append(b"")
    return b"\n".join(payloads)


def _raw(batch: list[Any]) -> bytes:
    parts: list[bytes] = []
    for message in batch:
        payload: bytes = message.payload
        parts.append(_LENGTH.pack(len(payload)))
        parts.append(payload)
    return b"".join(parts)


def _json_line(item: Record | Gap, codec: Codec) -> str:
    if isinstance(item, Gap):
        return _to_json({"gap": [item.start, item.end], "reason": item.reason}) + "\n"
    message = codec.decode(item.body)
    place = message.msg_id
    fields: dict[str, Any] = {"offset": item.offset, "append_time": time_text(item.append_time)}
    try:
        fields["payload"] = message.payload.decode()
    except UnicodeDecodeError:
        fields["base64"] = base64.b64encode(message.payload).decode()
    others = {
        "request_id": message.request_id,
        "producer_id": place.producer_id,
        "topic_name": place.topic_name,
        "broker_addr": place.broker_addr,
        "segment_id": place.segment_id,
        "publish_time": message.publish_time,
        "producer_name": message.producer_name,
        "subscription_name": message.subscription_name,
        "attributes": message.attributes,
        "schema_id": message.schema_id,
        "schema_version": message.schema_version,
        "routing_key": message.routing_key,
    }
    # What is not set is left out; an optional field may be set to nothing.
    for name, value in others.items():
        if value or (value is not None and name in OPTIONAL):
            fields[name] = value
    return _to_json(fields) + "\n"


OPTIONAL = {"subscription_name", "schema_id", "schema_version", "routing_key"}
