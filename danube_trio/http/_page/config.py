"""The settings of the page."""

from __future__ import annotations

import attrs

from danube_trio._core.settings import between, whole

KIB, MIB = 1 << 10, 1 << 20


@attrs.frozen(kw_only=True)
class PageConfig:
    """How much the page may take. Sizes in bytes, durations in seconds.

    Attributes:
        feeds: live answers at a time, all viewers together. An open page has one or two.
        feed_seconds: how long a live answer lasts at most; the page asks for the next one.
        interval: between two looks at the topics. They are rarer when looking takes long.
        tail_interval: between two looks whether a topic has more, in a live tail.
        send_seconds: a live answer that is not taken for so long ends.
        reads: answers that read messages at a time; others wait.
        rows: topics or subscriptions in one answer.
        messages: messages in one answer.
        preview_bytes: of each message's payload, and of its attributes, in a list.
        payload_bytes: of a payload that is shown at once.
        read_bytes, read_seconds: what one answer reads from a topic, about, and takes for it.
        search_bytes, search_seconds: the same of a search, which is then gone on with.
        redrive: dead letters that one call brings back.
    """

    feeds: int = attrs.field(default=64, validator=whole(1, 100_000))
    feed_seconds: float = attrs.field(default=600.0, validator=between(0.01, 86_400))
    interval: float = attrs.field(default=1.0, validator=between(0.01, 3600))
    tail_interval: float = attrs.field(default=0.25, validator=between(0.01, 60))
    send_seconds: float = attrs.field(default=30.0, validator=between(0.01, 3600))
    reads: int = attrs.field(default=4, validator=whole(1, 1000))
    rows: int = attrs.field(default=200, validator=whole(1, 1000))
    messages: int = attrs.field(default=200, validator=whole(1, 1000))
    preview_bytes: int = attrs.field(default=1 * KIB, validator=whole(16, 64 * KIB))
    payload_bytes: int = attrs.field(default=64 * KIB, validator=whole(16, 16 * MIB))
    read_bytes: int = attrs.field(default=4 * MIB, validator=whole(1, 1 << 40))
    read_seconds: float = attrs.field(default=10.0, validator=between(0.01, 3600))
    search_bytes: int = attrs.field(default=64 * MIB, validator=whole(1, 1 << 40))
    search_seconds: float = attrs.field(default=2.0, validator=between(0.01, 3600))
    redrive: int = attrs.field(default=1000, validator=whole(1, 1_000_000))
