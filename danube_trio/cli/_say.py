"""Text for people. What somebody put into it is shown to a terminal, and not sent.

Payloads, attributes, names, holders of locks and the texts of errors are other people's. A terminal
obeys some characters: it would clear itself, hide lines, or type. So where stdout is one, these go
out as escapes (``\\x1b``), and stderr never has others. A pipe gets what is there.
"""

from __future__ import annotations

import re
import sys

import click

# All but tab and newline of C0; DEL and C1; what turns the direction of text; other ends of lines;
# and what no encoding has.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(text: str) -> str:
    """The text with escapes in the place of what a terminal obeys, but for tab and newline."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown_bytes(data: bytes) -> bytes:
    """The same of bytes, which may be no text."""
    return shown(data.decode("utf-8", "backslashreplace")).encode()


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def say(text: str) -> None:
    """A text on stdout, and the end of its line. What its encoding lacks is escaped, too."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = shown(text) if on_terminal() else text
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding))


def complain(text: str) -> None:
    """A line on stderr."""
    click.echo(shown(f"danube-trio: {text}").replace("\n", "\\n"), err=True)
