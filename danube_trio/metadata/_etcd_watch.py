"""A watch of an etcd prefix, which survives lost connections.

etcd replays from any revision that it has not compacted, so the whole state of a watch is `seen`:
the newest revision of which every event is in our hands. Each connection begins after it. Rules:

1. Entering asks for the store's revision, linearizably: what happens after that is seen, from
   whichever member. An `after` that is above it means that the cluster was reset: lost.
2. etcd may split the events of one revision over several messages (fragments). They are held back
   until all are here, because a new connection would repeat them, and because only then it is known
   which one is the last.
3. A message without events from a watch that keeps up says how far etcd has got: so a quiet prefix
   is not lost to compaction. Between fragments it says nothing.
4. Each connection sees that etcd still has the revision `seen`, not only the next one: of the
   oldest revision that compaction has left, etcd before 3.5.18 replays no deletions.
5. A connection that fails is made anew, at the next endpoint, for up to `watch_retry` seconds.
6. Nobody reads ahead: a slow watch makes etcd wait, or compact, never this program's memory grow.
"""

from __future__ import annotations

import base64
import logging
import math
from collections import deque

import attrs
import trio
from trio.lowlevel import checkpoint

from danube_trio._core.pauses import Pauses
from danube_trio.errors import StoreUnavailableError, WatchLostError
from danube_trio.metadata._etcd_answer import (
    CompactedError,
    Json,
    SilentError,
    binary,
    flag,
    header_of,
    number,
    objects,
    understood,
)
from danube_trio.metadata._etcd_gateway import Gateway, Lines
from danube_trio.metadata._store import WatchBlock, WatchEvent

log = logging.getLogger("danube_trio.metadata")

# Before the next connection.
PAUSES = Pauses(0.1, 2.0)
# A connection that has lived so long was a good one: its end begins a new count of failures.
GOOD_SECONDS = 10.0


def encode(data: bytes) -> str:
    """Bytes as the gateway's JSON has them."""
    return base64.b64encode(data).decode()


def decode_key(field: object) -> str | None:
    """A key of ours; None for one that somebody else made, and that is no text."""
    try:
        return binary(field).decode()
    except UnicodeDecodeError:
        log.debug("ignoring a key that is no UTF-8: %s", field)
        return None


def range_of(prefix: bytes) -> dict[str, str]:
    """The keys that begin with the prefix, as a request has them."""
    return {"key": encode(prefix), "range_end": encode(range_end(prefix))}


def range_end(prefix: bytes) -> bytes:
    """Where the keys that begin so end: the next prefix of its length, or of a shorter."""
    end = prefix.rstrip(b"\xff")  # UTF-8 has no such byte, and a prefix begins with "/"
    return end[:-1] + bytes([end[-1] + 1])


