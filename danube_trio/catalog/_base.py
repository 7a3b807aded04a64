"""What the log asks of its catalog, as a Protocol; the protocol of fencing is built on it.

`publish` is the only change, and it is conditional: `after` becomes the newest state if `before`
still is. `_core.catalog` has the states and their transitions, `_manifests` keeps them in the
object store itself, `_danube` in a metadata store under Danube's keys.
"""

from __future__ import annotations

import secrets
from typing import Protocol, runtime_checkable

import attrs

from danube_trio._core.catalog import CatalogState
from danube_trio._core.manifest import object_name
from danube_trio.errors import Argument, Worded


def fresh(state: CatalogState) -> CatalogState:
    """The same state, to be published once."""
    return attrs.evolve(state, nonce=secrets.token_hex(8))


def new_object_id(base: int, epoch: int) -> str:
    """The id of an object that was never written: of the segment at `base`, by this epoch."""
    return object_name(base, epoch, secrets.token_hex(8))


class Catalog(Protocol):
    """The catalog of one log. Any number of writers and readers, in any number of processes."""

    @property
    def url(self) -> str:
        """Where it is, for people."""
        ...

    async def latest(self) -> CatalogState | None:
        """The newest published state, or None if nothing was ever published.

        What it returns was the newest at some moment after the call began. Raises CorruptDataError
        when what is stored is no state, or an index page of it is missing.
        """
        ...

    async def publish(self, before: CatalogState | None, after: CatalogState) -> CatalogState:
        """Make `after` the newest state if `before` still is; returns it with its sequence.

        Settles unknown outcomes by itself: it returns only when `after` is in the history, and was
        the newest when looked at last. ``after.nonce`` is the caller's, fresh for each change and
        the same when the call is repeated (`fresh`).

        Raises:
            FencedError: somebody else published since; `after` is not in the history, or is and
                another epoch began since (`latest` tells which).
            StoreUnavailableError: not settled. `after` may or may not be, or become, part of the
                history. Calling again with the same arguments settles it; it is never published
                twice.
        """
        ...

    async def collect(self, state: CatalogState) -> int:
        """Remove superseded entries of the history; never the newest. For the owner of `state`.

        Returns how many it removed. Best effort: what it cannot remove goes another time.
        """
        ...

    def object_key(self, object_id: str) -> str:
        """The key of an object of this log in the object store."""
        ...

    @property
    def object_prefix(self) -> str:
        """What the keys of all objects of this log begin with, without the "/"."""
        ...


@runtime_checkable
class SharedCatalog(Catalog, Protocol):
    """A catalog under keys that other programs write to, which know nothing of epochs."""

    @property
    def codec(self) -> str:
        """The only message layout that they can read: no other one is published."""
        ...

    async def refuse_others(self, state: CatalogState | None) -> None:
        """Raise UnsupportedFormatError if they wrote to the log since `state` was published.

        Asked before a take-over changes anything. `state` is what `latest` returned.
        """


def other_codec(codec: str, only: str, url: str) -> str:
    """Why a codec is refused."""
    return Worded(
        Argument("codec", repr(codec)),
        f": {url} is Danube's to read, too, and Danube reads every object as {only}, and gets "
        f"garbage from another layout without an error. Use ",
        Argument("codec", repr(only)),
        ", or a catalog in the object store itself, which holds any",
    )
