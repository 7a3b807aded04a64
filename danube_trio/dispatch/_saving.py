"""One subscription's cursor in the metadata store: who keeps it there, and the task that saves it.

Keys, beside Danube's own::

    <root>/topics/<namespace>/<topic>/subscriptions/<name>/
        cursor         Danube's: the last acknowledged offset
        danube-trio    ours: see `_cursor`
        owner          who may save it: the random number of whoever opened it last
        redriven       the next dead letter to bring back: see `_redrive`

Both cursors are written in one transaction. Danube's is read only where ours is missing: that is
how a subscription moves over from Danube.

**The root** is that of the storage (``StorageConfig.metadata_root``), so that two of them in one
metadata store share nothing. Danube has none above these keys: for its own root, ``/danube``, they
begin with ``/topics``. Older versions wrote them there under every root. So where a root of one's
own has no cursor, that place is looked at too; a cursor there that does not say which log it is of
*moves*: the transaction that saves it below the root removes it there, for one of all who may want
it. One that does say so belongs to a storage with Danube's root.

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
* Each save says which log the cursor is of (`_opening`).
"""

from __future__ import annotations

import logging
import sys
import uuid
from typing import NamedTuple

import attrs
import trio

from danube_trio.catalog import Backoff, Outage
from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._log import TopicLog
from danube_trio.dispatch._options import check_name, topic_parts
from danube_trio.dispatch._state import Phase, SubscriptionState
from danube_trio.errors import DanubeError, FencedError, StoreError, text_of
from danube_trio.metadata import MetadataStore

log = logging.getLogger("danube_trio.dispatch")

# The `metadata_root` under which cursors are where Danube has its own: below no root at all.
DANUBE_ROOT = "/danube"
# What the keys of a subscription end with.
OURS, DANUBE, OWNER, REDRIVEN = "danube-trio", "cursor", "owner", "redriven"
# Packing so many holes takes longer than handing them to a thread and back.
MANY_HOLES = 10_000


def subscriptions_prefix(topic: str, root: str = DANUBE_ROOT) -> str:
    """What the keys of a topic's subscriptions begin with. ValueError for a bad topic or root."""
    if not root.startswith("/") or root.endswith("/") or "//" in root:
        raise ValueError(f'metadata_root={root!r} must begin with "/", and not end with it')
    namespace, name = topic_parts(topic)
    return f"{'' if root == DANUBE_ROOT else root}/topics/{namespace}/{name}/subscriptions/"


class _Keys(NamedTuple):
    """Of one subscription, in one place."""

    ours: str
    danube: str
    owner: str
    redriven: str

    @classmethod
    def of(cls, topic: str, subscription: str, root: str) -> _Keys:
        base = subscriptions_prefix(topic, root) + check_name(subscription, "subscription")
        return cls(*(f"{base}/{name}" for name in (OURS, DANUBE, OWNER, REDRIVEN)))


