"""Renders our docstrings: what is written in them, with what the code knows beside it.

A section is a line that ends in a colon, and an indented block of items, ``name, name: text``:

- ``Args:`` and ``Raises:`` (also ``Raises, on leaving:``) become lists;
- ``Attributes:`` become attributes that can be linked to. Of an attrs class they get the type and
  the default that the field has, so neither stands twice.

A class that only a function can make is shown without a signature, and so is one whose arguments
are its attributes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import attrs
from sphinx.application import Sphinx

HEADING = re.compile(r"^(Args|Attributes|Raises|Returns|Yields)(, [\w ]+)?:$")
ITEM = re.compile(r"^(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*):(?: (.*))?$")
DASH = "\N{EN DASH}"
LABELS = {"Args": "Arguments"}
ERROR = re.compile(r"(?<![\w.`~])([A-Z]\w+Error)(?![\w`(])")
MANY_FIELDS = 3
OURS = {"History", "LoopDoor", "ThreadDoor"}
# Arguments that only the package itself has.
PRIVATE = re.compile(
    r"danube_trio[\w.]*\._[\w.]+\."
    r"(Engine|SubscriptionState|Entry|ThreadDoor|History|EtcdGateway|_\w+)\b"
)
WATCHED = (
    "~contextlib.AbstractAsyncContextManager[~collections.abc.AsyncIterator["
    "~danube_trio.metadata.WatchEvent]]"
)
CONFIG, MESSAGE = "~danube_trio.config", "~danube_trio.message.StreamMessage"
# Types as autodoc spells them, and what the reference calls them.
SPELLED = (
    (
        "~typing.Literal['accepted', 'written', 'fsync', 'uploaded']",
        "~danube_trio.config.Durability",
    ),
    ("~typing.Literal['refuse', 'truncate', 'skip']", "~danube_trio.config.CorruptionPolicy"),
    (
        "bytes | bytearray | memoryview | ~danube_trio.message.StreamMessage",
        "~danube_trio.Appendable",
    ),
    ("~danube_trio.metadata._tabled.Watch", WATCHED),
    ("~danube_trio.metadata._etcd_watch.EtcdWatch", WATCHED),
    ("~danube_trio.testing._sim_metadata._SimWatch", WATCHED),
)


@attrs.frozen
class Item:
    """`names`, and what is said about them, a list of lines."""

    names: list[str]
    text: list[str]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", render)
    app.connect("autodoc-process-signature", shorten)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def render(_: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place."""
    del name, options
    if what == "data" and value.__doc__ == type(value).__doc__:
        lines.clear()  # that of `str`, say
    lines[:] = list(_rendered(what, value, lines))


def _rendered(what: str, value: Any, lines: list[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        heading = HEADING.match(line)
        if heading is None:
            yield _linked(line.replace("Cancellation:", "**Cancellation:**", 1))
            continue
        block: list[str] = []
        while at < len(lines) and (not lines[at].strip() or lines[at].startswith(" ")):
            block.append(lines[at])
            at += 1
        yield ""
        if heading[1] == "Attributes":
            yield from _attributes(what, value, list(_items(block)))
        else:
            yield from _list(LABELS.get(heading[1], heading[1]) + (heading[2] or ""), block)
        yield ""


def _items(block: list[str]) -> Iterator[Item]:
    text = inspect.cleandoc("\n".join(["", *block])).splitlines()
    item: Item | None = None
    for line in text:
        found = ITEM.match(line)
        if found is not None:
            if item is not None:
                yield item
            item = Item(found[1].split(", "), [found[2] or ""])
        elif item is not None:
            item.text.append(line.strip())
    if item is not None:
        yield item


def _list(label: str, block: list[str]) -> Iterator[str]:
    yield f":{label}:"
    for item in _items(block):
        mark = "`{}`" if label.startswith("Raises") else "**{}**"
        names = ", ".join(mark.format(name.lstrip("*")) for name in item.names)
        yield f"   - {names} {DASH} {_linked(item.text[0])}"
        yield from (f"     {_linked(line)}" for line in item.text[1:])


def _attributes(what: str, value: Any, items: list[Item]) -> Iterator[str]:
    fields = _fields(value) if what in ("class", "exception") else {}
    for item in items:
        kinds = {_described(fields.get(name)) for name in item.names}
        yield f".. py:attribute:: {item.names[0]}"
        yield from (f"                  {name}" for name in item.names[1:])
        if len(kinds) == 1:
            yield from (f"   :{option}: {text}" for option, text in kinds.pop())
        yield ""
        yield from (f"   {_linked(line)}" for line in item.text)
        yield ""


def _linked(line: str) -> str:
    """Errors are linked wherever they are named, but in code."""
    return line if line.startswith("    ") else ERROR.sub(r"`\1`", line)


def _fields(value: Any) -> dict[str, attrs.Attribute[Any]]:
    return attrs.fields_dict(value) if attrs.has(value) else {}


def _described(field: attrs.Attribute[Any] | None) -> tuple[tuple[str, str], ...]:
    """Type and default of a field, as options of the directive."""
    if field is None:
        return ()
    kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
    options = [("type", kind)] if kind else []
    if field.default is not attrs.NOTHING:
        options.append(("value", _shown(field.name, field.default)))
    return tuple(options)


def _shown(name: str, default: Any) -> str:
    if isinstance(default, attrs.Factory):  # type: ignore[arg-type]  # a class, said to be a function
        return f"{getattr(default.factory, '__name__', '...')}()"
    if isinstance(default, int) and not isinstance(default, bool) and name.endswith("_bytes"):
        for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
            if default and default % size == 0:
                return f"{default // size} {unit}"
    return str(default) if hasattr(default, "name") else repr(default)


def shorten(
    _: Sphinx,
    what: str,
    name: str,
    value: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str, str | None] | None:
    """Name the types that have a name, and leave out signatures of which a reader has no use."""
    del name, options
    if what not in ("class", "exception"):
        return (_with_names(signature), returns and _with_names(returns)) if signature else None
    text = inspect.cleandoc(value.__doc__ or "")
    hidden = (
        re.search(r"[Mm]ade by ", text.split("\n\n")[0]) is not None
        or PRIVATE.search(signature or "") is not None
        or getattr(value, "_is_protocol", False)
        or (len(_fields(value)) > MANY_FIELDS and "\nAttributes:\n" in text)
    )
    return ("", "") if hidden else None


def _with_names(text: str) -> str:
    for spelled, name in SPELLED:
        text = text.replace(spelled, name)
    return text


def skip(_: Sphinx, what: str, name: str, value: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out what attrs adds, and properties that only the package itself has a use for."""
    del what, options
    inner = isinstance(value, property) and getattr(value.fget, "__annotations__", {}).get("return")
    return True if skipped or name.startswith("__attrs") or inner in OURS else None
