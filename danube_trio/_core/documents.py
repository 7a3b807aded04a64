"""JSON documents of the catalog: one byte form, and a strict way back.

The byte form is Danube's: keys in alphabetical order, no spaces, text as UTF-8. cattrs turns attrs
classes into and out of plain data; numbers, texts and flags must be exactly that, never something
that could be read as one. Fields that a later version added are ignored: a document that must not
be read by this version says so in its `format`.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import attrs
import cattrs
import cattrs.gen
import cattrs.v

from danube_trio._core.files import NewerFormatError

__all__ = ["compact", "converter", "parse", "refuse_newer", "said_only"]

T = TypeVar("T")


def _exactly(kind: type[T]) -> Any:
    def structure(value: object, _: object) -> T:
        if type(value) is not kind:
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return value

    return structure


converter = cattrs.Converter(forbid_extra_keys=False)
for _kind in (int, str, bool):
    converter.register_structure_hook(_kind, _exactly(_kind))


def said_only(kind: type[Any]) -> Any:
    """An unstructure hook that leaves out what nobody said: texts whose default is ""."""
    texts = [field.name for field in attrs.fields(kind) if field.default == ""]
    left_out: dict[str, Any] = {name: cattrs.gen.override(omit_if_default=True) for name in texts}
    return cattrs.gen.make_dict_unstructure_fn(kind, converter, **left_out)


def compact(value: object) -> bytes:
    """The bytes of plain data, or of an attrs class."""
    tree = converter.unstructure(value)
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parse(data: bytes, kind: type[T], *, newest: int | None = None) -> T:
    """The document of this kind in `data`; ValueError says what is wrong with it.

    With `newest`, it has a field `format`: NewerFormatError if that is greater.
    """
    try:
        tree = json.loads(data)
    except RecursionError as error:
        raise ValueError("the document is nested too deeply") from error
    try:
        if newest is not None:
            refuse_newer(tree["format"], newest)
        return converter.structure(tree, kind)
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
    if found > newest:
        raise NewerFormatError(f"format {found} is newer than this version knows ({newest})")