class EtcdWatch(WatchBlock):
    """The context manager, and the iterator that it gives."""

    def __init__(self, gateway: Gateway, prefix: bytes, after: int | None) -> None:
        self._gateway = gateway
        self._prefix = prefix
        self._seen = after
        self._lost = ""
        self._ready: deque[WatchEvent] = deque()
        self._held: list[WatchEvent] = []  # of a revision that is not whole yet
        self._lines: Lines | None = None
        self._failures = 0  # of connections, in a row
        self._give_up = math.inf
        self._good_from = math.inf
        self._state = "new"

    def __repr__(self) -> str:
        return f"<EtcdWatch of {self._prefix.decode()!r}, {self._state}>"

    async def __aenter__(self) -> EtcdWatch:
        if self._state != "new":
            raise RuntimeError("a watch is used once: call watch() again")
        self._state = "open"
        await self._check_revision()
        return self

    async def aclose(self) -> None:
        """End the watch; idempotent."""
        self._state = "closed"
        await self._hang_up()
        await checkpoint()

    async def _next(self) -> WatchEvent:
        while not self._ready:
            await self._get_ready()
        return self._ready.popleft()

    async def _get_ready(self) -> None:
        if self._state != "open":
            raise StoreUnavailableError("the watch is closed: open another one")
        if self._lost:
            raise WatchLostError(f"{self._lost}. List the entries, and watch again")
        try:
            await self._read()
        except BaseException:
            await self._hang_up()
            raise

    async def _check_revision(self) -> None:
        """Learn where "now" is, and whether the store has been as far as we have."""
        body = {**range_of(self._prefix), "count_only": True}
        answer = await self._gateway.read("/v3/kv/range", body)
        with understood("the cluster"):
            revision = number(header_of(answer)["revision"])
        if self._seen is None:
            self._seen = revision
        elif self._seen > revision:
            self._lost = (
                f"changes after revision {self._seen} are wanted, but etcd is at {revision}: "
                f"it was reset, or restored from an old copy"
            )

    async def _read(self) -> None:
        """One message, from a new connection if need be."""
        try:
            if self._lines is None:
                await self._connect()
            if self._lines is None:  # lost
                return
            result = await self._lines.next()
            if result is None:
                raise StoreUnavailableError(f"etcd at {self._lines.endpoint} ended the watch")
            self._take(result)
        except CompactedError as error:
            self._lost = str(error)
        except StoreUnavailableError as error:
            await self._failed(error)

    async def _connect(self) -> None:
        await trio.sleep(PAUSES.after(self._failures))
        await self._check_revision()
        if self._lost:
            return
        assert self._seen is not None
        if self._seen > 0:  # 0 would be the newest
            body = {"key": encode(self._prefix), "count_only": True, "revision": str(self._seen)}
            await self._gateway.read("/v3/kv/range", body)
        create = {
            **range_of(self._prefix),
            "start_revision": str(self._seen + 1),
            "progress_notify": True,
            "fragment": True,
        }
        self._lines = await self._gateway.lines("/v3/watch", {"create_request": create})
        self._good_from = trio.current_time() + GOOD_SECONDS

    async def _failed(self, error: StoreUnavailableError) -> None:
        """Prepare for another connection, unless it has been tried for long enough."""
        if self._lines is not None:
            self._gateway.next_endpoint(self._lines.endpoint)
            await self._hang_up()
        now = trio.current_time()
        if now >= self._good_from or isinstance(error, SilentError):
            self._failures, self._give_up = 0, math.inf
        self._good_from = math.inf
        self._give_up = min(self._give_up, now + self._gateway.config.watch_retry)
        self._failures += 1
        if self._gateway.closed or now + PAUSES.after(self._failures) >= self._give_up:
            self._failures, self._give_up = 0, math.inf  # whoever goes on begins anew
            raise error
        log.info("a watch lost its connection and makes another: %s", error)

    def _take(self, result: Json) -> None:
        """Keep the events of whole revisions, and remember how far that is."""
        with understood("the cluster"):
            self._take_apart(result)

    def _take_apart(self, result: Json) -> None:
        if compacted := number(result.get("compact_revision", 0)):
            self._lost = f"etcd has compacted revisions up to {compacted}"
            return
        revision = number(header_of(result)["revision"])
        if flag(result.get("created", False)):
            return
        events = [self._event(event) for event in objects(result.get("events", []))]
        self._good_from = -math.inf  # it works
        if not events:
            if not self._held:
                self._seen = max(self._seen or 0, revision)
            return
        whole, self._held = self._held + events, []
        if flag(result.get("fragment", False)):
            last = whole[-1].revision
            self._held = [event for event in whole if event.revision == last]
            whole = whole[: len(whole) - len(self._held)]
        if whole:
            self._seen = whole[-1].revision
        ours = [event for event in whole if event.key]
        following = [event.revision for event in ours[1:]] + [0]
        for event, after in zip(ours, following, strict=False):  # neither has any if ours is empty
            self._ready.append(attrs.evolve(event, last=event.revision != after))

    def _event(self, event: Json) -> WatchEvent:
        """An event; with an empty key for one that is not ours."""
        entry = event["kv"]
        deleted = event.get("type") == "DELETE"
        value = None if deleted else binary(entry.get("value", ""))
        if not binary(entry["key"]).startswith(self._prefix):
            raise ValueError(f"the key {entry['key']!r:.100} was not asked for")
        return WatchEvent(decode_key(entry["key"]) or "", value, number(entry["mod_revision"]))

    async def _hang_up(self) -> None:
        self._held = []
        lines, self._lines = self._lines, None
        if lines is not None:
            await lines.aclose()
