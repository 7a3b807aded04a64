"""`Consumer`: takes messages from a subscription, and holds those that it has not answered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from trio.lowlevel import checkpoint, enable_ki_protection

from danube_trio.dispatch._delivery import Delivery, Take, ack_all
from danube_trio.dispatch._errors import SubscriptionBusyError
from danube_trio.dispatch._options import SubscriptionType
from danube_trio.dispatch._saving import Saving
from danube_trio.dispatch._state import Phase, SubscriptionState

SHARING = (SubscriptionType.SHARED, SubscriptionType.KEY_SHARED)


class Consumer:
    """Takes messages; made by `Subscription.consumer`, for one ``async with`` block.

    Any number of tasks may take from it. When the block is left, for whatever reason, what it has
    not answered is released: other consumers get it at once, and no attempt is burned.
    """

    def __init__(
        self, state: SubscriptionState, saving: Saving, name: str, *, ordered: bool
    ) -> None:
        self._state = state
        self._saving = saving
        self._blocks = 0
        self.name = name
        self.ordered = ordered
        self.ahead: deque[Delivery] = deque()  # taken, and not begun: see `_afar`

    def __repr__(self) -> str:
        return f"<Consumer {self.name!r} of {self._state.name!r}>"

    # ---- coming and going

    def enter(self) -> None:
        """Join, if it has not; each call needs one of `leave`. Raises SubscriptionBusyError."""
        state = self._state
        state.check_run()
        if not self._blocks:
            state.check_open()
            core = state.core
            if core.options.type is SubscriptionType.EXCLUSIVE and core.consumers:
                holder = next(iter(core.consumers))
                raise SubscriptionBusyError(state.name, getattr(holder, "name", "?"))
            core.join(self)
        self._blocks += 1

    def leave(self) -> None:
        """Undo one `enter`; with the last one, it leaves and releases what it holds."""
        self._state.check_run()
        self._blocks -= 1
        if not self._blocks:
            self._state.core.leave(self)
            self._state.left(self)
            self._state.changed()

    async def __aenter__(self) -> Consumer:
        await checkpoint()
        if self._blocks:
            raise RuntimeError("a consumer can be entered once: make another one")
        self.enter()
        return self

    async def __aexit__(self, _: object, exc: BaseException | None, traceback: object) -> None:
        self.leave()

    @property
    def active(self) -> bool:
        """Whether messages come to it: in a failover subscription, to one at a time."""
        return bool(self._blocks) and self._state.core.may_take(self)

    # ---- taking

    def take(self) -> Take:
        """A block around one message: ``async with consumer.take() as message``. See `Take`."""
        return Take(self)

    @enable_ki_protection
    async def receive(self, max_messages: int = 100) -> list[Delivery]:
        """Wait for messages and take those that are at hand, at least one.

        Each is to be answered: `Delivery.ack` and so on.

        Raises:
            SubscriptionClosedError: the subscription or the consumer is closed.
            CorruptDataError, FencedError, ...: why the subscription failed.
            StoreUnavailableError: with ``count_crashes``, when what is handed out cannot be saved.

        Cancellation: nothing was taken then.
        """
        if max_messages < 1:
            raise ValueError(f"max_messages={max_messages!r} must be 1 or more")
        state = self._state
        while True:
            entries = await state.take(self, max_messages)
            deliveries = await self._record([Delivery(state, entry) for entry in entries])
            if deliveries:
                return deliveries

    async def receive_one(self) -> Delivery:
        """Wait for one message; as `receive`."""
        if self._state.core.options.count_crashes:
            return (await self.receive(1))[0]
        return Delivery(self._state, (await self._state.take(self, 1))[0])

    async def _record(self, deliveries: list[Delivery]) -> list[Delivery]:
        """With ``count_crashes``, save that these are in hand before anyone sees them.

        Returns those that still are: meanwhile the subscription may have been moved.
        """
        state = self._state
        if not state.core.options.count_crashes:
            return deliveries
        state.core.changes += 1  # something to save
        try:
            await state.calls.run(self._saving.save)
        except BaseException:
            for delivery in deliveries:
                delivery.release()
            raise
        return [delivery for delivery in deliveries if delivery.is_current]

    # ---- answering for many

    def ack(self, deliveries: Iterable[Delivery]) -> int:
        """Acknowledge many at once; returns how many counted."""
        self._state.check_run()
        return ack_all(deliveries)

    def ack_cumulative(self, up_to: Delivery | int) -> int:
        """Acknowledge everything that was delivered up to this message, itself included.

        Returns how many messages that were: 0 also when the delivery is over, or it is another
        consumer's turn. Raises ValueError for shared and key-shared subscriptions.
        """
        state = self._state
        state.check_run()
        if state.core.options.type in SHARING:
            raise ValueError(
                "a shared subscription has no cumulative acknowledgements: others hold messages "
                "in between. Acknowledge each one"
            )
        if state.phase is Phase.CLOSED or not self._blocks or not state.core.may_take(self):
            return 0
        if isinstance(up_to, Delivery):
            if not up_to.is_current:
                return 0
            up_to = up_to.offset
        acked = state.core.ack_up_to(up_to)
        state.changed()
        return acked


def give_back_ahead(consumer: Consumer) -> None:
    """Release what a run has taken ahead of its handlers."""
    while True:
        try:
            delivery = consumer.ahead.popleft()
        except IndexError:  # another thread takes from it, too
            return
        delivery.release()
