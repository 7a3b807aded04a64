"""Writers fight over a log, in bad weather, while it is collected and read: nothing acked is lost.

Each seed is one run. The broken variants show that the runs would find what they are for: each
leaves out one rule, and must be caught within so many seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import attrs
import pytest
import trio
from catalog_sim import TOPIC, Client, Entries, Violation, World
from trio.testing import MockClock

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio.catalog import (
    Backoff,
    Catalog,
    CatalogSession,
    ManifestCatalog,
    MetadataCatalog,
    acquire,
    new_object_id,
    object_parts,
)
from danube_trio.errors import CorruptDataError, FencedError, StoreUnavailableError

SEEDS = int(os.environ.get("DANUBE_CATALOG_SEEDS", "20"))
# How many seeds a broken variant gets. The rarest shows in one of fifteen.
BROKEN_SEEDS = 300
SECONDS = 600.0

Make = Callable[[Client], Catalog]


def quick(client: Client) -> Backoff:
    return Backoff(attempts=4, first_seconds=0.5, limit_seconds=4.0, chance=client.dice.random)


def manifests(client: Client, kind: type[ManifestCatalog] = ManifestCatalog) -> Catalog:
    # one request at a time: the order of several would not be the seed's
    return kind(client, "log", fold_segments=3, keep=1, requests=1, backoff=quick(client))


def danube(client: Client, kind: type[MetadataCatalog] = MetadataCatalog) -> Catalog:
    return kind(Entries(client), TOPIC, clock=trio.current_time, backoff=quick(client))


@attrs.define(eq=False)
class Writer:
    """A program that opens the log, writes to it for a while, and begins again."""

    world: World
    name: str
    client: Client
    make: Make
    ignores_epochs: bool = False

    async def run(self) -> None:
        while True:
            await trio.sleep(self.client.dice.uniform(1, 30))
            try:
                await self.live()
            except (FencedError, StoreUnavailableError):
                continue

    async def live(self) -> None:
        dice = self.client.dice
        catalog = self.make(self.client)
        state = await acquire(catalog, self.settle, backoff=quick(self.client))
        session = CatalogSession(catalog, state)
        for _ in range(dice.randint(1, 25)):
            action = dice.choices((self.commit, self.trim, self.collect, self.leave), (8, 2, 3, 1))
            limit = dice.uniform(0.5, 10) if dice.random() < 0.2 else 1e6
            try:
                with trio.move_on_after(limit):
                    await action[0](session)
            except StoreUnavailableError:
                if dice.random() < 0.3:
                    raise
            await trio.sleep(dice.expovariate(0.5))

    async def settle(self, state: CatalogState | None) -> CatalogState:
        await self.client.pause()
        before = state or CatalogState.begin(0, "s5-standard", 1)
        return before.taken_over(self.name, f"{self.name} {self.client.dice.random()}")

    async def commit(self, session: CatalogSession) -> None:
        base, epoch = session.state.end, session.state.epoch
        d = Descriptor(base, base + 10, 1000, new_object_id(base, epoch), 1, epoch=epoch)
        await self.client.put(d.object_id, b"")

        def make(state: CatalogState) -> CatalogState:
            return state.committed(d) if state.end == base else state

        try:
            await session.change(make)
        finally:
            if session.state.find(base) == d:
                self.world.acknowledge(d)

    async def trim(self, session: CatalogSession) -> None:
        def make(state: CatalogState) -> CatalogState:
            room = state.end - state.start_offset
            return state.trimmed(state.start_offset + int(room * self.client.dice.random()))

        await session.change(make)

    async def leave(self, session: CatalogSession) -> None:
        await session.change(CatalogState.left_sealed)

    async def collect(self, session: CatalogSession) -> None:
        await session.settle()
        await session.collect()
        await self.client.pause()  # a list
        used = {d.object_id for d in session.state.segments}
        for key in sorted(self.world.objects):
            parts = object_parts(key)
            if parts is None or key in used:
                continue
            if self.ignores_epochs or parts[1] < session.state.epoch:
                await self.client.delete(key)


async def read(world: World, client: Client, make: Make) -> None:
    catalog, last = make(client), 0
    while True:
        await client.pause()
        least = len(world.history)
        try:
            last = world.seen(await catalog.latest(), max(last, least))
        except StoreUnavailableError:
            continue


async def run_world(make: Make, seed: int, ignores_epochs: bool, worlds: list[World]) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        worlds.append(world)
        for name in ("a", "b", "c"):
            client = Client(world, f"{seed}/{name}")
            nursery.start_soon(Writer(world, name, client, make, ignores_epochs).run)
        for number in range(2):
            nursery.start_soon(read, world, Client(world, f"{seed}/reader {number}"), make)
        await trio.sleep(SECONDS)
        nursery.cancel_scope.cancel()
    calm = Client(world, f"{seed}/last", calm=True)
    world.seen(await make(calm).latest(), len(world.history))


def run(make: Make, seed: int, *, ignores_epochs: bool = False) -> World:
    """One run; raises Violation."""
    worlds: list[World] = []
    try:
        trio.run(
            run_world, make, seed, ignores_epochs, worlds, clock=MockClock(autojump_threshold=0)
        )
    except BaseExceptionGroup as group:
        found = group.subgroup((Violation, CorruptDataError))
        if found is None:
            raise
        first: BaseException = found
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise Violation(f"seed {seed}: {first}") from first
    return worlds[0]


@pytest.mark.parametrize("make", [manifests, danube])
def test_nothing_acknowledged_is_lost(make: Make) -> None:
    worlds = [run(make, seed) for seed in range(SEEDS)]
    # and the runs are worth something
    assert sum(world.acks for world in worlds) >= 4 * SEEDS
    assert sum(world.newest.epoch for world in worlds if world.newest) >= 3 * SEEDS
    if make is manifests:
        assert sum(world.revenants for world in worlds) >= SEEDS // 5


# ---- broken on purpose


class PublishesWithoutSecondLook(ManifestCatalog):
    """Creating the manifest is all."""

    publishing = False

    async def publish(self, before: CatalogState | None, after: CatalogState) -> CatalogState:
        self.publishing = True
        try:
            return await super().publish(before, after)
        finally:
            self.publishing = False

    async def _superseded(self, sequence: int) -> bool:
        return not self.publishing and await super()._superseded(sequence)


class TakesAnyAnswerForSuccess(ManifestCatalog):
    """A conflict or a lost answer on the way to a create: it will have been stored."""

    async def _find(self, after: CatalogState) -> bytes | None:
        return b""


class CollectsPagesOfOthers(ManifestCatalog):
    """A page that is not named by one's own newest state is garbage, whatever its number."""

    async def _list_unnamed_pages(self, known: object) -> list[str]:
        named = {page.ref.name for page in getattr(known, "pages", ())}
        keys = [info.key for info in await self._store.list_objects(f"{self._prefix}/pages")]
        return [key for key in keys if key.rpartition("/")[2] not in named]


