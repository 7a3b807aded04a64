"""Storage and dispatch through the blocking door: threads and interrupts."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_blocking_door import Thread

from danube_trio import StorageConfig
from danube_trio.blocking import open_storage
from danube_trio.blocking.dispatch import (
    Delivery,
    InMemoryStorage,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionClosedError,
    SubscriptionOptions,
    TopicCache,
)

TOPIC = "/default/orders"


@contextmanager
def subscription(count: int, **more: Any) -> Generator[Subscription]:
    options = SubscriptionOptions(backoff_initial=0.0, backoff_max=0.0, **more)
    cache = TopicCache(InMemoryStorage())
    with ReliableDispatch(TOPIC, ReliableOptions(), cache) as dispatch:
        dispatch.store_batch([b"%d" % i for i in range(count)])
        yield dispatch.add_subscription("billing", options)


def check_nothing_burned(billing: Subscription, offset: int) -> None:
    """All deliveries so far ended without an answer, or with an acknowledgement."""
    statistics = billing.statistics()
    assert (statistics.failed, statistics.in_flight, statistics.consumers) == (0, 0, 0)
    with billing.take() as message:
        assert (message.offset, message.attempt) == (offset, 1)


def test_many_threads_take_from_one_subscription() -> None:
    def work() -> list[int]:
        found: list[int] = []
        for _ in range(25):
            with billing.take() as message:
                found.append(message.offset)
        return found

    with subscription(100) as billing:
        threads = [Thread(work) for _ in range(4)]
        for thread in threads:
            thread.join()
        assert sorted(offset for t in threads for offset in t.result) == list(range(100))
        assert billing.lag() == 0


@pytest.mark.parametrize("concurrency", [1, 3])
def test_handlers_run_in_this_thread_or_in_so_many_others(concurrency: int) -> None:
    names: set[str] = set()
    with subscription(40) as billing:

        def handle(message: Delivery) -> None:
            names.add(threading.current_thread().name)
            if message.offset == 39:
                billing.stop()

        billing.run(handle, concurrency=concurrency)
        assert billing.statistics().in_flight == 0
    if concurrency == 1:
        assert names == {threading.current_thread().name}
    else:
        assert names <= {f"danube-trio run {i}" for i in (1, 2, 3)}


def test_a_slow_handler_keeps_its_message() -> None:
    with subscription(1, ack_timeout=0.001) as billing:
        calls: list[int] = []

        def handle(message: Delivery) -> None:
            calls.append(message.attempt)
            for _ in range(50):
                assert billing.statistics().timed_out == 0
            assert message.deadline == float("inf")
            assert message.extend()
            billing.stop()

        billing.run(handle, concurrency=2)
        assert calls == [1]
        assert billing.statistics().acked == 1


def test_an_async_handler_is_refused_and_no_message_pays_for_it() -> None:
    async def handle(_: Delivery) -> None:
        raise AssertionError("nobody awaits it")

    with subscription(1) as billing:
        with pytest.raises(TypeError, match="must be a plain one"):
            billing.run(handle)
        check_nothing_burned(billing, 0)


def test_closing_from_another_thread_ends_every_wait(tmp_path: Path) -> None:
    with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
        make = ReliableDispatch.new_with_persistent
        with make(TOPIC, ReliableOptions(), None, storage) as dispatch:
            billing = dispatch.add_subscription("billing")
            threads = [Thread(billing.run, print), Thread(billing.wait_settled, 7)]
            while not billing.statistics().consumers:
                pass
            dispatch.close()
            dispatch.close()
            for thread in threads:
                thread.join()
                assert isinstance(thread.error, SubscriptionClosedError)
        storage.close()
        storage.close()


def test_a_block_that_is_forgotten_gives_back_what_it_holds(tmp_path: Path) -> None:
    with subscription(1) as billing:
        billing.take().__enter__()
        gc.collect()
        check_nothing_burned(billing, 0)
    with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
        storage.topic(TOPIC).__enter__()
        gc.collect()
        assert storage.statistics().pinned_topics == 0


def test_a_topics_log_is_closed_by_its_storage(tmp_path: Path) -> None:
    with open_storage(StorageConfig(dir=str(tmp_path))) as storage:
        with storage.topic(TOPIC) as wal, pytest.raises(RuntimeError, match="by its storage"):
            wal.close()


# ---- interrupts: a handler that raises, in the main thread, at a moment that the test chooses


class InterruptError(BaseException):
    """Like KeyboardInterrupt, it says nothing about a message."""


@pytest.fixture
def interrupt() -> Any:
    def handler(*_: object) -> None:
        raise InterruptError

    before = signal.signal(signal.SIGUSR1, handler)
    yield None
    signal.signal(signal.SIGUSR1, before)


def _interrupt_when(condition: Callable[[], object]) -> Thread:
    def work() -> None:
        while not condition():
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    return Thread(work)


def test_an_interrupted_wait_takes_nothing(interrupt: Any) -> None:
    with subscription(0) as billing:
        thread = _interrupt_when(lambda: billing.statistics().consumers)
        with pytest.raises(InterruptError), billing.take():
            raise AssertionError("there is nothing")
        thread.join()
        assert billing.statistics().consumers == 0


@pytest.mark.parametrize("concurrency", [1, 2])
def test_an_interrupted_run_lets_handlers_end_and_releases_the_rest(
    interrupt: Any, concurrency: int
) -> None:
    # Many, so that some are left when the interrupt comes a little late.
    with subscription(5000) as billing:
        at_work = threading.Event()
        go_on = threading.Event()

        def handle(message: Delivery) -> None:
            if message.offset >= 3:  # all of them, so that some are left for later
                at_work.set()
                go_on.wait()

        thread = _interrupt_when(at_work.is_set)

        def let() -> None:
            thread.join()
            if concurrency > 1:
                go_on.set()

        letting = Thread(let)
        with pytest.raises(InterruptError):
            billing.run(handle, concurrency=concurrency)
        letting.join()
        statistics = billing.statistics()
        assert (statistics.failed, statistics.in_flight, statistics.consumers) == (0, 0, 0)
        assert billing.end == 3 or concurrency == 2
        with billing.take() as message:
            assert message.attempt == 1


@pytest.mark.parametrize("step", range(0, 120, 3))
def test_an_interrupt_at_any_step_of_a_take_leaves_no_message_behind(
    step: int, interrupt: Any
) -> None:
    """The handler raises before the n-th line that the door's own code executes."""
    lines = 0

    def trace(frame: Any, event: str, _: object) -> Any:
        nonlocal lines
        code = frame.f_code
        if "/danube_trio/" not in code.co_filename or code.co_name == "__del__":
            return None  # Python itself ignores what is raised in a `__del__`
        if event == "line":
            lines += 1
            if lines == step + 1:
                sys.settrace(None)
                raise InterruptError
        return trace

    with subscription(2) as billing:
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            with billing.take():
                pass
        except InterruptError:
            pass
        finally:
            sys.settrace(before)
        gc.collect()
        statistics = billing.statistics()
        assert (statistics.failed, statistics.in_flight, statistics.consumers) == (0, 0, 0)
        assert statistics.acked in (0, 1)
        check_nothing_burned(billing, statistics.acked)
