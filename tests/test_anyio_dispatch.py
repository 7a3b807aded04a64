"""Storage and dispatch on asyncio: what only asyncio does, and what a second thread can break."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio
from test_anyio_door import run_script, until

import danube_trio
import danube_trio.dispatch
from danube_trio import StorageConfig
from danube_trio.anyio import open_storage
from danube_trio.anyio.dispatch import (
    Delivery,
    InMemoryStorage,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionOptions,
    TopicCache,
)

TOPIC = "/default/orders"
AT_ONCE = SubscriptionOptions(backoff_initial=0.0, backoff_max=0.0)


@asynccontextmanager
async def subscription(
    count: int, options: SubscriptionOptions = AT_ONCE
) -> AsyncGenerator[Subscription]:
    cache = TopicCache(InMemoryStorage())
    async with ReliableDispatch(TOPIC, ReliableOptions(), cache) as dispatch:
        await dispatch.store_batch([b"%d" % i for i in range(count)])
        yield await dispatch.add_subscription("billing", options)


async def check_nothing_burned(billing: Subscription, offset: int) -> None:
    """All deliveries so far ended without an answer, or with an acknowledgement."""
    statistics = await billing.statistics()
    assert (statistics.failed, statistics.in_flight, statistics.consumers) == (0, 0, 0)
    async with billing.take() as message:
        assert (message.offset, message.attempt) == (offset, 1)


def test_on_trio_it_is_the_engine_itself() -> None:
    made = ReliableDispatch(TOPIC, ReliableOptions(), TopicCache(InMemoryStorage()))

    async def main() -> None:
        async with made as dispatch:
            assert type(dispatch) is danube_trio.dispatch.ReliableDispatch
            billing = await dispatch.add_subscription("billing")
            assert type(billing) is danube_trio.dispatch.Subscription
            assert await made.store_message(b"x") == 0, "the block itself works as well"
            assert made.subscriptions() == {"billing": billing}

    trio.run(main)


def test_the_objects_are_of_the_types_that_they_are_said_to_be(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
            assert isinstance(storage, danube_trio.Storage)
            assert isinstance(storage, danube_trio.PersistentStorage)
            make = ReliableDispatch.new_with_persistent
            async with make(TOPIC, ReliableOptions(), None, storage) as dispatch:
                assert isinstance(dispatch, danube_trio.dispatch.ReliableDispatch)
                await dispatch.store_message(b"x")
                billing = await dispatch.add_subscription("billing")
                assert isinstance(billing, danube_trio.dispatch.Subscription)
                assert await dispatch.add_subscription("billing") is billing
                stream = await dispatch.topic_store.create_reader(end="current")
                assert isinstance(stream, danube_trio.dispatch.TopicReader)
                async with billing.consumer() as consumer:
                    assert isinstance(consumer, danube_trio.dispatch.Consumer)
                    (message,) = await consumer.receive()
                    assert isinstance(message, Delivery)

    asyncio.run(main())


# ---- cancellation by asyncio's own means


def test_a_cancelled_or_timed_out_take_burns_no_attempt() -> None:
    async def main() -> None:
        async with subscription(2) as billing:

            async def work() -> None:
                async with billing.take():
                    taken.set()
                    await asyncio.Event().wait()

            for _ in range(7):
                taken = asyncio.Event()
                task = asyncio.create_task(work())
                await taken.wait()
                task.cancel("mine")
                with pytest.raises(asyncio.CancelledError, match="mine"):
                    await task
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001), billing.take():
                        await asyncio.Event().wait()
            for turn in range(60):  # at any step
                taken = asyncio.Event()
                task = asyncio.create_task(work())
                for _ in range(turn % 9):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await check_nothing_burned(billing, 0)

    asyncio.run(main())


def test_a_group_of_errors_is_a_failure_also_with_a_cancellation_in_it() -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ZeroDivisionError

        async with subscription(1) as billing:
            with pytest.raises(ExceptionGroup):
                async with billing.take(), asyncio.TaskGroup() as tasks:
                    tasks.create_task(fail())
                    tasks.create_task(asyncio.sleep(1000))
            async with billing.take() as message:
                assert message.attempt == 2

    asyncio.run(main())


def test_a_coroutine_that_is_closed_in_a_block_releases_its_message() -> None:
    async def main() -> None:
        async with subscription(1) as billing:

            async def work() -> None:
                async with billing.take():
                    await asyncio.Event().wait()

            work_ = work()
            while not (await billing.statistics()).in_flight:
                future: Any = work_.send(None)
                future._asyncio_future_blocking = False
                await until(future.done)
            work_.send(None)
            assert (await billing.statistics()).in_flight == 1
            work_.close()
            await check_nothing_burned(billing, 0)

    asyncio.run(main())


def test_a_block_that_is_forgotten_gives_back_what_it_holds(tmp_path: Path) -> None:
    async def main() -> None:
        async with subscription(1) as billing:
            await billing.take().__aenter__()
            gc.collect()
            await check_nothing_burned(billing, 0)
        async with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
            await storage.topic(TOPIC).__aenter__()
            gc.collect()
            assert storage.statistics().pinned_topics == 0

    asyncio.run(main())


def test_a_cancelled_run_lets_handlers_clean_up_before_their_messages_go_on() -> None:
    async def main() -> None:
        async with subscription(6) as billing:
            at_work: set[int] = set()

            async def handle(message: Delivery) -> None:
                assert message.offset not in at_work
                at_work.add(message.offset)
                try:
                    await asyncio.Event().wait()
                finally:
                    await asyncio.sleep(0)
                    at_work.discard(message.offset)

            for cancels in (1, 2):
                task = asyncio.create_task(billing.run(handle, concurrency=3))
                await until(lambda: len(at_work) == 3)
                for _ in range(cancels):
                    task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not at_work
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await billing.run(handle)
            await check_nothing_burned(billing, 0)

    asyncio.run(main())


def test_a_handler_that_awaits_what_another_task_cancels_has_failed() -> None:
    async def main() -> None:
        async with subscription(20) as billing:

            async def handle(message: Delivery) -> None:
                if message.offset % 5 == 0 and message.attempt == 1:
                    other = asyncio.create_task(asyncio.Event().wait())
                    other.cancel()
                    await other

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: billing.run(handle, concurrency=2))
                await billing.wait_settled()
                tasks.cancel_scope.cancel()
            statistics = await billing.statistics()
            assert (statistics.acked, statistics.failed) == (20, 4)

    asyncio.run(main())


def test_a_handlers_own_timeouts_are_its_own_affair() -> None:
    async def main() -> None:
        async with subscription(3) as billing:

            async def handle(message: Delivery) -> None:
                if message.offset == 1:
                    with anyio.move_on_after(0.001):
                        await asyncio.sleep(1000)
                if message.attempt == 1:
                    async with asyncio.timeout(0.001):
                        await asyncio.sleep(1000)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: billing.run(handle, concurrency=3))
                await billing.wait_settled()
                tasks.cancel_scope.cancel()
            statistics = await billing.statistics()
            assert (statistics.acked, statistics.failed, statistics.timed_out) == (3, 3, 0)

    asyncio.run(main())


def test_a_sync_handler_is_refused_and_no_message_pays_for_it() -> None:
    async def main() -> None:
        async with subscription(1) as billing:
            handler: Any = print
            with pytest.raises(TypeError, match="must be an async function"):
                await billing.run(handler)
            await check_nothing_burned(billing, 0)

    asyncio.run(main())


def test_handlers_run_in_the_callers_loop_and_answer_from_any_thread() -> None:
    async def main() -> None:
        async with subscription(10) as billing:
            loop = asyncio.get_running_loop()

            async def handle(message: Delivery) -> None:
                assert asyncio.get_running_loop() is loop
                with pytest.raises(RuntimeError):
                    await anyio.to_thread.run_sync(message.extend)
                assert await anyio.to_thread.run_sync(message.ack)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: billing.run(handle, concurrency=2))
                await billing.wait_settled()
                tasks.cancel_scope.cancel()
            assert (await billing.statistics()).acked == 10

    asyncio.run(main())


def test_what_was_taken_ahead_is_not_handled_after_a_move() -> None:
    async def main() -> None:
        async with subscription(10, SubscriptionOptions(max_unacked_messages=10)) as billing:
            seen: list[int] = []
            gate = asyncio.Event()

            async def handle(message: Delivery) -> None:
                seen.append(message.offset)
                if len(seen) > 3:
                    await gate.wait()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: billing.run(handle))
                await until(lambda: len(seen) == 4)
                await billing.seek(danube_trio.StartPosition.offset(8))
                gate.set()
                await billing.wait_settled()
                tasks.cancel_scope.cancel()
            assert seen == [0, 1, 2, 3, 8, 9]

    asyncio.run(main())


def test_with_crashes_counted_nothing_is_taken_ahead() -> None:
    async def main() -> None:
        options = SubscriptionOptions(max_unacked_messages=10, count_crashes=True)
        async with subscription(10, options) as billing:
            most = 0

            async def handle(message: Delivery) -> None:
                nonlocal most
                most = max(most, (await billing.statistics()).in_flight)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: billing.run(handle))
                await billing.wait_settled()
                tasks.cancel_scope.cancel()
            assert most == 1

    asyncio.run(main())


# ---- Ctrl-C, in processes of their own

NOTE = """
import os, sys

