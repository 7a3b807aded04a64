"""Patterns over the paths of streams, and which of many patterns a path has.

A pattern is a path in which ``*`` stands for one segment and ``**`` for any number of them, none
too. Both are whole segments: ``events/*`` is a pattern, ``events/a*`` is refused. All other
segments are canonical, so a star in a path is ``%2A``, and two patterns that are written
differently in a URL are the same here.

Matching takes time in the product of the two lengths at most, whatever the pattern: it goes back to
the last ``**`` only. `Patterns` asks only those that can match by their first segment, as there may
be a thousand patterns, and each new stream is compared once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from danube_trio.http._names import CONTROL, canonical
from danube_trio.http._request import Refusal

T = TypeVar("T")

ONE, ANY = "*", "**"
# A segment and a star are about as much work as it takes to match. A guess: paths have ten.
MAX_SEGMENTS = 64


def canonical_pattern(text: str, limit: int) -> str:
    """The canonical form of a pattern.

    Raises:
        Refusal: 400 for what is none, 414 for one of more than `limit` bytes.
    """
    segments: list[str] = []
    for part in text.strip("/").split("/"):
        if part in (ONE, ANY):
            if part == ANY and segments[-1:] == [ANY]:
                continue
            segments.append(part)
        elif "*" in part:
            raise Refusal(400, f"in a pattern * and ** are whole segments, which {part!r} is not")
        else:
            segments.append(canonical(part.encode(errors="surrogatepass"), limit))
    pattern = "/".join(segments)
    if len(pattern) > limit or len(segments) > MAX_SEGMENTS:
        raise Refusal(414, f"a pattern has at most {limit} bytes and {MAX_SEGMENTS} segments")
    if segments[0] == CONTROL:
        raise Refusal(400, f"no stream is below {CONTROL}")
    return pattern


def matches(pattern: str, path: str) -> bool:
    """Whether a canonical path has a canonical pattern."""
    wanted, there = pattern.split("/"), path.split("/")
    at = seen = 0
    back: tuple[int, int] | None = None  # behind the last **, and what it took so far
    while seen < len(there):
        if at < len(wanted) and wanted[at] == ANY:
            at += 1
            back = at, seen
        elif at < len(wanted) and wanted[at] in (ONE, there[seen]):
            at, seen = at + 1, seen + 1
        elif back is not None:
            back = back[0], back[1] + 1
            at, seen = back
        else:
            return False
    return all(each == ANY for each in wanted[at:])


def literal_prefix(pattern: str) -> str:
    """What every path with this pattern begins with: whole segments; maybe none."""
    found: list[str] = []
    for part in pattern.split("/"):
        if part in (ONE, ANY):
            break
        found.append(part)
    return "/".join(found)


def covering(paths: Iterable[str]) -> str:
    """A pattern that all of these have, which are paths, or patterns, at least one."""
    first, *others = paths
    if not others:
        return first
    common = literal_prefix(first).split("/")
    for other in others:
        parts = other.split("/")
        same = (n for n, (a, b) in enumerate(zip(common, parts, strict=False)) if a != b)
        common = common[: next(same, min(len(common), len(parts)))]
    return "/".join([*common, ANY] if common != [""] else [ANY])


class Patterns(Generic[T]):
    """Whose pattern a path has."""

    def __init__(self) -> None:
        self._by_first: dict[str, dict[T, str]] = {}

    def add(self, owner: T, pattern: str) -> None:
        """Each owner has one pattern at most."""
        self._by_first.setdefault(_first(pattern), {})[owner] = pattern

    def remove(self, owner: T, pattern: str) -> None:
        """The owner has none any more."""
        first = _first(pattern)
        owners = self._by_first[first]
        del owners[owner]
        if not owners:
            del self._by_first[first]

    def of(self, path: str) -> Iterable[T]:
        """The owners of the patterns that the path has."""
        for first in ("", path.partition("/")[0]):
            for owner, pattern in self._by_first.get(first, {}).items():
                if matches(pattern, path):
                    yield owner


def _first(pattern: str) -> str:
    """The first segment, or "" for a star."""
    first = pattern.partition("/")[0]
    return "" if first in (ONE, ANY) else first
