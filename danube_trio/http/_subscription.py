"""A subscription: what was asked for, where it stands, and how it may move. No I/O here.

::

             new events               claimed, or sent to the webhook
      idle -------------> woken ------------------------------------> held
       ^  <-------------------  nothing left to do                      |
       |                                                                |
       +----------------------------------------------------------------+
               done, released, not delivered, or the lease is over

- **idle**: nobody works. New events wake it, but not before `retry_at`.
- **woken** (pull-wake only): there is a new *generation* and a *wake id*, and the wake stream says
  so. There is no lease: whoever comes first has it.
- **held**: a worker, or the webhook, has the wake until `lease_end`. Only they may acknowledge.

A webhook is held as soon as it is woken. So there is never more than one wake, and never a second
worker while the first may still believe that it works.

**Generations** only grow. Each wake has one, and nothing of an older one is ever accepted again.

**Leases** run on the monotonic clock. A restart does not know how much of one was left, so it gives
the whole time anew: who held it was promised no more, and no clock that is wrong makes it less.

**Retries.** `failures` counts the wakes in a row that came to nothing: that were not delivered, or
ended without any acknowledgement. After such a one there is a pause, longer each time. It is
written down as a time of the wall clock, which is believed for no longer than the pause can be.

**Links** say how far each stream was processed. Whether there are events behind that is `pending`,
in the order in which that began, so no stream is passed over for another.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from hashlib import sha256
from itertools import islice
from typing import Literal
from urllib.parse import unquote

import attrs
import trio

from danube_trio._core.documents import compact, parse
from danube_trio._core.pauses import Pauses
from danube_trio.http._names import CONTROL
from danube_trio.http._stream import Stream

FORMAT = 1
# The protocol's, in milliseconds.
MIN_LEASE_MS, DEFAULT_LEASE_MS, MAX_LEASE_MS = 1000, 30_000, 600_000
# The protocol's: from a second to a minute, and a fifth more or less.
RETRIES = Pauses(1.0, 60.0)
JITTER = 0.2
# How many streams a wake speaks of. With their cursors it ends in one transaction, and a metadata
# store takes 128 keys in one. What is pending beside them is of the next wake.
SNAPSHOT_STREAMS = 100
# How long a webhook that has acknowledged by its callback may still take to answer the request.
ANSWER_SECONDS = 2.0
MAX_ERROR_CHARACTERS = 200


@attrs.frozen
class Configuration:
    """What was asked for, in a form in which the same is equal.

    Attributes:
        type: ``webhook`` or ``pull-wake``.
        pattern: of paths; or None.
        streams: paths, sorted.
        url: of the webhook; None for the other kind.
        wake_stream: a path; None for the other kind.
    """

    type: str
    pattern: str | None
    streams: tuple[str, ...]
    url: str | None
    wake_stream: str | None
    lease_ttl_ms: int
    description: str | None

    @property
    def digest(self) -> str:
        """Of all of it: by this it is compared."""
        return sha256(compact(self)).hexdigest()


@attrs.frozen
class Made:
    """The document of a subscription. It is there as long as the subscription is.

    Attributes:
        id: canonical, as it stands in URLs.
        uid: no other subscription had it, or will, also of the same id.
        digest: of the configuration.
        base_url: where the streams are, as it was asked for last: of the URLs that are given away.
        created_at: seconds since 1970.
    """

    id: str
    uid: str
    configuration: Configuration
    digest: str
    base_url: str
    created_at: float
    format: int = FORMAT


@attrs.frozen
class State:
    """Where a subscription stands: a document, written before anybody is told.

    Attributes:
        generation: of the last wake; 0 before the first.
        wake: its id; empty when it is over.
        holder: the worker that has it.
        woken_at: when it began, in seconds since 1970.
        failures: how many wakes in a row came to nothing.
        next_attempt_at: until when the next one waits, in seconds since 1970; None: it does not.
        error: why the last one was not delivered; None if it was.
    """

    generation: int = 0
    wake: str = ""
    holder: str | None = None
    woken_at: float = 0.0
    failures: int = 0
    next_attempt_at: float | None = None
    error: str | None = None
    format: int = FORMAT

    def woken(self, wake: str, now: float) -> State:
        """A new wake. What is known of failures stays until it is delivered."""
        assert not self.wake or self.holder is not None
        return attrs.evolve(
            self,
            generation=self.generation + 1,
            wake=wake,
            holder=None,
            woken_at=now,
            next_attempt_at=None,
        )

    def claimed(self, holder: str) -> State:
        """A worker has the wake."""
        assert self.wake
        return attrs.evolve(self, holder=holder, error=None, next_attempt_at=None)

    def delivered(self) -> State:
        """The wake has arrived, so there is nothing to be said of errors. It goes on."""
        return attrs.evolve(self, error=None, next_attempt_at=None)

    def ended(self, again_at: float | None) -> State:
        """The wake is over.

        Args:
            again_at: if it came to nothing, until when the next one waits.
        """
        failures = 0 if again_at is None else self.failures + 1
        return attrs.evolve(
            self, wake="", holder=None, failures=failures, next_attempt_at=again_at, error=None
        )

    def lapsed(self) -> State:
        """The wake is over, and that it was not delivered was counted before."""
        return attrs.evolve(self, wake="", holder=None)

    def undelivered(self, error: str, again_at: float, *, over: bool) -> State:
        """The wake was not delivered: it is over, unless it may have been.

        Pull-wake: it stays, and its event is written again.
        """
        return attrs.evolve(
            self,
            wake="" if over else self.wake,
            holder=None if over else self.holder,
            failures=self.failures + 1,
            next_attempt_at=again_at,
            error=error[:MAX_ERROR_CHARACTERS],
        )


@attrs.frozen
class Cursor:
    """How far a stream was processed.

    Attributes:
        acked: the offset; None: as far as it goes when it is looked at first.
    """

    acked: int | None
    format: int = FORMAT


def read_cursor(data: bytes) -> Cursor:
    """The cursor in a document; ValueError for what is none."""
    return parse(data, Cursor, newest=FORMAT)


@attrs.define(eq=False)
class Link:
    """A stream of a subscription.

    Attributes:
        acked: the offset up to which it was processed; None: up to where it ended when the link
            was made, which is looked up before anything more is written to it.
        matched: by the pattern.
        explicit: because it was named.
        since: the generation that is held while the stream was made: what is said of its path then
            may be of another stream, which had the path before. 0: none was held.
    """

    subscription: Subscription
    stream: Stream
    acked: int | None
    matched: bool
    explicit: bool
    since: int = 0

    @property
    def behind(self) -> int:
        """How many records were not processed, as far as is known."""
        seen = self.stream.seen
        if seen is None or self.acked is None:
            return 0
        return max(0, seen[0] - self.acked)


@attrs.frozen
class Told:
    """What a wake says of a stream: the link, and the stream's end at that time."""

    link: Link
    tail: int

    @property
    def pending(self) -> bool:
        """Whether there was something to do."""
        return self.link.acked is not None and self.tail > self.link.acked


