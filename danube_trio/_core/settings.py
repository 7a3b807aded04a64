"""Checks of settings: validators of attrs fields. A bad value is a ``ValueError`` that names the
field and the value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def between(low: float, high: float, *, optional: bool = False) -> Validator:
    """A number from `low` to `high`; `optional`: or None."""

    def check(_: Any, field: attrs.Attribute[Any], value: Any) -> None:
        if value is None and optional:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{field.name}={value!r} must be a number")
        if not low <= value <= high:
            raise ValueError(f"{field.name}={value!r} must be between {low} and {high}")

    return check


def whole(low: int, high: int, *, optional: bool = False, first: bool = False) -> Validator:
    """The same for a whole number; `first`: that it must be one is said of whatever is none."""
    in_range = between(low, high, optional=optional)

    def check(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        wrong = not is_whole and not (optional and value is None)
        if not (first and wrong):
            in_range(instance, field, value)
        if wrong:
            raise ValueError(f"{field.name}={value!r} must be a whole number")

    return check
