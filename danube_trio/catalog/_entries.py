"""A catalog's state from the entries of a metadata store. Pure; `_danube` reads and writes them."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.danube_catalog import Details, Head, TopicKeys, decode_segment, join_segment
from danube_trio.metadata import Revised

log = logging.getLogger("danube_trio.catalog")


def join(base: int, segment: bytes, detail: bytes | None) -> Descriptor:
    """The descriptor in two entries; ValueError if they do not hold one that starts at `base`."""
    danube = decode_segment(segment)
    if danube.start_offset != base:
        raise ValueError(f"it says that it starts at {danube.start_offset}")
    if detail is None:
        raise ValueError("danube-trio did not write it")
    return join_segment(danube, Details.decode(detail))


def assemble(
    keys: TopicKeys, head: Head, segments: Iterable[Revised], details: Iterable[Revised]
) -> CatalogState:
    """The state of a head, and of all entries there are; ValueError if they do not fit together."""
    ours = {entry.key: entry.value for entry in details}
    found: list[Descriptor] = []
    for entry in segments:
        base = TopicKeys.start_of(entry.key)
        # `cur`, and what others may have put there; beyond the end nothing counts.
        if base is None or base >= head.end:
            continue
        try:
            d = join(base, entry.value, ours.get(keys.detail(base)))
        except ValueError as error:
            if base >= head.start_offset:
                raise ValueError(f"{entry.key}: {error}") from error
            log.debug("%s is not ours, and before the log: %s", entry.key, error)
            continue
        if d.end > head.start_offset:
            found.append(d)
    return head.joined(found)


def beyond(
    keys: TopicKeys, head: Head, segments: Iterable[Revised], details: Iterable[Revised]
) -> str | None:
    """The key of the first descriptor beyond the head's end that is not ours.

    One of ours, which came after the head was read, came together with its details.
    """
    ours = {entry.key for entry in details}
    for entry in segments:
        base = TopicKeys.start_of(entry.key)
        if base is not None and base >= head.end and keys.detail(base) not in ours:
            return entry.key
    return None
