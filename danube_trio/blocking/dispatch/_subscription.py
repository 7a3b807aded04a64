"""A subscription without async."""

from __future__ import annotations

from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._wait import at_once, waits
from danube_trio.blocking.dispatch._consumer import Consumer, Take
from danube_trio.blocking.dispatch._run import Handler, ThreadRun
from danube_trio.dispatch import _subscription as _engine
from danube_trio.dispatch._options import SubscriptionOptions
from danube_trio.dispatch._run import check_run_options

__all__ = ["Subscription"]


class Subscription:
    """A subscription of a topic; any thread may use it. See `danube_trio.dispatch.Subscription`."""

    def __init__(self, inner: _engine.Subscription, door: ThreadDoor, keep: object) -> None:
        self.inner = inner
        self.door = door
        self.name: str = inner.name
        self.options: SubscriptionOptions = inner.options
        self._keep = keep
        self._runs: set[ThreadRun] = set()

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} {self.options.type.value}>"

    # ---- taking

    def take(self) -> Take:
        """A block around one message: ``with subscription.take() as message``. See `Take`.

        Any number of threads may take; they are one consumer together.
        """
        return Take(self.inner.take(), self.door, self)

    def consumer(self, name: str = "") -> Consumer:
        """A consumer of its own, for a ``with`` block. See `Consumer`."""
        inner = self.door.call_now(lambda: self.inner.consumer(name), late=False)
        return Consumer(inner, self.door, self)

    def run(
        self,
        handler: Handler,
        *,
        concurrency: int = 1,
        stop_on: tuple[type[Exception], ...] = (),
    ) -> None:
        """Call ``handler(message)`` for each message until `stop`, Ctrl-C, or the end.

        What becomes of a message and in which order they come is as in
        `danube_trio.dispatch.Subscription.run`. With ``concurrency=1`` the handlers run in this
        thread, else in so many others. They are never cancelled: a delivery does not time out, and
        what ends the run waits for those under way (a second Ctrl-C does not).

        Raises what that one raises; KeyboardInterrupt, and what other signal handlers raise.
        """
        window = self.options.max_unacked_messages
        check_run_options(handler, concurrency, window, stop_on, "a function")
        inner = self.door.call_now(self.inner.run_consumer, late=False)
        with Consumer(inner, self.door, self):
            run = ThreadRun(inner, self.door, self.options, handler, stop_on, concurrency)
            self._runs.add(run)
            try:
                run.all()
            finally:
                self._runs.discard(run)

    def stop(self) -> None:
        """End every `run` that is under way; each returns when its handlers have. Any thread.

        A handler may call it, too.
        """
        for run in list(self._runs):
            run.stop()

    # ---- control

    pause = at_once(_engine.Subscription.pause)
    resume = at_once(_engine.Subscription.resume)
    seek = waits(_engine.Subscription.seek)
    flush = waits(_engine.Subscription.flush)
    wait_settled = waits(_engine.Subscription.wait_settled)
    blocked = at_once(_engine.Subscription.blocked)
    retry_blocked = at_once(_engine.Subscription.retry_blocked)
    drop_blocked = at_once(_engine.Subscription.drop_blocked)
    redrive = waits(_engine.Subscription.redrive)
    lag = waits(_engine.Subscription.lag)
    statistics = waits(_engine.Subscription.statistics)
    statistics_nowait = at_once(_engine.Subscription.statistics_nowait, late=True)

    @property
    def topic(self) -> str:
        """The topic whose messages it delivers."""
        return self.inner.topic

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self.inner.paused

    @property
    def end(self) -> int:
        """Every message below it is settled."""
        return self.door.call_now(lambda: self.inner.end)

    @property
    def saved_end(self) -> int:
        """Every message below it is settled, and that is saved."""
        return self.inner.saved_end

    @property
    def kept_from(self) -> int:
        """What retention is to leave alone: messages at and above it."""
        return self.door.call_now(lambda: self.inner.kept_from)

    @property
    def is_open(self) -> bool:
        """Whether messages can be had: it has neither failed nor been closed."""
        return self.inner.is_open
