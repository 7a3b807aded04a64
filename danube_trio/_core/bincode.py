"""The two integer encodings of the Rust crate bincode, and what Danube builds from them.

A value is a plain concatenation of its fields, little endian, without names, tags or alignment:

============  ==============================  ===================================================
value         LEGACY (bincode 1 `serialize`)  STANDARD (bincode 2 `config::standard()`)
============  ==============================  ===================================================
u64, u32      8, 4 bytes                      below 251 one byte; else FB + u16, FC + u32, FD + u64
str, bytes    length as u64, then the bytes   the same, with the length as above
Option        byte 0, or byte 1 and value     the same
list, map     count as u64, then the items    the same, with the count as above
============  ==============================  ===================================================

Sources: bincode 1.3.3, and the specification of bincode 2.0.1 on docs.rs. The vectors in the tests
were compared with what those crates write.

Reading is tolerant, as Danube's decoders are, or strict. Tolerant reading accepts an integer that
is not in its shortest form (`fb 01 00` is 1), a map that has a key twice (the last one counts) and
bytes after the last field. Strict reading refuses all three, so that one value has one encoding
but for the order of a map. Both refuse everything else that no writer writes. A length is compared
with the bytes that are left before anything is done with it.
"""

from __future__ import annotations

import abc
import reprlib
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, cast

import attrs

U32_MAX: Final = (1 << 32) - 1
U64_MAX: Final = (1 << 64) - 1

_U16_MARK, _U32_MARK, _U64_MARK = 0xFB, 0xFC, 0xFD
_ONE_BYTE: Final = tuple(bytes([value]) for value in range(_U16_MARK))
_BYTES_AFTER_MARK: Final = {_U16_MARK: 2, _U32_MARK: 4, _U64_MARK: 8}
_LEAST_AFTER_MARK: Final = {_U16_MARK: _U16_MARK, _U32_MARK: 1 << 16, _U64_MARK: 1 << 32}

_LEGACY_U64: Final = struct.Struct("<Q")
_LEGACY_U32: Final = struct.Struct("<I")
_pack_u16: Final = struct.Struct("<BH").pack
_pack_u32: Final = struct.Struct("<BI").pack
_pack_u64: Final = struct.Struct("<BQ").pack

# Bytes that an integer occupies, by its first byte. The last two values begin no integer; their
# width leads beyond any buffer, so that who skips by this table fails at the next byte it touches.
STANDARD_WIDTHS: Final = [1] * _U16_MARK + [3, 5, 9] + [1 << 62] * 2


class DecodeError(ValueError):
    """Bytes that are not what the layout says.

    Attributes:
        position: where, counted from the first byte of what was decoded: a message's body, a
            checkpoint or, for the late field of a message that was delivered already, the bytes
            after its payload.
        reason: what is wrong there.
        offset: the record's offset in the log, or None.
    """

    def __init__(self, position: int, reason: str, offset: int | None = None) -> None:
        super().__init__(position, reason, offset)
        self.position = position
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        record = "" if self.offset is None else f"record {self.offset}: "
        return f"{record}{self.reason} (at byte {self.position})"


def check_uint(value: object, field: str, highest: int) -> int:
    """`value` as a plain int in `0..highest`.

    Raises:
        TypeError: not an int; a bool is not one.
        ValueError: out of range. Both name the field and the value.
    """
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{field} must be an int, not {reprlib.repr(value)}")
    if not 0 <= value <= highest:
        raise ValueError(f"{field} must be between 0 and {highest}, not {reprlib.repr(value)}")
    return int(value)


def check_bytes(value: object, field: str) -> bytes:
    """`value` as immutable bytes, copied when it was a bytearray or a memoryview.

    Raises:
        TypeError: anything else.
    """
    if isinstance(value, memoryview):
        return value.tobytes()
    if not isinstance(value, bytes | bytearray):
        raise TypeError(f"{field} must be bytes, not {reprlib.repr(value)}")
    return bytes(value)