class CollectsTheNewest(ManifestCatalog):
    """What the own state supersedes may go; another's number is not looked at."""

    async def collect(self, state: CatalogState) -> int:
        for number in await self._list_manifests(0):
            if number != state.sequence:
                await self._store.delete(self._key(number))
        return 0


class ExpectsNothing(MetadataCatalog):
    """The look is enough: what was seen is not expected of the transaction."""

    async def _transact(self, look: object, change: object) -> bool:
        put, delete = getattr(change, "put", {}), getattr(change, "delete", ())
        return await self._metadata.transact({}, put=put, delete=delete) is not None


class ExpectsTheEpochOnly(MetadataCatalog):
    """Whoever has the epoch may publish: also a request that is late."""

    async def _transact(self, look: object, change: object) -> bool:
        epoch = getattr(look, "epoch", None)
        put, delete = getattr(change, "put", {}), getattr(change, "delete", ())
        expect = {self._keys.epoch: epoch.revision if epoch else 0}
        return await self._metadata.transact(expect, put=put, delete=delete) is not None


class TakesLostAnswersForSuccess(MetadataCatalog):
    """What is not settled in the end will have happened."""

    async def publish(self, before: CatalogState | None, after: CatalogState) -> CatalogState:
        try:
            return await super().publish(before, after)
        except StoreUnavailableError:
            return attrs.evolve(after, sequence=before.sequence + 1 if before else 1)


BROKEN = [
    *(
        partial(manifests, kind=kind)
        for kind in (
            PublishesWithoutSecondLook,
            TakesAnyAnswerForSuccess,
            CollectsPagesOfOthers,
            CollectsTheNewest,
        )
    ),
    *(
        partial(danube, kind=kind)
        for kind in (ExpectsNothing, ExpectsTheEpochOnly, TakesLostAnswersForSuccess)
    ),
]


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.keywords["kind"].__name__)
def test_a_broken_protocol_is_caught(make: Make) -> None:
    with pytest.raises(Violation):
        for seed in range(BROKEN_SEEDS):
            run(make, seed)


def test_collecting_objects_without_regard_to_epochs_is_caught() -> None:
    with pytest.raises(Violation):
        for seed in range(BROKEN_SEEDS):
            run(manifests, seed, ignores_epochs=True)


def test_a_seed_repeats_a_run() -> None:
    first, second = run(manifests, 1), run(manifests, 1)
    assert [s.end for s in first.history] == [s.end for s in second.history]
    assert first.operations == second.operations
