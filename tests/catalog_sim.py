"""A world for catalogs: stores with bad weather, writers that fight, and a record of what is true.

`World` keeps the true history of a log, which it learns from the effects on the stores, each at the
moment at which it happens: nobody who takes part sees it. What contradicts it, or a promise, is a
`Violation`. Everything is decided by the seed: each party has its own dice, and all waits are in
virtual time and of different lengths, so a seed repeats a run.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

import attrs
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.danube_catalog import (
    Details,
    EpochEntry,
    Head,
    TopicKeys,
    decode_segment,
    join_segment,
)
from danube_trio._core.manifest import (
    check_successor,
    decode_manifest,
    decode_page,
    manifest_sequence,
)
from danube_trio.cloud import ObjectInfo
from danube_trio.errors import (
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreUnavailableError,
)
from danube_trio.metadata import Revised, WatchEvent

T = TypeVar("T")
PREFIX = "log"
# How many requests are slow, and how slow; the mean of all others is 1 s.
SLOW_SHARE = 0.03
SLOW = 60.0
TOPIC = "/default/orders"


class Violation(AssertionError):
    """The catalog broke a promise."""


@attrs.define(eq=False)
class World:
    """What is true. `objects` and `entries` are the two stores' contents."""

    nursery: trio.Nursery
    objects: dict[str, bytes] = attrs.Factory(dict[str, bytes])
    entries: dict[str, Revised] = attrs.Factory(dict[str, Revised])
    revision: int = 1
    history: list[CatalogState] = attrs.Factory(list[CatalogState])
    acked: dict[str, Descriptor] = attrs.Factory(dict[str, Descriptor])
    acks: int = 0
    revenants: int = 0  # manifests whose number was used before
    operations: int = 0

    @property
    def newest(self) -> CatalogState | None:
        return self.history[-1] if self.history else None

    # ---- what happens

    def append(self, state: CatalogState) -> None:
        """The next state of the history."""
        try:
            check_successor(self.newest, attrs.evolve(state, sequence=0))
        except ValueError as error:
            raise Violation(f"{state} cannot follow {self.newest}: {error}") from error
        if state.sequence != len(self.history) + 1:
            raise Violation(f"number {state.sequence} after {len(self.history)}")
        before = self.newest
        if before and state.epoch == before.epoch and state.owner != before.owner:
            raise Violation(f"two writers have the epoch {state.epoch}")
        if any(state.nonce == other.nonce for other in self.history):
            raise Violation("published twice")
        self.history.append(state)
        self.everything_acked_is_there()

    def everything_acked_is_there(self) -> None:
        assert self.newest is not None
        for d in list(self.acked.values()):
            if d.end <= self.newest.start_offset:
                del self.acked[d.object_id]
            elif self.newest.find(d.base) != d:
                raise Violation(f"lost after it was acknowledged: {d.object_id}")
        for d in self.newest.segments:
            if d.object_id not in self.objects:
                raise Violation(f"the catalog has an object that is not there: {d.object_id}")

    def acknowledge(self, d: Descriptor) -> None:
        """A writer was told that its segment counts."""
        if not any(state.find(d.base) == d for state in self.history):
            raise Violation(f"acknowledged, and in no state: {d.object_id}")
        self.acks += 1
        self.acked[d.object_id] = d
        self.everything_acked_is_there()

    def seen(self, state: CatalogState | None, least: int) -> int:
        """A reader saw this; number `least` was published before it looked."""
        number = state.sequence if state else 0
        if number < least:
            raise Violation(f"saw number {number}, and {least} was there before")
        if state and self.history[number - 1] != state:
            raise Violation(f"saw {state}, true is {self.history[number - 1]}")
        return number

    # ---- objects, with manifests among them

    def create(self, key: str, data: bytes) -> None:
        if key in self.objects:
            raise PreconditionFailedError(key)
        self.objects[key] = data
        number = manifest_sequence(key.removeprefix(f"{PREFIX}/manifest/"))
        if number is None:
            return
        if number > len(self.history):
            self.append(self.state_of(number))
        else:
            self.revenants += 1

    def state_of(self, number: int) -> CatalogState:
        manifest = decode_manifest(self.objects[f"{PREFIX}/manifest/{number:020d}"], number)
        pages = [(self.objects.get(f"{PREFIX}/pages/{ref.name}"), ref) for ref in manifest.pages]
        if any(data is None for data, _ in pages):
            raise Violation(f"number {number} names a page that is not there")
        return manifest.state(decode_page(data or b"", ref) for data, ref in pages)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)
        if self.newest and key.startswith(PREFIX):
            newest = f"{PREFIX}/manifest/{self.newest.sequence:020d}"
            if newest not in self.objects:
                raise Violation("the newest manifest was deleted")
            self.state_of(self.newest.sequence)
        if self.newest and any(d.object_id == key for d in self.newest.segments):
            raise Violation(f"an object of the newest state was deleted: {key}")

    # ---- entries

    def transact(
        self, expect: Mapping[str, int], put: Mapping[str, bytes], delete: Iterable[str]
    ) -> int | None:
        for key, revision in expect.items():
            if (self.entries[key].revision if key in self.entries else 0) != revision:
                return None
        self.revision += 1
        for key in delete:
            self.entries.pop(key, None)
        for key, value in put.items():
            self.entries[key] = Revised(key, value, self.revision)
        keys = TopicKeys.of("/danube", TOPIC)
        if self.newest is None or keys.head in put:
            self.append(self.state_of_entries(keys))
        elif self.state_of_entries(keys) != self.newest:
            raise Violation("the entries changed, and the head did not")
        return self.revision

    def state_of_entries(self, keys: TopicKeys) -> CatalogState:
        head = Head.decode(self.entries[keys.head].value)
        if EpochEntry.decode(self.entries[keys.epoch].value).epoch != head.epoch:
            raise Violation("head and epoch do not agree")
        found: list[Descriptor] = []
        for key in sorted(self.entries):
            base = TopicKeys.start_of(key)
            if key.startswith(keys.segments) and base is not None:
                danube = decode_segment(self.entries[key].value)
                if danube.end_offset >= head.start_offset:
                    detail = self.entries[keys.detail(base)].value
                    found.append(join_segment(danube, Details.decode(detail)))
        try:
            return head.joined(found)
        except ValueError as error:
            raise Violation(f"the entries are no state: {error}") from error


