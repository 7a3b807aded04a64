"""Each public object has the same names through every door, and each of them can be read."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from doors import DOORS, Door, Threaded

import danube_trio
import danube_trio.anyio.dispatch
import danube_trio.blocking.dispatch
import danube_trio.dispatch
from danube_trio import StartPosition, StorageConfig, WalConfig

TOPIC = "/default/orders"
HERE = [name for name in DOORS if not DOORS[name].elsewhere]

# What threads do in another way: `close`, `with`, a plain iterator.
ASYNC_ONLY = {"aclose", "close_now", "receive", "receive_one"}
# Of the engine's own parts, which are in its thread; nothing that a user calls.
ENGINE_ONLY: dict[str, set[str]] = {
    "Subscription": {
        "close_unsaved",
        "finish",
        "held_from",
        "run_consumer",
        "run_tasks",
        "take_over",
        "untold_fence",
    },
    "Consumer": {"ahead", "enter", "leave", "ordered"},
    "Take": {"leave"},
    "TopicStore": {"end_now", "log", "needs", "not_freed"},
}


@contextlib.asynccontextmanager
async def one_of_each(door: Door, path: Path) -> AsyncGenerator[dict[str, Any]]:
    """An object of each public class that a door has of its own, by the engine's name of it."""
    async with (
        door.open("open_store", f"file://{path / 'store'}") as store,
        door.open(
            "open_wal", WalConfig(dir=str(path / "log"), topic_name=TOPIC), store=store
        ) as wal,
        door.open("open_storage", StorageConfig(dir=str(path / "topics"))) as storage,
        door.open("open_follower", str(path / "log")) as follower,
        door.dispatch(TOPIC) as dispatch,
    ):
        await wal.append(b"x", durability="uploaded")
        await dispatch.store_batch([b"0", b"1"])
        billing = await dispatch.add_subscription("billing")
        async with (
            door.open("open_replica", store, topic=TOPIC) as replica,
            billing.consumer() as consumer,
        ):
            (delivery,) = await consumer.receive(1)
            yield {
                "Wal": wal,
                "Receipt": wal.append_nowait(b"y"),
                "Reader": wal.reader(),
                "Follower": follower,
                "Replica": replica,
                "Storage": storage,
                "WalStorage": door.wal_storage(wal),
                "ReliableDispatch": dispatch,
                "TopicStore": dispatch.topic_store,
                "TopicReader": await dispatch.topic_store.create_reader(StartPosition.earliest()),
                "Subscription": billing,
                "Consumer": consumer,
                "Take": billing.take(),
                "Delivery": delivery,
            }


def names_of(thing: object) -> Iterator[str]:
    return (name for name in dir(thing) if not name.startswith("_"))


@pytest.mark.parametrize("name", HERE)
def test_every_name_of_the_engines_objects_can_be_read_through_every_door(
    name: str, tmp_path: Path
) -> None:
    wanted: dict[str, set[str]] = {}

    async def engine(door: Door) -> None:
        async with one_of_each(door, tmp_path / "engine") as things:
            for kind, thing in things.items():
                wanted[kind] = {*names_of(thing)} - ENGINE_ONLY.get(kind, set())

    async def scenario(door: Door) -> None:
        unreadable: list[str] = []
        async with one_of_each(door, tmp_path / "door") as things:
            assert things.keys() == wanted.keys()
            for kind, found in things.items():
                thing = found.inner if isinstance(found, Threaded) else found
                own = {*names_of(thing)} - ENGINE_ONLY.get(kind, set())
                for each in own | wanted[kind] - (ASYNC_ONLY if door.threads else set()):
                    try:
                        getattr(thing, each)
                    except AttributeError:
                        unreadable.append(f"{kind}.{each}")
        assert unreadable == []

    DOORS["trio"].run(engine)
    DOORS[name].run(scenario)


@pytest.mark.parametrize("name", HERE)
def test_a_topics_reader_says_when_it_is_finished(name: str, tmp_path: Path) -> None:
    async def scenario(door: Door) -> None:
        config = StorageConfig(dir=str(tmp_path))
        async with door.open("open_storage", config) as storage:
            for messages in (storage, None):
                async with door.dispatch(TOPIC, messages) as dispatch:
                    await dispatch.store_batch([b"0", b"1"])
                    start = StartPosition.earliest()
                    live = await dispatch.topic_store.create_reader(start)
                    ending = await dispatch.topic_store.create_reader(start, end=2)
                    assert (live.finished, ending.finished) == (False, False)
                    for offset in range(2):
                        assert (await live.__anext__()).offset == offset
                        assert (await ending.__anext__()).offset == offset
                    assert (live.finished, ending.finished) == (False, True)
                    with pytest.raises(StopAsyncIteration):
                        await ending.__anext__()
                    await live.aclose()
                    assert live.finished
                    await ending.aclose()

    DOORS[name].run(scenario)


def test_a_door_has_every_opener_and_class_of_the_engine() -> None:
    openers = {name for name in danube_trio.__all__ if name.startswith(("open_", "restore_"))}
    of_threads = {"Follower", "Reader", "Receipt", "Replica", "Storage", "Wal"}
    assert openers | {"WalStorage"} <= {*danube_trio.anyio.__all__}
    assert openers | {"WalStorage"} | of_threads <= {*danube_trio.blocking.__all__}
    assert {*danube_trio.dispatch.__all__} == {*danube_trio.anyio.dispatch.__all__}
    # What storages of one's own are made of is async: they run in the engine's thread.
    for_storages = {"CacheLimits", "MessageReader", "SegmentStorage", "TopicLog"}
    assert {*danube_trio.dispatch.__all__} - for_storages <= {
        *danube_trio.blocking.dispatch.__all__
    }
