"""Converters that neither guess nor lose: what `Schema` uses unless it is handed another.

cattrs by itself is lenient: ``int("3")``, ``bool("false")``, a text taken for a list of letters, an
object of a subclass written without the fields that the subclass adds. In a log that means a
program that reads something else than what was written, so here:

* numbers, texts and flags must be exactly that; an int will do for a float;
* lists, tuples and sets are read from lists only, and objects from mappings;
* an object is written by its own class only: one of a subclass is refused, unless a strategy of
  cattrs (`include_subclasses`) says how. (Inside a class that contains itself cattrs looks at the
  object instead of the declaration, so this is not noticed there.)

Times are ISO 8601 in both formats (so time zones keep their offset, and naive times stay naive),
and Decimal is a text: both come back as they were. Bytes are base64 in JSON.
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode
from collections import Counter, deque
from collections.abc import (
    Callable,
    MutableSequence,
    MutableSet,
    Sequence,
    Set,
)
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum
from inspect import get_annotations
from typing import Annotated, Any, Final, NewType, TypeVar, get_args, get_origin, get_type_hints
from uuid import UUID

import cattrs
from cattrs import Converter, IterableValidationNote
from cattrs.cols import is_mapping, is_namedtuple, list_structure_factory
from cattrs.strategies import configure_union_passthrough

from danube_trio.typed._formats import FormatName, format_named
from danube_trio.typed._paths import UnfitError, is_class, name_of

__all__ = ["make_converter"]

T = TypeVar("T")
Structure = Callable[[Any, Any], Any]


def make_converter(
    format: FormatName = "json",
    *,
    detailed_validation: bool = False,
    forbid_extra_keys: bool = False,
    omit_if_default: bool = False,
) -> Converter:
    """A new converter for a format, to which hooks and strategies of one's own can be added.

    Args:
        format: ``"json"`` or ``"msgpack"``.
        detailed_validation: slower, with errors that tell the fields; `Schema` makes a copy with
            it for that purpose.
        forbid_extra_keys, omit_if_default: see `cattrs.Converter`.
    """
    format_named(format)
    converter = Converter(
        detailed_validation=detailed_validation,
        forbid_extra_keys=forbid_extra_keys,
        omit_if_default=omit_if_default,
        unstruct_collection_overrides={Set: list, Counter: dict, tuple: list, deque: list},
    )
    natives = str | bool | int | float | None
    configure_union_passthrough(natives if format == "json" else natives | bytes, converter)
    _register_plain(converter)
    _register_texts(converter)
    converter.register_structure_hook_factory(_is_iterable, _iterable_factory)
    converter.register_structure_hook_factory(_is_fixed_tuple, _fixed_tuple_factory)
    converter.register_unstructure_hook_factory(_is_fixed_tuple, _fixed_tuple_unstructure_factory)
    converter.register_structure_hook_factory(is_namedtuple, _named_tuple_factory)
    converter.register_unstructure_hook_factory(is_namedtuple, _named_tuple_unstructure_factory)
    converter.register_structure_hook_factory(_is_enum, _enum_factory)
    converter.register_unstructure_hook_factory(_is_enum, _enum_unstructure_factory)
    converter.register_structure_hook_factory(is_class, _class_factory)
    converter.register_unstructure_hook_factory(is_class, _class_unstructure_factory)
    if format == "json":
        converter.register_unstructure_hook(bytes, _to_text(bytes, _base64))
        converter.register_structure_hook(bytes, _bytes_from_text)
        converter.register_structure_hook_factory(_has_number_keys, _number_keys_factory)
        converter.register_structure_hook_factory(_is_number_key, _number_key_factory)
    return converter


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


def _register_plain(converter: Converter) -> None:
    for kind in (int, str, bool, bytes):
        converter.register_structure_hook(kind, _exactly(kind))
    converter.register_structure_hook(float, _float)


def _base64(value: bytes) -> str:
    return b64encode(value).decode()


def _bytes_from_text(value: Any, _: Any) -> bytes:
    try:
        return b64decode(_text(value, "bytes in base64"), validate=True)
    except (binascii.Error, ValueError):
        raise UnfitError("bytes in base64", value) from None


# ---- what is a text in both formats


def _text(value: Any, expected: str) -> str:
    if value.__class__ is not str:
        raise UnfitError(expected, value)
    found: str = value
    return found


def _from_text(read: Callable[[str], Any], expected: str) -> Structure:
    def structure(value: Any, _: Any) -> Any:
        text = _text(value, expected)
        try:
            return read(text)
        except (ValueError, InvalidOperation, OverflowError):
            raise UnfitError(expected, value) from None

    return structure


def _decimal(value: Any, _: Any) -> Decimal:
    if value.__class__ is int:
        return Decimal(value)
    expected = "a decimal number in a text"
    try:
        return Decimal(_text(value, expected))
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


def _register_texts(converter: Converter) -> None:
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


# ---- lists, tuples, sets

_MAKE: Final[dict[Any, Callable[[list[Any]], Any] | None]] = {
    list: None,
    MutableSequence: None,
    tuple: tuple,
    Sequence: tuple,
    set: set,
    MutableSet: set,
    frozenset: frozenset,
    Set: frozenset,
    deque: deque,
}


def _is_fixed_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple and Ellipsis not in get_args(kind)


def _is_iterable(kind: Any) -> bool:
    return (get_origin(kind) or kind) in _MAKE and not _is_fixed_tuple(kind)


def _iterable_factory(kind: Any, converter: Converter) -> Structure:
    read = list_structure_factory(kind, converter)
    make = _MAKE[get_origin(kind) or kind]

    def structure(value: Any, _: Any) -> Any:
        if value.__class__ not in (list, tuple):
            raise UnfitError("a list", value)
        items = read(value, kind)
        return items if make is None else make(items)

    return structure


# Its constructor is that of ExceptionGroup, for who reads the types only.
_group: Final[Any] = cattrs.IterableValidationError


def _fixed_tuple_factory(kind: Any, converter: Converter) -> Structure:
    kinds = get_args(kind)
    hooks = [(converter.get_structure_hook(inner), inner) for inner in kinds]
    expected = f"a list of {len(kinds)}"

    def structure(value: Any, _: Any) -> Any:
        if value.__class__ not in (list, tuple) or len(value) != len(hooks):
            raise UnfitError(expected, value)
        items: list[Any] = []
        for index, (hook, inner) in enumerate(hooks):
            try:
                items.append(hook(value[index], inner))
            except Exception as error:
                error.add_note(IterableValidationNote(f"at index {index}", index, inner))
                raise _group("a tuple", [error], kind) from None
        return tuple(items)

    return structure


def _fixed_tuple_unstructure_factory(kind: Any, converter: Converter) -> Callable[[Any], Any]:
    hooks = [converter.get_unstructure_hook(inner) for inner in get_args(kind)]
    expected = f"a tuple of {len(hooks)}"

    def unstructure(value: Any) -> Any:
        if not issubclass(value.__class__, tuple) or len(value) != len(hooks):
            raise UnfitError(expected, value)
        return [hook(item) for hook, item in zip(hooks, value, strict=True)]

    return unstructure


def _plain_tuple(kind: Any) -> Any:
    """The tuple of a named tuple's types."""
    return tuple[tuple(get_type_hints(kind).values())]  # type: ignore[misc]  # made at run time