def check_text(value: object, field: str) -> bytes:
    """`value` as UTF-8.

    Raises:
        TypeError: not a str.
        ValueError: it has a lone surrogate. Both name the field and the value.
    """
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a str, not {reprlib.repr(value)}")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        surrogate = f"{reprlib.repr(value)} has a lone surrogate at character {error.start}"
        raise ValueError(f"{field} must be text that UTF-8 can carry: {surrogate}") from None


class Reader(abc.ABC):
    """A cursor over the bytes of one value.

    Each method reads one field, whose name is for the error's sentence, and raises `DecodeError`
    when the bytes are no such field.
    """

    __slots__ = ("_data", "_strict", "position")

    def __init__(self, data: bytes, *, strict: bool = False) -> None:
        self._data = data
        self._strict = strict
        self.position = 0

    @abc.abstractmethod
    def uint(self, field: str) -> int:
        """A u64."""

    @abc.abstractmethod
    def u32(self, field: str) -> int:
        """A u32."""

    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self.position

    def blob(self, field: str) -> bytes:
        begin = self.position
        size = self.uint(field)
        at = self.position
        end = at + size
        if end > len(self._data):
            raise DecodeError(begin, f"{field} claims {size} bytes where {self.left()} are left")
        self.position = end
        return self._data[at:end]

    def text(self, field: str) -> str:
        data = self.blob(field)
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            at = self.position - len(data) + error.start
            raise DecodeError(at, f"{field} is not UTF-8: {error.reason}") from None

    def option(self, field: str) -> bool:
        tag = self._fixed(1, field)
        if tag > b"\1":
            reason = f"{field} has the Option tag {tag[0]}, not 0 or 1"
            raise DecodeError(self.position - 1, reason)
        return tag == b"\1"

    def option_uint(self, field: str) -> int | None:
        return self.uint(field) if self.option(field) else None

    def option_u32(self, field: str) -> int | None:
        return self.u32(field) if self.option(field) else None

    def option_text(self, field: str) -> str | None:
        return self.text(field) if self.option(field) else None

    def count(self, field: str, least_item_bytes: int) -> int:
        """The length of a list or map whose items take `least_item_bytes` each, or more."""
        begin = self.position
        count = self.uint(field)
        if count * least_item_bytes > self.left():
            left = self.left()
            raise DecodeError(begin, f"{field} claims {count} items where {left} bytes are left")
        return count

    def text_map(self, field: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for _ in range(self.count(field, 2)):
            begin = self.position
            key = self.text(field)
            if self._strict and key in found:
                raise DecodeError(begin, f"{field} has the key {reprlib.repr(key)} twice")
            found[key] = self.text(field)
        return found

    def finish(self) -> None:
        """Strict only: refuse bytes after the last field."""
        if self._strict and self.left():
            raise DecodeError(self.position, f"{self.left()} bytes follow the last field")

    def _fixed(self, size: int, field: str) -> bytes:
        at = self.position
        piece = self._data[at : at + size]
        if len(piece) < size:
            wanted = f"{size} bytes wanted, {len(piece)} left"
            raise DecodeError(at, f"unexpected end in {field}: {wanted}")
        self.position = at + size
        return piece


class LegacyReader(Reader):
    """Integers of fixed size."""

    __slots__ = ()

    def uint(self, field: str) -> int:
        return int.from_bytes(self._fixed(8, field), "little")

    def u32(self, field: str) -> int:
        return int.from_bytes(self._fixed(4, field), "little")


class StandardReader(Reader):
    """Integers of variable size."""

    __slots__ = ()

    def uint(self, field: str) -> int:
        begin = self.position
        if begin < len(self._data) and (first := self._data[begin]) < 0xFB:
            self.position = begin + 1
            return first
        first = self._fixed(1, field)[0]
        width = _BYTES_AFTER_MARK.get(first)
        if width is None:
            raise DecodeError(begin, f"{field} starts with 0x{first:02X}, which begins no u64")
        value = int.from_bytes(self._fixed(width, field), "little")
        if self._strict and value < _LEAST_AFTER_MARK[first]:
            raise DecodeError(begin, f"{field} has {value} in {width + 1} bytes, not its shortest")
        return value

    def u32(self, field: str) -> int:
        # bincode refuses the mark of a wider integer whatever its value is
        if self._data[self.position : self.position + 1] == b"\xfd":
            raise DecodeError(self.position, f"{field} is wider than a u32")
        return self.uint(field)


def _legacy_uint(value: int, field: str = "the integer") -> bytes:
    return _LEGACY_U64.pack(check_uint(value, field, U64_MAX))


def _legacy_u32(value: int, field: str) -> bytes:
    return _LEGACY_U32.pack(check_uint(value, field, U32_MAX))


def _standard_uint(value: int, field: str = "the integer") -> bytes:
    if value.__class__ is not int or value < 0:
        value = check_uint(value, field, U64_MAX)
    if value < 0xFB:
        return _ONE_BYTE[value]
    if value < 1 << 16:
        return _pack_u16(0xFB, value)
    if value < 1 << 32:
        return _pack_u32(0xFC, value)
    return _pack_u64(0xFD, check_uint(value, field, U64_MAX) if value >> 64 else value)


def _standard_u32(value: int, field: str) -> bytes:
    return _standard_uint(check_uint(value, field, U32_MAX), field)


class WriteUint(Protocol):
    """Encodes an integer; `field` is for the error's sentence."""

    def __call__(self, value: int, field: str = ..., /) -> bytes: ...


@attrs.frozen
class Wire:
    """One of the two encodings: a `Reader`, and writers.

    `wide` is `uint` for what is sure to be an integer from 2**32 to 2**64 - 1, and costs a third.

    Every writer takes a value and the field's name, and raises a `TypeError` or `ValueError` that
    names both when the value cannot be written.
    """

    name: str
    reader: type[Reader]
    uint: WriteUint
    u32: Callable[[int, str], bytes]
    wide: Callable[[int], bytes]

    def blob(self, value: object, field: str) -> bytes:
        data = check_bytes(value, field)
        return self.uint(len(data), field) + data

    def text(self, value: object, field: str) -> bytes:
        data = check_text(value, field)
        return self.uint(len(data), field) + data

    def option_uint(self, value: int | None, field: str) -> bytes:
        return b"\0" if value is None else b"\1" + self.uint(value, field)

    def option_u32(self, value: int | None, field: str) -> bytes:
        return b"\0" if value is None else b"\1" + self.u32(value, field)

    def option_text(self, value: str | None, field: str) -> bytes:
        return b"\0" if value is None else b"\1" + self.text(value, field)

    def text_map(self, value: object, field: str) -> bytes:
        """Keys in the dict's own order; Danube's is random, so any order is as good as its own."""
        if not isinstance(value, Mapping):
            raise TypeError(f"{field} must be a mapping, not {reprlib.repr(value)}")
        items = cast("Mapping[object, object]", value)
        parts = [self.uint(len(items), field)]
        for key, item in items.items():
            parts.append(self.text(key, f"a key of {field}"))
            parts.append(self.text(item, f"{field}[{reprlib.repr(key)}]"))
        return b"".join(parts)


@attrs.frozen
class Field:
    """A named field of a layout: how it is read and how it is written."""

    name: str
    read: Callable[[Reader, str], Any]
    write: Callable[[Wire, Any, str], bytes]


LEGACY: Final = Wire("legacy", LegacyReader, _legacy_uint, _legacy_u32, _LEGACY_U64.pack)
STANDARD: Final = Wire(
    "standard", StandardReader, _standard_uint, _standard_u32, partial(_pack_u64, 0xFD)
)
