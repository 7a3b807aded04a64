"""What stands in headers and parameters of the protocol: content types, times, producers.

Each function takes a text as it came and gives a value, or refuses with 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime

import attrs

from danube_trio.http._request import Refusal

DEFAULT_TYPE = "application/octet-stream"
JSON = "application/json"
# What JavaScript can count to.
MAX_NUMBER = (1 << 53) - 1
# Producer ids and Stream-Seq are kept for as long as the stream: a guess, a URL fits.
MAX_ID_BYTES = 256
MAX_TYPE_BYTES = 256

_TYPE = re.compile(
    r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:\s*;[\x20-\x7e\t]*)?"
)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}", re.ASCII)
_TIME = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", re.ASCII
)


def number(text: str, name: str) -> int:
    """A whole number in decimal notation, without sign or leading zeros."""
    if not _NUMBER.fullmatch(text) or int(text) > MAX_NUMBER:
        raise Refusal(400, f"{name} must be a whole number from 0 to {MAX_NUMBER}")
    return int(text)


def moment(text: str, name: str) -> float:
    """An RFC 3339 time as seconds since 1970."""
    if _TIME.fullmatch(text):
        try:
            # Digits beyond microseconds are cut: no clock here has them.
            short = re.sub(r"(\.\d{6})\d+", r"\1", text.upper())
            return datetime.fromisoformat(short).astimezone(UTC).timestamp()
        except (ValueError, OverflowError):
            pass  # no such day or time: refused below
    raise Refusal(400, f"{name} must be a time as RFC 3339 has it, such as 2030-01-31T12:00:00Z")


def content_type(text: str) -> str:
    """A content type, checked."""
    if len(text) > MAX_TYPE_BYTES or not _TYPE.fullmatch(text):
        raise Refusal(400, "Content-Type must be a type/subtype")
    return text


def kind(text: str) -> str:
    """A content type without its parameters, in lower case: by this they are compared."""
    return text.partition(";")[0].strip().lower()


def is_text(kind: str) -> bool:
    """Whether SSE carries it as it is."""
    return kind == JSON or kind.startswith("text/")


def is_true(headers: Mapping[str, str], name: str) -> bool:
    """Whether a header says ``true``; whatever else it says is as if it were not there."""
    return headers.get(name, "").strip().lower() == "true"


@attrs.frozen
class Sent:
    """Who sends a batch, and which of theirs it is."""

    producer: str
    epoch: int
    seq: int


def sent(headers: Mapping[str, str]) -> Sent | None:
    """The three producer headers; None if there is none of them."""
    names = ("producer-id", "producer-epoch", "producer-seq")
    there = [name for name in names if name in headers]
    if not there:
        return None
    if len(there) < len(names):
        raise Refusal(400, "Producer-Id, Producer-Epoch and Producer-Seq go together")
    producer = identifier(headers["producer-id"], "Producer-Id")
    epoch = number(headers["producer-epoch"], "Producer-Epoch")
    return Sent(producer, epoch, number(headers["producer-seq"], "Producer-Seq"))


def identifier(text: str, name: str) -> str:
    """A text that is kept: not empty, and not too long."""
    if not text.strip():
        raise Refusal(400, f"{name} must not be empty")
    if len(text.encode("utf-8", "surrogateescape")) > MAX_ID_BYTES:
        raise Refusal(400, f"{name} has more than {MAX_ID_BYTES} bytes")
    return text