handled = os.open(sys.argv[1] + "/handled", os.O_APPEND | os.O_CREAT | os.O_WRONLY)

def note(message):
    os.write(handled, b"%d " % message.offset)
"""

INTERRUPTED = """
import asyncio, sys
from danube_trio import StorageConfig
from danube_trio.anyio import open_storage
from danube_trio.anyio.dispatch import ReliableDispatch, ReliableOptions

async def handle(message):
    note(message)
    if message.offset >= 4:
        print("in hand", flush=True)
        await asyncio.Event().wait()

async def main():
    async with open_storage(StorageConfig(dir=sys.argv[1])) as storage:
        make = ReliableDispatch.new_with_persistent
        async with make("/default/orders", ReliableOptions(), None, storage) as dispatch:
            await dispatch.store_batch([b"x"] * 10_000)
            billing = await dispatch.add_subscription("billing")
            await billing.run(handle, concurrency=2)

asyncio.run(main())
"""

BLOCKING = """
import signal, sys, threading
from danube_trio import StorageConfig
from danube_trio.blocking import open_storage
from danube_trio.blocking.dispatch import ReliableDispatch, ReliableOptions

interrupted = threading.Event()

def interrupt(*_):
    interrupted.set()
    raise KeyboardInterrupt

def handle(message):
    note(message)
    if message.offset >= 4:
        print("in hand", flush=True)
        in_main = threading.current_thread() is threading.main_thread()
        (threading.Event() if in_main else interrupted).wait()

