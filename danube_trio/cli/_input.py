"""What ``append`` reads: bytes as they come, cut into messages. Holds at most one message and what
was fed last."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable
from typing import Any, Protocol, cast

from danube_trio.cli._failures import InputError
from danube_trio.message import MessageID, StreamMessage

__all__ = ["Parser", "make_parser", "message_of"]

_LENGTH = struct.Struct("<I")
# Fields that `replay --json` prints, and that the log assigns anew.
ASSIGNED = {"offset", "append_time"}
PLACE = {"producer_id": int, "topic_name": str, "broker_addr": str, "segment_id": int}
FIELDS = {
    "payload": str,
    "base64": str,
    "request_id": int,
    "publish_time": int,
    "producer_name": str,
    "attributes": dict,
    **PLACE,
}
OPTIONAL = {"subscription_name": str, "schema_id": int, "schema_version": int, "routing_key": str}


class Parser(Protocol):
    """Cuts a stream of bytes into messages."""

    def feed(self, data: bytes) -> list[Any]:
        """The messages that are complete now. Raises InputError."""
        ...

    def finish(self) -> list[Any]:
        """The rest, at the end of the input. Raises InputError."""
        ...


class _Lines:
    def __init__(self, limit: int, convert: Callable[[bytes, int], Any] | None) -> None:
        self._limit = limit
        self._convert = convert
        self._rest = b""
        self._number = 0

    def feed(self, data: bytes) -> list[Any]:
        lines = (self._rest + data).split(b"\n") if self._rest else data.split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > self._limit:
            raise InputError(
                f"line {self._number + len(lines) + 1} is longer than {self._limit} bytes"
            )
        return self._messages(lines)

    def finish(self) -> list[Any]:
        lines = [self._rest] if self._rest else []
        self._rest = b""
        return self._messages(lines)

    def _messages(self, lines: list[bytes]) -> list[Any]:
        first = self._number + 1
        self._number += len(lines)
        if self._convert is None:
            return lines
        return [self._convert(line, number) for number, line in enumerate(lines, first)]


class _LengthPrefixed:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest = b""
        self._number = 0

    def feed(self, data: bytes) -> list[Any]:
        data = self._rest + data
        found: list[Any] = []
        at = 0
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > self._limit:
                raise InputError(
                    f"payload {self._number + 1} would have {length} bytes, and the limit is "
                    f"{self._limit}: is the input length-prefixed?"
                )
            end = at + _LENGTH.size + length
            if end > len(data):
                break
            found.append(data[at + _LENGTH.size : end])
            self._number += 1
            at = end
        self._rest = data[at:]
        return found

    def finish(self) -> list[Any]:
        if self._rest:
            raise InputError(f"the input ends within payload {self._number + 1}")
        return []


def message_of(line: bytes, number: int) -> StreamMessage:
    """The message in a line of JSON, as `replay --json` prints it. Raises InputError."""
    try:
        fields = json.loads(line)
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
        return _message(cast("dict[str, Any]", fields))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise InputError(f"line {number}: {error} (--format lines takes lines as they are)") from (
            error
        )


def _message(fields: dict[str, Any]) -> StreamMessage:
    fields = {name: value for name, value in fields.items() if name not in ASSIGNED}
    for name, value in fields.items():
        _check(name, value)
    if ("payload" in fields) == ("base64" in fields):
        raise ValueError("a message has either a payload (text) or base64")
    if "payload" in fields:
        payload = fields.pop("payload").encode()
    else:
        payload = base64.b64decode(fields.pop("base64"), validate=True)
    place = MessageID(**{name: fields.pop(name) for name in PLACE.keys() & fields.keys()})
    return StreamMessage(payload, msg_id=place, **fields)


def _check(name: str, value: object) -> None:
    kind = FIELDS.get(name) or OPTIONAL.get(name)
    if kind is None:
        raise ValueError(f"the field {name!r} is unknown")
    if value is None and name in OPTIONAL:
        return
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{name} is no {'number' if kind is int else kind.__name__}")
    if isinstance(value, dict):
        for text in cast("dict[str, Any]", value).values():
            if not isinstance(text, str):
                raise ValueError(f"{name} has a value that is no str")


def make_parser(input_format: str, limit: int) -> Parser:
    """The parser of a format; no payload may be larger than `limit` bytes."""
    if input_format == "length-prefixed":
        return _LengthPrefixed(limit)
    if input_format == "ndjson":
        # Base64 and JSON's escapes make lines longer than payloads.
        return _Lines(limit * 6 + (1 << 20), message_of)
    return _Lines(limit, None)
