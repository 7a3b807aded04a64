"""Files as Danube's engine wrote them in each era, by a writer that shares no code with the reader.

It follows the published facts about the bytes, and `golden.tsv` holds it to them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import Final

import attrs

from danube_trio.testing import SimDisk

DIR: Final = "/danube"
# codec -> (schema, whether integers vary in size)
ERAS: Final = {
    "s1-legacy": (1, False),
    "s2-legacy": (2, False),
    "s2-standard": (2, True),
    "s3-standard": (3, True),
    "s5-standard": (5, True),
}


@attrs.frozen
class Sent:
    """A message as a producer hands it to Danube."""

    payload: bytes
    request_id: int = 1
    producer_id: int = 300
    topic: str = "/default/orders"
    broker: str = "127.0.0.1:6650"
    segment_id: int = 0
    publish_time: int = 1758383000123
    producer: str = "p1"
    subscription: str | None = None
    attributes: dict[str, str] = attrs.Factory(lambda: {"k": "v"})
    schema_id: int | None = 5
    schema_version: int | None = 2
    routing_key: str | None = "eu"


def sent(number: int, of: str = "message") -> Sent:
    """A message that differs from all others in payload, request and time."""
    return Sent(
        f"{of} {number}".encode(), request_id=number, publish_time=1758383000000 + number * 1000
    )


class _Out:
    def __init__(self, varies: bool) -> None:
        self._varies = varies
        self.data = b""

    def uint(self, value: int, size: int = 8) -> None:
        if not self._varies:
            self.data += value.to_bytes(size, "little")
        elif value < 251:
            self.data += bytes([value])
        else:
            mark, width = next(
                (m, w) for m, w in ((251, 2), (252, 4), (253, 8)) if value >> 8 * w == 0
            )
            self.data += bytes([mark]) + value.to_bytes(width, "little")

    def text(self, value: bytes | str) -> None:
        raw = value.encode() if isinstance(value, str) else value
        self.uint(len(raw))
        self.data += raw

    def option_text(self, value: str | None) -> None:
        self.data += b"\0" if value is None else b"\1"
        if value is not None:
            self.text(value)

    def option_uint(self, value: int | None, size: int = 8) -> None:
        self.data += b"\0" if value is None else b"\1"
        if value is not None:
            self.uint(value, size)


def body(message: Sent, offset: int, codec: str = "s5-standard") -> bytes:
    """The encoded message; from S2 on the engine stamps the offset into it."""
    schema, varies = ERAS[codec]
    out = _Out(varies)
    out.uint(message.request_id)
    out.uint(message.producer_id)
    out.text(message.topic)
    out.text(message.broker)
    if schema == 1:
        out.uint(message.segment_id)
    out.uint(offset)
    out.text(message.payload)
    out.uint(message.publish_time)
    out.text(message.producer)
    out.option_text(message.subscription)
    out.uint(len(message.attributes))
    for key, value in message.attributes.items():
        out.text(key)
        out.text(value)
    if schema >= 3:
        out.option_uint(message.schema_id)
        out.option_uint(message.schema_version, 4)
    if schema >= 5:
        out.option_text(message.routing_key)
    return out.data


def framed(offset: int, data: bytes) -> bytes:
    """A body with its header."""
    return struct.pack("<QII", offset, len(data), zlib.crc32(data)) + data


def frame(offset: int, codec: str = "s5-standard", message: Sent | None = None) -> bytes:
    """One frame. At the seed producers leave their own offset, 0, in the message."""
    message = sent(offset) if message is None else message
    return framed(offset, body(message, 0 if codec == "s1-legacy" else offset, codec))


def run(start: int, end: int, codec: str = "s5-standard", of: str = "message") -> bytes:
    """Frames `[start, end)`."""
    return b"".join(frame(offset, codec, sent(offset, of)) for offset in range(start, end))


def dnb1(messages: Iterable[tuple[int, Sent]]) -> bytes:
    """An object of era S-b: a header, and records without a CRC."""
    records = [(offset, body(message, 0, "s1-legacy")) for offset, message in messages]
    data = b"DNB1\1" + struct.pack("<I", len(records))
    return data + b"".join(struct.pack("<QI", o, len(b)) + b for o, b in records)


def segment(number: int, messages: Iterable[Sent], codec: str = "s1-legacy") -> bytes:
    """`segment_<id>.bin` of the first engine."""
    found = list(messages)
    data = struct.pack("<QQQ", number, 1758383000, len(found))
    data += b"".join(body(message, i, codec) for i, message in enumerate(found))
    return data + struct.pack("<QQ", sum(len(m.payload) for m in found), len(found))


def on_disk(files: dict[str, bytes]) -> SimDisk:
    """A disk with these files in `DIR`."""
    disk = SimDisk()
    disk.make_dir(DIR)
    for name, data in files.items():
        disk.write_file(f"{DIR}/{name}", data)
    return disk
