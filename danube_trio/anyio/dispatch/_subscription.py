"""A subscription, as an asyncio program sees it."""

from __future__ import annotations

from danube_trio.anyio._hop import hop, hop_now
from danube_trio.anyio._loop import LoopDoor
from danube_trio.anyio.dispatch._consumer import ConsumerView, TakeView
from danube_trio.anyio.dispatch._run import LoopRun
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Take
from danube_trio.dispatch._run import Handler, check_run_options
from danube_trio.dispatch._subscription import Subscription

__all__ = ["SubscriptionView"]


class SubscriptionView(Subscription):
    """The view of a subscription: the same state, seen through other methods."""

    def __init__(self, inner: Subscription, door: LoopDoor, keep: object) -> None:
        vars(self).update(vars(inner))
        self.inner = inner
        self.way = door
        self.keep = keep

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} {self.options.type.value}>"

    def take(self) -> Take:
        """See `Subscription.take`."""
        return TakeView(self.inner.take(), self.way, self)

    def consumer(self, name: str = "") -> Consumer:
        """See `Subscription.consumer`. Blocks for a hop to the engine's thread and back."""
        inner = self.way.call_now(lambda: self.inner.consumer(name), late=False)
        return ConsumerView(inner, self.way, self)

    def run_consumer(self) -> Consumer:
        """See `Subscription.run_consumer`. Blocks for a hop to the engine's thread and back."""
        inner = self.way.call_now(self.inner.run_consumer, late=False)
        return ConsumerView(inner, self.way, self)

    async def run(
        self,
        handler: Handler,
        *,
        concurrency: int = 1,
        stop_on: tuple[type[Exception], ...] = (),
    ) -> None:
        """See `Subscription.run`. The handlers run in this loop."""
        check_run_options(handler, concurrency, self.options.max_unacked_messages, stop_on)
        inner = await self.way.call(self._run_consumer_of_engine)
        async with ConsumerView(inner, self.way, self):
            await LoopRun(inner, self.way, self.options, handler, stop_on, concurrency).all()

    async def _run_consumer_of_engine(self) -> Consumer:
        return self.inner.run_consumer()

    pause = hop_now(Subscription.pause)
    resume = hop_now(Subscription.resume)
    seek = hop(Subscription.seek)
    flush = hop(Subscription.flush)
    wait_settled = hop(Subscription.wait_settled)
    blocked = hop_now(Subscription.blocked)
    retry_blocked = hop_now(Subscription.retry_blocked)
    drop_blocked = hop_now(Subscription.drop_blocked)
    redrive = hop(Subscription.redrive)
    lag = hop(Subscription.lag)
    statistics = hop(Subscription.statistics)
    statistics_nowait = hop_now(Subscription.statistics_nowait, late=True)

    @property
    def end(self) -> int:
        """See `Subscription.end`. Blocks for a hop to the engine's thread and back."""
        return self.way.call_now(lambda: self.inner.end)

    @property
    def kept_from(self) -> int:
        """See `Subscription.kept_from`. Blocks for a hop to the engine's thread and back."""
        return self.way.call_now(lambda: self.inner.kept_from)
