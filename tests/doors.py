"""The ways into the engine, made alike: what `test_doors` runs its one suite through.

Scenarios are written for anyio and run under `Door.run`. The engine's own API is the pattern:

* *trio* and *anyio on trio* are the engine itself, *anyio on asyncio* its views;
* *blocking* has every call made by a thread, so its waits can be neither cancelled nor left;
* *another process* writes through trio and reads in a child that follows the directory.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import attrs
from anyio.from_thread import BlockingPortal

import danube_trio
import danube_trio.anyio
import danube_trio.blocking
import danube_trio.cloud
import danube_trio.dispatch
import danube_trio.metadata
from danube_trio import StartPosition
from danube_trio._disk.lane import ThreadLane
from danube_trio._disk.real import RealDisk
from danube_trio.dispatch import InMemoryStorage, ReliableOptions, TopicCache

__all__ = ["DOORS", "Door", "GatedDisk", "Seen", "shown_by"]

CHILD = Path(__file__).with_name("doors_child.py")


@attrs.frozen
class Seen:
    """A record that a reader gave."""

    offset: int
    payload: bytes
    attributes: dict[str, str]


@attrs.frozen
class Door:
    """A way in.

    Attributes:
        name: for the test's id.
        backend: of anyio, on which the scenario runs.
        module: has `open_wal` and `open_follower`.
        cancels: whether a wait can be cancelled.
        threads: whether each call needs a thread.
        elsewhere: whether readers are in another process.
    """

    name: str
    backend: str
    module: Any
    cancels: bool = True
    threads: bool = False
    elsewhere: bool = False

    def run(self, scenario: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run a scenario to its end."""
        anyio.run(partial(scenario, self, *args), backend=self.backend)

    @contextlib.asynccontextmanager
    async def open_wal(self, config: danube_trio.WalConfig, **more: Any) -> AsyncGenerator[Any]:
        """An open log, with the engine's own interface."""
        async with self._entered(self.module.open_wal(config, **more)) as wal:
            yield wal

    @contextlib.asynccontextmanager
    async def _entered(self, block: Any) -> AsyncGenerator[Any]:
        if not self.threads:
            async with block as thing:
                yield thing
            return
        thing = await in_thread(block.__enter__)
        try:
            yield Threaded(thing)
        except BaseException as error:
            with anyio.CancelScope(shield=True):
                await in_thread(block.__exit__, type(error), error, error.__traceback__)
            raise
        else:
            await in_thread(block.__exit__, None, None, None)

    @contextlib.asynccontextmanager
    async def open(self, opener: str, *args: Any, **more: Any) -> AsyncGenerator[Any]:
        """What the door's `opener` opens."""
        make = next(
            getattr(home, opener)
            for home in (self.module, danube_trio.metadata, danube_trio.cloud)
            if hasattr(home, opener)
        )
        async with self._entered(make(*_own(args), **_own(more))) as thing:
            yield thing

    async def call(self, function: str, *args: Any, **more: Any) -> Any:
        """Call an async function of the door's."""
        found = partial(getattr(self.module, function), *_own(args), **_own(more))
        return await (in_thread(found) if self.threads else found())

    def wal_storage(self, wal: Any, topic: str | None = None) -> Any:
        """The door's `WalStorage`."""
        storage = self.module.WalStorage.from_wal(_own(wal), topic)
        return Threaded(storage) if self.threads else storage

    @contextlib.asynccontextmanager
    async def dispatch(self, topic: str, storage: Any = None, **more: Any) -> AsyncGenerator[Any]:
        """An open `ReliableDispatch` over a storage, or else over memory."""
        kind = importlib.import_module(f"{self.module.__name__}.dispatch").ReliableDispatch
        options = more.pop("options", ReliableOptions())
        if storage is None:
            block = kind(topic, options, TopicCache(InMemoryStorage()), **_own(more))
        else:
            block = kind.new_with_persistent(topic, options, None, _own(storage), **_own(more))
        async with self._entered(block) as dispatch:
            yield dispatch

    @contextlib.asynccontextmanager
    async def running(
        self, subscription: Any, handler: Callable[[Any], Awaitable[None]], **more: Any
    ) -> AsyncGenerator[None]:
        """Handlers that run beside the body, and are stopped after it."""
        async with anyio.create_task_group() as tasks:
            if not self.threads:
                tasks.start_soon(partial(subscription.run, handler, **more))
                yield
                tasks.cancel_scope.cancel()
                return
            async with BlockingPortal() as portal:
                call = partial(portal.call, handler)
                tasks.start_soon(partial(subscription.run, call, **more))
                while not (await subscription.statistics()).consumers:
                    await anyio.lowlevel.checkpoint()
                try:
                    yield
                finally:
                    subscription.stop()

    async def handle(
        self, subscription: Any, handler: Callable[[Any], Awaitable[None]], **more: Any
    ) -> None:
        """Run handlers until they stop by themselves."""
        if not self.threads:
            await subscription.run(handler, **more)
            return
        raised: Exception | None = None
        async with BlockingPortal() as portal:
            try:
                await subscription.run(partial(portal.call, handler), **more)
            except Exception as error:  # the portal would make a group of it
                raised = error
        if raised is not None:
            raise raised

    async def read(self, wal: Any, directory: str | None = None, **wanted: Any) -> list[Seen]:
        """Read with a new reader, which must have an end; in another process if that is the door.

        Args:
            wal: an open log.
            directory: where it is; without it, it can only be read here.
            **wanted: the arguments of `wal.reader`.
        """
        if self.elsewhere and directory is not None:
            found: list[Seen] = await in_thread(child().read, directory, wanted)
            return found
        reader = wal.reader(**wanted)
        return [Seen(m.offset, m.payload, m.attributes) async for m in reader]