class CursorKeeper:
    """Loads and saves the cursor of one subscription. One task at a time.

    Args:
        root: of the storage.
        log_id: of the log, "" if it is not known.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        topic: str,
        subscription: str,
        *,
        root: str = DANUBE_ROOT,
        log_id: str = "",
    ) -> None:
        self._keys = _Keys.of(topic, subscription, root)
        # Where older versions had it; the same under Danube's root.
        self._former = _Keys.of(topic, subscription, DANUBE_ROOT)
        self.key, self.redriven_key = self._keys.ours, self._keys.redriven
        self._metadata = metadata
        self._owner = uuid.uuid4().hex
        self._log_id = log_id
        self._revision = 0
        self._owner_revision: int | None = None  # None: the owner is not ours yet
        self._saves = 0
        self._moving: dict[str, int] = {}  # what the first save removes, and its revisions
        self._threads = trio.CapacityLimiter(1)  # of its own: others cannot hold a save up

    async def load(self) -> CursorState | None:
        """The cursor that is saved, or None for a new subscription.

        Raises StoreError, or CorruptDataError when the cursor cannot be read.
        """
        self._revision, self._saves, self._moving = 0, 0, {}
        found = await self._metadata.get(self.key)
        if found is not None:
            state = CursorState.decode(found.value, self.key)
            self._revision, self._saves = found.revision, state.saves
            self._log_id = self._log_id or state.log
            return state
        danube = await self._metadata.get(self._keys.danube)
        if danube is not None:
            return CursorState.from_danube(danube.value, self._keys.danube)
        return await self._load_former() if self._former != self._keys else None

    async def _load_former(self) -> CursorState | None:
        """What was saved without regard to the root, and says nothing of its log: it moves."""
        ours = await self._metadata.get(self._former.ours)
        danube = await self._metadata.get(self._former.danube)
        if ours is not None:
            state = CursorState.decode(ours.value, self._former.ours)
            if state.log:
                return None  # of a storage with Danube's root
        elif danube is not None:
            state = CursorState.from_danube(danube.value, self._former.danube)
        else:
            return None
        self._moving = {entry.key: entry.revision for entry in (ours, danube) if entry is not None}
        log.warning(
            "%s says neither its metadata_root nor its log (an older version saved it, or Danube): "
            "it is taken for this storage's, and moves to %s",
            next(iter(self._moving)),
            self.key,
        )
        return attrs.evolve(state, owner="", saves=0)

    async def save(self, state: CursorState, limit_bytes: int) -> CursorState:
        """Save the cursor, or as much of it as fits; returns what was saved.

        Raises StoreError (the outcome is unknown; the next save sorts it out) or FencedError.
        Cancelling leaves the outcome unknown, too.
        """
        state = attrs.evolve(state, owner=self._owner, saves=self._saves + 1, log=self._log_id)
        if len(state.holes) + len(state.attempts) < MANY_HOLES:
            fitted, value = state.fitted(limit_bytes)
        else:
            fitted, value = await trio.to_thread.run_sync(
                state.fitted, limit_bytes, limiter=self._threads
            )
        # Less may be saved than is settled, never more; and all of what is contiguous.
        assert fitted.end == state.end and fitted.edge <= state.edge
        put, delete = {self.key: value}, set[str]()
        if fitted.end:
            put[self._keys.danube] = b"%d" % (fitted.end - 1)
        else:
            delete.add(self._keys.danube)
        if self._moving:
            letters = await self._metadata.get(self._former.redriven)
            if letters is not None:
                put[self._keys.redriven] = letters.value
            delete.update(self._former)
        expect = {self.key: self._revision} | self._moving
        if self._owner_revision is None:
            put[self._keys.owner] = self._owner.encode()
        else:
            expect[self._keys.owner] = self._owner_revision
        while True:
            revision = await self._metadata.transact(expect, put=put, delete=sorted(delete))
            if revision is not None:
                self._revision, self._saves, self._moving = revision, fitted.saves, {}
                if self._owner_revision is None:
                    self._owner_revision = revision
                return fitted
            expect[self.key] = await self._find_own()

    async def _find_own(self) -> int:
        """The condition failed: by an earlier save of our own, or somebody else is at work."""
        owner = await self._metadata.get(self._keys.owner)
        found = await self._metadata.get(self.key)
        if found is None:
            gone = next(iter(self._moving), self.key)
            raise FencedError(self._saves, f"whoever changed or removed {gone}")
        ours = self._owner_revision is None or (
            owner is not None and owner.revision == self._owner_revision
        )
        if not ours or CursorState.decode(found.value, self.key).owner != self._owner:
            raise FencedError(self._saves, f"another program that opened {self.key}")
        self._revision, self._moving = found.revision, {}
        return found.revision

    async def claim(self) -> None:
        """From now on nobody else saves it. What was loaded before may be old: load it again.

        Raises StoreError. Cancelling leaves the outcome unknown.
        """
        put = {self._keys.owner: self._owner.encode()}
        self._owner_revision = await self._metadata.transact({}, put=put)

    async def is_claimed(self) -> bool:
        """Whether that is still so."""
        owner = await self._metadata.get(self._keys.owner)
        return owner is not None and owner.revision == self._owner_revision

    async def remove(self) -> bool:
        """Forget the subscription, readable or not; whether it was there. Raises StoreError.

        Raises CorruptDataError for a cursor that does not say whether it is this storage's.
        """
        keys = set(self._keys)
        there = [await self._metadata.get(key) for key in (self.key, self._keys.danube)]
        found = there != [None, None]
        if not found and self._former != self._keys and await self._load_former() is not None:
            found = True
            keys.update(self._former)
        await self._metadata.transact({}, delete=sorted(keys))
        return found

    async def redriven(self) -> bytes | None:
        """What `save_redriven` saved, or an older version: then it is an offset in digits."""
        found = await self._metadata.get(self._keys.redriven)
        return None if found is None else found.value

    async def save_redriven(self, value: bytes) -> None:
        """Save which dead letters were brought back; see `_redrive`."""
        await self._metadata.put(self._keys.redriven, value)


class Saving:
    """Saves the cursor: at most once in ``save_interval``, unless it is urgent."""

    def __init__(self, state: SubscriptionState, keeper: CursorKeeper, topic_log: TopicLog) -> None:
        self._state = state
        self._keeper = keeper
        self._log = topic_log
        self._lock = trio.Lock()

    async def run(self) -> None:
        """Save until the subscription is closed, or somebody else has the cursor."""
        state, core = self._state, self._state.core
        outage = Outage(log, f"subscription {state.name}: saving its cursor", Backoff())
        while state.phase is not Phase.CLOSED and not state.fenced:
            await self._wait(1)
            with trio.move_on_after(core.options.save_interval):
                await self._wait((core.options.max_unsaved_acks or sys.maxsize) // 2)
            try:
                await self.save()
            except StoreError as error:
                await trio.sleep(outage.failed(error))
            except (DanubeError, OSError, ValueError) as error:
                state.untold = error
                return  # the subscription has failed
            else:
                outage.over()

    async def _wait(self, unsaved: int) -> None:
        """Wait until so many changes are not saved."""
        state, core = self._state, self._state.core
        while core.changes - core.saved_changes < unsaved:
            state.save_at = core.saved_changes + unsaved
            await state.save_bell.wait()

    async def save(self) -> None:
        """Save everything that is settled at the call.

        Where readers see what is not durable yet, it is made durable first: see `_opening`.

        Raises StoreError (it will be tried again), FencedError, CorruptDataError, or LogBrokenError
        and others of the log (the subscription has failed).
        """
        state, core = self._state, self._state.core
        wanted = core.changes
        async with self._lock:
            if core.saved_changes >= wanted and state.saves:  # the first one takes over: it must be
                return
            total, cursor = core.changes, core.snapshot()
            try:
                if not self._log.reads_durable:
                    await self._log.make_durable(cursor.edge)
                state.stored_end = max(state.stored_end, cursor.end)  # an answer may be lost
                saved = await self._keeper.save(cursor, core.options.max_cursor_bytes)
            except (DanubeError, OSError, ValueError) as error:
                state.save_failures += 1
                state.last_error = text_of(error)
                if not isinstance(error, StoreError):
                    state.fail(error)
                raise
            core.saved_changes = max(core.saved_changes, total)
            core.unsaved_from = saved.edge if saved.edge < cursor.edge else None
            self._note_failures(len(cursor.attempts) - len(saved.attempts))
            state.saved_end = state.stored_end = saved.end
            state.saves += 1
        state.changed()

    def _note_failures(self, unsaved: int) -> None:
        """So many messages have failed, and that did not fit into the saved cursor."""
        state = self._state
        if unsaved and not state.unsaved_failures:
            log.warning(
                "subscription %s: how often %d messages have failed does not fit into "
                "max_cursor_bytes=%d: after a crash they begin at the first attempt again",
                state.name,
                unsaved,
                state.core.options.max_cursor_bytes,
            )
        state.unsaved_failures = unsaved