@attrs.define
class Delivery:
    """A webhook that is under way.

    Attributes:
        wake: its id.
        scope: in which it is.
        until: when it is given up at the latest, by trio's clock.
    """

    wake: str
    scope: trio.CancelScope
    until: float


@attrs.define(eq=False)
class Subscription:
    """A subscription in memory. `_subscriptions` makes and changes it, and writes it down.

    Attributes:
        made, made_revision, state, state_revision: the documents, as they were stored last.
        named: the paths that were named, whether a stream has them or not.
        links: of the streams that there are.
        pending: the links with something to do, the oldest first.
        lock: held by who changes it. Nobody waits for the network inside.
        changed: set, and made anew, when there may be something to do.
        lease_end: until when the wake is held, by trio's clock.
        retry_at: before that it is not woken, by the same.
        moved: whether the wake that is held has acknowledged anything.
        in_doubt: the store did not answer: it is asked before anything else.
        gone: it was deleted.
        told: the topic of the wake stream that has the event of this wake.
        delivery: a webhook that is under way.
    """

    made: Made
    made_revision: int
    state: State
    state_revision: int
    named: dict[str, None] = attrs.Factory(dict[str, None])
    links: dict[Stream, Link] = attrs.Factory(dict[Stream, Link])
    pending: dict[Link, None] = attrs.Factory(dict[Link, None])
    lock: trio.Lock = attrs.Factory(trio.Lock)
    changed: trio.Event = attrs.Factory(trio.Event)
    lease_end: float = 0.0
    retry_at: float = 0.0
    moved: bool = False
    in_doubt: bool = False
    gone: bool = False
    told: str | None = None
    delivery: Delivery | None = None

    @property
    def id(self) -> str:
        """Its canonical id."""
        return self.made.id

    @property
    def name(self) -> str:
        """The id as text."""
        return unquote(self.made.id)

    @property
    def path(self) -> str:
        """Where it is, below the streams."""
        return f"{CONTROL}/subscriptions/{self.id}"

    @property
    def lease_seconds(self) -> float:
        """How long a worker has."""
        return self.made.configuration.lease_ttl_ms / 1000

    @property
    def is_webhook(self) -> bool:
        """Whether it is delivered by webhook."""
        return self.made.configuration.url is not None

    @property
    def phase(self) -> Literal["idle", "woken", "held"]:
        """See above."""
        if not self.state.wake:
            return "idle"
        return "held" if self.is_webhook or self.state.holder is not None else "woken"

    @property
    def status(self) -> Literal["active", "failed"]:
        """The protocol's word."""
        return "active" if self.state.error is None else "failed"

    # ---- when there is something to do

    def due(self, now: float) -> float:
        """When there is something to do without anybody asking, by trio's clock."""
        if self.in_doubt:
            return now
        if self.phase == "held":
            return self.lease_end
        if self.phase == "woken":
            return self.retry_at if self.told is None else float("inf")
        return self.retry_at if self.pending else float("inf")

    def kick(self) -> None:
        """There may be something to do."""
        delivery = self.delivery
        if delivery is not None:
            if self.state.wake == delivery.wake:
                ends = self.lease_end
            else:
                ends = min(trio.current_time() + ANSWER_SECONDS, delivery.scope.deadline)
            delivery.scope.deadline = min(delivery.until, ends)
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    # ---- links

    def note(self, link: Link) -> None:
        """The link's stream, or its cursor, may have moved."""
        if not link.behind:
            self.pending.pop(link, None)
        elif link not in self.pending:
            self.pending[link] = None
            if self.phase == "idle":
                self.kick()

    def acknowledge(self, link: Link, offset: int) -> None:
        """The stream was processed up to this offset, and that is durable."""
        link.acked = offset
        self.moved = True
        self.pending.pop(link, None)  # if there is more, it comes after the others
        self.note(link)

    def snapshot(self) -> list[Told]:
        """What a wake says: the streams with something to do, then others while there is room."""
        found = [*islice(self.pending, SNAPSHOT_STREAMS)]
        room = SNAPSHOT_STREAMS - len(found)
        # Not all of them are looked at: there may be many of which nothing is known yet.
        others = (link for link in islice(self.links.values(), 2 * SNAPSHOT_STREAMS))
        others = (link for link in others if link not in self.pending and link.acked is not None)
        found += islice(others, room)
        return [Told(link, _tail(link)) for link in found]

    # ---- leases and pauses

    def lease(self) -> None:
        """The lease begins anew."""
        self.lease_end = trio.current_time() + self.lease_seconds
        self.kick()

    def lease_is_over(self) -> bool:
        """Whether another may take over."""
        return self.phase == "held" and trio.current_time() >= self.lease_end

    def pause(self) -> float:
        """How long the next wake waits, if this one came to nothing, in seconds."""
        return RETRIES.after(self.state.failures + 1) * random.uniform(1 - JITTER, 1 + JITTER)

    def resume(self, clock: float) -> None:
        """After a restart, or when the state was read again: times are of this process.

        Args:
            clock: seconds since 1970.
        """
        now = trio.current_time()
        if self.phase == "held":
            self.lease_end = now + self.lease_seconds
        self.retry_at = now
        if self.state.next_attempt_at is not None:
            left = self.state.next_attempt_at - clock
            self.retry_at += min(max(0.0, left), RETRIES.limit * (1 + JITTER))
        self.kick()


