"""The settings of the documentation site: `make docs` builds it, offline too.

Four things are ours, each in a module of `_ext`:

- `docstrings` renders the sections of our docstrings (Args, Attributes, Raises, ...), with the
  types and defaults that the code has;
- `names` finds what a word in backquotes names: a public name, a page of these docs, or nothing;
- `reference` lists all public names of a module;
- `drawings` draws the pictures from the code and from measured data before the pages are read.
"""

from __future__ import annotations

import http.client
import os
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE), str(HERE.parent)]


from danube_trio import __version__  # noqa: E402 (after the path is set)

project = "danube-trio"
author = "the danube-trio authors"
copyright = "the danube-trio authors. Apache-2.0"
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "docstrings",
    "names",
    "reference",
    "drawings",
]
exclude_patterns = ["_build"]
nitpicky = True

# -- pages

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4
default_role = "name"

# -- the reference

# Members are shown up to these bases: theirs are not ours to explain.
FOREIGN_BASES = (
    *("object", "BaseException", "OSError"),
    *("ReceiveChannel", "ObjectReceiveStream", "TypedAttributeProvider"),
)
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "inherited-members": ", ".join(FOREIGN_BASES),
}
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
add_module_names = False

# -- other projects

# Their inventories are on their own sites. Without a network the names of theirs are not links:
# `names` knows which packages they are of.
EXTERNAL = {
    "python": "https://docs.python.org/3",
    "trio": "https://trio.readthedocs.io/en/stable",
    "anyio": "https://anyio.readthedocs.io/en/stable",
    "attrs": "https://www.attrs.org/en/stable",
    "cattrs": "https://catt.rs/en/stable",
}


def _inventory(name: str, url: str) -> str | None:
    """Fetch what a site knows; returns the path of the file, None where it cannot be had."""
    request = urllib.request.Request(f"{url}/objects.inv", headers={"User-Agent": "Sphinx"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            data: bytes = answer.read()
    except (OSError, http.client.HTTPException):
        return None
    if not data.startswith(b"# Sphinx inventory version 2"):
        return None
    path = HERE / "_build" / "inventories" / f"{name}.inv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


# Fetched here, because to Sphinx an inventory that cannot be had is a warning, and so an error.
intersphinx_mapping = {
    name: (url, path)
    for name, url in EXTERNAL.items()
    if not os.environ.get("DANUBE_DOCS_OFFLINE") and (path := _inventory(name, url))
}

# -- how it looks

html_theme = "furo"
html_title = f"danube-trio {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5f8b", "color-brand-content": "#1f5f8b"},
    "dark_css_variables": {"color-brand-primary": "#7fb8dd", "color-brand-content": "#7fb8dd"},
}
pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True
