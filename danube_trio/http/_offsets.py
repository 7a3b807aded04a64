"""Offsets as clients see them: ``0000000000000042_0000000000000000``.

The first number is the offset of a record, the second one is given as 0: clients compare the texts,
and some send the zero of this form without having been given it. Every append is at least one
record, so an offset is given once and positions never share one.

The protocol's own Yjs server goes on after a snapshot at an offset to whose second number it has
added 1, as if that counted bytes. What is to be read then begins with the same record. If records
were counted there, one of them would be passed over, and the document never be whole again.
"""

from __future__ import annotations

import re

from danube_trio.http._request import Refusal

BEGINNING = "-1"
NOW = "now"
_TOKEN = re.compile(r"([0-9]{16})_0{15}[01]", re.ASCII)


def token(offset: int) -> str:
    """How an offset is written."""
    return f"{offset:016d}_{0:016d}"


def parse(text: str, name: str = "offset") -> int:
    """The offset in a token. Refuses anything else with 400."""
    found = _TOKEN.fullmatch(text)
    if found is None:
        raise Refusal(400, f"{name} is not an offset that this server has given")
    return int(found[1])
