"""A subscription without async."""

from __future__ import annotations

from danube_trio._doors.subscriptions import FarSubscription
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.blocking._words import waits
from danube_trio.blocking.dispatch._consumer import Consumer, Take
from danube_trio.blocking.dispatch._run import Handler, ThreadRun
from danube_trio.dispatch import _subscription as _engine
from danube_trio.dispatch._run import check_run_options


class Subscription(FarSubscription[ThreadDoor]):
    """A subscription of a topic; any thread may use it. See `danube_trio.dispatch.Subscription`."""

    def __init__(self, inner: _engine.Subscription, door: ThreadDoor, keep: object) -> None:
        super().__init__(inner, door, keep)
        self._runs: set[ThreadRun] = set()

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
        self, handler: Handler, *, concurrency: int = 1, stop_on: tuple[type[Exception], ...] = ()
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

    seek = waits(_engine.Subscription.seek)
    flush = waits(_engine.Subscription.flush)
    wait_settled = waits(_engine.Subscription.wait_settled)
    redrive = waits(_engine.Subscription.redrive)
    lag = waits(_engine.Subscription.lag)
    statistics = waits(_engine.Subscription.statistics)
