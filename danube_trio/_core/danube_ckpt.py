"""Danube's own checkpoint file, `wal.ckpt`, in all its layouts.

It says which file Danube's writer appends to and which ones it left behind. It has no version and
no checksum, and Danube forgets the rotated files after a restart, so an import may take it as a
hint and never as the truth. The layouts, oldest first (names ours, dates of Danube's commits):

======  ===========================  ========  ===================================================
layout  written by                   encoding  fields in order
======  ===========================  ========  ===================================================
C0      seed (2025-09-20)            JSON      last_offset, file_seq, file_path
C1      2025-09-27                   LEGACY    the same
C2      2025-09-30                   LEGACY    C1, rotated_files of (seq, path), active_file_name?,
                                               last_rotation_at?
C3      2025-10-01                   LEGACY    start_offset, then C2
C4      v0.5.0                       LEGACY    C3, but rotated_files of (seq, path, first_offset);
                                               then active_file_first_offset?
C5      v0.5.1 to v0.15.1            STANDARD  as C4
======  ===========================  ========  ===================================================

Encodings: see `bincode`; the JSON is compact, with the keys in this order. Decoding is as tolerant
as Danube's (unknown JSON keys, bytes after the last field); strict decoding refuses both, so that
trying the layouts one after the other finds the right one.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

import attrs

from danube_trio._core.bincode import (
    LEGACY,
    STANDARD,
    U64_MAX,
    DecodeError,
    Field,
    Reader,
    Wire,
    check_text,
    check_uint,
)
from danube_trio._core.plain import from_json


class RotatedFile(NamedTuple):
    """A file that Danube's writer left behind. `first_offset` is None where the layout lacks it."""

    seq: int
    path: str
    first_offset: int | None = None


def _rotated_files(files: Iterable[Iterable[Any]]) -> tuple[RotatedFile, ...]:
    return tuple(RotatedFile(*file) for file in files)


@attrs.frozen
class DanubeCheckpoint:
    """What Danube's `wal.ckpt` says. What the layout lacks is 0, empty or None.

    Attributes:
        start_offset: the first offset kept; Danube's writer always writes 0.
        last_offset: the last offset written, inclusive.
        file_seq: the number in the active file's name; 0 for the first file.
        file_path: the active file.
        rotated_files: the files before it, oldest first; tuples are taken too.
        active_file_name: the last part of `file_path`.
        last_rotation_at: unix seconds; Danube always writes None.
        active_file_first_offset: the first offset in the active file.
    """

    start_offset: int = 0
    last_offset: int = 0
    file_seq: int = 0
    file_path: str = ""
    rotated_files: tuple[RotatedFile, ...] = attrs.field(default=(), converter=_rotated_files)
    active_file_name: str | None = None
    last_rotation_at: int | None = None
    active_file_first_offset: int | None = None


def _no_such_field(field: str, value: object) -> ValueError:
    return ValueError(
        f"{field} is {reprlib.repr(value)}, but this checkpoint layout has no such field: leave it "
        f"unset, or write a newer layout"
    )


def _read_uint(reader: Reader, field: str) -> int:
    return reader.uint(field)


def _write_uint(wire: Wire, value: int, field: str) -> bytes:
    return wire.uint(value, field)


def _read_files(reader: Reader, field: str) -> list[RotatedFile]:
    count = reader.count(field, 2)
    return [RotatedFile(reader.uint(field), reader.text(field)) for _ in range(count)]


def _write_files(wire: Wire, files: tuple[RotatedFile, ...], field: str) -> bytes:
    parts = [wire.uint(len(files), field)]
    for number, file in enumerate(files):
        if file.first_offset is not None:
            raise _no_such_field(f"{field}[{number}].first_offset", file.first_offset)
        parts.append(wire.uint(file.seq, f"{field}[{number}].seq"))
        parts.append(wire.text(file.path, f"{field}[{number}].path"))
    return b"".join(parts)


def _read_files_with_offset(reader: Reader, field: str) -> list[RotatedFile]:
    return [
        RotatedFile(reader.uint(field), reader.text(field), reader.uint(field))
        for _ in range(reader.count(field, 3))
    ]


def _write_files_with_offset(wire: Wire, files: tuple[RotatedFile, ...], field: str) -> bytes:
    parts = [wire.uint(len(files), field)]
    for number, (seq, path, first_offset) in enumerate(files):
        parts.append(wire.uint(seq, f"{field}[{number}].seq"))
        parts.append(wire.text(path, f"{field}[{number}].path"))
        # None is a TypeError here: every file of this layout has one.
        parts.append(wire.uint(cast("int", first_offset), f"{field}[{number}].first_offset"))
    return b"".join(parts)


