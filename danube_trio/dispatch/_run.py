"""Handlers: `Subscription.run` and what becomes of their errors.

So many workers take messages and call the handler, each message within its own cancel scope, which
ends when the delivery times out: a message is never handled twice at the same time, and the order
of a key holds although deliveries fail.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery
from danube_trio.dispatch._failures import describe, is_failure, leaves
from danube_trio.errors import DanubeError

__all__ = ["Handler", "run_handlers"]

log = logging.getLogger("danube_trio.dispatch")

Handler = Callable[[Delivery], Awaitable[object]]


class _Run:
    """One call of `run`."""

    def __init__(
        self, consumer: Consumer, handler: Handler, stop_on: tuple[type[Exception], ...]
    ) -> None:
        self._consumer = consumer
        self._handler = handler
        self._stop_on = stop_on
        self._errors: list[BaseException] = []

    async def all(self, concurrency: int) -> None:
        """Work until it is cancelled or something stops it."""
        async with trio.open_nursery() as nursery:
            for _ in range(concurrency):
                nursery.start_soon(self._worker, nursery.cancel_scope)
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise BaseExceptionGroup("several handlers stopped the run", self._errors)

    async def _worker(self, scope: trio.CancelScope) -> None:
        """Errors are kept and the others stopped, so that one error comes out as itself."""
        try:
            while True:
                await self._one(await self._consumer.receive_one())
        except trio.Cancelled:
            raise
        except BaseException as error:
            self._keep(error)
            scope.cancel()

    def _keep(self, error: BaseException) -> None:
        kept = [leaf for leaf in leaves(error) if not isinstance(leaf, trio.Cancelled)]
        if not kept:
            return  # that comes by itself, where it belongs
        if len(kept) < len(list(leaves(error))):
            error = kept[0] if len(kept) == 1 else BaseExceptionGroup(str(error), kept)
        if isinstance(error, DanubeError) and any(type(e) is type(error) for e in self._errors):
            return  # all workers see the end of the subscription; it is told once
        self._errors.append(error)

    async def _one(self, delivery: Delivery) -> None:
        try:
            with delivery.scope() as scope:
                await self._handler(delivery)
        except BaseException as error:
            if not is_failure(error):
                delivery.release()
                raise
            delivery.nack(reason=describe(error))
            if not isinstance(error, Exception) or isinstance(error, self._stop_on):
                raise
            log.warning(
                "offset %d failed at attempt %d: %s",
                delivery.offset,
                delivery.attempt,
                describe(error),
                exc_info=error,
            )
        else:
            if scope.cancelled_caught:
                delivery.time_out()
            else:
                delivery.ack()


async def run_handlers(
    consumer: Consumer, handler: Handler, concurrency: int, stop_on: tuple[type[Exception], ...]
) -> None:
    """See `Subscription.run`."""
    await _Run(consumer, handler, stop_on).all(concurrency)
