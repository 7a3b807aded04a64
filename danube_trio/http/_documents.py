"""Documents in the metadata store: reading one, and changing some, whatever the caller does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import trio

from danube_trio._core.documents import parse
from danube_trio.metadata import MetadataStore, Revised

T = TypeVar("T")


def decoded(metadata: MetadataStore, revised: Revised, kind: type[T], newest: int) -> T:
    """The document of an entry. ValueError says what is wrong with it, and where it is."""
    try:
        return parse(revised.value, kind, newest=newest)
    except ValueError as error:
        error.add_note(f"It is {revised.key} in {metadata.url}.")
        raise


async def commit(
    metadata: MetadataStore,
    expect: Mapping[str, int],
    *,
    put: Mapping[str, bytes],
    delete: Iterable[str],
    doubt: Callable[[], object],
) -> int | None:
    """One transaction; returns its revision, or None if an expectation failed.

    Args:
        doubt: is called if it failed, or if nobody knows what became of it: what is in memory may
            not be what is stored.

    Cancellation: not before the outcome is known. It is short, and else nobody would know it.
    """
    revision: int | None = None
    try:
        with trio.CancelScope(shield=True):
            revision = await metadata.transact(expect, put=put, delete=delete)
    finally:
        if revision is None:
            doubt()
    return revision
