"""Bytes of plain data: JSON and msgpack, and which of them a message says it is.

The content type of a message is in its attribute ``content-type``, so that a log may hold both.
JSON is UTF-8 without spaces; NaN and infinity, which JSON does not have, are neither written nor
read. (A number like 1e999, which no float can hold, is read as infinity.)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, Literal

import attrs

FormatName = Literal["json", "msgpack"]
CONTENT_TYPE: Final = "content-type"

_NAMES: Final[dict[str, FormatName]] = {
    "application/json": "json",
    "application/msgpack": "msgpack",
    "application/vnd.msgpack": "msgpack",
    "application/x-msgpack": "msgpack",
}


@attrs.frozen
class Format:
    """How plain data become bytes, and back.

    Attributes:
        name: as in `FormatName`.
        content_type: what messages say.
        dumps, loads: raise TypeError, ValueError, OverflowError or RecursionError.
    """

    name: FormatName
    content_type: str
    dumps: Callable[[Any], bytes]
    loads: Callable[[bytes], Any]


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _json() -> Format:
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
    decode = json.JSONDecoder(parse_constant=_refuse_constant).decode

    def dumps(tree: Any) -> bytes:
        return encode(tree).encode()

    def loads(payload: bytes) -> Any:
        return decode(payload.decode())

    return Format("json", "application/json", dumps, loads)


def _msgpack() -> Format:
    try:
        msgpack = import_module("msgpack")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "messages in msgpack need the package msgpack: pip install 'danube-trio[msgpack]'",
            name=error.name,
        ) from error
    packb, unpackb = msgpack.packb, msgpack.unpackb

    def dumps(tree: Any) -> bytes:
        packed: bytes = packb(tree)
        return packed

    def loads(payload: bytes) -> Any:
        return unpackb(payload, strict_map_key=False)  # keys may be numbers

    return Format("msgpack", "application/msgpack", dumps, loads)


_FORMATS: Final = {"json": _json, "msgpack": _msgpack}


def format_named(name: FormatName) -> Format:
    """The format of that name. Raises ValueError, and ModuleNotFoundError without its package."""
    if name not in _FORMATS:
        raise ValueError(f"format={name!r} must be one of {', '.join(_FORMATS)}")
    return _FORMATS[name]()


def format_of(content_type: str) -> FormatName | None:
    """The format that a content type names, with or without parameters, if it is known."""
    return _NAMES.get(content_type.partition(";")[0].strip().lower())
