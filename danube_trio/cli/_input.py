"""What ``append`` reads: bytes as they come, cut into messages. Holds at most one message and what
was fed last."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast

from danube_trio._core.plain import from_json
from danube_trio.cli._failures import InputError
from danube_trio.message import MessageID, StreamMessage

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


class Parsed(NamedTuple):
    """Messages, and which line or payload of the input each is, counted from 1."""

    messages: list[Any]
    numbers: Sequence[int]


class Parser(Protocol):
    """Cuts a stream of bytes into messages.

    Attributes:
        place: what the messages are in the input: line or payload.
        bad: why there are no more: the first thing that cannot be appended. What came before it in
            the same bytes is given first.
    """

    place: str
    bad: InputError | None

    def feed(self, data: bytes) -> Parsed:
        """The messages that are complete now."""
        ...

    def finish(self) -> Parsed:
        """The rest, at the end of the input."""
        ...


class _Lines:
    place = "line"

    def __init__(self, limit: int, convert: Callable[[bytes], Any] | None) -> None:
        self._limit = limit
        self._convert = convert
        self._rest: list[bytes] = []  # joined once: a long line comes in a thousand pieces
        self._rest_bytes = 0
        self._number = 0
        self.bad: InputError | None = None

    def feed(self, data: bytes) -> Parsed:
        lines: list[bytes] = []
        self._rest.append(data)
        self._rest_bytes += len(data)
        if b"\n" in data:
            lines = b"".join(self._rest).split(b"\n")
            self._rest = [lines.pop()]
            self._rest_bytes = len(self._rest[0])
        found = self._messages(lines)
        if self.bad is None and self._rest_bytes > self._limit:
            self._too_long(self._number + 1)
        return found

    def finish(self) -> Parsed:
        rest = b"".join(self._rest)
        self._rest, self._rest_bytes = [], 0
        return self._messages([rest] if rest else [])

    def _too_long(self, number: int) -> None:
        reason = f"it is longer than {self._limit} bytes, which is the limit: split it"
        self.bad = InputError("line", number, reason)

    def _messages(self, lines: list[bytes]) -> Parsed:
        first = self._number + 1
        self._number += len(lines)
        for number, line in enumerate(lines, first):
            if len(line) > self._limit:
                self._too_long(number)
                lines = lines[: number - first]
                break
        if self._convert is None:
            return Parsed(lines, range(first, first + len(lines)))
        return self._converted(lines, first, self._convert)

    def _converted(self, lines: list[bytes], first: int, convert: Callable[[bytes], Any]) -> Parsed:
        messages: list[Any] = []
        numbers: list[int] = []
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue  # an empty line is no message
            try:
                messages.append(convert(line))
            except ValueError as error:
                reason = f"{error} (--format lines takes lines as they are)"
                self.bad = InputError("line", number, reason)
                break
            numbers.append(number)
        return Parsed(messages, numbers)


class _LengthPrefixed:
    place = "payload"

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rest: list[bytes] = []  # joined when there is a whole payload
        self._rest_bytes = 0
        self._wanted_bytes = _LENGTH.size
        self._number = 0
        self.bad: InputError | None = None

    def feed(self, data: bytes) -> Parsed:
        self._rest.append(data)
        self._rest_bytes += len(data)
        first = self._number + 1
        found: list[Any] = []
        if self._rest_bytes >= self._wanted_bytes:
            data = b"".join(self._rest)
            rest = data[self._cut(data, found) :]
            self._rest, self._rest_bytes = [rest], len(rest)
        return Parsed(found, range(first, first + len(found)))

    def _cut(self, data: bytes, found: list[Any]) -> int:
        """Put the whole payloads into `found`; returns where the first that is not begins."""
        at = 0
        self._wanted_bytes = _LENGTH.size
        while len(data) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, at)
            if length > self._limit:
                self._refuse(
                    f"its length is given as {length} bytes, and the limit is {self._limit}: is "
                    f"the input length-prefixed?"
                )
                break
            end = at + _LENGTH.size + length
            if end > len(data):
                self._wanted_bytes = end - at
                break
            found.append(data[at + _LENGTH.size : end])
            self._number += 1
            at = end
        return at

    def finish(self) -> Parsed:
        rest = b"".join(self._rest)
        if rest:
            if len(rest) < _LENGTH.size:
                self._refuse(f"the input ends within its length, after {len(rest)} bytes")
            else:
                (length,) = _LENGTH.unpack_from(rest)
                have = len(rest) - _LENGTH.size
                self._refuse(f"the input ends within it, after {have} of {length} bytes")
        return Parsed([], ())

    def _refuse(self, reason: str) -> None:
        self.bad = InputError("payload", self._number + 1, reason)


def message_of(line: bytes) -> StreamMessage:
    """The message in a line of JSON, as `replay --json` prints it. Raises ValueError."""
    try:
        fields = from_json(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error.msg} (column {error.colno})") from error
    if not isinstance(fields, dict):
        raise ValueError("it is no object")
    return _message(cast("dict[str, Any]", fields))


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
