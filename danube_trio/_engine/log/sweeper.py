"""The sweeper task: what no catalog names any more leaves the store. Nothing ever waits for it.

**What may go.**

- *Free* objects (`_core.stored`): the catalog, and then the log itself, begins behind them, and
  nobody reads them now.
- Objects of an earlier epoch that the catalog does not name, if it says what is there instead:
  their first offset lies below its end, so it is in another object, or was trimmed. What begins at
  the end is all that there is of these records in the store, and stays until something else is
  there. Behind the end nothing is, unless the catalog is older than its objects: then opening
  refuses (`refuse_older`).
- Old entries of the catalog itself (`Catalog.collect`).

Own uploads that came to nothing are the uploader's, who knows what is pending.

Several go at a time. What fails is left for a later round, and is no reason for a pause elsewhere.
Of a store to which one can only add, this is said once.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from danube_trio._core.catalog import Descriptor
from danube_trio._core.life import Phase
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.engine import Engine
from danube_trio.catalog import CatalogSession, object_parts
from danube_trio.cloud import CloudStore
from danube_trio.errors import AccessDeniedError, DanubeError

log = logging.getLogger("danube_trio.uploader")

T = TypeVar("T")

# Stores of which it was said that they deny deleting. Each opening tries, but says nothing more.
_only_adding: weakref.WeakSet[CloudStore] = weakref.WeakSet()

# Uploads for one look for old entries of the catalog, which lists them. A guess.
COLLECT_EVERY = 16
# Requests under way at a time: a few, since readers and uploads use the same store. A guess.
AT_A_TIME = 8


class Sweeper:
    """The task."""

    def __init__(
        self, engine: Engine, cloud: CloudSide, store: CloudStore, session: CatalogSession
    ) -> None:
        self._engine = engine
        self._cloud = cloud
        self._store = store
        self._session = session
        self._catalog = session.catalog
        self._epoch = session.state.epoch
        self._scope = trio.CancelScope()
        # Of earlier epochs' objects, those that begin up to here were not judged; None: all were.
        self._unjudged: int | None = -1
        self._collect_at = 1  # so many uploads
        self._only_adds = False  # the store denies deleting
        self._meter = engine.meters.task("sweeper")

    async def run(self) -> None:
        """Sweep until the log is left, broken or fenced."""
        with self._scope:
            while self._running:
                self._meter.enter("sweeping")
                steps = (self._remove_unnamed, self._remove_free, self._collect)
                left = [step for step in steps if not await self._tidy(step)]
                self._cloud.untidy = bool(left)  # the janitor rings then
                self._meter.enter("idle")
                await self._engine.bells.sweeper.wait()

    @property
    def _running(self) -> bool:
        return self._engine.log.running and self._engine.log.phase is not Phase.FENCED

    def stop(self) -> None:
        """Give up what is under way: the log is being left."""
        self._scope.cancel()

    async def _tidy(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """Whether there is nothing left to do of it now."""
        try:
            return await step()
        except DanubeError as error:
            self.left(error)
            return False

    def left(self, error: DanubeError) -> None:
        """Something could not be removed, for this reason."""
        self._engine.meters.janitor_failures += 1
        log.info("left for another time: %s", error)

    async def _remove_unnamed(self) -> bool:
        """Remove what earlier epochs uploaded, or trimmed, and nobody names."""
        end = self._cloud.objects.state.end
        if self._unjudged is None or self._unjudged >= end:
            return True
        named = {self._catalog.object_key(d.object_id) for d in self._cloud.objects}
        below = f"{self._catalog.object_prefix}/"
        old: list[str] = []
        later: list[int] = []
        for info in await self._store.list_objects(self._catalog.object_prefix):
            parts = object_parts(info.key.removeprefix(below))
            if info.key in named or parts is None or parts[1] >= self._epoch:
                continue
            if parts[0] < end:
                old.append(info.key)
            else:
                later.append(parts[0])
        if old:
            log.info("removing %d objects that no catalog names, from %s on", len(old), old[0])
        await self._each(old, self.delete)
        self._unjudged = max(later, default=None)
        return True

    async def _remove_free(self) -> bool:
        """Remove what the log needs no more; whether that was all of it."""
        engine, objects = self._engine, self._cloud.objects
        free = objects.free(engine.marks.start_offset)

        async def remove(descriptor: Descriptor) -> None:
            if engine.pins.hold_objects(descriptor.end):  # somebody reads it, or what is before it
                return
            await self.delete(self._catalog.object_key(descriptor.object_id))
            objects.deleted(descriptor)

        await self._each(free, remove)
        return not objects.free(engine.marks.start_offset)

    async def _collect(self) -> bool:
        """Remove old entries of the catalog, now and then."""
        done = self._cloud.uploads.done
        if done >= self._collect_at:
            await self._session.collect()
            self._collect_at = done + COLLECT_EVERY
        return True

    async def _each(self, items: list[T], remove: Callable[[T], Awaitable[None]]) -> None:
        """Remove each of them, several at a time; raises the first error, and begins no more."""
        waiting = iter(items)
        errors: list[DanubeError] = []

        async def some() -> None:
            for item in waiting:
                if errors or not self._running:
                    return
                try:
                    await remove(item)
                except DanubeError as error:
                    errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(min(AT_A_TIME, len(items))):
                nursery.start_soon(some)
        for error in errors:
            raise error

    async def delete(self, key: str) -> None:
        """Delete an object, if the store lets us."""
        if self._only_adds:
            return
        try:
            await self._store.delete(key)
        except AccessDeniedError as error:
            self._only_adds = True
            if self._store not in _only_adding:
                _only_adding.add(self._store)
                log.warning("objects that are not needed any more stay in the store: %s", error)
