"""An object store in memory that fails when told to, and can be stopped at every step.

A client of an object store must live with answers that never came. `SimStore` makes each way to
fail a value that a test can ask for, and is otherwise an honest store: `check_store` passes on it.
It starts no threads, is deterministic, and uses trio's clock only (`latency`).

**Ways to fail** (`fail`, `fail_sometimes`):

- ``unavailable``: StoreUnavailableError; nothing was done.
- ``reply_lost``: it was done, and its answer was lost: StoreUnavailableError.
- ``late``: StoreUnavailableError; the request is still on its way, and is carried out `late_by`
  operations later, if its condition holds then.
- ``denied``: AccessDeniedError; nothing was done.
- ``hang``, ``hang_after``: no answer until the caller is cancelled; not done, or done.
- ``false_conflict``: PreconditionFailedError from `create` or `swap`, and nothing was stored: what
  a 409 of S3 looks like.
- ``own_conflict``: PreconditionFailedError from `create` or `swap`, because it was done: a library
  lost the answer and tried again by itself. If somebody else's object is there, it stays.

**Stores that are no good**: `create_overwrites` makes one that answers every `create` with success,
`stale_keys` one whose lists do not show the newest keys yet.

**Tags** are digests of the content, the weakest that the contract allows: a `swap` cannot see that
an object was another one in between and is the same again.

**Processes**: each `SimStore` is one client; `client()` makes another one on the same contents,
with faults and hooks of its own. `kill()` ends one: no call of it returns any more, and none
reaches the store. `clone()` copies the contents, so that a test can go on from every moment.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from danube_trio.cloud._keys import Chunks, as_bytes, check_key, check_prefix, check_range
from danube_trio.cloud._memory import ObjectMap
from danube_trio.cloud._store import ObjectInfo
from danube_trio.errors import (
    AccessDeniedError,
    PreconditionFailedError,
    StoreError,
    StoreUnavailableError,
)
from danube_trio.testing._cloud_faults import StoreFault, StoreFaultKind, StoreOperation

T = TypeVar("T")
Hook = Callable[[StoreOperation], Awaitable[None]]
URL = "sim:"
# What a real store does to its clients, and a store that works most of the time does not exclude.
ANY_WEATHER: tuple[StoreFaultKind, ...] = (
    *("unavailable", "reply_lost", "late", "false_conflict", "own_conflict"),
)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@attrs.define(eq=False)
class _World:
    """What the clients of one store share."""

    seed: int | str
    create_overwrites: bool
    latency: float
    clock: Callable[[], float]
    contents: ObjectMap
    operations: list[StoreOperation] = attrs.Factory(list[StoreOperation])
    on_their_way: list[tuple[int, Callable[[], object]]] = attrs.Factory(
        list[tuple[int, Callable[[], object]]]
    )
    clients: int = 0

    def arrive(self, number: int | None) -> None:
        """Carry out the late requests that are due at operation `number`; None: all."""
        due = [item for item in self.on_their_way if number is None or item[0] <= number]
        for item in sorted(due, key=lambda item: item[0]):
            self.on_their_way.remove(item)
            # Whether its condition still held: nobody waits for the answer.
            with contextlib.suppress(StoreError):
                item[1]()


class SimStore:
    """A simulated object store, as one client sees it; implements `CloudStore`.

    Args:
        seed: of `fail_sometimes`. The same calls with the same seed fail in the same way.
        can_swap: whether `swap` works; without it, it raises NotImplementedError.
        create_overwrites: makes the store a liar, which `probe_store` must find.
        latency: seconds of trio's clock that every call takes.
        clock: gives `ObjectInfo.modified`; 0.0 by default.

    Attributes:
        stale_keys: how many of the newest keys this client's lists leave out.
        before: awaited with each operation of this client before it has any effect; it may pause.
        after: awaited with each operation after its effect, before its caller hears of it.
        name: the client's name.
    """

    def __init__(
        self,
        *,
        seed: int | str = 0,
        can_swap: bool = True,
        create_overwrites: bool = False,
        latency: float = 0.0,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        contents = ObjectMap(_digest, clock, URL)
        world = _World(seed, create_overwrites, latency, clock, contents)
        self._enter(world, None, can_swap)

    def _enter(self, world: _World, name: str | None, can_swap: bool) -> None:
        world.clients += 1
        self._world = world
        self._can_swap = can_swap
        self._faults: list[StoreFault] = []
        self._killed = False
        self.name = name or f"client {world.clients}"
        self._rng = random.Random(f"{world.seed}/{self.name}")
        self.stale_keys = 0
        self.before: Hook | None = None
        self.after: Hook | None = None

    def __repr__(self) -> str:
        state = "killed, " if self._killed else ""
        size = len(self._world.contents.objects)
        return f"<SimStore {self.name}: {state}{size} objects, {self.op_count} operations>"

    # -- clients

    def client(self, name: str | None = None) -> SimStore:
        """Return another client of the same contents, with its own faults, hooks and life."""
        new = SimStore.__new__(SimStore)
        new._enter(self._world, name, self._can_swap)
        return new

    def clone(self) -> SimStore:
        """Return a client of a copy of the contents as they are now.

        It has no faults, hooks and operations, and no request is on its way there.
        """
        old = self._world
        contents = old.contents.copy()
        world = _World(old.seed, old.create_overwrites, old.latency, old.clock, contents)
        new = SimStore.__new__(SimStore)
        new._enter(world, None, self._can_swap)
        return new

    def go_back_to(self, earlier: SimStore, prefix: str = "") -> None:
        """Make the objects below `prefix` what `earlier`, a `clone`, has: a backup put back.

        What is on its way ("late") arrives all the same. The clients are told nothing.
        """
        objects, then = self._world.contents.objects, earlier._world.contents.objects
        for key in [key for key in objects if key.startswith(prefix)]:
            del objects[key]
        objects.update({key: found for key, found in then.items() if key.startswith(prefix)})

    def kill(self) -> None:
        """End this client: its calls, also those under way, wait until they are cancelled."""
        self._killed = True

    # -- faults

    def fail(
        self,
        operation: str | None,
        nth: int = 1,
        *,
        kind: StoreFaultKind = "unavailable",
        key_contains: str | None = None,
        late_by: int = 1,
        sticky: bool = False,
    ) -> StoreFault:
        """Let the `nth` matching operation of this client from now on fail.

        Args:
            operation: "create", "list_objects" and so on (`STORE_OPERATIONS`); None matches all
                that have such a fault.
            nth: counts the matching operations from 1.
            kind: the way to fail, see the module.
            key_contains: only operations whose key (of a list: prefix) contains this.
            late_by: of "late": how many operations later, by any client, it is carried out.
            sticky: fail all matching operations from the `nth` on, until `StoreFault.cancel`.
        """
        fault = StoreFault(operation, nth, sticky, (kind,), key_contains, late_by)
        self._faults.append(fault)
        return fault

    def fail_sometimes(
        self,
        probability: float,
        *,
        kinds: tuple[StoreFaultKind, ...] = ANY_WEATHER,
        operation: str | None = None,
        late_by: int = 3,
    ) -> StoreFault:
        """Let each matching operation of this client fail with that probability, by the seed."""
        fault = StoreFault(
            operation, 1, True, kinds, None, late_by, probability=probability, rng=self._rng
        )
        self._faults.append(fault)
        return fault

    def settle(self) -> None:
        """Carry out now whatever is still on its way ("late")."""
        self._world.arrive(None)

    # -- looking at it

    @property
    def op_count(self) -> int:
        """How many operations there were so far, by all clients, failed ones included."""
        return len(self._world.operations)

    @property
    def operations(self) -> tuple[StoreOperation, ...]:
        """All operations so far, by all clients, in the order in which they began."""
        return tuple(self._world.operations)

    @property
    def history(self) -> list[tuple[str, str]]:
        """Name and key of all operations so far."""
        return [(operation.name, operation.key) for operation in self._world.operations]

    def tree(self) -> dict[str, bytes]:
        """Return key and content of all objects, by key."""
        return {key: data for key, (_, data) in sorted(self._world.contents.objects.items())}

    # -- CloudStore

    @property
    def url(self) -> str:
        return URL

    @property
    def can_swap(self) -> bool:
        return self._can_swap

    async def put(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        return await self._do("put", key, lambda: self._world.contents.put(key, as_bytes(data)))

    async def create(self, key: str, data: bytes) -> ObjectInfo:
        check_key(key)
        contents = self._world.contents
        effect = contents.put if self._world.create_overwrites else contents.create
        return await self._do("create", key, lambda: effect(key, as_bytes(data)))

    async def swap(self, key: str, data: bytes, expected: ObjectInfo) -> ObjectInfo:
        check_key(key)
        if not self._can_swap:
            raise NotImplementedError(f"{URL} has no swap")
        swap = self._world.contents.swap
        return await self._do("swap", key, lambda: swap(key, as_bytes(data), expected))

    async def upload(self, key: str, chunks: Chunks) -> ObjectInfo:
        """Like `CloudStore.upload`, but without a thread: the iterator runs where it is called."""
        check_key(key)
        data = b"".join(map(as_bytes, chunks()))  # first: a late request carries its bytes
        return await self._do("upload", key, lambda: self._world.contents.put(key, data))

    async def get(
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        check_key(key)
        check_range(start, end)
        return await self._do("get", key, lambda: self._world.contents.get(key, start, end))

    async def head(self, key: str) -> ObjectInfo:
        check_key(key)
        return await self._do("head", key, lambda: self._world.contents.head(key))

    async def list_objects(self, prefix: str, *, after: str = "") -> list[ObjectInfo]:
        beginning = check_prefix(prefix)
        return await self._do(
            "list_objects", prefix, lambda: self._listed().list_objects(beginning, after)
        )

    async def list_children(self, prefix: str) -> list[str]:
        beginning = check_prefix(prefix)
        return await self._do(
            "list_children", prefix, lambda: self._listed().list_children(beginning)
        )

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._do("delete", key, lambda: self._world.contents.delete(key))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    # -- how an operation goes

    def _listed(self) -> ObjectMap:
        """The contents as a list sees them: without the newest keys, if lists are stale."""
        seen = self._world.contents
        if self.stale_keys:
            seen = seen.copy()
            for key in list(seen.objects)[-self.stale_keys :]:
                del seen.objects[key]
        return seen

    async def _do(self, name: str, key: str, effect: Callable[[], T]) -> T:
        world = self._world
        operation = StoreOperation(name, key, self.name, len(world.operations))
        world.operations.append(operation)
        await trio.sleep(world.latency)
        if self.before is not None:
            await self.before(operation)
        await self._if_alive()
        world.arrive(operation.number)
        try:
            result = await self._with_fault(operation, effect)
        except Exception as error:
            operation.error = type(error).__name__
            await self._answered(operation)
            raise
        await self._answered(operation)
        return result

    async def _answered(self, operation: StoreOperation) -> None:
        if self.after is not None:
            await self.after(operation)
        await self._if_alive()

    async def _if_alive(self) -> None:
        if self._killed:
            await trio.sleep_forever()

    async def _with_fault(self, operation: StoreOperation, effect: Callable[[], T]) -> T:
        fault, kind = self._fault_of(operation)
        if fault is None:
            return effect()
        if kind == "own_conflict":
            effect()
        elif kind in ("reply_lost", "hang_after"):
            with contextlib.suppress(StoreError):  # whatever the answer was, it is lost
                effect()
        elif kind == "late":
            due = operation.number + fault.late_by
            self._world.on_their_way.append((due, effect))
        if kind in ("hang", "hang_after"):
            await trio.sleep_forever()
        raise self._error(kind, operation)

    def _fault_of(
        self, operation: StoreOperation
    ) -> tuple[StoreFault | None, StoreFaultKind | None]:
        """Let every fault count the operation; return the first that hits it, and how."""
        hits: list[tuple[StoreFault, StoreFaultKind]] = [
            (fault, kind) for fault in self._faults if (kind := fault.kind_for(operation))
        ]
        return hits[0] if hits else (None, None)

    def _error(self, kind: StoreFaultKind | None, operation: StoreOperation) -> StoreError:
        call = f"{URL} {operation.name} of {operation.key!r}"
        if kind == "denied":
            return AccessDeniedError(f"{call}: denied (injected)")
        if kind in ("false_conflict", "own_conflict"):
            return PreconditionFailedError(f"{call}: it exists, or is another one (injected)")
        return StoreUnavailableError(f"{call}: no answer (injected); the outcome is unknown")
