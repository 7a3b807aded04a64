"""What the page is told by whoever mounts it: rights, streams and their subscriptions.

A right is asked for by a path. A stream has its own; a topic that is no stream's has one that no
stream can have (`topic_path`), so that leave to read the stream ``/orders/1`` is not leave to read
a topic of that name. What is of the storage as a whole has the path `EVERYTHING`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, Protocol

import attrs

Action = Literal["read", "write", "admin"]

# What a path of a topic begins with; a stream's begins with a slash.
TOPIC: Final = "topic:"
EVERYTHING: Final = TOPIC
# Topics of this namespace are streams, where there are streams.
STREAMS: Final = "/streams/"


def topic_path(topic: str) -> str:
    """The path by which rights to a topic are asked for that is no stream's."""
    return f"{TOPIC}{topic}"


class Rights(Protocol):
    """What somebody may do."""

    def may(self, action: Action, path: str) -> bool:
        """Whether this is allowed."""
        ...


class AllRights:
    """Those of everybody, where nobody is asked who they are."""

    def may(self, action: Action, path: str) -> bool:
        """Always."""
        return True


@attrs.frozen(kw_only=True)
class ShownStream:
    """A stream, as the page shows it.

    Attributes:
        path: its own, for people and for rights; begins with a slash.
        topic: that has its data.
        content_type: of its data.
        closed: whether it takes no more.
        note: whatever else is to be said of it, in a few words.
    """

    path: str
    topic: str
    content_type: str = ""
    closed: bool = False
    note: str = ""


class StreamList(Protocol):
    """The streams that there are now. Asked often: it must answer from memory."""

    def shown(self) -> Iterable[ShownStream]:
        """All of them."""
        ...

    def of_topic(self, topic: str) -> ShownStream | None:
        """The one whose data this topic has; None if there is none, or not any more."""
        ...


@attrs.frozen(kw_only=True)
class ShownSubscription:
    """A subscription to streams over HTTP, as the page shows it.

    Attributes:
        name: its own.
        kind: how it is told: ``webhook`` or ``pull-wake``.
        streams: which ones, in words: a path or a pattern. It is seen by who may read that path.
        phase: its state, in a word.
        lag: how much is not acknowledged; None: not known.
        failures: tries to tell it that failed.
        last_error: the last of these, in words.
    """

    name: str
    kind: str
    streams: str
    phase: str
    lag: int | None = None
    failures: int = 0
    last_error: str = ""
