"""The errors of dispatch. What the log and the stores raise comes out as it is."""

from __future__ import annotations

from danube_trio.errors import DanubeError


class SubscriptionClosedError(DanubeError):
    """The subscription or consumer is closed: nothing is handed out any more.

    What was not acknowledged is delivered again when the subscription is opened the next time.
    """


class SubscriptionBusyError(DanubeError):
    """An exclusive subscription has a consumer already.

    Attributes:
        subscription: its name.
        holder: the name of the consumer that it has.
    """

    def __init__(self, subscription: str, holder: str) -> None:
        self.subscription = subscription
        self.holder = holder
        super().__init__(
            f"subscription {subscription!r} is exclusive and has consumer {holder!r}: close that "
            f"one first, or open the subscription as failover, shared or key_shared"
        )


class CursorTooLargeError(DanubeError):
    """There are too many holes between acknowledged messages to save all acknowledgements.

    The older ones are saved, the newer ones are not yet; new messages wait until they can be.
    Settle the oldest messages, or raise ``max_cursor_bytes``.

    Attributes:
        limit_bytes: ``max_cursor_bytes``.
        unsaved_from: acknowledgements at and after this offset are not saved.
    """

    def __init__(self, limit_bytes: int, unsaved_from: int) -> None:
        self.limit_bytes = limit_bytes
        self.unsaved_from = unsaved_from
        super().__init__(
            f"the cursor exceeds max_cursor_bytes={limit_bytes}: acknowledgements from offset "
            f"{unsaved_from} on are not saved yet. Settle older messages, or raise the setting"
        )
