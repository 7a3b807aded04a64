"""Finds what a word in backquotes names, in docstrings and on pages.

A docstring writes `Wal.append` and `expected_offset` alike. What is public, or a page of these docs
(`docs/format.md`), becomes a link; what is not stays as it is. On a page a word of code that is a
public name becomes a link as well.

Names of other projects are links when their inventories could be fetched. Otherwise they are plain:
a name of ours that cannot be found is a warning, always.
"""

from __future__ import annotations

import builtins
import collections.abc
import re
import sys
import types
import typing
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole

# Where a name is looked for, in this order.
MODULES = (
    "danube_trio",
    *(f"danube_trio.{name}" for name in ("errors", "config", "message", "storage", "cloud")),
    *(f"danube_trio.{name}" for name in ("metadata", "catalog", "dispatch", "testing")),
    *(f"danube_trio.{name}" for name in ("typed", "prometheus", "watch")),
    *(f"danube_trio.{name}" for name in ("anyio", "blocking")),
)
OTHERS = {"anyio", "attrs", "cattrs", "outcome", "prometheus_client", "trio"}
SAID_SHORT = (builtins, typing, collections.abc, types)
# How the documentation calls an object of a class.
USUAL = {
    "wal": "Wal",
    "receipt": "Receipt",
    "reader": "Reader",
    "follower": "Follower",
    "replica": "Replica",
    "storage": "Storage",
    "subscription": "Subscription",
    "message": "Delivery",
    "disk": "SimDisk",
}
PAGE = re.compile(r"^docs/([\w/-]+)\.md$")
WORD = re.compile(r"^[A-Za-z_][\w.]*$")
TYPE_VARIABLE = re.compile(r"(^|\.)T(_co)?$")
LENIENT = "danube_lenient"
CALLED = "danube_called"  # with parentheses: `wal.trim()` is a method, `wal.trim` a file


class NameRole(XRefRole):
    """The default role."""

    def process_link(
        self, env: BuildEnvironment, refnode: nodes.Element, explicit: bool, title: str, target: str
    ) -> tuple[str, str]:
        """Called with each word in backquotes."""
        del explicit
        page = PAGE.match(target)
        refnode[LENIENT], refnode[CALLED] = True, title.endswith(")")
        if page is not None:
            refnode.update_all_atts({"refdomain": "std", "reftype": "doc"}, replace=True)
            refnode["refexplicit"] = True
            return title, f"/{page[1]}"
        _place(env, refnode)
        return title, re.sub(r"\(.*\)$", "", target)


def _place(env: BuildEnvironment, node: nodes.Element) -> None:
    node["refdomain"], node["reftype"] = "py", "obj"
    node["py:module"] = env.ref_context.get("py:module")
    node["py:class"] = env.ref_context.get("py:class")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_role("name", NameRole(innernodeclass=nodes.literal))
    app.connect("doctree-read", mark_words)
    app.connect("missing-reference", keep_plain, priority=100)  # before intersphinx
    app.connect("missing-reference", find, priority=900)  # and after it
    return {"parallel_read_safe": True}


def mark_words(app: Sphinx, tree: nodes.document) -> None:
    """Let each word of code on a page be looked up; a word that could be English is not."""
    if app.env.docname.startswith("decisions/"):
        return  # they speak of what there was when they were taken
    for literal in list(tree.findall(nodes.literal)):
        word = re.sub(r"\(.*\)$", "", literal.astext())
        page = PAGE.match(word)
        linked = isinstance(literal.parent, nodes.reference | addnodes.pending_xref | nodes.title)
        named = WORD.match(word) is not None and re.search(r"[A-Z_.]", word) is not None
        if linked or not (page or named):
            continue
        node = addnodes.pending_xref("", refwarn=False, refexplicit=True, refdoc=app.env.docname)
        node[LENIENT], node[CALLED] = True, literal.astext().endswith(")")
        node["reftarget"] = f"/{page[1]}" if page else word
        node["refdomain"], node["reftype"] = ("std", "doc") if page else ("py", "obj")
        literal.replace_self(node)
        node += literal


def keep_plain(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """Link what is ours; and keep other projects from taking words like `time` and `copy`."""
    target = node["reftarget"]
    if node.get("refdomain") != "py" or not node.get(LENIENT):
        return None
    found = find(app, env, node, content)
    named = target[:1].isupper() or target.partition(".")[0] in OTHERS
    return None if found is content and named else found


def find(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    """The link to a name of ours, or the plain word where that is all there can be."""
    if node.get("refdomain") != "py":
        return content if node.get(LENIENT) else None
    target = node["reftarget"]
    domain = env.domains.python_domain
    name = _known(domain, target, node)
    if name is not None:
        entry = domain.objects[name]
        uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
        link = nodes.reference("", "", content, internal=True, reftitle=name)
        link["refuri"] = f"{uri}#{entry.node_id}"
        return link
    return content if node.get(LENIENT) or _is_foreign(target) else None


def _known(domain: PythonDomain, target: str, node: nodes.Element) -> str | None:
    """The full name of what `target` is, as the reference has it."""
    module, inside = node.get("py:module"), node.get("py:class")
    first, _, rest = target.partition(".")
    spellings = [target]
    if node.get(CALLED) and first in USUAL:
        spellings.append(f"{USUAL[first]}.{rest}")
    if module and inside:
        spellings.insert(0, f"{inside}.{target}")
    for spelling in spellings:
        for prefix in (module, None, *MODULES):
            full = f"{prefix}.{spelling}" if prefix else spelling
            if full in domain.objects:
                return full
    return _elsewhere(domain, target)


def _elsewhere(domain: PythonDomain, target: str) -> str | None:
    """Of ours, by a name that the reference does not use: `danube_trio.storage.Storage`."""
    module, _, name = target.rpartition(".")
    if module.split(".")[0] != "danube_trio":
        return None
    try:
        value = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return None
    for prefix in MODULES:
        full = f"{prefix}.{name}"
        if full in domain.objects and getattr(import_module(prefix), name, None) is value:
            return full
    return None


def _is_foreign(target: str) -> bool:
    first, _, rest = target.partition(".")
    if TYPE_VARIABLE.search(target):
        return True
    if first in OTHERS or (rest and first in sys.stdlib_module_names):
        return True
    return not rest and any(hasattr(module, first) for module in SAID_SHORT)
