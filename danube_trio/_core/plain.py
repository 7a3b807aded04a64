"""Statistics as plain data, for JSON, whatever fields they have."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any, cast

import attrs

__all__ = ["to_plain"]

# Statistics nest three deep; a loop in them would be a bug. A guess.
MAX_DEPTH = 12


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