def _tail(link: Link) -> int:
    if link.stream.seen is not None:
        return link.stream.seen[0]
    return link.stream.entry.base if link.acked is None else link.acked


@attrs.frozen
class SubscriptionStatistics:
    """A subscription, as it was at some moment.

    Attributes:
        id: as it was given.
        kind: ``webhook`` or ``pull-wake``.
        streams: a pattern that all of its streams have, by which rights are asked.
        description: as it was given.
        status: ``active``, or ``failed`` while a delivery that failed is to be tried again.
        phase: ``idle``, ``woken`` or ``held``.
        links: how many streams it has.
        pending: how many of them have something to do.
        behind: how many records that is.
        generation: of the last wake.
        holder: the worker that has it, or None.
        next_attempt_at: when it is tried again, in seconds since 1970, or None.
        failures: how many wakes in a row came to nothing.
        error: why the last delivery failed, or None.
        path: ``__ds/subscriptions/<id>``, by which rights are asked, too.
    """

    id: str
    kind: str
    streams: str
    description: str | None
    status: str
    phase: str
    links: int
    pending: int
    behind: int
    generation: int
    holder: str | None
    next_attempt_at: float | None
    failures: int
    error: str | None
    path: str


def total(links: Iterable[Link]) -> int:
    """How many records these are behind."""
    return sum(link.behind for link in links)
