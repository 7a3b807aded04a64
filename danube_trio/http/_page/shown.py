"""What the page is told by whoever mounts it: rights, streams and their subscriptions.

A right is asked for by a path. A stream has its own; a topic that is no stream's has one that no
stream can have (`topic_path`), so that leave to read the stream ``orders/1`` is not leave to read a
topic of that name. What is of the server as a whole has the path `EVERYTHING`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import attrs

from danube_trio.http._names import CONTROL

EVERYTHING: Final = ""


def topic_path(topic: str) -> str:
    """The path by which rights to a topic are asked for that is no stream's."""
    return f"{CONTROL}/topics{topic}"


class AllRights:
    """Those of everybody, where nobody is asked who they are."""

    def may(self, action: str, path: str) -> bool:
        """Always."""
        return True


@attrs.frozen(kw_only=True)
class ShownStream:
    """A stream, as the page shows it.

    Attributes:
        path: its own, canonical: by which rights are asked for.
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

    @property
    def name(self) -> str:
        """What people call it: the path, with the slash in front."""
        return f"/{self.path}"

    def data(self) -> dict[str, object]:
        """As plain data for the page."""
        return {**attrs.asdict(self), "path": self.name}


class StreamList(Protocol):
    """The streams that there are now. Asked often: it must answer from memory.

    Attributes:
        namespace: of the topics that have their data. A topic in it that is no stream's is one that
            is being made or deleted, and is not shown.
    """

    @property
    def namespace(self) -> str: ...

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
        paths: who may read one of these may see it.
        kind: how it is told: ``webhook`` or ``pull-wake``.
        pattern: that all of its streams have, for people.
        streams: how many these are.
        phase: its state, in a word; ``failed`` stands out.
        lag: records that it has not acknowledged.
        failures: how often in a row telling it has failed.
        last_error: why, in words.
    """

    name: str
    paths: tuple[str, ...]
    kind: str
    phase: str
    pattern: str = ""
    streams: int = 0
    lag: int = 0
    failures: int = 0
    last_error: str = ""
