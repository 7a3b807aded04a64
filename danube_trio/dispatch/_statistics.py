"""What a subscription can tell about itself."""

from __future__ import annotations

import attrs

from danube_trio.dispatch._state import SubscriptionState
from danube_trio.message import StreamMessage


@attrs.frozen
class Blocked:
    """A message that ``PoisonPolicy.BLOCK`` holds back.

    Attributes:
        offset, message: which.
        failures: how many deliveries failed.
        reason: the last failure.
    """

    offset: int
    message: StreamMessage
    failures: int
    reason: str


@attrs.frozen(kw_only=True)
class SubscriptionStatistics:
    """A subscription at one moment. Counts begin with its opening.

    Attributes:
        phase: ``open``, ``failed`` or ``closed``.
        consumers: how many it has.
        end: every message below it is settled; saved_end: and that is saved.
        lag: messages of the topic that are not settled.
        in_flight: messages in consumers' hands.
        retrying: that wait for redelivery.
        blocked: that ``PoisonPolicy.BLOCK`` holds back.
        dead_lettering: on their way to the dead letters.
        delivered: deliveries; failed: those that failed; timed_out: of these, by timeout;
            released: those that ended without an answer.
        acked, dropped, dead_lettered: messages that were settled, by how.
        lost: messages that were not in the log any more when they should have been delivered:
            retention by age, or damage in a log that is opened with "skip".
        unsaved: settlements and failures that are not saved yet.
        unsaved_failures: messages that have failed, and how often does not fit into the saved
            cursor: after a crash they begin at the first attempt again.
        saves, save_failures: of the cursor.
        read_failures: attempts to read the log that failed, and were repeated.
        dead_letter_failures: attempts to append a dead letter that failed.
        last_error: the last failure of the subscription's own work, in words.
    """

    phase: str
    consumers: int
    end: int
    saved_end: int
    lag: int
    in_flight: int
    retrying: int
    blocked: int
    dead_lettering: int
    delivered: int
    failed: int
    timed_out: int
    released: int
    acked: int
    dropped: int
    dead_lettered: int
    lost: int
    unsaved: int
    unsaved_failures: int
    saves: int
    save_failures: int
    read_failures: int
    dead_letter_failures: int
    last_error: str | None


def statistics_of(state: SubscriptionState, log_end: int) -> SubscriptionStatistics:
    """Look at everything."""
    core = state.core
    return SubscriptionStatistics(
        phase=state.phase.value,
        consumers=len(core.consumers),
        end=core.end,
        saved_end=state.saved_end,
        lag=core.lag(log_end),
        in_flight=core.in_flight,
        retrying=core.retrying,
        blocked=len(core.blocked()),
        dead_lettering=len(core.burying),
        **attrs.asdict(core.counts),
        unsaved=core.changes - core.saved_changes,
        unsaved_failures=state.unsaved_failures,
        saves=state.saves,
        save_failures=state.save_failures,
        read_failures=state.read_failures,
        dead_letter_failures=state.bury_failures,
        last_error=state.last_error,
    )