def _named_tuple_factory(kind: Any, converter: Converter) -> Structure:
    plain = _plain_tuple(kind)
    read = converter.get_structure_hook(plain)
    return lambda value, _: kind(*read(value, plain))


def _named_tuple_unstructure_factory(kind: Any, converter: Converter) -> Callable[[Any], Any]:
    write = converter.get_unstructure_hook(_plain_tuple(kind))

    def unstructure(value: Any) -> Any:
        if value.__class__ is not kind:
            raise UnfitError(name_of(kind), value)
        return write(value)

    return unstructure


# ---- enums


def _is_enum(kind: Any) -> bool:
    """One whose values are plain; where a type is declared for them, cattrs converts them."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        return False
    enum: type[Enum] = kind
    return "_value_" not in get_annotations(enum)


def _enum_factory(kind: Any, _: Converter) -> Structure:
    def structure(value: Any, _: Any) -> Any:
        member = kind(value)
        if member.value.__class__ is not value.__class__:  # True is not 1
            raise UnfitError(name_of(kind), value)
        return member

    return structure


def _enum_unstructure_factory(kind: Any, _: Converter) -> Callable[[Any], Any]:
    def unstructure(value: Any) -> Any:
        if value.__class__ is not kind:
            raise UnfitError(name_of(kind), value)
        return value.value

    return unstructure


# ---- classes


def _class_factory(kind: Any, converter: Converter) -> Structure:
    read = converter.gen_structure_attrs_fromdict(kind)
    expected = f"an object ({name_of(kind)})"

    def structure(value: Any, _: Any) -> Any:
        if value.__class__ is not dict:
            raise UnfitError(expected, value)
        return read(value, kind)

    return structure


def _class_unstructure_factory(kind: Any, converter: Converter) -> Callable[[Any], Any]:
    write = converter.gen_unstructure_attrs_fromdict(kind)
    origin = get_origin(kind) or kind

    def unstructure(value: Any) -> Any:
        if value.__class__ is not origin:
            raise UnfitError(f"{name_of(kind)} itself", value)
        return write(value)

    return unstructure


# ---- keys of mappings, which JSON writes as texts


class _NumberKey:
    """Marks the type of a mapping's keys that are numbers or flags."""


_NUMBERS: Final = (int, float, bool)


def _is_number(kind: Any) -> bool:
    if isinstance(kind, NewType):
        return _is_number(kind.__supertype__)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return all(isinstance(member.value, _NUMBERS) for member in kind)
    return kind in _NUMBERS


def _has_number_keys(kind: Any) -> bool:
    return is_mapping(kind) and bool(get_args(kind)) and _is_number(get_args(kind)[0])


def _number_keys_factory(kind: Any, converter: Converter) -> Structure:
    """The same mapping, with keys of a marked type."""
    key, *rest = get_args(kind)
    origin: Any = get_origin(kind)
    hook: Structure = converter.get_structure_hook(origin[(Annotated[key, _NumberKey], *rest)])
    return hook


def _is_number_key(kind: Any) -> bool:
    return get_origin(kind) is Annotated and _NumberKey in kind.__metadata__


def _number_key_factory(kind: Any, converter: Converter) -> Structure:
    inner = get_args(kind)[0]
    hook = converter.get_structure_hook(inner)
    expected = f"a text with {name_of(inner)} in it"

    def structure(value: Any, _: Any) -> Any:
        try:
            number = json.loads(_text(value, expected))
        except ValueError:
            raise UnfitError(expected, value) from None
        if not isinstance(number, _NUMBERS):
            raise UnfitError(expected, value)
        return hook(number, inner)

    return structure
