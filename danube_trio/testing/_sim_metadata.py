"""A metadata store in memory that fails when told to: `MemoryMetadata` behind a bad network.

A `SimMetadata` is one client. `client()` gives another one with the same content, for a second
program; `cut_off` ends a client's connection while the others go on. Faults and the hook belong to
the content, and see the operations of all clients. Time is trio's clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import ClassVar, Literal, TypeVar, get_args

import attrs
import trio

from danube_trio.errors import AccessDeniedError, StoreUnavailableError
from danube_trio.metadata import MemoryMetadata, Revised, WatchEvent
from danube_trio.metadata._history import HISTORY_BYTES, HISTORY_EVENTS
from danube_trio.metadata._memory import copy_of
from danube_trio.testing._sim_faults import CountedFault

METADATA_OPERATIONS = frozenset(
    {"delete", "get", "list_entries", "put", "transact", "watch", "watch_next"}
)
Kind = Literal["unavailable", "reply_lost", "denied", "hang", "hang_after"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Moment = Literal["before", "after"]
T = TypeVar("T")


@attrs.frozen
class MetadataOperation:
    """One call of a client.

    Attributes:
        name: one of `METADATA_OPERATIONS`.
        keys: the keys or the prefix that it is about; of a transaction the expected ones first.
        number: 0 for the first one on this content.
        client: the number of the client; 0 is the first.
    """

    name: str
    keys: tuple[str, ...]
    number: int
    client: int


@attrs.define(eq=False)
class MetadataFault(CountedFault):
    """An injected fault; made by `SimMetadata.fail`, which explains the fields.

    Attributes:
        hits: how many operations it has hit so far.
    """

    KNOWN: ClassVar[frozenset[str]] = METADATA_OPERATIONS

    kind: Kind
    key_contains: str | None
    client: int | None
    _over: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {self.kind!r}")

    def cancel(self) -> None:
        """End the fault. What hangs goes on, and raises StoreUnavailableError."""
        self._over.set()

    def hit_by(self, operation: MetadataOperation) -> bool:
        """Count the operation; say whether it is hit."""
        wanted = self.key_contains
        if (
            self._over.is_set()
            or self.operation not in (None, operation.name)
            or self.client not in (None, operation.client)
            or not (wanted is None or any(wanted in key for key in operation.keys))
        ):
            return False
        hit = self.is_turn()
        self.hits += hit
        return hit

    async def strike(self, operation: MetadataOperation, moment: Moment) -> None:
        """Do what the fault does at this moment of the operation."""
        if moment != ("after" if self.kind in ("reply_lost", "hang_after") else "before"):
            return
        if self.kind in ("hang", "hang_after"):
            await self._over.wait()
        what = f"injected {self.kind} in {operation.name} of {', '.join(operation.keys)}"
        if self.kind == "denied":
            raise AccessDeniedError(what)
        raise StoreUnavailableError(what)


Hook = Callable[[MetadataOperation, Moment], Awaitable[None]]


class _Content:
    """What all clients share."""

    def __init__(self, memory: MemoryMetadata, hook: Hook | None) -> None:
        self.memory = memory
        self.hook = hook
        self.faults: list[MetadataFault] = []
        self.operations: list[MetadataOperation] = []
        self.clients: list[_Client] = []


class _Client:
    """One client's connection.

    Attributes:
        end: why it has ended; empty while it works.
        session: how often it has ended.
        waits: the scopes of its watches that wait.
    """

    def __init__(self, content: _Content) -> None:
        self.content = content
        self.number = len(content.clients)
        self.end = ""
        self.session = 0
        self.waits: set[trio.CancelScope] = set()
        content.clients.append(self)

    def cut(self, why: str) -> None:
        self.end = why
        self.session += 1
        for scope in self.waits:
            scope.cancel()

    async def do(self, name: str, keys: Iterable[str], act: Callable[[], Awaitable[T]]) -> T:
        content = self.content
        operation = MetadataOperation(name, tuple(keys), len(content.operations), self.number)
        content.operations.append(operation)
        # All count it, so that a second fault's nth does not depend on the first one.
        hits = [fault for fault in list(content.faults) if fault.hit_by(operation)]
        self.check_connected()
        for fault in hits:
            await fault.strike(operation, "before")
        if content.hook is not None:
            await content.hook(operation, "before")
        self.check_connected()
        result = await act()
        if content.hook is not None:
            await content.hook(operation, "after")
        for fault in hits:
            await fault.strike(operation, "after")
        self.check_connected()
        return result

    def check_connected(self) -> None:
        if self.end:
            raise StoreUnavailableError(f"sim:{self.number}: {self.end}")


class SimMetadata:
    """A simulated metadata store; implements `MetadataStore`, and keeps its rules but for faults.

    Args:
        hook: awaited before each operation has any effect, and again when it has had it. It may
            raise, wait, or use other clients: for a test that needs a certain order of events.
        history_events: see `MemoryMetadata`.
        history_bytes: see `MemoryMetadata`.
    """

    def __init__(
        self,
        *,
        hook: Hook | None = None,
        history_events: int = HISTORY_EVENTS,
        history_bytes: int = HISTORY_BYTES,
    ) -> None:
        memory = MemoryMetadata(history_events=history_events, history_bytes=history_bytes)
        self._client = _Client(_Content(memory, hook))

    def __repr__(self) -> str:
        return f"<SimMetadata client {self._client.number}, {self.op_count} operations>"

    def client(self) -> SimMetadata:
        """Another client of the same content. Closing one does nothing to the others."""
        other = SimMetadata.__new__(SimMetadata)
        other._client = _Client(self._client.content)
        return other

    def clone(self) -> SimMetadata:
        """A client of a copy of the content as it is now, without faults, hook and operations."""
        other = SimMetadata.__new__(SimMetadata)
        other._client = _Client(_Content(copy_of(self.memory), None))
        return other

    def go_back_to(self, earlier: SimMetadata) -> None:
        """Make the content what `earlier`, a `clone`, has: a server restored from its backup.

        Its revisions go back, too, and the next ones are given again. Watches end as with a server
        that was restarted: StoreUnavailableError; the clients work on.
        """
        content = self._client.content
        content.memory = copy_of(earlier.memory)
        for client in content.clients:
            client.cut(client.end)

    @property
    def number(self) -> int:
        """The number of this client; 0 is the first."""
        return self._client.number

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return f"sim:{self._client.number}"

    @property
    def memory(self) -> MemoryMetadata:
        """The content itself, where no fault strikes."""
        return self._client.content.memory

    @property
    def op_count(self) -> int:
        """How many operations there were so far, by all clients, failed ones included."""
        return len(self._client.content.operations)

    @property
    def operations(self) -> tuple[MetadataOperation, ...]:
        """All operations so far, in the order in which they began."""
        return tuple(self._client.content.operations)

    @property
    def hook(self) -> Hook | None:
        """Awaited before and after each operation. Can be changed at any time."""
        return self._client.content.hook

    @hook.setter
    def hook(self, value: Hook | None) -> None:
        self._client.content.hook = value

    def fail(
        self,
        operation: str | None,
        nth: int = 1,
        *,
        kind: Kind = "unavailable",
        key_contains: str | None = None,
        client: int | None = None,
        sticky: bool = False,
    ) -> MetadataFault:
        """Let the `nth` matching operation from now on fail.

        Args:
            operation: one of `METADATA_OPERATIONS`; "watch" is the entering of one, "watch_next"
                the wait for an event. None matches all.
            nth: counts the matching operations from 1.
            kind: "unavailable": nothing is done, StoreUnavailableError. "reply_lost": it is done,
                StoreUnavailableError. "denied": nothing is done, AccessDeniedError. "hang": waits
                until it is cancelled, and does nothing. "hang_after": does it, and then waits.
            key_contains: only operations with a key or prefix that contains this.
            client: only those of the client with this number.
            sticky: strike all matching operations from the `nth` on, until `MetadataFault.cancel`.
        """
        fault = MetadataFault(operation, nth, sticky, kind, key_contains, client)
        self._client.content.faults.append(fault)
        return fault

    def cut_off(self) -> None:
        """End this client's connection: its calls and watches raise StoreUnavailableError.

        Calls that wait in a hook or hang go on there. `reconnect` repairs it.
        """
        self._client.cut("the client was cut off")

    def reconnect(self) -> None:
        """Let this client work again; its watches of before are over."""
        self._client.end = ""

    async def get(self, key: str) -> Revised | None:
        """See `MetadataStore.get`."""
        return await self._client.do("get", [key], lambda: self.memory.get(key))

    async def list_entries(self, prefix: str) -> list[Revised]:
        """See `MetadataStore.list_entries`."""
        return await self._client.do(
            "list_entries", [prefix], lambda: self.memory.list_entries(prefix)
        )

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """See `MetadataStore.put`."""
        return await self._client.do("put", [key], lambda: self.memory.put(key, value, ttl=ttl))

    async def delete(self, key: str) -> bool:
        """See `MetadataStore.delete`."""
        return await self._client.do("delete", [key], lambda: self.memory.delete(key))

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        """See `MetadataStore.transact`."""
        deletes = list(delete)
        keys = [*expect, *(put or {}), *deletes]
        return await self._client.do(
            "transact", keys, lambda: self.memory.transact(expect, put=put, delete=deletes)
        )

    def watch(self, prefix: str, *, after: int | None = None) -> _SimWatch:
        """See `MetadataStore.watch`."""
        return _SimWatch(self._client, prefix, after)

    async def aclose(self) -> None:
        """Close this client; idempotent. The content stays."""
        self._client.cut("the client was closed")
        await trio.lowlevel.checkpoint()


class _SimWatch:
    """A watch of one client: ends when its connection does."""

    def __init__(self, client: _Client, prefix: str, after: int | None) -> None:
        self._client = client
        self._prefix = prefix
        self._session = client.session
        self._watch = client.content.memory.watch(prefix, after=after)

    async def __aenter__(self) -> _SimWatch:
        try:
            await self._client.do("watch", [self._prefix], self._watch.__aenter__)
        except BaseException:
            self._watch.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._watch.aclose()

    def __aiter__(self) -> _SimWatch:
        return self

    async def __anext__(self) -> WatchEvent:
        return await self._client.do("watch_next", [self._prefix], self._next)

    async def _next(self) -> WatchEvent:
        """The next event, unless the connection ends first."""
        client = self._client
        with trio.CancelScope() as scope:
            client.waits.add(scope)
            if self._session != client.session:
                scope.cancel()
            try:
                return await self._watch.__anext__()
            finally:
                client.waits.discard(scope)
        raise StoreUnavailableError(f"sim:{client.number}: the watch ended with its connection")
