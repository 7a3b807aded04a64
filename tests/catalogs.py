"""What tests of catalogs share: states, segments, and a log that goes through its life."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio.catalog import Backoff, Catalog, fresh, new_object_id
from danube_trio.errors import StoreUnavailableError
from danube_trio.testing import MetadataFault, StoreFault

QUICK = Backoff(attempts=4, first_seconds=0.01)
Change = Callable[[CatalogState], CatalogState]


def begin(owner: str = "a", start: int = 0) -> CatalogState:
    """The first state of a log."""
    return CatalogState.begin(start, "s5-standard", 1).taken_over(owner, f"writer {owner}")


def segment(state: CatalogState, count: int = 10, **fields: object) -> Descriptor:
    """The next segment of a state."""
    base = state.end
    d = Descriptor(
        base=base,
        end=base + count,
        size_bytes=100 * count,
        object_id=new_object_id(base, state.epoch),
        crc32=base,
        epoch=state.epoch,
    )
    return attrs.evolve(d, **fields)  # type: ignore[arg-type]  # whatever a test wants


def commit(state: CatalogState) -> CatalogState:
    """One more segment."""
    return state.committed(segment(state))


def trim_one(state: CatalogState) -> CatalogState:
    """The first segment goes."""
    return state.trimmed(state.segments[0].end)


def take_over(state: CatalogState) -> CatalogState:
    """Another owner."""
    return state.taken_over("b", "writer b")


LIFE: tuple[Change, ...] = (
    *(commit, commit, commit, trim_one, take_over, commit, commit),
    *(CatalogState.left_sealed, take_over, CatalogState.left_deleted),
)


async def live_with_cancellation(handles: Sequence[Catalog]) -> CatalogState:
    """The whole life; if a handle hangs, it is cancelled, and the next one goes on."""
    state: CatalogState | None = None
    for change in (None, *LIFE):
        after = fresh(change(state) if change and state else begin())
        for handle in handles:
            with trio.move_on_after(1):
                state = await handle.publish(state, after)
                break
        else:
            raise AssertionError("every handle hung")
    assert state is not None
    return state


async def publish(
    catalog: Catalog, state: CatalogState | None, after: CatalogState
) -> CatalogState:
    """Publish as a patient writer does: the same again while it is not settled."""
    after = fresh(after)
    for _ in range(10):
        try:
            return await catalog.publish(state, after)
        except StoreUnavailableError:
            continue
    raise AssertionError("it was never settled")


async def live(catalog: Catalog, changes: tuple[Change, ...] = LIFE) -> CatalogState:
    """Begin a log, and let it go through these changes."""
    state = await publish(catalog, None, begin())
    for change in changes:
        state = await publish(catalog, state, change(state))
    return state


async def settle_the_unknown(
    catalog: Catalog, fail: Callable[[], Iterable[MetadataFault | StoreFault]]
) -> None:
    """A change fails while nobody can tell whether it was made; then the same call settles it."""
    state = await publish(catalog, None, begin())
    after = fresh(commit(state))
    faults = list(fail())
    with pytest.raises(StoreUnavailableError, match=r"publishing number 2 .* 4 attempts"):
        await catalog.publish(state, after)
    for fault in faults:
        fault.cancel()
    assert (await catalog.publish(state, after)).sequence == 2


class Gate:
    """Holds one call back until it is opened."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.open = trio.Event()

    async def wait(self) -> None:
        """The held call waits here."""
        self.reached.set()
        await self.open.wait()


@asynccontextmanager
async def held(gate: Gate, call: Callable[[], Awaitable[object]]) -> AsyncGenerator[list[object]]:
    """Start a call that runs into the gate; it goes on after the block, which gets its result.

    The result, or the exception, is in the list after the block.
    """
    outcome: list[object] = []

    async def run() -> None:
        try:
            outcome.append(await call())
        except Exception as error:
            outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await gate.reached.wait()
        yield outcome
        gate.open.set()
