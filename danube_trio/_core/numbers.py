"""Numbers in names: twenty digits, so that names sort as their numbers do.

Offsets, sequence numbers and revisions stand in the names of files, objects and keys, and here is
the one way out of a name. Anybody can make names, in any alphabet: a digit is one of 0 to 9, and
what no log or store can get to is no number.
"""

from __future__ import annotations

import re

DIGITS = "[0-9]{20}"
_NUMBER = re.compile("[0-9]{1,20}")
_LIMIT = 1 << 64


def number_in(digits: str) -> int | None:
    """The number that these digits are, of 64 bits; None for anything else."""
    number = int(digits) if _NUMBER.fullmatch(digits) else _LIMIT
    return number if number < _LIMIT else None
