"""Offsets as clients see them: ``0000000000000000_0000000000000042``.

The second number is the offset of a record, the first one is always 0: clients compare the texts,
and some send the zero of this form without having been given it. Every append is at least one
record, so an offset is given once and positions never share one.
"""

from __future__ import annotations

import re

from danube_trio.http._request import Refusal

BEGINNING = "-1"
NOW = "now"
_TOKEN = re.compile(r"0{16}_([0-9]{16})", re.ASCII)


def token(offset: int) -> str:
    """How an offset is written."""
    return f"{0:016d}_{offset:016d}"


def parse(text: str, name: str = "offset") -> int:
    """The offset in a token. Refuses anything else with 400."""
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise Refusal(400, f"{name} is not an offset that this server has given")
    return int(found[1])
