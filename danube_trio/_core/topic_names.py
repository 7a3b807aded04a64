"""Topic names, as Danube's brokers have them: ``/namespace/topic``.

Danube accepts exactly two parts of letters, digits, ``_`` and ``-``, in any script; other parts of
it keep the first two parts of whatever they are given, so that names would be taken for one
another. A name is also the path of a directory and a part of keys. So what Danube refuses is
refused here, and besides it what could be two names for one directory, or none at all:

- letters that are not in Unicode's normal form C, which look the same and are not, or which a file
  system may take for the same;
- parts of more than `MAX_PART_BYTES`, which file names and keys cannot hold.

The slash in front may be left out. It is the same topic, and comes back with the slash.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from danube_trio.errors import bad_argument

# File names have up to 255 bytes, and keys of object stores 900, with all that comes after.
MAX_PART_BYTES = 200
# What the name of a topic's directory ends in while that is removed: no topic's name does.
GOING = ".deleted"


def topic_path(name: str) -> str:
    """``ns/topic``: what the topic's directory and keys are named. ValueError for a bad name."""
    if not isinstance(name, str):
        raise TypeError(f"topic={name!r} must be a string")
    parts = name.removeprefix("/").split("/")
    if len(parts) != 2:
        raise bad_argument("topic", name, " must be /namespace/topic: two parts, no more, no less")
    for part in parts:
        if (fault := _fault_of(part)) is not None:
            raise bad_argument("topic", name, f": {part!r} {fault}")
    return "/".join(parts)


def topic_name(name: str) -> str:
    """``/ns/topic``: the name itself, with the slash that may be left out. Raises the same."""
    return f"/{topic_path(name)}"


def is_part(part: str) -> bool:
    """Whether it can be a namespace, or a topic in one."""
    return _fault_of(part) is None


@lru_cache(maxsize=4096)  # a name is looked at with each use of its topic
def _fault_of(part: str) -> str | None:
    if not part:
        return "is empty"
    if not all(c.isalnum() or c in "_-" for c in part):
        return "must have letters, digits, _ and - only"
    if not unicodedata.is_normalized("NFC", part):
        return "must be in Unicode's normal form C"
    if len(part.encode()) > MAX_PART_BYTES:
        return f"has more than {MAX_PART_BYTES} bytes"
    return None
