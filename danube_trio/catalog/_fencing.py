"""A writer's side of a catalog: taking it over, then one change after the other.

**Acquire.** Look, let the caller settle its directory with what is there, publish the next epoch.
Settling takes long, as reading a directory does, and a busy writer publishes meanwhile, each time.
So if the writer of the epoch that was settled with went on, the epoch that was settled for is taken
from what it has published by now: the directory knows that epoch already, and there is no more than
a look between that and publishing. Which fences the writer, and settling has all the time then::

    look --> settle (epoch e durable) --> publish e ------------------------------> done
               ^                             | the same writer went on
               +--- it is fenced now <-- look, publish e: again and again, at once
               +--- another writer took over: after a pause

So a take-over from one writer settles twice at most. It ends, one way or the other, after
`ACQUIRE` rounds of settling, each with `RACES` tries to be faster than the writer.

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

# A guess: so many openers at once are a mistake somewhere else.
ACQUIRE = Backoff(attempts=10)
# How often to try to publish before a writer that goes on. It does, between two publications, more
# requests than we, so each try succeeds about every second time. A guess.
RACES = 100

Settle = Callable[[CatalogState | None], Awaitable[CatalogState]]


async def acquire(catalog: Catalog, settle: Settle, *, backoff: Backoff = ACQUIRE) -> CatalogState:
    """Begin a new epoch, and return its state.

    Args:
        catalog: the log's.
        settle: called with the newest state (None: nothing was ever published). It makes the
            caller's directory agree with it, and saves the new epoch there durably, before it
            returns the state to publish: that of `CatalogState.taken_over`. It is called again
            when somebody else was faster, which it may also find out, and raise as FencedError.
        backoff: how often to try, and the pauses.

    Raises:
        FencedError: others were faster each time; `FencedError.by` is who was at last.
        UnsupportedFormatError: other programs wrote to the log, see `SharedCatalog`.
        StoreUnavailableError: the epoch may have begun, or may yet. Acquire again.

    Cancellation: as StoreUnavailableError.
    """
    attempt = 0
    looking = Backoff(chance=backoff.chance)
    while True:
        before, after = await latest_state(catalog, looking), None
        if isinstance(catalog, SharedCatalog):
            refuse = partial(catalog.refuse_others, before)
            await ride_out(refuse, looking, f"reading {catalog.url}")
        least = before.epoch if before else 0
        try:
            after = await settle(before)
            if after.epoch <= least:
                raise ValueError(
                    f"epoch {after.epoch} is no take-over of {least}: see taken_over()"
                )
            return await catalog.publish(before, fresh(after))
        except FencedError as error:
            attempt += 1
            if attempt >= backoff.attempts:
                epoch = after.epoch if after else least + 1
                times = f"who published before epoch {epoch} began, {attempt} times"
                raise FencedError(epoch, f"{error.by}, {times}") from error
        if not (before and after and await _fence(catalog, before, after, looking)):
            await trio.sleep(backoff.pause_after(attempt))


async def _fence(
    catalog: Catalog, before: CatalogState, after: CatalogState, looking: Backoff
) -> bool:
    """Begin the epoch of `after` on top of what the writer of `before` has published since.

    Returns whether it began; not, if another writer took over.
    """
    for _ in range(RACES):
        newest = await latest_state(catalog, looking)
        if newest is None or newest.epoch != before.epoch:
            return False
        taken = newest.taken_over(after.owner, after.writer, least_epoch=after.epoch - 1)
        try:
            await catalog.publish(newest, fresh(taken))
        except FencedError:
            continue
        return True
    return False


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
