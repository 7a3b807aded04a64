"""Handlers in threads: what `danube_trio.dispatch._run` is on trio.

With ``concurrency=1`` the handlers run in the caller's thread, else in so many of their own, and
the caller waits. Each message has a copy of the caller's context variables. They share a buffer of
messages that were taken ahead, as in `danube_trio.anyio`.

A thread cannot be cancelled, so a delivery of a run does not time out: its handler has the time
that it takes, and no other one gets the message meanwhile. Whatever ends the run (an interrupt,
`stop_on`, `Subscription.stop`) lets the handlers under way come to their end, whose outcome counts;
what was taken ahead is released.
"""

from __future__ import annotations

import inspect
import reprlib
import threading
from collections.abc import Callable
from contextvars import copy_context

from danube_trio._engine.thread.jobs import AsyncJob, Withdrawn
from danube_trio.blocking._thread import ThreadDoor
from danube_trio.dispatch._afar import FarDelivery, Pace, next_ahead, take_ahead
from danube_trio.dispatch._consumer import Consumer
from danube_trio.dispatch._delivery import Delivery
from danube_trio.dispatch._failures import describe_failure, is_failure
from danube_trio.dispatch._options import SubscriptionOptions
from danube_trio.dispatch._run import Failures, stops

Handler = Callable[[Delivery], object]


class ThreadRun:
    """One call of `Subscription.run`.

    Args:
        consumer: the engine's; entered.
    """

    def __init__(
        self,
        consumer: Consumer,
        door: ThreadDoor,
        options: SubscriptionOptions,
        handler: Handler,
        stop_on: tuple[type[Exception], ...],
        concurrency: int,
    ) -> None:
        self._consumer = consumer
        self._door = door
        self._handler = handler
        self._stop_on = stop_on
        self._concurrency = concurrency
        self._lock = threading.Lock()  # of `_stopped`, `_fetching` and `_active`
        self._ended = threading.Condition(self._lock)
        self._active = 0  # workers
        self._turn = threading.Lock()  # held by who fetches
        self._stopped = False
        self._fetching: AsyncJob | None = None
        window = options.max_unacked_messages
        self._pace = Pace(concurrency, window, one_by_one=options.count_crashes)
        self._context = copy_context()
        self._failures = Failures(None)

    def all(self) -> None:
        """Work until something stops it."""
        try:
            if self._concurrency == 1:
                self._work()
            else:
                self._work_in_threads()
        finally:
            self._failures.log.end()
        self._failures.raise_first()

    def stop(self) -> None:
        """Hand out nothing more. Any thread."""
        with self._lock:
            self._stopped = True
            if self._fetching is not None:
                self._door.engine_thread.cancel(self._fetching)

    def _work_in_threads(self) -> None:
        threads = [
            threading.Thread(target=self._work, name=f"danube-trio run {i + 1}")
            for i in range(self._concurrency)
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:  # in the main thread: the handlers know nothing of it
            self.stop()
            # Not by joining: of a thread in whose start this struck nobody knows whether it runs.
            with self._ended:
                self._ended.wait_for(lambda: not self._active)
            raise

    def _work(self) -> None:
        """One message after the other. Errors are kept, and stop the others."""
        with self._lock:
            if self._stopped:
                return
            self._active += 1
        try:
            while (delivery := self._next()) is not None:
                self._one(delivery)
        except BaseException as error:
            self._failures.keep(error)  # all of them: they come out of the run
            self.stop()
        finally:
            with self._ended:
                self._active -= 1
                self._ended.notify_all()

    def _next(self) -> FarDelivery | None:
        """The next message that is still ours; None when the run was stopped."""
        while not self._stopped:
            if (delivery := next_ahead(self._consumer)) is not None:
                return delivery
            with self._turn:
                if not self._consumer.ahead:
                    self._fetch()
        return None

    def _fetch(self) -> None:
        """Have messages taken ahead. Those that come although this is stopped are there, too."""
        consumer, door, most = self._consumer, self._door, self._pace.next()
        job = AsyncJob(door.reply, lambda: take_ahead(consumer, most, door))
        with self._lock:
            if self._stopped:
                return
            self._fetching = job
        try:
            door.run(job)
        except Withdrawn:
            return  # by stop()
        finally:
            self._fetching = None
        self._pace.got()

    def _one(self, delivery: FarDelivery) -> None:
        inner, tell = delivery.inner, self._door.engine_thread.tell
        try:
            result = self._context.copy().run(self._handler, delivery)
        except BaseException as error:
            if not is_failure(error):
                tell(inner.release)
                raise
            reason = describe_failure(error)
            tell(lambda: inner.nack(reason=reason))
            if stops(error, self._stop_on):
                raise
            self._failures.log.failed(delivery.offset, delivery.attempt, error)
            return
        if inspect.iscoroutine(result):
            result.close()
            tell(inner.release)
            raise TypeError(
                f"handler={reprlib.repr(self._handler)} is an async function: here it must be a "
                f"plain one"
            )
        tell(inner.ack)
