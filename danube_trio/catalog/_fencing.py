"""A writer's side of a catalog: taking it over, then one change after the other.

**Acquire.** Look, let the caller settle its directory with what is there, publish the next epoch;
again from the start if somebody else published in between.

**Changes** go one at a time, each from the state that the one before made. A change is *pending*
from the moment that it is decided until its outcome is known. Losing an answer, or being cancelled,
leaves it pending: it may have happened, or may yet. So it is published again, the very same one,
before anything else; then the next change is made from what came out.

**Fenced.** Another epoch began: nothing more is published, ever, by this session. One last look
says whether the pending change had counted before that, and `state` includes it if it did. What
others published after it is not part of `state`: it is theirs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NoReturn

import attrs
import trio

from danube_trio._core.catalog import CatalogState
from danube_trio.catalog._base import Catalog, SharedCatalog, fresh
from danube_trio.catalog._patient import latest_state, ride_out
from danube_trio.catalog._retry import Backoff
from danube_trio.errors import FencedError

__all__ = ["CatalogSession", "acquire"]

# A guess: so many openers at once are a mistake somewhere else.
ACQUIRE = Backoff(attempts=10)

Settle = Callable[[CatalogState | None], Awaitable[CatalogState]]


async def acquire(catalog: Catalog, settle: Settle, *, backoff: Backoff = ACQUIRE) -> CatalogState:
    """Begin a new epoch, and return its state.

    Args:
        catalog: the log's.
        settle: called with the newest state (None: nothing was ever published). It makes the
            caller's directory agree with it, and saves the new epoch there durably, before it
            returns the state to publish: that of `CatalogState.taken_over`. It is called again
            when somebody else was faster.
        backoff: how often to try, and the pauses.

    Raises:
        FencedError: others were faster each time.
        UnsupportedFormatError: other programs wrote to the log, see `SharedCatalog`.
        StoreUnavailableError: the epoch may have begun, or may yet. Acquire again.

    Cancellation: as StoreUnavailableError.
    """
    attempt = 0
    looking = Backoff(chance=backoff.chance)
    while True:
        before = await latest_state(catalog, looking)
        if isinstance(catalog, SharedCatalog):
            refuse = partial(catalog.refuse_others, before)
            await ride_out(refuse, looking, f"reading {catalog.url}")
        after = await settle(before)
        least = before.epoch if before else 0
        if after.epoch <= least:
            raise ValueError(f"epoch {after.epoch} is no take-over of {least}: see taken_over()")
        try:
            return await catalog.publish(before, fresh(after))
        except FencedError:
            attempt += 1
            if attempt >= backoff.attempts:
                raise
        await trio.sleep(backoff.pause_after(attempt))


class CatalogSession:
    """The catalog of a log, for the writer that took it over.

    Args:
        catalog: the log's.
        state: what `acquire` returned.

    Attributes:
        fenced: the error with which the session ended, once another writer took over.
        on_change: called with each new `state` in the step in which it becomes that, whoever's call
            settled it; None: nobody wants to know.
    """

    def __init__(self, catalog: Catalog, state: CatalogState) -> None:
        if not state.sequence:
            raise ValueError("the state was not published: see acquire()")
        self._catalog = catalog
        self._state = state
        self._pending: CatalogState | None = None
        self._lock = trio.Lock()
        self.fenced: FencedError | None = None
        self.on_change: Callable[[CatalogState], None] | None = None

    def __repr__(self) -> str:
        flags = "fenced, " if self.fenced else "a change is pending, " if self.pending else ""
        return f"<CatalogSession {flags}epoch {self._state.epoch}, end {self._state.end}>"

    @property
    def catalog(self) -> Catalog:
        """The log's catalog."""
        return self._catalog

    @property
    def state(self) -> CatalogState:
        """The newest state that is known to be this writer's."""
        return self._state

    @property
    def pending(self) -> bool:
        """Whether there is a change of which nobody knows yet whether it happened."""
        return self._pending is not None

    async def change(self, make: Callable[[CatalogState], CatalogState]) -> CatalogState:
        """Publish a change, and return the state with it.

        Args:
            make: gets the newest state, and returns the one that a transition makes of it; the
                same object if there is nothing to do. A pending change was settled before it is
                called: of a call that is repeated because its outcome was unknown, `make` may
                find it done.

        Raises:
            FencedError: another writer took over. `state` tells whether the change counts: it has
                its segment, or its start offset. (Of `left_sealed` that cannot be known.)
            StoreUnavailableError: the outcome is unknown, the change is pending.

        Whatever `make` raises is raised here, and changes nothing. Cancelled while it publishes,
        the change is pending.
        """
        async with self._lock:
            await self._settle()
            after = make(self._state)
            if after is self._state:
                return after
            if after.epoch != self._state.epoch:
                raise ValueError(f"epoch {after.epoch} is not the session's {self._state.epoch}")
            self._pending = fresh(after)
            await self._settle()
            return self._state

    async def settle(self) -> CatalogState:
        """Learn the outcome of a pending change, and return the state. Raises as `change`."""
        async with self._lock:
            await self._settle()
            return self._state

    async def collect(self) -> int:
        """Remove superseded entries, see `Catalog.collect`; none if the session is fenced."""
        if self.fenced is not None:
            return 0
        return await self._catalog.collect(self._state)

    async def _settle(self) -> None:
        if self.fenced is not None:
            raise FencedError(self.fenced.epoch, self.fenced.by)
        if self._pending is None:
            return
        try:
            state = await self._catalog.publish(self._state, self._pending)
        except FencedError as error:
            await self._end(self._pending, error)
        except ValueError:
            self._pending = None  # refused before anything was sent
            raise
        self._became(state)

    def _became(self, state: CatalogState) -> None:
        self._state, self._pending = state, None
        if self.on_change is not None:
            self.on_change(state)

    async def _end(self, pending: CatalogState, error: FencedError) -> NoReturn:
        """Become fenced. Nothing changes if the last look fails: the next call tries again."""
        newest = await self._catalog.latest()
        if newest is not None and _counts(self._state, pending, newest):
            self._became(attrs.evolve(pending, sequence=self._state.sequence + 1))
        self._pending = None
        by = error.by
        if newest is not None and newest.epoch > self._state.epoch:
            by = f"{newest.writer or 'a writer'} (epoch {newest.epoch})"
        self.fenced = FencedError(error.epoch, by)
        raise self.fenced from error


def _counts(before: CatalogState, change: CatalogState, newest: CatalogState) -> bool:
    """Whether a change is in the history of a later state, as far as that state shows.

    An object's id is unique, and offsets are given once, so what it shows is true. A segment that
    was trimmed since shows no more: it does not count.
    """
    if newest.start_offset < change.start_offset or (change.sealed and not before.sealed):
        return False
    added = [d for d in change.segments if d.base >= before.end]
    found = [newest.find(d.base) for d in added]
    return [d and d.object_id for d in found] == [d.object_id for d in added]
