"""Hooks for what has no parts: numbers, texts, flags, bytes, times. `_converter` says the rules."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from typing import Any, Final, TypeVar
from uuid import UUID

from cattrs import Converter

from danube_trio.typed._paths import UnfitError

T = TypeVar("T")
Structure = Callable[[Any, Any], Any]


# ---- numbers, texts, flags


def _exactly(kind: type) -> Structure:
    name = kind.__name__

    def structure(value: Any, wanted: Any) -> Any:
        if value.__class__ is not kind:
            raise UnfitError(name, value)
        return value if wanted is kind else wanted(value)  # of a subclass, such as a StrEnum

    return structure


def _float(value: Any, _: Any) -> float:
    if value.__class__ is float:
        found: float = value
        return found
    if value.__class__ is int:
        try:
            return float(value)
        except OverflowError:
            raise UnfitError("float", value) from None
    raise UnfitError("float", value)


def register_plain(converter: Converter) -> None:
    """Numbers, texts, flags and bytes: exactly that."""
    for kind in (int, str, bool, bytes):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _float)


def register_bytes_as_text(converter: Converter) -> None:
    """Bytes as base64, for formats without bytes."""
    converter.register_unstructure_hook(bytes, _to_text(bytes, _base64))
    converter.register_structure_hook(bytes, _bytes_from_text)


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _bytes_from_text(value: Any, _: Any) -> bytes:
    try:
        return b64decode(text_in(value, "bytes in base64"), validate=True)
    except (binascii.Error, ValueError):
        raise UnfitError("bytes in base64", value) from None


# ---- what is a text in both formats


def text_in(value: Any, expected: str) -> str:
    """The value, if it is a text. Raises UnfitError."""
    if value.__class__ is not str:
        raise UnfitError(expected, value)
    found: str = value
    return found


def _from_text(read: Callable[[str], Any], expected: str) -> Structure:
    def structure(value: Any, _: Any) -> Any:
        text = text_in(value, expected)
        try:
            return read(text)
        except (ValueError, OverflowError):
            raise UnfitError(expected, value) from None

    return structure


# The program's own context may let Decimal("x") pass for a NaN.
_DECIMALS: Final = Context(traps=[InvalidOperation])


def _decimal(value: Any, _: Any) -> Decimal:
    if value.__class__ is int:
        return Decimal(value)
    expected = "a decimal number in a text"
    try:
        return Decimal(text_in(value, expected), _DECIMALS)
    except InvalidOperation:
        raise UnfitError(expected, value) from None


_DURATION: Final = re.compile(
    r"(?P<sign>[+-]?)P(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<part>\d{1,6}))?S)?)?",
    re.ASCII,
)


def _duration_text(value: timedelta) -> str:
    """ISO 8601, in seconds, exact to the microsecond."""
    sign, size = ("-", -value) if value < timedelta(0) else ("", value)
    part = f".{size.microseconds:06}" if size.microseconds else ""
    return f"{sign}PT{size.days * 86400 + size.seconds}{part}S"


def _duration(text: str) -> timedelta:
    match = _DURATION.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        raise ValueError(text)
    units = {name: int(match[name] or 0) for name in ("days", "hours", "minutes", "seconds")}
    size = timedelta(**units, microseconds=int((match["part"] or "").ljust(6, "0")))
    return -size if match["sign"] == "-" else size


def _to_text(kind: type[T], write: Callable[[T], str]) -> Callable[[T], str]:
    def unstructure(value: T) -> str:
        if not isinstance(value, kind):
            raise UnfitError(kind.__name__, value)
        return write(value)

    return unstructure


def register_texts(converter: Converter) -> None:
    """Times, UUIDs and decimal numbers."""

    def register(
        kind: type[T], write: Callable[[T], str], read: Callable[[str], T], expected: str
    ) -> None:
        converter.register_unstructure_hook(kind, _to_text(kind, write))
        converter.register_structure_hook(kind, _from_text(read, expected))

    register(datetime, datetime.isoformat, datetime.fromisoformat, "a time in ISO 8601")
    register(date, date.isoformat, date.fromisoformat, "a date in ISO 8601")
    register(time, time.isoformat, time.fromisoformat, "a time of day in ISO 8601")
    register(timedelta, _duration_text, _duration, "a duration in ISO 8601")
    register(UUID, str, UUID, "a UUID")
    converter.register_unstructure_hook(Decimal, _to_text(Decimal, str))
    converter.register_structure_hook(Decimal, _decimal)
