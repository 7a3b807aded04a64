"""The pictures of the documentation, drawn from the code, from real runs and from measurements.

``python docs/pictures.py FOLDER`` writes them as files, light and dark. In the pages they are
inline SVG whose colors are variables of the page's style (`docs/_static/site.css`).
"""

from __future__ import annotations

import html
import io
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from drawn_code import draw_layers  # noqa: E402 (after the path is set)
from drawn_figures import draw_device, draw_peers, table  # noqa: E402
from drawn_runs import draw_journey, draw_marks, draw_phases  # noqa: E402
from style import DARK, LIGHT, STYLE  # noqa: E402

__all__ = ["PICTURES", "svg", "table"]

PICTURES: dict[str, Callable[[], Figure]] = {
    "marks": draw_marks,
    "journey": draw_journey,
    "layers": draw_layers,
    "phases": draw_phases,
    "peers": draw_peers,
    "device": draw_device,
}


def draw(name: str) -> Figure:
    """A picture by its name."""
    log = logging.getLogger("danube_trio")
    if not log.handlers:
        log.addHandler(logging.NullHandler())  # what the runs provoke is not for the reader
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        return PICTURES[name]()


def svg(name: str, alt: str) -> str:
    """A picture as an element for a page, with the colors of the page."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        buffer = io.StringIO()
        draw(name).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = text.replace("*{stroke", "figure.drawing svg *{stroke")  # and nothing else of the page
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    # Ids are used by other pictures of the page, too.
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
    for variable, color in LIGHT.items():
        text = text.replace(color, f"var(--drawing-{variable})")
    return re.sub(r"'DejaVu Sans( Mono)?'(, [^;\"]*)?", _family, text)


def _family(found: re.Match[str]) -> str:
    return "var(--font-stack--monospace)" if found[1] else "var(--font-stack)"


def main(folder: str) -> None:
    """Write all pictures as files, as they look on white and on black."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
            buffer = io.StringIO()
            figure = draw(name)
            figure.savefig(buffer, format="svg")
            figure.savefig(Path(folder) / f"{name}.png", dpi=110, facecolor="white")
        dark = buffer.getvalue()
        for variable, color in LIGHT.items():
            dark = dark.replace(color, DARK[variable])
        (Path(folder) / f"{name}.svg").write_text(buffer.getvalue(), encoding="utf-8")
        (Path(folder) / f"{name}-dark.svg").write_text(dark, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
