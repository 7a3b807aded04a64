"""Handlers in an asyncio loop: what `danube_trio.dispatch._run` is on trio.

Workers share a buffer of messages that were taken ahead. One that finds it empty fetches for all:
a hop for many messages. Answers are told to the engine's thread without waiting for it: it takes
jobs in the order in which they were handed over, so whatever is asked later has seen them.

**Cancellation** of handlers is asyncio's own: each worker is an asyncio task, which is cancelled
once, and may await in its cleaning up; the run ends after that, however it is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from math import inf
from types import coroutine
from typing import Any, cast

import anyio

from danube_trio.anyio._loop import LoopDoor
from danube_trio.dispatch._afar import FarDelivery, Pace, next_ahead, take_ahead
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._failures import describe_failure, is_failure
from danube_trio.dispatch._options import SubscriptionOptions
from danube_trio.dispatch._run import Failures, Handler, NotAsyncError, call, stops


class LoopRun:
    """One call of `Subscription.run`.

    Args:
        consumer: the engine's; entered.
    """

    def __init__(
        self,
        consumer: Consumer,
        door: LoopDoor,
        options: SubscriptionOptions,
        handler: Handler,
        stop_on: tuple[type[Exception], ...],
        concurrency: int,
    ) -> None:
        self._consumer = consumer
        self._door = door
        self._timeout = options.ack_timeout
        self._handler = handler
        self._stop_on = stop_on
        self._concurrency = concurrency
        self._fetching = anyio.Lock()
        window = options.max_unacked_messages
        self._pace = Pace(concurrency, window, one_by_one=options.count_crashes)
        self._context = copy_context()
        self._failures = Failures(asyncio.CancelledError)
        self._workers: list[asyncio.Task[None]] = []
        self._stopped = False

    async def all(self) -> None:
        """Work until it is cancelled or something stops it."""
        self._workers = [asyncio.create_task(self._worker()) for _ in range(self._concurrency)]
        try:
            await asyncio.wait(self._workers)
        except asyncio.CancelledError:
            await self._end()
            raise
        except BaseException:  # the coroutine is closed, or Ctrl-C came in it
            self._stop()
            raise
        finally:
            self._failures.log.end()
        self._failures.raise_first()
        raise asyncio.CancelledError("a handler's task was cancelled by somebody else")

    async def _end(self) -> None:
        """Cancel the workers once, and wait for them, whatever happens."""
        self._stop()
        with anyio.CancelScope(shield=True):
            while not all(worker.done() for worker in self._workers):
                with suppress(asyncio.CancelledError):  # the first one goes on from here
                    await asyncio.wait(self._workers)

    def _stop(self) -> None:
        """Cancel the workers: each once, so that what they clean up with is not cut short."""
        if not self._stopped:
            self._stopped = True
            for worker in self._workers:
                if worker is not asyncio.current_task():
                    worker.cancel()

    async def _worker(self) -> None:
        try:
            while await self._one(await self._next()):
                pass
            self._stop()
        except asyncio.CancelledError:
            self._stop()
            raise
        except BaseException as error:
            self._failures.keep(error)  # all of them: they come out of the run
            self._stop()

    async def _next(self) -> FarDelivery:
        """The next message that is still ours."""
        while True:
            if (delivery := next_ahead(self._consumer)) is not None:
                return delivery
            async with self._fetching:
                if not self._consumer.ahead:
                    await self._fetch()

    async def _fetch(self) -> None:
        """Have messages taken ahead. Those that come although this is cancelled are there, too."""
        consumer, door, most = self._consumer, self._door, self._pace.next()
        await door.call(lambda: take_ahead(consumer, most, door))
        self._pace.got()

    async def _one(self, delivery: FarDelivery) -> bool:
        """Handle a message. False if the worker was cancelled all the same: it is to end."""
        inner, tell = delivery.inner, self._door.engine_thread.tell
        if _is_cancelled():  # while the message was on its way
            tell(inner.release)
            return False
        limit = _Limit(self._timeout)
        delivery.limit = limit
        try:
            async with limit.timeout:
                await _in_context(self._context.copy(), call(self._handler, delivery))
        except NotAsyncError as error:
            tell(inner.release)
            raise TypeError(str(error)) from None
        except BaseException as error:
            self._failed(delivery, limit, error)
        else:
            tell(inner.ack)
        return not _is_cancelled()

    def _failed(self, delivery: FarDelivery, limit: _Limit, error: BaseException) -> None:
        """Answer for it, and raise what ends the worker."""
        inner, tell = delivery.inner, self._door.engine_thread.tell
        if isinstance(error, TimeoutError) and limit.timeout.expired():
            tell(inner.time_out)
            return
        # A handler may await what somebody else cancels; that is no cancellation of ours.
        stray = isinstance(error, asyncio.CancelledError) and not _is_cancelled()
        if not stray and not is_failure(error):
            tell(inner.release)
            raise error
        reason = describe_failure(error)
        tell(lambda: inner.nack(reason=reason))
        if not stray and stops(error, self._stop_on):
            raise error
        self._failures.log.failed(delivery.offset, delivery.attempt, error)


@coroutine
def _in_context(context: Context, work: Coroutine[Any, Any, None]) -> Generator[Any, Any, None]:
    """Await a coroutine, each of its steps in this context.

    An asyncio task keeps the context that it was made with (on trio, a task is given another one),
    and a task for each message would cost more than most handlers. What the coroutine waits for,
    and what is sent or thrown into it, goes through: to the loop it is a part of this task.
    """
    step: Any = work.send
    value: Any = None
    try:
        while True:
            try:
                wanted = context.run(step, value)
            except StopIteration:
                return
            try:
                value = yield wanted
                step = work.send
            except GeneratorExit:
                context.run(work.close)
                raise
            except BaseException as error:
                value, step = error, work.throw
    finally:
        del value  # an error, whose traceback has this frame


def _is_cancelled() -> bool:
    """Whether this worker is. Its task is the run's own, so that nothing else can be meant."""
    return cast("asyncio.Task[None]", asyncio.current_task()).cancelling() > 0


class _Limit:
    """The time of one delivery: asyncio's timeout, with a deadline as anyio's scopes have it."""

    __slots__ = ("timeout",)

    def __init__(self, seconds: float | None) -> None:
        self.timeout = asyncio.timeout(seconds)

    @property
    def deadline(self) -> float:
        """By the loop's clock."""
        when = self.timeout.when()
        return inf if when is None else when

    @deadline.setter
    def deadline(self, value: float) -> None:
        if not self.timeout.expired():
            self.timeout.reschedule(value)
