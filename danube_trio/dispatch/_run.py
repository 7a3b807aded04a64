"""Handlers: `Subscription.run` and what becomes of their errors.

So many workers take messages and call the handler, each message within its own cancel scope, which
ends when the delivery times out: a message is never handled twice at the same time, and the order
of a key holds although deliveries fail.

**Context variables.** Each message has a copy of those that the caller of `run` has. So a handler
sees what its caller has set (a request's id, a tracer), and what it sets itself is gone with its
message: nothing that one message leaves behind is seen by the next.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import cast

import trio
from trio.lowlevel import current_task

from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery
from danube_trio.dispatch._failure_log import FailureLog
from danube_trio.dispatch._failures import describe_failure, is_failure, leaves
from danube_trio.errors import DanubeError, add_note, text_of

Handler = Callable[[Delivery], Awaitable[object]]


class Failures:
    """The errors that end a run, and the log of those that do not.

    Args:
        cancelled: how the handlers' world says that they were cancelled; None: they cannot be.
    """

    def __init__(self, cancelled: type[BaseException] | None) -> None:
        self._cancelled = cancelled
        self._errors: list[BaseException] = []
        self.log = FailureLog()

    def keep(self, error: BaseException) -> None:
        """What a worker ended with."""
        kept = [leaf for leaf in leaves(error) if not self._says_cancelled(leaf)]
        if not kept:
            return  # that comes by itself, where it belongs
        if len(kept) < len(list(leaves(error))):
            error = kept[0] if len(kept) == 1 else BaseExceptionGroup(text_of(error), kept)
        if isinstance(error, DanubeError) and any(type(e) is type(error) for e in self._errors):
            return  # all workers see the end of the subscription; it is told once
        self._errors.append(error)

    def _says_cancelled(self, leaf: BaseException) -> bool:
        return self._cancelled is not None and isinstance(leaf, self._cancelled)

    def raise_first(self) -> None:
        """Raise the first error, if there is one; the others are its notes."""
        if self._errors:
            # What is no Exception (an interrupt, say) must not be a note of one.
            first = min(self._errors, key=lambda error: isinstance(error, Exception))
            for error in self._errors:
                if error is not first:
                    add_note(first, f"another handler failed, too: {describe_failure(error)}")
            raise first


class _Run:
    """One call of `run`."""

    def __init__(
        self, consumer: Consumer, handler: Handler, stop_on: tuple[type[Exception], ...]
    ) -> None:
        self._consumer = consumer
        self._handler = handler
        self._stop_on = stop_on
        self._context = copy_context()
        self._failures = Failures(trio.Cancelled)

    async def all(self, concurrency: int) -> None:
        """Work until it is cancelled or something stops it."""
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(concurrency):
                    nursery.start_soon(self._worker, nursery.cancel_scope)
        finally:
            self._failures.log.end()
        self._failures.raise_first()

    async def _worker(self, scope: trio.CancelScope) -> None:
        """Errors are kept and the others stopped, so that one error comes out as itself."""
        task = current_task()
        try:
            while True:
                # A task runs in its context from its next step on, and taking makes one.
                task.context = self._context.copy()
                await self._one(await self._consumer.receive_one())
        except trio.Cancelled:
            raise
        except BaseException as error:
            self._failures.keep(error)
            scope.cancel()

    async def _one(self, delivery: Delivery) -> None:
        try:
            with delivery.scope() as scope:
                await call(self._handler, delivery)
        except NotAsyncError as error:
            delivery.release()  # it is not the message's fault, and no message would fare better
            raise TypeError(str(error)) from None
        except BaseException as error:
            if not is_failure(error):
                delivery.release()
                raise
            delivery.nack(reason=describe_failure(error))
            if stops(error, self._stop_on):
                raise
            self._failures.log.failed(delivery.offset, delivery.attempt, error)
        else:
            if scope.cancelled_caught:
                delivery.time_out()
            else:
                delivery.ack()


def stops(error: BaseException, stop_on: tuple[type[Exception], ...]) -> bool:
    """Whether a handler's failure ends the run."""
    return not isinstance(error, Exception) or isinstance(error, stop_on)


async def call(handler: Handler, delivery: Delivery) -> None:
    """Call a handler. Raises NotAsyncError if it is not one."""
    result: object = handler(delivery)
    if not inspect.isawaitable(result):
        raise NotAsyncError(
            f"handler={reprlib.repr(handler)} returned {reprlib.repr(result)}: it must be an async "
            f"function"
        )
    await result


class NotAsyncError(Exception):
    """The handler's result cannot be awaited."""


def check_run_options(
    handler: object, concurrency: int, window: int, stop_on: object, kind: str = "an async function"
) -> None:
    """Before a run. Raises ValueError, TypeError."""
    if not 1 <= concurrency <= window:
        raise ValueError(
            f"concurrency={concurrency!r} must be between 1 and max_unacked_messages={window}"
        )
    if not callable(handler):
        raise TypeError(f"handler={handler!r} must be {kind}")
    classes = cast("tuple[object, ...]", stop_on) if isinstance(stop_on, tuple) else (None,)
    if not all(isinstance(each, type) and issubclass(each, BaseException) for each in classes):
        raise TypeError(f"stop_on={stop_on!r} must be a tuple of exception classes")


async def run_handlers(
    consumer: Consumer, handler: Handler, concurrency: int, stop_on: tuple[type[Exception], ...]
) -> None:
    """See `Subscription.run`."""
    await _Run(consumer, handler, stop_on).all(concurrency)
