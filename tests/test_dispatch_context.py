"""Dispatch: the context variables of handlers, on every door."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import anyio.lowlevel
import pytest
from doors import DOORS, Door

from danube_trio.blocking import dispatch as blocking
from danube_trio.dispatch import Delivery, InMemoryStorage, ReliableOptions, TopicCache

TOPIC = "/default/orders"
WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("name", ["trio", "anyio-trio", "anyio-asyncio"])
def test_each_message_has_the_variables_of_the_caller(name: str, concurrency: int) -> None:
    async def scenario(door: Door) -> None:
        seen: list[str] = []

        async def handler(message: Delivery) -> None:
            seen.append(WHO.get())
            WHO.set(f"message {message.offset}")
            await anyio.lowlevel.checkpoint()
            assert WHO.get() == f"message {message.offset}"
            if message.offset % 3 == 0 and message.attempt == 1:
                message.nack(0)
                raise ZeroDivisionError

        async with door.dispatch(TOPIC) as dispatch:
            await dispatch.store_batch([b"%d" % i for i in range(20)])
            billing = await dispatch.add_subscription("billing")
            WHO.set("caller")
            async with door.running(billing, handler, concurrency=concurrency):
                await billing.wait_settled()
            assert WHO.get() == "caller"
        assert seen == ["caller"] * 27

    DOORS[name].run(scenario)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_in_threads_each_message_has_the_variables_of_the_caller(concurrency: int) -> None:
    seen: list[str] = []

    def handler(message: Delivery) -> None:
        seen.append(WHO.get())
        WHO.set(f"message {message.offset}")

    cache = TopicCache(InMemoryStorage())
    with blocking.ReliableDispatch(TOPIC, ReliableOptions(), cache) as dispatch:
        dispatch.store_batch([b"%d" % i for i in range(20)])
        billing = dispatch.add_subscription("billing")
        token = WHO.set("caller")
        stopper = threading.Thread(target=lambda: (billing.wait_settled(), billing.stop()))
        stopper.start()
        billing.run(handler, concurrency=concurrency)
        stopper.join()
        assert WHO.get() == "caller"
        WHO.reset(token)
    assert seen == ["caller"] * 20