_START = Field("start_offset", _read_uint, _write_uint)
_FILE = (
    Field("last_offset", _read_uint, _write_uint),
    Field("file_seq", _read_uint, _write_uint),
    Field("file_path", Reader.text, Wire.text),
)
_ROTATION = (
    Field("active_file_name", Reader.option_text, Wire.option_text),
    Field("last_rotation_at", Reader.option_uint, Wire.option_uint),
)
_FILES = Field("rotated_files", _read_files, _write_files)
_FILES_WITH_OFFSET = Field("rotated_files", _read_files_with_offset, _write_files_with_offset)
_FIRST_OFFSET = Field("active_file_first_offset", Reader.option_uint, Wire.option_uint)

_C2 = (*_FILE, _FILES, *_ROTATION)
_C4 = (_START, *_FILE, _FILES_WITH_OFFSET, *_ROTATION, _FIRST_OFFSET)
_LAYOUTS: Final[Mapping[str, tuple[Wire | None, tuple[Field, ...]]]] = MappingProxyType(
    {
        "C0": (None, _FILE),  # None: JSON
        "C1": (LEGACY, _FILE),
        "C2": (LEGACY, _C2),
        "C3": (LEGACY, (_START, *_C2)),
        "C4": (LEGACY, _C4),
        "C5": (STANDARD, _C4),
    }
)
CHECKPOINT_LAYOUTS: Final = tuple(_LAYOUTS)


def _layout(name: str) -> tuple[Wire | None, tuple[Field, ...]]:
    if name not in _LAYOUTS:
        known = ", ".join(_LAYOUTS)
        raise ValueError(f"checkpoint layout {name!r} is unknown: it must be one of {known}")
    return _LAYOUTS[name]


def encode_checkpoint(checkpoint: DanubeCheckpoint, layout: str) -> bytes:
    """The file's content in one of `CHECKPOINT_LAYOUTS`.

    Raises:
        TypeError, ValueError: a field cannot be written, or is set and not in the layout, or there
            is no such layout.
    """
    wire, fields = _layout(layout)
    names = {field.name for field in fields}
    for attribute in attrs.fields(DanubeCheckpoint):
        value = getattr(checkpoint, attribute.name)
        if attribute.name not in names and value != attribute.default:
            raise _no_such_field(attribute.name, value)
    if wire is None:
        return _encode_json(checkpoint)
    return b"".join(
        [field.write(wire, getattr(checkpoint, field.name), field.name) for field in fields]
    )


def decode_checkpoint(data: bytes, layout: str, *, strict: bool = False) -> DanubeCheckpoint:
    """The checkpoint in a file's content, whose layout is known.

    Raises:
        DecodeError: it has another layout or is damaged; positions are bytes in `data`.
        ValueError: there is no such layout.
    """
    wire, fields = _layout(layout)
    if wire is None:
        return _decode_json(data, strict)
    reader = wire.reader(data, strict=strict)
    values = {field.name: field.read(reader, field.name) for field in fields}
    reader.finish()
    return DanubeCheckpoint(**values)


def _encode_json(checkpoint: DanubeCheckpoint) -> bytes:
    check_text(checkpoint.file_path, "file_path")
    values = {
        "last_offset": check_uint(checkpoint.last_offset, "last_offset", U64_MAX),
        "file_seq": check_uint(checkpoint.file_seq, "file_seq", U64_MAX),
        "file_path": checkpoint.file_path,
    }
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()


def _decode_json(data: bytes, strict: bool) -> DanubeCheckpoint:
    values = _parse_object(data)
    names = [field.name for field in _FILE]
    missing = [name for name in names if name not in values]
    if missing:
        raise DecodeError(0, f"{missing[0]} is missing")
    unknown = values.keys() - names
    if strict and unknown:
        raise DecodeError(0, f"the key {reprlib.repr(min(unknown))} is unknown")
    checkpoint = DanubeCheckpoint(**{name: values[name] for name in names})
    try:
        _encode_json(checkpoint)  # for its checks: only what could be written can have been
    except (TypeError, ValueError) as error:
        raise DecodeError(0, str(error)) from None
    return checkpoint


def _parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` is."""
    try:
        found = from_json(data)
    except UnicodeDecodeError as error:
        raise DecodeError(error.start, f"the JSON is not UTF-8: {error.reason}") from None
    except json.JSONDecodeError as error:
        position = len(error.doc[: error.pos].encode())
        raise DecodeError(position, f"the JSON is not valid: {error.msg}") from None
    except ValueError as error:
        raise DecodeError(0, f"the JSON is not a checkpoint: {error}") from None
    if not isinstance(found, dict):
        raise DecodeError(0, "the JSON is not an object")
    return cast("dict[str, Any]", found)