async def in_thread(fn: Callable[..., Any], *args: Any) -> Any:
    """Make a blocking call."""
    return await anyio.to_thread.run_sync(fn, *args)


# What the engine calls its classes, to know which of their methods wait.
ENGINE: dict[str, type] = {
    kind.__name__: kind
    for module in (danube_trio, danube_trio.dispatch)
    for name in module.__all__
    if isinstance(kind := getattr(module, name), type)
}


def shown_by(kind: type) -> set[str]:
    """Names that a class has from its door: what it inherits from the engine is not among them."""
    owners = {name: owner for owner in reversed(kind.__mro__) for name in vars(owner)}
    homes = ("danube_trio.anyio", "danube_trio.blocking", "danube_trio._doors")
    return {name for name, owner in owners.items() if owner.__module__.startswith(homes)}


def _own(thing: Any) -> Any:
    """Without the adapter."""
    if isinstance(thing, Threaded):
        return thing.inner
    if isinstance(thing, tuple):
        return tuple(_own(each) for each in _any(thing))
    if isinstance(thing, dict):
        return {key: _own(value) for key, value in _any(thing).items()}
    return thing


def _any(thing: Any) -> Any:
    return thing


def _adapted(result: Any) -> Any:
    home = type(result).__module__
    return Threaded(result) if home.startswith("danube_trio.blocking") else result


class Threaded:
    """A blocking object with the engine's interface: every method is called in a thread."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        names = [kind.__name__ for kind in type(inner).__mro__]
        self._engine = next((ENGINE[name] for name in names if name in ENGINE), object)

    def __repr__(self) -> str:
        return repr(self.inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return _adapted(found)
        model = inspect.unwrap(getattr(self._engine, name, found))
        return partial(_later if inspect.iscoroutinefunction(model) else _now, found)

    def __aiter__(self) -> Threaded:
        return self

    async def __anext__(self) -> Any:
        item = await in_thread(next, self.inner, self)
        if item is self:
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> Any:
        return _adapted(await in_thread(self.inner.__enter__))

    async def __aexit__(self, *raised: Any) -> None:
        with anyio.CancelScope(shield=True):
            await in_thread(self.inner.__exit__, *raised)

    async def aclose(self) -> None:
        """Close a reader."""
        await in_thread(self.inner.close)


async def _later(found: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return _adapted(await in_thread(partial(found, *_own(args), **_own(more))))


def _now(found: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return _adapted(found(*_own(args), **_own(more)))


class Child:
    """The process that reads; one for all tests."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(CHILD.parent.parent)},
        )

    def read(self, directory: str, wanted: dict[str, Any]) -> list[Seen]:
        """Have it open a follower and read."""
        start = wanted.get("start", StartPosition.earliest())
        request = {**wanted, "start": [start.kind, start.value], "directory": directory}
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise getattr(danube_trio, answer["error"][0])(*answer["error"][1])
        return [Seen(o, bytes.fromhex(p), a) for o, p, a in answer["records"]]

    def kill(self) -> None:
        """End it, whatever it reads."""
        self._process.kill()

    def close(self) -> None:
        """End it."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()


_children: list[Child] = []


def child() -> Child:
    """The child, started when first needed."""
    if not _children:
        _children.append(Child())
    return _children[0]


def end_child() -> None:
    """After the last test."""
    while _children:
        _children.pop().close()


class GatedDisk(RealDisk):
    """A real disk whose lane stands still while `gate` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()

    def open_lane(self) -> _GatedLane:
        """A lane behind the gate."""
        return _GatedLane(self.gate)


class _GatedLane(ThreadLane):
    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self._gate = gate

    async def run(self, fn: Callable[..., Any], /, *args: object) -> Any:
        """Run when the gate is open."""
        return await super().run(self._through, fn, *args)

    def _through(self, fn: Callable[..., Any], *args: object) -> Any:
        self._gate.wait()
        return fn(*args)


DOORS = {
    door.name: door
    for door in (
        Door("trio", "trio", danube_trio),
        Door("anyio-trio", "trio", danube_trio.anyio),
        Door("anyio-asyncio", "asyncio", danube_trio.anyio),
        Door("blocking", "trio", danube_trio.blocking, cancels=False, threads=True),
        Door("blocking-asyncio", "asyncio", danube_trio.blocking, cancels=False, threads=True),
        Door("other-process", "trio", danube_trio, elsewhere=True),
    )
}
