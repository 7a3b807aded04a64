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

import json
from collections import Counter, deque
from collections.abc import Callable, MutableSequence, MutableSet, Sequence, Set
from enum import Enum
from inspect import get_annotations
from typing import Annotated, Any, Final, NewType, get_args, get_origin, get_type_hints

import cattrs
from cattrs import Converter, IterableValidationNote
from cattrs.cols import is_mapping, is_namedtuple, list_structure_factory
from cattrs.strategies import configure_union_passthrough

from danube_trio.typed._formats import FormatName, format_named
from danube_trio.typed._paths import UnfitError, is_class, name_of, resolve
from danube_trio.typed._plain import (
    Structure,
    register_bytes_as_text,
    register_plain,
    register_texts,
    text_in,
)


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
    register_plain(converter)
    register_texts(converter)
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
        register_bytes_as_text(converter)
        converter.register_structure_hook_factory(_has_number_keys, _number_keys_factory)
        converter.register_structure_hook_factory(_is_number_key, _number_key_factory)
    return converter


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
    resolve(kind)
    read = converter.gen_structure_attrs_fromdict(kind)
    expected = f"an object ({name_of(kind)})"

    def structure(value: Any, _: Any) -> Any:
        if value.__class__ is not dict:
            raise UnfitError(expected, value)
        return read(value, kind)

    return structure


def _class_unstructure_factory(kind: Any, converter: Converter) -> Callable[[Any], Any]:
    resolve(kind)
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
            number = json.loads(text_in(value, expected))
        except ValueError:
            raise UnfitError(expected, value) from None
        if not isinstance(number, _NUMBERS):
            raise UnfitError(expected, value)
        return hook(number, inner)

    return structure
