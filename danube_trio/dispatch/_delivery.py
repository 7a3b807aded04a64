"""`Delivery`: a message in a consumer's hands; and `Take`, the block that answers for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import Protocol

import trio
from trio.lowlevel import enable_ki_protection

from danube_trio.dispatch._failures import describe_failure, is_failure
from danube_trio.dispatch._ledger import Entry
from danube_trio.dispatch._queues import key_of
from danube_trio.dispatch._state import SubscriptionState
from danube_trio.message import StreamMessage, copied


class Delivery:
    """One delivery of a message.

    It ends with the first of `ack`, `nack`, `reject` and `release`, with its timeout, with its
    consumer, or when the subscription is moved. The answers are immediate and never wait; what they
    say is saved within ``save_interval`` (`Subscription.flush` waits for that). Each returns
    whether it counted: False means that the delivery was over. They belong to the trio run that
    opened the subscription: a RuntimeError says so elsewhere, before anything is changed.

    Attributes:
        offset: the message's offset.
        attempt: which delivery of the message this is: failures before it, plus 1.
    """

    __slots__ = ("_entry", "_message", "_scope", "_serial", "_state", "attempt", "offset")

    def __init__(self, state: SubscriptionState, entry: Entry) -> None:
        self._state = state
        self._entry = entry
        self._serial = entry.serial
        self.attempt = entry.failures + 1
        self._message: StreamMessage | None = None
        self.offset = entry.offset
        self._scope: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Delivery of offset {self.offset}, attempt {self.attempt}>"

    @property
    def message(self) -> StreamMessage:
        """The message with all its fields: a copy, which the consumer may change."""
        if self._message is None:
            self._message = copied(self._entry.message)
        return self._message

    @property
    def payload(self) -> bytes:
        """The message's payload."""
        return self._entry.message.payload

    @property
    def attributes(self) -> Mapping[str, str]:
        """The message's attributes, to be read."""
        return MappingProxyType(self._entry.message.attributes)

    @property
    def key(self) -> str:
        """The message's routing key, else its producer's name; empty if it has neither."""
        return key_of(self._entry.message)

    @property
    def is_current(self) -> bool:
        """Whether the message is still in this consumer's hands."""
        return self._state.core.is_current(self._entry, self._serial)

    @property
    def deadline(self) -> float:
        """When the delivery times out, by `trio.current_time`."""
        return self._entry.deadline if self._scope is None else self._scope.deadline

    def ack(self) -> bool:
        """The message is done with.

        Counts also after the timeout, as long as the message was not delivered again.
        """
        state = self._state
        state.check_run()
        counted = state.core.ack(self._entry, self._serial)
        state.changed()
        return counted

    def nack(self, delay: float | None = None, *, reason: str = "") -> bool:
        """It failed: deliver it again, after `delay` seconds or the backoff, if it may be."""
        if delay is not None and not 0 <= delay < inf:
            raise ValueError(f"delay={delay!r} must be seconds, 0 or more")
        _check_reason(reason)
        state = self._state
        state.check_run()
        counted = state.core.fail(
            self._entry, self._serial, trio.current_time(), reason or "it was nacked", delay
        )
        state.failed(self._entry)
        return counted

    def reject(self, reason: str) -> bool:
        """It is poison, whatever the number of attempts: see ``poison_policy``."""
        _check_reason(reason)
        state = self._state
        state.check_run()
        counted = state.core.reject(self._entry, self._serial, reason)
        state.changed()
        return counted

    def release(self) -> bool:
        """Give it back unhandled, for the next consumer. No attempt is burned."""
        state = self._state
        state.check_run()
        counted = state.core.release(self._entry, self._serial)
        state.changed()
        return counted

    def extend(self, seconds: float | None = None) -> bool:
        """Let it time out so many seconds from now (the ``ack_timeout``), if that is later."""
        self._state.check_run()
        timeout = self._state.core.options.ack_timeout if seconds is None else seconds
        if timeout is None:
            return self.is_current
        deadline = trio.current_time() + timeout
        if self._scope is not None and self.is_current:
            self._scope.deadline = max(self._scope.deadline, deadline)
            return True
        return self._state.core.extend(self._entry, self._serial, deadline)

    def scope(self) -> trio.CancelScope:
        """A cancel scope for its handler, which ends when the delivery times out.

        From now on the scope keeps the time, and whoever uses it answers: so the message is not
        delivered again while a handler that was cancelled is still cleaning up.
        """
        self._scope = trio.CancelScope(deadline=self._entry.deadline)
        self.hold()
        return self._scope

    def hold(self) -> None:
        """It does not time out any more: whoever has it keeps the time himself, and answers."""
        self._state.core.extend(self._entry, self._serial, inf)

    def time_out(self) -> bool:
        """It took too long; as `nack`."""
        state = self._state
        counted = state.core.time_out(self._entry, self._serial, trio.current_time())
        state.failed(self._entry)
        return counted


def ack_all(deliveries: Iterable[Delivery]) -> int:
    """`Delivery.ack` for many; who waits is woken once for all. Returns how many counted."""
    counted = 0
    state: SubscriptionState | None = None
    try:
        for delivery in deliveries:
            theirs = delivery._state  # pyright: ignore[reportPrivateUsage]
            entry, serial = delivery._entry, delivery._serial  # pyright: ignore[reportPrivateUsage]
            if theirs is not state:
                theirs.check_run()
                if state is not None:
                    state.changed()
                state = theirs
            counted += theirs.core.ack(entry, serial)
    finally:
        if state is not None:
            state.changed()
    return counted


def _check_reason(reason: object) -> None:
    """Raise TypeError if it is no text: nothing was changed yet."""
    if not isinstance(reason, str):
        raise TypeError(f"reason must be a str, not {type(reason).__name__}: nothing was changed")


class _Consumer(Protocol):
    """What a block needs of its consumer."""

    def enter(self) -> None: ...
    def leave(self) -> None: ...
    async def receive_one(self) -> Delivery: ...


class Take:
    """``async with consumer.take() as message``: the block answers for the message.

    Leaving it acknowledges. An exception nacks, and goes on. `trio.Cancelled`, and whatever else is
    not an `Exception` (a KeyboardInterrupt says nothing about the message), releases: no attempt is
    burned. What the block itself answered first counts.
    """

    __slots__ = ("_consumer", "_delivery", "_leave")

    def __init__(self, consumer: _Consumer, *, leave: bool = False) -> None:
        self._consumer = consumer
        self._leave = leave  # the consumer is there for such blocks only
        self._delivery: Delivery | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Delivery:
        if self._delivery is not None:
            raise RuntimeError("take() can be entered once: call it again")
        if self._leave:
            self._consumer.enter()
        try:
            self._delivery = delivery = await self._consumer.receive_one()
        except BaseException:
            if self._leave:
                self._consumer.leave()
            raise
        return delivery

    @enable_ki_protection
    async def __aexit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        self.leave(exc)

    def leave(self, exc: BaseException | None) -> None:
        """Answer, as leaving the block with this exception does; in this step."""
        delivery = self._delivery
        assert delivery is not None
        if exc is None:
            delivery.ack()
        elif is_failure(exc):
            delivery.nack(reason=describe_failure(exc))
        else:
            delivery.release()
        if self._leave:
            self._consumer.leave()
