"""A subscription, as an asyncio program sees it."""

from __future__ import annotations

from danube_trio._doors.subscriptions import FarSubscription
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio._words import waits
from danube_trio.anyio.dispatch._consumer import ConsumerView, TakeView
from danube_trio.anyio.dispatch._run import LoopRun
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Take
from danube_trio.dispatch._run import Handler, check_run_options
from danube_trio.dispatch._subscription import Subscription


class SubscriptionView(FarSubscription[LoopDoor], Subscription):
    """The view of a subscription."""

    def take(self) -> Take:
        """See `Subscription.take`."""
        return TakeView(self.inner.take(), self.door, self)

    def consumer(self, name: str = "") -> Consumer:
        """See `Subscription.consumer`. Blocks for a hop to the engine's thread and back."""
        inner = self.door.call_now(lambda: self.inner.consumer(name), late=False)
        return ConsumerView(inner, self.door, self)

    def run_consumer(self) -> Consumer:
        """See `Subscription.run_consumer`. Blocks for a hop to the engine's thread and back."""
        inner = self.door.call_now(self.inner.run_consumer, late=False)
        return ConsumerView(inner, self.door, self)

    async def run(
        self, handler: Handler, *, concurrency: int = 1, stop_on: tuple[type[Exception], ...] = ()
    ) -> None:
        """See `Subscription.run`. The handlers run in this loop."""
        check_run_options(handler, concurrency, self.options.max_unacked_messages, stop_on)
        inner = await self.door.call(self._run_consumer_of_engine)
        async with ConsumerView(inner, self.door, self):
            await LoopRun(inner, self.door, self.options, handler, stop_on, concurrency).all()

    async def _run_consumer_of_engine(self) -> Consumer:
        return self.inner.run_consumer()

    seek = waits(Subscription.seek)
    flush = waits(Subscription.flush)
    wait_settled = waits(Subscription.wait_settled)
    redrive = waits(Subscription.redrive)
    lag = waits(Subscription.lag)
    statistics = waits(Subscription.statistics)
