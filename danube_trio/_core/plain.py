"""Plain data: what JSON from outside says, and statistics as what JSON can say.

`from_json` is the only way in for JSON that a disk, a store, a server, another program or a person
hands over. Whatever the bytes are, the outcome is plain data or a ValueError, in time that grows
with their number and in `JSON_COST_BYTES` beside it:

- brackets are counted before anything is parsed, so neither the depth nor the number of values is
  for the parser (or whoever walks the tree after it) to find out;
- whole numbers have twenty digits at most, others are finite: no NaN, no Infinity, no 1e999;
- no key is there twice, and every text has a UTF-8 form.
"""

from __future__ import annotations

import enum
import json
import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from typing import Any, cast

import attrs

# Statistics nest three deep; a loop in them would be a bug. A guess.
MAX_DEPTH = 12
# Of lists; up to twice as deep where objects stand in them. What we read nests five deep. A guess.
JSON_DEPTH = 64
# What the tree may take in memory: 130,000 segments in a checkpoint; and about what an object, its
# key, a list, a value and a text take in CPython 3.11 (half of it for each quote).
JSON_COST_BYTES = 48 << 20
_COSTS = ((b"{", 120), (b":", 120), (b"[", 88), (b",", 48), (b'"', 12))

_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_TEXT = re.compile(rb'"[^"]*"')
_NOT_SHAPE = bytes(set(range(256)) - set(b'[]{},:"'))
# Not at the beginning of a text, where names have their twenty digits.
_LONG_NUMBER = re.compile(rb"(?:^|[\[:,\s-])[0-9]{20}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def from_json(data: bytes) -> Any:
    """The plain data in a JSON text. ValueError (as json.JSONDecodeError is) says what is wrong."""
    text = str(data, "utf-8-sig")
    _check_shape(data)
    found = (_exact if _LONG_NUMBER.search(data) else _quick)(text)
    if _SURROGATE.search(data):
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text has a lone surrogate, which UTF-8 cannot carry") from error
    return found


def _check_shape(data: bytes) -> None:
    """ValueError for what is too deep, or too much. What is no JSON at all may pass."""
    lists = data.count(b"[") + data.count(b"{")
    if lists <= JSON_DEPTH and _cost(data) <= JSON_COST_BYTES:
        return
    shape = _ESCAPE.sub(b"", data) if b"\\" in data else data
    shape = shape.translate(None, _NOT_SHAPE)
    texts = shape.count(b'"')
    shape = _TEXT.sub(b"", shape)
    if _cost(shape) + 12 * texts > JSON_COST_BYTES:
        raise ValueError("it has more values than anything that is read here")
    shape = shape.translate(None, b',:"')
    for _ in range(JSON_DEPTH):
        shape = shape.replace(b"[]", b"").replace(b"{}", b"")
    if shape:
        raise ValueError(f"its brackets are not closed, or nested more than {JSON_DEPTH} deep")


def _cost(data: bytes) -> int:
    return sum(each * data.count(mark) for mark, each in _COSTS)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = Counter(key for key, _ in pairs)
        twice = next(key for key, count in keys.items() if count > 1)
        raise ValueError(f"the key {reprlib.repr(twice)} is there twice")
    return found


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"no number is {text:.20}")
    return number


def _int(text: str) -> int:
    if len(text) > 20:
        raise ValueError(f"a number has {len(text)} digits, where at most 20 are expected")
    return int(text)


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_quick = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_constant=_constant
).decode
_exact = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant
).decode


_SPACE = re.compile(r"[ \t\n\r]*")
# What is written is kept, so nothing is made of it: numbers and objects become what is at hand.
_value = json.JSONDecoder(
    object_pairs_hook=len, parse_float=len, parse_int=len, parse_constant=_constant
).raw_decode


def json_elements(data: bytes) -> list[bytes]:
    """The elements of a JSON array, each as it stands there; of another value, that value.

    The bounds are those of `from_json`, but for numbers and keys, which stay as they are written.
    ValueError says what is wrong.
    """
    text = str(data, "utf-8")
    _check_shape(data)
    start = _after_space(text, 0)
    if not text.startswith("[", start):
        _, end = _value(text, start)
        if _after_space(text, end) != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
        return [text[start:end].encode()]
    found: list[bytes] = []
    at = _after_space(text, start + 1)
    if not text.startswith("]", at):
        while True:
            _, end = _value(text, at)
            found.append(text[at:end].encode())
            at = _after_space(text, end)
            if not text.startswith(",", at):
                break
            at = _after_space(text, at + 1)
    if not text.startswith("]", at) or _after_space(text, at + 1) != len(text):
        raise json.JSONDecodeError("Expecting ',' or the end of the array", text, at)
    return found


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None  # it matches nothing, too
    return found.end()


def to_plain(value: object, depth: int = MAX_DEPTH) -> Any:
    """Objects become mappings by field name, tuples and sets lists; what JSON lacks becomes text.

    Numbers that are no numbers (infinities, NaN) become None.
    """
    if value is None or isinstance(value, bool | int | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, enum.Enum):
        return to_plain(value.value, depth)
    kind = type(value)
    if depth == 0 or kind in (bytes, bytearray, memoryview, type):
        return repr(value)
    if attrs.has(kind):
        names = [field.name for field in attrs.fields(kind)]
        return {name: to_plain(getattr(value, name), depth - 1) for name in names}
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        return {str(to_plain(k)): to_plain(v, depth - 1) for k, v in mapping.items()}
    if isinstance(value, Sequence | Set):
        items = cast("Sequence[object]", value)
        return [to_plain(item, depth - 1) for item in items]
    return repr(value)
