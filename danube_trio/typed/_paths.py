"""From the exceptions of a failed conversion to the fields that they are about.

Reading, cattrs says it itself: with detailed validation its errors are groups, in which a note on
each member tells the field or index. Writing, it says nothing: there the value is taken apart again
until the smallest part is found that fails by itself. Both happen after a failure only.
"""

from __future__ import annotations

import reprlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import UnionType
from typing import (
    Annotated,
    Any,
    Final,
    Literal,
    NewType,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

import attrs
import cattrs
from cattrs import AttributeValidationNote, IterableValidationNote

from danube_trio.errors import describe, text_of
from danube_trio.typed._errors import Problem

MAX_DEPTH = 200  # a value may contain itself

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60
_short.maxlevel = 2


class UnfitError(TypeError):
    """A plain value, or an object, is not what its place asks for."""

    def __init__(self, expected: str, found: object) -> None:
        super().__init__(f"expected {expected}, got {show(found)}")


def show(value: object) -> str:
    """A value and its type, short."""
    if value is None:
        return "None"
    return f"{_short.repr(value)} ({type(value).__name__})"


def name_of(kind: Any) -> str:
    """The name of a type, for people."""
    if kind is Ellipsis:
        return "..."
    args = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " | ".join("None" if arg is type(None) else name_of(arg) for arg in args)
    name = getattr(get_origin(kind) or kind, "__name__", None)
    if name is None or get_origin(kind) is Literal:
        return str(kind)
    return f"{name}[{', '.join(map(name_of, args))}]" if args else str(name)


def is_class(kind: Any) -> bool:
    """Whether it is an attrs class or a dataclass, perhaps with parameters."""
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and (
        attrs.has(origin) or hasattr(origin, "__dataclass_fields__")
    )


def resolve(kind: Any) -> None:
    """Turn annotations that are texts into types. Raises NameError.

    cattrs does it as well, but some versions fail at classes with parameters.
    """
    origin = get_origin(kind) or kind
    if attrs.has(origin):
        attrs.resolve_types(origin)


def _fields_of(kind: Any) -> Iterator[tuple[str, Any]]:
    """Name and declared type of the fields of such a class; None for a type that is not known."""
    origin = get_origin(kind) or kind
    if attrs.has(origin):
        found = {field.name: field.type for field in attrs.fields(origin)}
    else:
        try:
            hints = get_type_hints(origin)
        except NameError:
            hints = {}
        found = {name: hints.get(name) for name in origin.__dataclass_fields__}
    for name, hint in found.items():
        yield name, None if isinstance(hint, str | TypeVar) else hint


# ---- reading


def problems_of(error: BaseException, path: str = "") -> Iterator[Problem]:
    """The leaves of what cattrs raised."""
    if not isinstance(error, cattrs.BaseValidationError):
        yield Problem(path.lstrip("."), _reason(error))
        return
    for inner in error.exceptions:
        yield from problems_of(inner, path + _step(inner))


def _step(error: BaseException) -> str:
    """From the group to the member: `.name` or `[index]`, or nothing if it is about the group."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{note.name}"
        if isinstance(note, IterableValidationNote):
            return f"[{_short.repr(note.index)}]"
    return ""


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyError):
        for note in getattr(error, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                return "it is missing"
        return f"no {error}"
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        return f"unknown fields: {', '.join(sorted(map(repr, error.extra_fields)))}"
    if isinstance(error, AttributeError) and "has no attribute" in str(error):
        # cattrs takes for granted that a mapping has `items`, and an object its fields.
        return f"expected an object: {error}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    told = isinstance(error, TypeError | ValueError) or type(error).__module__.startswith("cattrs")
    return (text_of(error) if told else "") or describe(error)


# ---- writing


def unwritable(
    value: Any, kind: Any, unstructure: Callable[[Any, Any], object], error: Exception
) -> Problem:
    """What is wrong with a value.

    Args:
        kind: its declared type.
        unstructure: called with a part and its declared type; it failed for the whole.
        error: how it failed.
    """
    path, part, kind, error = _smallest(value, kind, unstructure, error)
    kind = _fitting(part, kind)
    if not _may_be(part, kind):
        error = UnfitError(name_of(kind), part)
    return Problem(path, _reason(error))


def unformed(
    tree: Any, kind: Any, dumps: Callable[[Any], object], error: Exception, name: str
) -> Problem:
    """What is wrong with plain data of this type, for a format of that name."""
    path, part, _, error = _smallest(tree, kind, lambda part, _: dumps(part), error)
    return Problem(path, f"{show(part)} cannot be written as {name}: {_reason(error)}")


def _smallest(
    value: Any, kind: Any, attempt: Callable[[Any, Any], object], error: Exception
) -> tuple[str, Any, Any, Exception]:
    """The smallest part for which the attempt fails: path, part, declared type, how it fails."""
    path = ""
    for _ in range(MAX_DEPTH):
        for step, part, part_kind in _parts(value, kind):
            try:
                attempt(part, part_kind)
            except Exception as inner:
                path, value, kind, error = path + step, part, part_kind, inner
                break
        else:
            break
    return path.lstrip("."), value, kind, error


def _may_be(value: Any, kind: Any) -> bool:
    """Whether a value is of this type, as far as can be told."""
    origin = get_origin(kind) or kind
    if is_typeddict(origin):
        return isinstance(value, Mapping)
    try:
        return not isinstance(origin, type) or isinstance(value, origin)
    except TypeError:  # a protocol, say: cannot be told
        return True


def _fitting(value: Any, kind: Any) -> Any:
    """The type itself, without decoration; of a union the member that the value seems to be."""
    while get_origin(kind) in (Annotated, Final):
        kind = get_args(kind)[0]
    if isinstance(kind, NewType):
        return _fitting(value, kind.__supertype__)
    if get_origin(kind) not in (Union, UnionType):
        return kind
    if value is None:
        return None
    members = [member for member in get_args(kind) if member is not type(None)]
    for member in members:
        if _may_be(value, member):
            return member
    return members[0] if len(members) == 1 else None


def _parts(value: Any, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """What a value consists of: step, part and declared type."""
    kind = _fitting(value, kind)
    args = get_args(kind)
    if is_class(type(value)):
        if is_class(kind) and type(value) is (get_origin(kind) or kind):
            for name, hint in _fields_of(kind):
                if hasattr(value, name):
                    yield f".{name}", getattr(value, name), hint
    elif isinstance(value, Mapping):
        hints = dict(_fields_of(kind)) if is_class(kind) else {}
        pairs = cast("Iterable[tuple[Any, Any]]", value.items())
        for key, part in pairs:
            if hints:
                yield f".{key}", part, hints.get(key)
            else:
                yield f"[{_short.repr(key)}]", part, args[1] if len(args) == 2 else None
    elif isinstance(value, list | tuple | set | frozenset | deque):
        several = get_origin(kind) is tuple and Ellipsis not in args
        kinds, every = (args, None) if several else ((), next(iter(args), None))
        for index, part in enumerate(cast("Iterable[Any]", value)):
            yield f"[{index}]", part, kinds[index] if index < len(kinds) else every
