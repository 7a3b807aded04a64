"""The directive `drawing`: a picture that `docs/pictures.py` draws, inside the page.

It is inline SVG whose colors are variables of the theme, so it follows the page from light to dark.
The text below it is the caption; the first argument names the picture.
"""

from __future__ import annotations

from typing import Any

import pictures
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Drawing(SphinxDirective):
    """A figure; `alt` says what is to be seen, for those who cannot."""

    has_content = True
    required_arguments = 1
    option_spec = {"alt": directives.unchanged_required}  # noqa: RUF012 (as docutils has it)

    def run(self) -> list[nodes.Node]:
        """Called by Sphinx."""
        name = self.arguments[0]
        if name not in pictures.PICTURES:
            raise self.error(f"there is no picture {name!r}: {', '.join(pictures.PICTURES)}")
        self.env.note_dependency(pictures.__file__)
        svg = pictures.svg(name, self.options["alt"])
        figure = nodes.figure(classes=["drawing"])
        figure += nodes.raw("", svg, format="html")
        caption = nodes.caption()
        inline, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        caption += inline
        figure += caption
        return [figure, *messages]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("drawing", Drawing)
    return {"parallel_read_safe": True}
