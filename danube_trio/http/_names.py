"""Paths of streams, and the topics that hold them.

**Paths.** A path is a list of segments, each some text. The same path may be written in many ways
in a URL; here it has one, its *canonical* form: each segment percent-encoded but for the unreserved
characters, joined by slashes. Two paths are the same exactly if their canonical forms are, and
``a%2Fb`` is not ``a/b``. What could be taken for something else by anybody on the way is refused:
segments that are empty, ``.`` or ``..``, control characters, bytes that are no UTF-8.

**Topics.** A stream's records are in a topic of its own, ``/streams/<readable>-<id>``. The id alone
tells topics apart: it is random, made with the stream, and never used again, also when the path is.
So a path's streams, one after another, never meet in one log, and a deleted one can be removed when
there is time. The readable part is for people who look into the directory. Which path belongs to
which topic is in the metadata store.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from urllib.parse import quote, unquote_to_bytes

from danube_trio.http._request import Refusal

# Paths that begin with this segment are the protocol's own.
CONTROL = "__ds"
# With the id, and what the log adds, a file name.
READABLE_CHARACTERS = 80
ID_BYTES = 8

_NOT_READABLE = re.compile(r"[^A-Za-z0-9-]+")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def canonical(raw: bytes, limit: int) -> str:
    """The canonical form of a path as it stands in a URL, without the slash in front.

    Raises:
        Refusal: 400 for a path that no stream can have, 414 for one of more than `limit` bytes.
    """
    if _BAD_ESCAPE.search(raw):
        raise Refusal(400, "the path has a % that is no percent-encoding")
    segments = [_segment(part) for part in raw.split(b"/")]
    path = "/".join(quote(segment, safe="") for segment in segments)
    if len(path) > limit:
        raise Refusal(414, f"the path has {len(path)} bytes, where at most {limit} are allowed")
    return path


def _segment(raw: bytes) -> str:
    try:
        text = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Refusal(400, "the path is not UTF-8") from None
    if text in ("", ".", ".."):
        raise Refusal(400, f"the path has a segment {text!r}, which no stream may have")
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise Refusal(400, "the path has a control character")
    return text


def is_control(path: str) -> bool:
    """Whether a canonical path is one of the protocol's own."""
    return path.partition("/")[0] == CONTROL


def new_topic(namespace: str, path: str) -> str:
    """The name of a new topic for the stream of this path."""
    readable = _NOT_READABLE.sub("_", path)[:READABLE_CHARACTERS].strip("_-")
    return f"/{namespace}/{readable or 'stream'}-{secrets.token_hex(ID_BYTES)}"


def id_of(topic: str) -> str:
    """The part of a topic's name that no other has."""
    return topic.rpartition("-")[2]