class Client:
    """One process's way to both stores: a `CloudStore` and a `MetadataStore`.

    A request takes its time, sometimes long; it may get lost, its answer may, it may arrive long
    after its sender gave up, and a conflict may be reported that is none, or one's own success.
    """

    can_swap = False

    def __init__(self, world: World, seed: str, *, calm: bool = False) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.calm = calm
        self.url = "sim:"

    async def pause(self) -> None:
        """Some time on the way; once in a while very long."""
        slow = not self.calm and self.dice.random() < SLOW_SHARE
        await trio.sleep(self.dice.expovariate(1.0) * (SLOW if slow else 1.0) + 1e-3)

    async def request(self, effect: Callable[[], T], *, writes: bool, creates: bool = False) -> T:
        self.world.operations += 1
        weather = 1.0 if self.calm else self.dice.random()
        await self.pause()
        if weather < 0.02:
            raise StoreUnavailableError("the request was lost")
        if writes and weather < 0.06:
            delay = self.dice.expovariate(1 / 40) + 1e-3
            self.world.nursery.start_soon(self.later, delay, effect)
            raise StoreUnavailableError("the request is late")
        if creates and weather < 0.08:
            raise PreconditionFailedError("409, and nothing was stored")
        try:
            result = effect()
        except (PreconditionFailedError, ObjectNotFoundError):
            await self.pause()
            raise
        await self.pause()
        if weather < 0.12:
            raise StoreUnavailableError("the answer was lost")
        if creates and weather < 0.15:
            raise PreconditionFailedError("it exists, because of this request")
        return result

    async def later(self, delay: float, effect: Callable[[], object]) -> None:
        await trio.sleep(delay)
        try:
            effect()
        except PreconditionFailedError:
            return  # nobody waits for the answer

    # ---- CloudStore

    async def put(self, key: str, data: bytes) -> ObjectInfo:
        def effect() -> ObjectInfo:
            self.world.objects[key] = data
            return ObjectInfo(key, len(data))

        return await self.request(effect, writes=True)

    async def create(self, key: str, data: bytes) -> ObjectInfo:
        def effect() -> ObjectInfo:
            self.world.create(key, data)
            return ObjectInfo(key, len(data))

        return await self.request(effect, writes=True, creates=True)

    async def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        raise NotImplementedError

    async def upload(self, key: str, chunks: Callable[[], Iterable[bytes]]) -> ObjectInfo:
        return await self.put(key, b"".join(chunks()))

    async def get(  # of a metadata store with one argument, of an object store with up to three
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        def effect() -> tuple[ObjectInfo, bytes]:
            if key not in self.world.objects:
                raise ObjectNotFoundError(key)
            data = self.world.objects[key]
            return ObjectInfo(key, len(data)), data[start:end]

        return await self.request(effect, writes=False)

    async def head(self, key: str) -> ObjectInfo:
        return (await self.get(key))[0]

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        def effect() -> list[ObjectInfo]:
            keys = sorted(k for k in self.world.objects if k.startswith(f"{prefix}/") and k > after)
            return [ObjectInfo(key, len(self.world.objects[key])) for key in keys]

        return await self.request(effect, writes=False)

    async def list_children(self, prefix: str) -> list[str]:
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        await self.request(lambda: self.world.delete(key), writes=True)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Entries:
    """The same process's way to the metadata store; implements `MetadataStore`."""

    url = "sim:"

    def __init__(self, client: Client) -> None:
        self._client = client
        self._world = client.world

    async def get(self, key: str) -> Revised | None:
        return await self._client.request(lambda: self._world.entries.get(key), writes=False)

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        raise NotImplementedError

    async def delete(self, key: str) -> bool:
        raise NotImplementedError

    async def list_entries(self, prefix: str) -> list[Revised]:
        def effect() -> list[Revised]:
            keys = sorted(k for k in self._world.entries if k.startswith(prefix))
            return [self._world.entries[key] for key in keys]

        return await self._client.request(effect, writes=False)

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        change = dict(expect), dict(put or {}), list(delete)
        return await self._client.request(lambda: self._world.transact(*change), writes=True)

    def watch(
        self, prefix: str, *, after: int | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        raise NotImplementedError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
