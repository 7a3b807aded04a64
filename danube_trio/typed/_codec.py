"""One type in one format: values to bytes and back, and what is wrong when that fails.

Reading is done without detailed validation, which costs time on every message. When it fails, it
is done again with it, for the path of the field: the message is at hand, and failures are rare.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Generic, TypeVar

import cattrs
from cattrs import BaseConverter, Converter

from danube_trio.typed._converter import make_converter
from danube_trio.typed._errors import Problem
from danube_trio.typed._formats import Format, FormatName, format_named
from danube_trio.typed._paths import name_of, problems_of, unformed, unwritable
from danube_trio.typed._plain import Structure

T = TypeVar("T")

MAX_PROBLEMS = 100  # in one error, which may be kept for long; a guess at what anybody reads


class Codec(Generic[T]):
    """Encodes and decodes one type. Any thread may call it.

    Attributes:
        format: of the bytes.
    """

    __slots__ = ("_detailed", "_fast", "_kind", "_read", "_write", "format")

    def __init__(
        self, kind: type[T], format: Format, fast: BaseConverter, detailed: BaseConverter
    ) -> None:
        self.format = format
        self._kind = kind
        self._fast = fast
        self._detailed = detailed
        self._read, self._write = _hooks_of(kind, fast)

    def dumps(self, value: T) -> bytes:
        """The bytes of a value. Raises whatever its conversion raises: see `unwritable`."""
        return self.format.dumps(self._write(value))

    def structure(self, tree: Any) -> T:
        """The value of plain data. Raises whatever its conversion raises: see `unreadable`."""
        value: T = self._read(tree, self._kind)
        return value

    def unreadable(self, tree: Any, error: Exception) -> list[Problem]:
        """Why `structure` failed with this error."""
        try:
            self._detailed.structure(tree, self._kind)
        except Exception as again:
            error = again
        return list(islice(problems_of(error), MAX_PROBLEMS))

    def unwritable(self, value: T, error: Exception) -> list[Problem]:
        """Why `dumps` failed with this error."""
        try:
            tree = self._write(value)
        except Exception as again:
            return [unwritable(value, self._kind, self._unstructure, again)]
        return [unformed(tree, self._kind, self.format.dumps, error, self.format.name)]

    def _unstructure(self, part: Any, kind: Any) -> Any:
        return self._fast.unstructure(part, unstructure_as=kind)


def _hooks_of(kind: Any, converter: BaseConverter) -> tuple[Structure, Callable[[Any], Any]]:
    """How to read the type, and how to write it.

    Raises TypeError if there is no way: now, not at the first message.
    """
    try:
        return converter.get_structure_hook(kind), converter.get_unstructure_hook(kind)
    except NameError as error:
        raise TypeError(f"{name_of(kind)} has an annotation that cannot be resolved") from error
    except cattrs.StructureHandlerNotFoundError as error:
        raise TypeError(
            f"{name_of(kind)} cannot be read: there is no hook for {error.type_!r}. Add one to "
            f"a converter from make_converter(), and hand that in as converter="
        ) from error


def make_codec(
    kind: type[T], name: FormatName, converter: Converter | None, forbid_extra_keys: bool
) -> Codec[T]:
    """A codec with the given converter, or with one of `make_converter`."""
    if converter is not None:
        # A copy loses what cattrs does not copy (fallbacks): good enough to explain a failure.
        pair = [converter, converter.copy(detailed_validation=True)]
    else:
        pair = [
            make_converter(name, detailed_validation=detailed, forbid_extra_keys=forbid_extra_keys)
            for detailed in (False, True)
        ]
    return Codec(kind, format_named(name), *pair)
