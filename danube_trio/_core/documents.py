"""JSON documents, of the catalog and beside the segments: a strict way back from bytes.

cattrs turns attrs classes into and out of plain data; numbers, texts and flags must be exactly
that, never something that could be read as one. Fields that a later version added are ignored: a
document that must not be read by this version says so in its `format`. The catalog's byte form is
Danube's (`compact`): keys in alphabetical order, no spaces, text as UTF-8.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import cattrs
import cattrs.gen
import cattrs.v

from danube_trio._core.plain import from_json

T = TypeVar("T")

# Above it, an error in a document tells the first thing that is wrong, and not where: all of them
# are an exception each, and take a hundred times what the document takes.
DETAILED_BYTES = 16 << 10


class NewerFormatError(ValueError):
    """The document was written by a later version of this library."""


def _exactly(kind: type[T]) -> Any:
    def structure(value: object, _: object) -> T:
        if type(value) is not kind:
            raise TypeError(f"{reprlib.repr(value)} is no {kind.__name__}")
        return value

    return structure


converter = cattrs.Converter(forbid_extra_keys=False)
for _kind in (int, str, bool):
    converter.register_structure_hook(_kind, _exactly(_kind))


def omit_defaults(kind: type[Any], *names: str) -> None:
    """Leave these fields out of the documents of this class where they say nothing: they are new.

    So documents that say nothing of them stay byte by byte what they were.
    """
    omitted: Any = {name: cattrs.gen.override(omit_if_default=True) for name in names}
    hook = cattrs.gen.make_dict_unstructure_fn(kind, converter, **omitted)
    converter.register_unstructure_hook(kind, hook)


def compact(value: object) -> bytes:
    """The bytes of plain data, or of an attrs class."""
    tree = converter.unstructure(value)
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@cache
def _brief() -> cattrs.Converter:
    """The converter, but the first error ends it. Made when all hooks are there."""
    return converter.copy(detailed_validation=False)


def parse(
    data: bytes,
    kind: type[T],
    *,
    newest: int | None = None,
    check: Callable[[Any], None] | None = None,
) -> T:
    """The document of this kind in `data`; ValueError says what is wrong with it.

    With `newest`, it has a field `format`: NewerFormatError if that is greater. `check` looks at
    the plain data before anything else, and may raise ValueError, or TypeError, AttributeError and
    KeyError where they are no such document.
    """
    tree = from_json(data)
    use = converter if len(data) <= DETAILED_BYTES else _brief()
    try:
        if check is not None:
            check(tree)
        if newest is not None:
            refuse_newer(tree["format"], newest)
        return use.structure(tree, kind)
    except cattrs.BaseValidationError as error:
        reasons = cattrs.transform_error(error, format_exception=_reason)
        raise ValueError("; ".join(reasons)) from error
    except (TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"the document is no {kind.__name__}: {error!r}") from error


def _reason(error: BaseException, kind: type | None) -> str:
    """What is wrong with one field; cattrs adds which."""
    if isinstance(error, (ValueError, TypeError)) and error.args:
        return str(error)
    return cattrs.v.format_exception(error, kind)


def refuse_newer(found: int, newest: int) -> None:
    """Before anything else is looked at: whatever else a later format says, it is newer."""
    if type(found) is not int:
        raise TypeError(f"the format {reprlib.repr(found)} is no int")
    if found > newest:
        raise NewerFormatError(f"format {found} is newer than this version knows ({newest})")
