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


def integer(low: int, high: int, *, optional: bool = False) -> Validator:
    """The same for a whole number; says first of all that it must be one."""
    in_range = between(low, high, optional=optional)

    def check(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
        wrong = isinstance(value, bool) or not isinstance(value, int)
        if wrong and not (optional and value is None):
            raise ValueError(f"{field.name}={value!r} must be a whole number")
        in_range(instance, field, value)

    return check


def whole(low: int, high: int, *, optional: bool = False) -> Validator:
    """The same for a whole number."""
    in_range = between(low, high, optional=optional)

    def check(instance: Any, field: attrs.Attribute[Any], value: Any) -> None:
        in_range(instance, field, value)
        if isinstance(value, float):
            raise ValueError(f"{field.name}={value!r} must be a whole number")

    return check
