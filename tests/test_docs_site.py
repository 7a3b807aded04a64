"""The documentation site builds without a warning and without a network; nothing is missing.

The site is built once, by another process, into a directory of the test run.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag

import attrs
import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NEEDED = ("furo", "matplotlib", "myst_parser", "sphinx", "sphinx_copybutton")
PACKAGE = ROOT / "danube_trio"
# All that is public, apart from the command line, which has a page of its own.
MODULES = (
    "danube_trio",
    *(f"danube_trio.{path.stem}" for path in sorted(PACKAGE.glob("[a-z]*.py"))),
    *(f"danube_trio.{path.parent.name}" for path in sorted(PACKAGE.glob("[a-z]*/__init__.py"))),
)
# Made by Sphinx, and reached through its own search and index.
GENERATED = {"genindex.html", "py-modindex.html", "search.html"}

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in NEEDED),
    reason=f"the site needs {', '.join(NEEDED)}",
)


class Page(HTMLParser):
    """The links, the ids and the pictures of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.pictures: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        for name in ("href", "src"):
            if link := found.get(name):
                self.links.append(link)
        if tag == "svg" and found.get("role") == "img":
            self.pictures.append(found.get("aria-label") or "")


@attrs.frozen
class Site:
    """The built site: pages by their path in it, and what Sphinx said."""

    root: Path
    output: str
    pages: dict[str, Page]

    def targets(self, page: str) -> Iterator[tuple[str, str]]:
        """The links of a page to this site: path and fragment."""
        for link in self.pages[page].links:
            if link.startswith(("http:", "https:", "mailto:", "data:")):
                continue
            path, fragment = urldefrag(unquote(link))
            path = path.partition("?")[0]
            target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            yield target, fragment


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("site")
    sphinx = [sys.executable, "-m", "sphinx", "-q", "-b", "html", "-W", "--keep-going", "-n"]
    # The lists of methods beside each page take a third of the time, and lead nowhere else.
    options = ["-D", "toc_object_entries=0", "-d", str(root / "doctrees")]
    built = subprocess.run(
        [*sphinx, *options, str(DOCS), str(root / "html")],
        cwd=ROOT,
        env={**os.environ, "DANUBE_DOCS_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    html = root / "html"
    pages = {path.relative_to(html).as_posix(): Page(path) for path in html.rglob("*.html")}
    return Site(html, built.stdout if built.returncode else "", pages)


def test_the_site_builds_without_a_warning(site: Site) -> None:
    assert site.output == ""
    written = {path.relative_to(DOCS) for path in DOCS.rglob("*.md") if "_build" not in path.parts}
    assert {page.with_suffix(".html").as_posix() for page in written} <= set(site.pages)


def test_every_link_leads_somewhere(site: Site) -> None:
    broken = [
        (page, target, fragment)
        for page in site.pages
        for target, fragment in site.targets(page)
        if not (site.root / target).is_file()
        or (fragment and target in site.pages and fragment not in site.pages[target].ids)
    ]
    assert not broken


def test_every_page_can_be_reached(site: Site) -> None:
    reached, left = {"index.html"}, ["index.html"]
    while left:
        for target, _ in site.targets(left.pop()):
            if target in site.pages and target not in reached:
                reached.add(target)
                left.append(target)
    assert set(site.pages) - reached <= GENERATED


def drawing() -> ModuleType:
    """`docs/pictures.py`, as the site has it."""
    spec = importlib.util.spec_from_file_location("pictures", DOCS / "pictures.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    path = sys.path.copy()
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


def test_every_picture_is_on_a_page_and_says_what_it_shows(site: Site) -> None:
    shown = [label for page in site.pages.values() for label in page.pictures]
    assert len(shown) == len(drawing().PICTURES)
    assert all(len(label) > 40 for label in shown)


def test_the_comparison_has_the_figures_that_were_measured() -> None:
    page = (DOCS / "compared.md").read_text(encoding="utf-8")
    missing = [row for row in drawing().table() if row not in page]
    assert not missing, "\n".join(drawing().table())


def test_every_public_name_is_in_the_reference(site: Site) -> None:
    inventory = importlib.import_module("sphinx.util.inventory").InventoryFile
    found = inventory.loads((site.root / "objects.inv").read_bytes(), uri="")
    names = {name for kind, items in found.data.items() if kind[:3] == "py:" for name in items}
    described = {id(value) for name in names if (value := value_of(name)) is not None}
    missing = [
        f"{module}.{name}"
        for module in MODULES
        if module != "danube_trio.cli"
        for name in importlib.import_module(module).__all__
        if f"{module}.{name}" not in names
        and id(getattr(importlib.import_module(module), name)) not in described
    ]
    assert not missing


def value_of(name: str) -> object:
    """What a full name means, or None."""
    module, _, last = name.rpartition(".")
    if not module:
        return None
    try:
        return getattr(importlib.import_module(module), last, None)
    except ImportError:
        return None  # the name of a member
