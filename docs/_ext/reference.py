"""Lists in the reference that are never behind the code: all public names of a module.

In an ``eval-rst`` block the line ``.. public-names:: danube_trio.dispatch`` becomes the directives
that document each name of the module's ``__all__``, in that order. ``without Name, Name`` leaves
out what another page has; ``with _module.Name`` adds a type that signatures mention, and that
nobody imports.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from sphinx.application import Sphinx

LINE = re.compile(
    r"^\.\. public-names:: ([\w.]+)(?: without ([\w, ]+?))?(?: with ([\w., ]+))?$", re.M
)


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("source-read", fill_in)
    return {"parallel_read_safe": True}


def fill_in(_: Sphinx, page: str, source: list[str]) -> None:
    """Rewrite a page as it is read."""
    if page.startswith("reference/"):
        source[0] = LINE.sub(lambda found: "\n".join(_directives(*found.groups())), source[0])


def _directives(module: str, without: str | None, more: str | None) -> Iterator[str]:
    left_out = set((without or "").split(", "))
    try:
        value = import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        yield "This version does not have it."
        return
    yield f".. py:module:: {module}"
    yield ""
    for name in value.__all__:
        if name not in left_out:
            yield f".. {_kind(getattr(value, name))}:: {name}"
            yield ""
    for name in filter(None, (more or "").split(", ")):
        yield f".. autoclass:: {module}.{name}"
        yield ""


def _kind(value: object) -> str:
    if inspect.isclass(value):
        return "autoexception" if issubclass(value, BaseException) else "autoclass"
    return "autofunction" if inspect.isroutine(value) else "autodata"
