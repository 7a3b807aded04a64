"""`check_catalog`: does a catalog keep the rules of `danube_trio.catalog.Catalog`?

One log lives through it: it begins, is written, fought over, trimmed, sealed, and deleted.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio.catalog import Catalog, fresh, new_object_id
from danube_trio.errors import FencedError

RACERS = 6
ROUNDS = 5
READS = 20


async def check_catalog(make: Callable[[], Catalog]) -> None:
    """Check every rule of the contract; AssertionError says in a sentence which one is broken.

    Args:
        make: gives another handle on the catalog of one log each time: as another process would.
            Nothing was ever published there before; afterwards the log is deleted.
    """
    log = _Log(make)
    for check in CHECKS:
        await check(log)


class _Log:
    """The log under test, as far as the checks before have brought it."""

    def __init__(self, make: Callable[[], Catalog]) -> None:
        self.make = make
        self.catalog = make()
        self.state: CatalogState | None = None

    @property
    def newest(self) -> CatalogState:
        """The newest state."""
        assert self.state is not None
        return self.state

    async def publish(self, after: CatalogState) -> CatalogState:
        """Publish the next state, and look that every handle sees just that."""
        sequence = self.state.sequence if self.state else 0
        wanted = fresh(after)
        self.state = await self.catalog.publish(self.state, wanted)
        assert self.state == attrs.evolve(wanted, sequence=sequence + 1), (
            f"publish must return the state with the next sequence, not {self.state}"
        )
        await self.is_newest()
        return self.state

    async def is_newest(self) -> None:
        """Look that every handle sees the newest state."""
        for handle, which in ((self.catalog, "its own"), (self.make(), "another")):
            seen = await handle.latest()
            assert seen == self.state, f"{which} handle sees {seen}, published was {self.state}"

    async def is_fenced(self, handle: Catalog, before: CatalogState | None, why: str) -> None:
        """Look that a change of `before` is refused, and changes nothing."""
        base = before or CatalogState.begin(0, "s5-standard", 1)
        fenced: FencedError | None = None
        try:
            await handle.publish(before, fresh(base.taken_over("thief", "thief")))
        except FencedError as error:
            fenced = error
        assert fenced is not None, f"{why}: publish must raise FencedError"
        assert fenced.epoch == base.epoch + 1, "FencedError has the epoch of who was fenced"
        assert fenced.by, "FencedError says who did it"
        await self.is_newest()


def _segment(state: CatalogState, count: int = 10, entries: int = 2) -> Descriptor:
    """A next segment of a state."""
    base = state.end
    return Descriptor(
        base=base,
        end=base + count,
        size_bytes=count * 100,
        object_id=new_object_id(base, state.epoch),
        crc32=base * 7919 % 2**32,
        etag='"tag-ü"' if base % 20 else None,
        created_at=1_768_728_599 + base,
        epoch=state.epoch,
        first_time=1_768_728_599_000_000 + base if entries else 0,
        last_time=1_768_728_599_000_000 + base + count if entries else 0,
        index=tuple((base + i, i * 100, 1_768_728_599_000_000 + base + i) for i in range(entries)),
    )


async def an_empty_catalog_has_no_state(log: _Log) -> None:
    assert await log.catalog.latest() is None, "latest() of a log never published must be None"
    assert log.catalog.url, "a catalog says where it is"
    object_id = new_object_id(0, 1)
    key = log.catalog.object_key(object_id)
    assert key == f"{log.catalog.object_prefix}/{object_id}", "object keys are below their prefix"


async def the_first_state_is_published_once(log: _Log) -> None:
    begin = CatalogState.begin(5, "s5-standard", 1)
    await log.publish(begin.taken_over("directory-a", "writer a ü"))
    await log.is_fenced(log.catalog, None, "a first state when there is one")
    await log.is_fenced(log.make(), None, "a first state by another handle")


async def a_publish_can_be_repeated(log: _Log) -> None:
    before = log.newest
    after = fresh(before.committed(_segment(before)))
    first = await log.catalog.publish(before, after)
    again = await log.catalog.publish(before, after)
    other = await log.make().publish(before, after)
    assert first == again == other, "the same publish again must give the same state"
    log.state = first
    await log.is_newest()


async def a_cancelled_publish_can_be_repeated(log: _Log) -> None:
    before = log.newest
    after = fresh(before.committed(_segment(before)))
    with trio.CancelScope() as scope:
        scope.cancel()
        await log.catalog.publish(before, after)
    log.state = await log.catalog.publish(before, after)
    await log.is_newest()


async def segments_come_back_as_they_were(log: _Log) -> None:
    for count, entries in ((1, 0), (7, 1), (2000, 50), (2**40, 3)):
        await log.publish(log.newest.committed(_segment(log.newest, count, entries)))


async def only_the_newest_state_has_a_successor(log: _Log) -> None:
    old = log.newest
    await log.publish(log.newest.committed(_segment(log.newest)))
    await log.is_fenced(log.catalog, old, "a successor of a state that has one")
    await log.is_fenced(log.make(), old, "a successor of a state that has one, by another")


async def bad_changes_are_refused(log: _Log) -> None:
    state = log.newest
    gone = attrs.evolve(state, segments=state.segments[1:])
    past = attrs.evolve(state, epoch=state.epoch - 1, owner_since_epoch=0)
    for after, why in (
        (fresh(gone), "segments that do not begin with the log"),
        (fresh(past), "an older epoch"),
        (attrs.evolve(state, nonce=""), "a state without a nonce"),
    ):
        try:
            await log.catalog.publish(state, after)
        except ValueError:
            await log.is_newest()
        else:
            raise AssertionError(f"{why}: publish must raise ValueError")


async def trimming_drops_segments(log: _Log) -> None:
    first, second = log.newest.segments[:2]
    await log.publish(log.newest.trimmed(first.end - 1))
    await log.publish(log.newest.trimmed(first.end))
    await log.publish(log.newest.trimmed(second.base + 1))
    await log.publish(log.newest.trimmed(log.newest.end + 1000))
    for _ in range(70):
        log.state = await log.catalog.publish(
            log.state, fresh(log.newest.committed(_segment(log.newest)))
        )
    await log.is_newest()
    await log.publish(log.newest.trimmed(log.newest.end - 15))  # more than fits one transaction


async def a_take_over_fences_the_writer_before(log: _Log) -> None:
    old, held = log.catalog, log.newest
    log.catalog = log.make()
    await log.publish(log.newest.taken_over("directory-b", "writer b"))
    await log.is_fenced(old, held, "a change by a writer whose epoch is over")
    await log.publish(log.newest.committed(_segment(log.newest)))
    await log.is_fenced(old, held, "a second change by a writer whose epoch is over")


async def of_rivals_one_wins(log: _Log) -> None:
    for number in range(ROUNDS):
        before, won, lost = log.newest, list[CatalogState](), list[int]()

        async def race(
            racer: int,
            before: CatalogState = before,
            won: list[CatalogState] = won,
            lost: list[int] = lost,
        ) -> None:
            after = fresh(before.taken_over(f"directory {racer}", f"racer {racer}"))
            try:
                won.append(await log.make().publish(before, after))
            except FencedError:
                lost.append(racer)

        async with trio.open_nursery() as nursery:
            for racer in range(RACERS):
                nursery.start_soon(race, racer)
        assert len(won) == 1, f"round {number}: {len(won)} of {RACERS} rivals won, must be one"
        assert len(lost) == RACERS - 1, "the others are fenced"
        log.state = won[0]
        await log.is_newest()


async def readers_never_go_back(log: _Log) -> None:
    published = {log.newest.sequence: log.newest}
    done = trio.Event()

    async def read() -> None:
        handle, last = log.make(), 0
        while not done.is_set():
            least = max(published)
            seen = await handle.latest()
            assert seen is not None, "a catalog that had a state has one"
            assert seen.sequence >= max(last, least), "what was the newest before is not any more"
            if seen.sequence in published:  # else its publisher has not heard of it yet
                assert seen == published[seen.sequence], "a reader sees what was published"
            last = seen.sequence

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        for number in range(READS):
            state = await log.catalog.publish(
                log.newest, fresh(log.newest.committed(_segment(log.newest)))
            )
            published[state.sequence] = log.state = state
            if number % 5 == 4:
                await log.catalog.collect(state)
        done.set()


async def collecting_leaves_the_newest(log: _Log) -> None:
    old, held = log.make(), log.newest
    await log.publish(log.newest.taken_over("directory-c", "writer c"))
    for handle, state in ((log.catalog, log.newest), (old, held), (log.make(), log.newest)):
        assert await handle.collect(state) >= 0, "collect returns how many entries it removed"
        await log.is_newest()
    assert await log.catalog.collect(log.newest) == 0, "collecting again finds nothing"
    await log.publish(log.newest.committed(_segment(log.newest)))
    await log.is_fenced(old, held, "a change by a writer that was fenced, after collecting")


async def a_sealed_log_can_be_taken_over(log: _Log) -> None:
    await log.publish(log.newest.left_sealed())
    state = await log.publish(log.newest.taken_over("directory-d", "writer d"))
    assert not state.sealed, "a log that was taken over is not sealed any more"


async def a_deleted_log_keeps_its_end(log: _Log) -> None:
    end = log.newest.end
    await log.publish(log.newest.left_deleted())
    state = await log.publish(log.newest.taken_over("directory-e", "writer e"))
    assert (state.start_offset, state.end) == (end, end), "a next life begins where it ended"
    await log.publish(log.newest.committed(_segment(log.newest)))
    await log.publish(log.newest.left_deleted())


CHECKS = (
    *(an_empty_catalog_has_no_state, the_first_state_is_published_once, a_publish_can_be_repeated),
    *(a_cancelled_publish_can_be_repeated, segments_come_back_as_they_were),
    *(only_the_newest_state_has_a_successor, bad_changes_are_refused, trimming_drops_segments),
    *(a_take_over_fences_the_writer_before, of_rivals_one_wins, readers_never_go_back),
    *(collecting_leaves_the_newest, a_sealed_log_can_be_taken_over, a_deleted_log_keeps_its_end),
)
