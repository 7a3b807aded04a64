"""The keeper of one subscription's cursor in the metadata store.

Keys, beside Danube's own::

    /topics/<namespace>/<topic>/subscriptions/<name>/
        cursor         Danube's: the last acknowledged offset
        danube-trio    ours: see `_cursor`
        owner          who may save it: the random number of whoever opened it last
        redriven       the next dead letter to bring back

Both cursors are written in one transaction. Danube's is read only where ours is missing: that is
how a subscription moves over from Danube.

Rules:

* Opening writes the cursor once, with a new owner. From then on every save is conditional on the
  revision of the one before, and on the owner. So two programs that open the same subscription
  cannot overwrite each other's acknowledgements: the earlier one gets `FencedError`, and hands out
  nothing more.
* A busy owner may save between any two steps of who opens the subscription. Whoever found that
  writes the owner first, on no condition (`claim`): nobody else saves from then on, and the cursor
  that is read after that stays as it is. So taking over takes two rounds at most. What may come
  between in the second one is an older version, which knows no owner and is tried against a few
  times, and somebody else who claims it: that one has it.
* A save whose answer was lost may have happened or may yet happen. The next save finds out: if its
  condition fails, it reads owner and cursor, and both being our own means that it was ours.
"""

from __future__ import annotations

import logging
import uuid

import attrs
import trio

from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._options import check_name, topic_parts
from danube_trio.errors import CorruptDataError, FencedError
from danube_trio.metadata import MetadataStore

__all__ = ["CursorKeeper", "known_subscriptions", "subscriptions_prefix"]

log = logging.getLogger("danube_trio.dispatch")

# Packing so many holes takes longer than handing them to a thread and back.
MANY_HOLES = 10_000


def subscriptions_prefix(topic: str) -> str:
    """What the keys of a topic's subscriptions begin with."""
    namespace, name = topic_parts(topic)
    return f"/topics/{namespace}/{name}/subscriptions/"


class CursorKeeper:
    """Loads and saves the cursor of one subscription. One task at a time."""

    def __init__(self, metadata: MetadataStore, topic: str, subscription: str) -> None:
        prefix = subscriptions_prefix(topic) + check_name(subscription, "subscription")
        self.key = f"{prefix}/danube-trio"
        self._danube_key = f"{prefix}/cursor"
        self._owner_key = f"{prefix}/owner"
        self._redriven_key = f"{prefix}/redriven"
        self._metadata = metadata
        self._owner = uuid.uuid4().hex
        self._revision = 0
        self._owner_revision: int | None = None  # None: the owner is not ours yet
        self._saves = 0
        self._threads = trio.CapacityLimiter(1)  # of its own: others cannot hold a save up

    async def load(self) -> CursorState | None:
        """The cursor that is saved, or None for a new subscription.

        Raises StoreError, or CorruptDataError when the cursor cannot be read.
        """
        found = await self._metadata.get(self.key)
        if found is not None:
            state = CursorState.decode(found.value, self.key)
            self._revision, self._saves = found.revision, state.saves
            return state
        self._revision, self._saves = 0, 0
        danube = await self._metadata.get(self._danube_key)
        return None if danube is None else _from_danube(danube.value, self._danube_key)

    async def save(self, state: CursorState, limit_bytes: int) -> CursorState:
        """Save the cursor, or as much of it as fits; returns what was saved.

        Raises StoreError (the outcome is unknown; the next save sorts it out) or FencedError.
        Cancelling leaves the outcome unknown, too.
        """
        state = attrs.evolve(state, owner=self._owner, saves=self._saves + 1)
        if len(state.holes) + len(state.attempts) < MANY_HOLES:
            fitted, value = state.fitted(limit_bytes)
        else:
            fitted, value = await trio.to_thread.run_sync(
                state.fitted, limit_bytes, limiter=self._threads
            )
        put = {self.key: value}
        if fitted.end:
            put[self._danube_key] = b"%d" % (fitted.end - 1)
        delete = () if fitted.end else (self._danube_key,)
        expect = {self.key: self._revision}
        if self._owner_revision is None:
            put[self._owner_key] = self._owner.encode()
        else:
            expect[self._owner_key] = self._owner_revision
        while True:
            revision = await self._metadata.transact(expect, put=put, delete=delete)
            if revision is not None:
                self._revision, self._saves = revision, fitted.saves
                if self._owner_revision is None:
                    self._owner_revision = revision
                return fitted
            expect[self.key] = await self._find_own()

    async def _find_own(self) -> int:
        """The condition failed: by an earlier save of our own, or somebody else is at work."""
        owner = await self._metadata.get(self._owner_key)
        found = await self._metadata.get(self.key)
        if found is None:
            raise FencedError(self._saves, f"whoever removed {self.key}")
        ours = self._owner_revision is None or (
            owner is not None and owner.revision == self._owner_revision
        )
        if not ours or CursorState.decode(found.value, self.key).owner != self._owner:
            raise FencedError(self._saves, f"another program that opened {self.key}")
        self._revision = found.revision
        return found.revision

    async def claim(self) -> None:
        """From now on nobody else saves it. What was loaded before may be old: load it again.

        Raises StoreError. Cancelling leaves the outcome unknown.
        """
        put = {self._owner_key: self._owner.encode()}
        self._owner_revision = await self._metadata.transact({}, put=put)

    async def is_claimed(self) -> bool:
        """Whether that is still so."""
        owner = await self._metadata.get(self._owner_key)
        return owner is not None and owner.revision == self._owner_revision

    async def remove(self) -> None:
        """Forget the subscription."""
        keys = (self.key, self._danube_key, self._redriven_key, self._owner_key)
        await self._metadata.transact({}, delete=keys)

    async def redriven(self) -> int:
        """The next dead letter to bring back."""
        found = await self._metadata.get(self._redriven_key)
        if found is None:
            return 0
        try:
            return int(found.value)
        except ValueError as error:
            raise _unreadable(self._redriven_key, found.value) from error

    async def save_redriven(self, offset: int) -> None:
        """Dead letters below `offset` were brought back."""
        await self._metadata.put(self._redriven_key, b"%d" % offset)


async def known_subscriptions(metadata: MetadataStore, topic: str) -> dict[str, int]:
    """The contiguous end of each subscription that has a cursor.

    One that cannot be read counts as 0: retention frees nothing then, opening the subscription
    tells the reason, and removing it helps.
    """
    prefix = subscriptions_prefix(topic)
    ends: dict[str, int] = {}
    for entry in await metadata.list_entries(prefix):
        name, _, what = entry.key.removeprefix(prefix).partition("/")
        try:
            if what == "danube-trio":
                ends[name] = CursorState.decode(entry.value, entry.key).end
            elif what == "cursor":  # sorts before ours, which is the better one
                ends[name] = _from_danube(entry.value, entry.key).end
        except CorruptDataError as error:
            log.warning("retention stands still: %s", error)
            ends[name] = 0
    return ends


def _from_danube(value: bytes, key: str) -> CursorState:
    try:
        return CursorState.from_danube(value)
    except ValueError as error:
        raise _unreadable(key, value) from error


def _unreadable(key: str, value: bytes) -> CorruptDataError:
    return CorruptDataError(
        f"{value[:40]!r} is not an offset",
        path=key,
        advice="Restore the key from a copy of the metadata store, or delete it",
    )