signal.signal(signal.SIGINT, interrupt)

with open_storage(StorageConfig(dir=sys.argv[1])) as storage:
    make = ReliableDispatch.new_with_persistent
    with make("/default/orders", ReliableOptions(), None, storage) as dispatch:
        dispatch.store_batch([b"x"] * 10_000)
        billing = dispatch.add_subscription("billing")
        if sys.argv[2] == "take":
            while True:
                with billing.take() as message:
                    handle(message)
        billing.run(handle, concurrency=int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("source", "how"), [(INTERRUPTED, ""), (BLOCKING, "take"), (BLOCKING, "1"), (BLOCKING, "2")]
)
def test_ctrl_c_saves_what_was_acknowledged_and_burns_nothing(
    source: str, how: str, tmp_path: Path
) -> None:
    code, _, err = run_script(NOTE + source, tmp_path, how, interrupt=True)
    assert code != 0
    assert "KeyboardInterrupt" in err
    assert "ResourceWarning" not in err
    handled = (tmp_path / "handled").read_bytes().split()

    async def look() -> tuple[int, int]:
        async with (
            danube_trio.open_storage(StorageConfig(dir=str(tmp_path))) as storage,
            danube_trio.dispatch.ReliableDispatch.new_with_persistent(
                TOPIC, ReliableOptions(), None, storage
            ) as dispatch,
        ):
            billing = await dispatch.add_subscription("billing")
            async with billing.consumer() as consumer:
                message = (await consumer.receive())[0]
                return billing.end, message.attempt

    end, attempt = trio.run(look)
    assert attempt == 1
    assert end <= len(handled) <= end + 2, "what was in hand comes again, and nothing else"


# ---- garbage


def test_readers_that_are_forgotten_go_in_the_engines_thread(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
            await storage.append_message(TOPIC, b"x")
            make = ReliableDispatch.new_with_persistent
            async with make(TOPIC, ReliableOptions(), None, storage) as dispatch:
                where: list[threading.Thread] = []
                for opened in (
                    await storage.create_reader(TOPIC),
                    (await dispatch.create_stream_latest())._reader,
                ):
                    inner: Any = opened
                    weakref.finalize(inner._inner, lambda: where.append(threading.current_thread()))
                del opened, inner
                gc.collect()
                assert storage.statistics().open_topics == 1  # a hop: it has come to them
                await until(lambda: len(where) == 2)
                assert {thread.name for thread in where} == {"danube-trio-engine"}

    asyncio.run(main())
