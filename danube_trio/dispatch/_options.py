"""Settings of a topic and of its subscriptions: plain values that a user may keep in a file.

Every field is checked when the object is made; a bad one is a ``ValueError`` that names the field
and the value. Danube's names stay where Danube has one.
"""

from __future__ import annotations

import enum
from functools import partial

import attrs

from danube_trio._core.settings import between, whole

MIB = 1 << 20
integer = partial(whole, first=True)


class RetentionPolicy(enum.Enum):
    """When stored messages may go."""

    KEEP = "Keep"
    """Never: nothing is freed. What else frees them (another dispatch, a log's own retention, a
    trim) is not kept from it."""
    RETAIN_UNTIL_ACK = "RetainUntilAck"
    """When every subscription of the topic has settled them, in use or not, as the metadata store
    says in each round. While there is no subscription, nothing goes."""
    RETAIN_UNTIL_EXPIRE = "RetainUntilExpire"
    """When they are older than ``retention_period``, acknowledged or not."""


class SubscriptionType(enum.Enum):
    """Who gets which message."""

    EXCLUSIVE = "exclusive"
    """One consumer; a second one is refused."""
    FAILOVER = "failover"
    """The consumer that came first; when it leaves, the next one."""
    SHARED = "shared"
    """Whoever is free. No order."""
    KEY_SHARED = "key_shared"
    """Whoever is free, but one message of a key at a time, and in order."""


class PoisonPolicy(enum.Enum):
    """What becomes of a message that failed more often than it may."""

    BLOCK = "block"
    """It stays, and what comes after it (of its key) waits, until the operator decides."""
    DROP = "drop"
    """It is settled as if it had been acknowledged, and counted."""
    DEAD_LETTER = "dead_letter"
    """It is appended to another topic, with the reason, and settled after that."""


@attrs.frozen
class ReliableOptions:
    """The settings of a topic; Danube's ``ReliableOptions``, with its positions and units.

    Attributes:
        segment_size: MiB of messages after which a new segment begins. Retention frees whole
            segments. (A log that is handed in keeps its own ``segment_bytes``.)
        retention_policy: when messages may go. None: KEEP over a log that is handed in (its
            opener says who frees it), RETAIN_UNTIL_ACK in the segments of a `TopicCache`.
        retention_period: seconds; the age at which they go with RETAIN_UNTIL_EXPIRE.
        retention_interval: seconds between two rounds of retention. Danube's is 10, too.
    """

    segment_size: int = attrs.field(default=64, validator=integer(1, 1 << 20))
    retention_policy: RetentionPolicy | None = attrs.field(
        default=None, converter=attrs.converters.optional(RetentionPolicy)
    )
    retention_period: float = attrs.field(default=3600.0, validator=between(0, 1e10))
    retention_interval: float = attrs.field(default=10.0, validator=between(0.001, 1e6))

    @property
    def segment_bytes(self) -> int:
        """`segment_size` in bytes."""
        return self.segment_size * MIB


@attrs.frozen(kw_only=True)
class SubscriptionOptions:
    """The settings of a subscription. They are the program's, not kept in the metadata store.

    Attributes:
        type: who gets which message.
        max_unacked_messages: the window: how many may be in consumers' hands at once, all
            consumers together. Nothing more is handed out until one is settled.
        ack_timeout: seconds after which a message in a consumer's hands counts as failed and is
            redelivered; None: never.
        max_redeliveries: how often a failed message is delivered again before it is poison;
            None: without end.
        backoff_initial, backoff_max: seconds before the first redelivery, doubled for each further
            one, up to the maximum.
        poison_policy: what becomes of poison.
        dead_letter_topic: where to; None: ``<topic>-<subscription>-dead``.
        dead_letter_period: seconds that dead letters stay. Older ones go, in whole segments of
            their topic, brought back or not, and whoever's they are; None: they stay. (By size:
            ``WalConfig.retain_bytes`` of a log that is handed in for them.)
        count_crashes: a message that a crash of this process found in consumers' hands has failed
            once more. For work that may take the process down with it; costs one write to the
            metadata store each time messages are handed out. Off: a crash burns no attempt.
        save_interval: seconds that an acknowledgement (or a failure) may wait until it is saved.
        max_unsaved_acks: how many may wait; beyond it nothing is handed out before they are saved.
            With the window it bounds what is redelivered after a crash. None: no bound.
        max_cursor_bytes: largest saved cursor; metadata stores accept one of 1,000,000 bytes, which
            holds a million holes, and more are never saved. As long as it is exceeded, no new
            message is handed out.
        max_retrying_messages: how many may wait for redelivery, or are on their way to the dead
            letters; beyond it no new ones are handed out.
        max_buffered_bytes: held in memory, about: payloads, larger attributes and the reasons of
            failures, of what is handed out, waits, or was read ahead.
    """

    type: SubscriptionType = attrs.field(
        default=SubscriptionType.EXCLUSIVE, converter=SubscriptionType
    )
    max_unacked_messages: int = attrs.field(default=10, validator=integer(1, 10_000_000))
    ack_timeout: float | None = attrs.field(
        default=30.0, validator=between(0.001, 1e9, optional=True)
    )
    max_redeliveries: int | None = attrs.field(
        default=5, validator=integer(0, 60_000, optional=True)
    )
    backoff_initial: float = attrs.field(default=1.0, validator=between(0, 1e9))
    backoff_max: float = attrs.field(default=60.0, validator=between(0, 1e9))
    poison_policy: PoisonPolicy = attrs.field(default=PoisonPolicy.BLOCK, converter=PoisonPolicy)
    dead_letter_topic: str | None = None
    dead_letter_period: float | None = attrs.field(
        default=None, validator=between(0, 1e10, optional=True)
    )
    count_crashes: bool = False
    save_interval: float = attrs.field(default=0.1, validator=between(0, 1e6))
    max_unsaved_acks: int | None = attrs.field(
        default=10_000, validator=integer(1, 1 << 40, optional=True)
    )
    max_cursor_bytes: int = attrs.field(default=1_000_000, validator=integer(1024, 1_000_000))
    max_retrying_messages: int = attrs.field(default=10_000, validator=integer(1, 10_000_000))
    max_buffered_bytes: int = attrs.field(default=64 * MIB, validator=integer(1, 1 << 40))

    def __attrs_post_init__(self) -> None:
        if self.backoff_max < self.backoff_initial:
            raise ValueError(
                f"backoff_max={self.backoff_max!r} must not be below "
                f"backoff_initial={self.backoff_initial!r}"
            )
        if self.dead_letter_topic is not None:
            topic_parts(self.dead_letter_topic, "dead_letter_topic")


def check_name(name: str, what: str) -> str:
    """A name that may be a part of a metadata key. Raises ValueError."""
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
        raise ValueError(f"{what}={name!r} must be printable text without '/'")
    return name


def topic_parts(topic: str, what: str = "topic") -> tuple[str, str]:
    """Namespace and name of ``/namespace/name``, with or without the first slash."""
    if not isinstance(topic, str):
        raise ValueError(f"{what}={topic!r} must be a topic such as '/default/orders'")
    parts = topic.removeprefix("/").split("/")
    if len(parts) != 2 or not all(part and part.isprintable() for part in parts):
        raise ValueError(f"{what}={topic!r} must be a topic such as '/default/orders'")
    if any(part in (".", "..") for part in parts):
        raise ValueError(f"{what}={topic!r} must not have a part '.' or '..'")
    return parts[0], parts[1]
