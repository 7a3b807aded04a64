"""All subscriptions: what of them is durable, and the steps in which they change.

The documents are in the metadata store, and all of them in memory; one process has them. Below
``<root>/http/subscriptions/``:

==========================  ========================================================================
key                         is there
==========================  ========================================================================
``made/<id>``               as long as the subscription is: what was asked for
``states/<uid>``            exactly as long: where it stands
``named/<uid>/<path>``      for each path that was named
``cursors/<uid>/<topic>``   for a stream that was there before its link, or was acknowledged; any
                            other one is linked where it begins
``trash/<uid>``             while there may be documents that no subscription needs: the tombstone
``looks``                   after an orderly end: the only streams that may have something to do
``secret``, ``keys``        see `_keys`
==========================  ========================================================================

**Every change is one transaction that expects the state's revision**, and memory follows when it is
durable. So nothing is told that a crash could take back, and what was deleted cannot be changed:
its state is not there. Acknowledgements of many streams may take several transactions; each alone
is true, and the wake ends with the last.

::

    create   trash put --> named, cursors put --> made, state put, trash removed
    delete   made, state removed, trash put --> trash put again --> the rest removed
             --> trash removed

If the store does not answer, the subscription is *in doubt*: its state is read before anything else
is done. A creation whose outcome is not known is settled by who asks for the id next, or soon.

**Streams.** A new stream is compared with all patterns once, when it is made. An append looks up
the links of its stream, and does nothing else. A stream that is deleted has no links any more; one
that has its path later is another stream.

**Where streams end** is known when their log was open once in this process. A restart would have to
open all that have a link, to find those with something to do. So an orderly end writes down which
may have (`looks`), and only after a crash all are looked at, a few at a time. And a subscription to
streams that nobody has looked at yet is made at once: the cursor says "where it ends", and whoever
opens the log makes that a number before anything more is written (`looked`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio

from danube_trio._core.documents import compact
from danube_trio.http._documents import commit, decoded
from danube_trio.http._keys import Grant, Keys
from danube_trio.http._names import id_of
from danube_trio.http._patterns import Patterns, covering, matches
from danube_trio.http._request import Fault
from danube_trio.http._service import Service
from danube_trio.http._stream import Stream
from danube_trio.http._subscription import (
    FORMAT,
    Configuration,
    Cursor,
    Link,
    Made,
    State,
    Subscription,
    SubscriptionStatistics,
    Told,
    read_cursor,
    total,
)
from danube_trio.metadata import Revised

log = logging.getLogger("danube_trio.http")

T = TypeVar("T")
# Changes in one transaction: a metadata store takes 128, and the state is one more.
TOGETHER = 100
# The ids of so many streams fit into one value of a metadata store. With more nothing is written.
MAX_LOOKS = 50_000
UID_BYTES = 12
WAKE_BYTES = 12
# Names of workers are shown, and kept. A guess: a URL fits.
MAX_WORKER_BYTES = 256


@attrs.frozen
class Trash:
    """The document of a subscription that is not, or not yet: its others may be removed."""

    uid: str
    format: int = FORMAT


@attrs.frozen
class Looks:
    """The ids of the topics of the streams that may have something to do."""

    topics: tuple[str, ...]
    format: int = FORMAT


class Subscriptions:
    """Of one service.

    Args:
        service: that has the streams.
        keys: for tokens and signatures.

    Attributes:
        made: is told of each subscription that begins.
        unlooked: streams with a link, of which it is not known whether there is something to do.
        unneeded: keys of documents that nobody needs.
        work: set, and made anew, when there is more of the two, or of the trash.
    """

    def __init__(self, service: Service, keys: Keys) -> None:
        self._service = service
        self._metadata = service.storage.metadata
        self._root = root_of(service)
        self._keys = keys
        self._by_id: dict[str, Subscription] = {}
        self._links: dict[Stream, list[Link]] = {}
        self._link_count = 0
        self._patterns: Patterns[Subscription] = Patterns()
        self._named: dict[str, dict[Subscription, None]] = {}
        self._by_wake_stream: dict[str, dict[Subscription, None]] = {}
        self._making = trio.Lock()
        self._trash: dict[str, None] = {}
        self._doubtful: dict[str, None] = {}
        self.made: Callable[[Subscription], object] = lambda _: None
        self.unlooked: dict[Stream, None] = {}
        self.unneeded: dict[str, None] = {}
        self.work = trio.Event()

    def __len__(self) -> int:
        return len(self._by_id)

    # ---- keys

    def _made_key(self, id: str) -> str:
        return f"{self._root}/made/{id}"

    def _state_key(self, uid: str) -> str:
        return f"{self._root}/states/{uid}"

    def _named_key(self, uid: str, path: str) -> str:
        return f"{self._root}/named/{uid}/{path}"

    def _cursor_key(self, uid: str, stream: Stream) -> str:
        return f"{self._root}/cursors/{uid}/{id_of(stream.topic)}"

    def _trash_key(self, uid: str) -> str:
        return f"{self._root}/trash/{uid}"

    # ---- opening, leaving

    async def load(self) -> None:
        """Read all documents, and have the streams tell. ValueError for one that cannot be read."""
        registry = self._service.registry
        states = {_last(each): each for each in await self._list("states")}
        for each in await self._list("made"):
            made = self._decoded(each, Made)
            state = states[made.uid]
            self._install(
                Subscription(made, each.revision, self._decoded(state, State), state.revision)
            )
        by_uid = {sub.made.uid: sub for sub in self._by_id.values()}
        for each in await self._list("named"):
            uid, _, path = self._rest(each, "named").partition("/")
            if uid in by_uid:
                self._name(by_uid[uid], path)
        cursors = {each.key: read_cursor(each.value).acked for each in await self._list("cursors")}
        for stream in registry.all():
            if stream.live:
                self._link(stream, cursors)
        self.unneeded.update(dict.fromkeys(cursors))  # those that were not used
        for each in await self._list("trash"):
            self._trash[self._decoded(each, Trash).uid] = None
        await self._load_looks()
        registry.made, registry.ended = self._stream_made, self._stream_ended
        self._service.appended, self._service.looked = self._appended, self._looked

    async def _list(self, name: str) -> list[Revised]:
        return await self._metadata.list_entries(f"{self._root}/{name}/")

    def _rest(self, each: Revised, name: str) -> str:
        return each.key.removeprefix(f"{self._root}/{name}/")

    def _decoded(self, revised: Revised, kind: type[T]) -> T:
        return decoded(self._metadata, revised, kind, FORMAT)

    async def _load_looks(self) -> None:
        """Which streams must be looked at. What an orderly end said is true once only."""
        key = f"{self._root}/looks"
        found = await self._metadata.get(key)
        known = None if found is None else set(self._decoded(found, Looks).topics)
        for stream, links in self._links.items():
            new = any(link.acked is None for link in links)
            if known is None or new or id_of(stream.topic) in known:
                self.unlooked[stream] = None
        if found is not None:
            await self._metadata.delete(key)

    async def leave(self) -> None:
        """Write down which streams may have something to do. Nothing is written to any more."""
        looks = dict(self.unlooked)
        for sub in self._by_id.values():
            looks.update((link.stream, None) for link in sub.pending)
        topics = sorted(id_of(stream.topic) for stream in looks if stream.live)
        if self._links and len(topics) <= MAX_LOOKS:
            await self._metadata.put(f"{self._root}/looks", compact(Looks(tuple(topics))))

    # ---- asking

    def all(self) -> list[Subscription]:
        """Every subscription, by id."""
        return [self._by_id[id] for id in sorted(self._by_id)]

    async def find(self, id: str) -> Subscription:
        """The subscription with this canonical id.

        Raises:
            Fault: 404 if there is none.
        """
        if id in self._doubtful:
            async with self._making:
                await self._settle_id(id)
        found = self._by_id.get(id)
        if found is None:
            raise no_such_subscription()
        return found

    def matching(self, configuration: Configuration) -> list[Stream]:
        """The streams that there are of what is asked for."""
        registry, pattern = self._service.registry, configuration.pattern
        named = [registry.at(path) for path in configuration.streams]
        found = dict.fromkeys(stream for stream in named if stream is not None and stream.live)
        if pattern is not None:
            for stream in registry.all():
                if stream.live and _has(configuration, stream.path):
                    found[stream] = None
        return [*found]

    def statistics(self) -> list[SubscriptionStatistics]:
        """All of them, as they are now."""
        return [
            SubscriptionStatistics(
                id=sub.name,
                kind=sub.made.configuration.type,
                streams=_covered(sub),
                description=sub.made.configuration.description,
                status=sub.status,
                phase=sub.phase,
                links=len(sub.links),
                pending=len(sub.pending),
                behind=total(sub.pending),
                generation=sub.state.generation,
                holder=sub.state.holder,
                next_attempt_at=sub.state.next_attempt_at,
                failures=sub.state.failures,
                error=sub.state.error,
                path=sub.path,
            )
            for sub in self.all()
        ]

    # ---- making

    async def create(
        self, id: str, wanted: Configuration, base_url: str
    ) -> tuple[Subscription, bool]:
        """Make a subscription, or find that it is there; says whether it is new.

        Raises:
            Fault: 409 for an id whose subscription is another one, 429 if there are too many.
        """
        async with self._making:
            await self._settle_id(id)
            found = self._by_id.get(id)
            if found is not None:
                await self._confirm(found, wanted, base_url)
                return found, False
            return await self._create(id, wanted, base_url), True

    async def _confirm(self, sub: Subscription, wanted: Configuration, base_url: str) -> None:
        if sub.made.digest != wanted.digest:
            raise Fault(
                409,
                "SUBSCRIPTION_ALREADY_EXISTS",
                "there is a subscription with this id and another configuration",
            )
        if sub.made.base_url == base_url:
            return
        async with self.using(sub):
            made, key = attrs.evolve(sub.made, base_url=base_url), self._made_key(sub.id)
            expect = {key: sub.made_revision}
            sub.made_revision = await self._write(sub, expect, {key: compact(made)})
            sub.made = made

    async def _create(self, id: str, wanted: Configuration, base_url: str) -> Subscription:
        config = self._service.config
        streams = self.matching(wanted)
        if len(self._by_id) >= config.max_subscriptions:
            raise _too_many(f"there are {config.max_subscriptions} subscriptions, the most allowed")
        self._check_room(max(len(streams), len(wanted.streams)))
        await self._keys.prepare()
        if wanted.url is not None:
            await self._keys.signer()
        now = self._service.clock()
        made = Made(id, secrets.token_hex(UID_BYTES), wanted, wanted.digest, base_url, now)
        uid, state = made.uid, State()
        # Where they end now; of those that nobody has looked at yet, whoever does will say it.
        ends = {stream: stream.seen[0] if stream.seen is not None else None for stream in streams}
        put = {self._named_key(uid, path): b"" for path in wanted.streams}
        put |= {self._cursor_key(uid, each): compact(Cursor(end)) for each, end in ends.items()}
        trash_key, made_key, state_key = (
            self._trash_key(uid),
            self._made_key(id),
            self._state_key(uid),
        )
        try:
            intent = await self._metadata.put(trash_key, compact(Trash(uid)))
            for keys in _batches([*put], TOGETHER):
                await self._metadata.transact({}, put={key: put[key] for key in keys})
            revision: int | None = None
            self._doubtful[id] = None
            with trio.CancelScope(shield=True):  # else nobody would know what became of it
                revision = await self._metadata.transact(
                    {made_key: 0, state_key: 0, trash_key: intent},
                    put={made_key: compact(made), state_key: compact(state)},
                    delete=[trash_key],
                )
            if revision is None:
                raise Fault(503, "UNAVAILABLE", "another process changes this subscription")
        except BaseException:
            self._throw(uid)
            raise
        self._doubtful.pop(id, None)
        sub = Subscription(made, revision, state, revision)
        self._install(sub)
        for path in wanted.streams:
            self._name(sub, path)
        self._link_all(sub, ends)
        self.made(sub)
        await self._resolve(sub)
        return sub

    def _check_room(self, more: int) -> None:
        limit = self._service.config.max_links
        if self._link_count + more > limit:
            raise _too_many(f"all subscriptions together may have {limit} links to streams")

    def _install(self, sub: Subscription) -> None:
        configuration = sub.made.configuration
        self._by_id[sub.id] = sub
        if configuration.pattern is not None:
            self._patterns.add(sub, configuration.pattern)
        if configuration.wake_stream is not None:
            self._by_wake_stream.setdefault(configuration.wake_stream, {})[sub] = None
        sub.resume(self._service.clock())

    async def _settle_id(self, id: str) -> None:
        """If it is not known whether this id was made, ask the store."""
        if id not in self._doubtful:
            return
        found = await self._metadata.get(self._made_key(id))
        if found is not None and id not in self._by_id:
            made = self._decoded(found, Made)
            uid = made.uid
            state = await self._metadata.get(self._state_key(uid))
            prefix = f"{self._root}/named/{uid}/"
            named = await self._metadata.list_entries(prefix)
            prefix_of_cursors = f"{self._root}/cursors/{uid}/"
            cursors = await self._metadata.list_entries(prefix_of_cursors)
            if state is None:
                return  # it was removed meanwhile
            sub = Subscription(made, found.revision, self._decoded(state, State), state.revision)
            self._install(sub)
            for each in named:
                self._name(sub, each.key.removeprefix(prefix))
            ends = {_last(each): read_cursor(each.value).acked for each in cursors}
            streams = self.matching(made.configuration)
            self._link_all(
                sub, {s: ends[id_of(s.topic)] for s in streams if id_of(s.topic) in ends}
            )
            self.made(sub)
            await self._resolve(sub)
        self._doubtful.pop(id, None)

    async def settle_ids(self) -> None:
        """Ask the store for all that is not known to be made."""
        for id in [*self._doubtful]:
            async with self._making:
                await self._settle_id(id)

    # ---- removing

    async def delete(self, sub: Subscription) -> None:
        """Delete a subscription. From the tombstone on nobody can change it."""
        async with self.using(sub):
            uid = sub.made.uid
            made, state = self._made_key(sub.id), self._state_key(uid)
            await self._write(
                sub,
                {made: sub.made_revision, state: sub.state_revision},
                {self._trash_key(uid): compact(Trash(uid))},
                [made, state],
            )
            self._forget(sub)

    def _forget(self, sub: Subscription) -> None:
        sub.gone = True
        configuration = sub.made.configuration
        if self._by_id.get(sub.id) is sub:
            del self._by_id[sub.id]
        if configuration.pattern is not None:
            self._patterns.remove(sub, configuration.pattern)
        if configuration.wake_stream is not None:
            _take_out(self._by_wake_stream, configuration.wake_stream, sub)
        for path in sub.named:
            _take_out(self._named, path, sub)
        for link in [*sub.links.values()]:
            self._unlink(link)
        self._throw(sub.made.uid)
        sub.kick()

    def _throw(self, uid: str) -> None:
        self._trash[uid] = None
        self._have_work()

    def _have_work(self) -> None:
        work, self.work = self.work, trio.Event()
        work.set()

    async def sweep(self) -> None:
        """Remove what nobody needs. What fails is removed another time."""
        for uid in [*self._trash]:
            await self._empty(uid)
            self._trash.pop(uid, None)
        for keys in _batches([*self.unneeded], TOGETHER):
            await self._metadata.transact({}, delete=keys)
            for key in keys:
                self.unneeded.pop(key, None)

    async def _empty(self, uid: str) -> None:
        key = self._trash_key(uid)
        found = await self._metadata.get(key)
        if found is None:
            return  # it was made, or removed before
        # A creation whose outcome is not known expects the old revision: it cannot come true now.
        if await self._metadata.transact({key: found.revision}, put={key: found.value}) is None:
            return
        keys = [
            each.key
            for name in ("named", "cursors")
            for each in await self._metadata.list_entries(f"{self._root}/{name}/{uid}/")
        ]
        for some in _batches(keys, TOGETHER):
            await self._metadata.transact({}, delete=some)
        await self._metadata.transact({}, delete=[key])

    # ---- streams

    def _name(self, sub: Subscription, path: str) -> None:
        sub.named[path] = None
        self._named.setdefault(path, {})[sub] = None

    def _link(self, stream: Stream, cursors: dict[str, int | None] | None = None) -> None:
        """Link a stream with all that want it; `cursors` by key, those that are used are taken."""
        found = dict.fromkeys(self._named.get(stream.path, ()))
        found |= dict.fromkeys(self._patterns.of(stream.path))
        for sub in found:
            key = self._cursor_key(sub.made.uid, stream)
            if cursors is not None and key in cursors:
                self._link_one(sub, stream, cursors.pop(key))
            else:
                new = cursors is None or _came_after(stream, sub)
                self._link_one(sub, stream, stream.entry.base, new=new)

    def _link_all(self, sub: Subscription, ends: Mapping[Stream, int | None]) -> None:
        """Link a new subscription; streams that are not in `ends` came after it."""
        for stream in {**dict.fromkeys(self.matching(sub.made.configuration)), **ends}:
            if stream.live:
                self._link_one(sub, stream, ends.get(stream, stream.entry.base))

    def _link_one(
        self, sub: Subscription, stream: Stream, acked: int | None, *, new: bool = False
    ) -> None:
        matched = _has(sub.made.configuration, stream.path)
        explicit = stream.path in sub.named
        if stream in sub.links or not (matched or explicit):
            return
        since = sub.state.generation if new and sub.phase == "held" else 0
        link = Link(sub, stream, acked, matched, explicit, since)
        sub.links[stream] = link
        self._links.setdefault(stream, []).append(link)
        self._link_count += 1
        if acked is None and stream.seen is None:
            self.unlooked[stream] = None
            self._have_work()
        sub.note(link)

    def _unlink(self, link: Link) -> None:
        sub, stream = link.subscription, link.stream
        if sub.links.pop(stream, None) is None:
            return
        sub.pending.pop(link, None)
        self._link_count -= 1
        links = self._links[stream]
        links.remove(link)
        if not links:
            del self._links[stream]
            self.unlooked.pop(stream, None)

    def _stream_made(self, stream: Stream) -> None:
        self._link(stream)
        for sub in self._by_wake_stream.get(stream.path, ()):
            sub.retry_at = trio.current_time()
            sub.kick()

    def _stream_ended(self, stream: Stream) -> None:
        for link in [*self._links.get(stream, ())]:
            self.unneeded[self._cursor_key(link.subscription.made.uid, stream)] = None
            self._unlink(link)
            self._have_work()
        for sub in self._by_wake_stream.get(stream.path, ()):
            if sub.told == stream.topic:
                sub.told = None  # its event went with it
                sub.kick()

    def _appended(self, stream: Stream) -> None:
        links = self._links.get(stream)
        if links is None:
            return
        self.unlooked.pop(stream, None)
        for link in links:
            link.subscription.note(link)

    async def _looked(self, stream: Stream, end: int) -> None:
        """A log was opened, and nothing more can have been written: links that begin at its end.

        When this returns there are none whose beginning is not written down, up to the next wait.
        """
        while True:
            new = [link for link in self._links.get(stream, ()) if link.acked is None]
            if not new:
                return
            sub = new[0].subscription
            async with sub.lock:
                await self._settle(sub)
                if not sub.gone and sub.links.get(stream) is new[0]:
                    await self._begin(new[0], end)

    async def _resolve(self, sub: Subscription) -> None:
        """The same for streams whose log was opened before the link was there."""
        for link in [*sub.links.values()]:
            if link.acked is None and link.stream.begun is not None:
                async with self.using(sub):
                    if sub.links.get(link.stream) is link:
                        await self._begin(link, link.stream.begun)

    async def _begin(self, link: Link, end: int) -> None:
        if link.acked is not None:
            return
        sub = link.subscription
        key = self._cursor_key(sub.made.uid, link.stream)
        await self._store(sub, None, {key: compact(Cursor(end))})
        link.acked = end
        sub.note(link)

    async def add(self, sub: Subscription, paths: Iterable[str]) -> None:
        """Name streams, too. Those that are there are linked where they end.

        Raises:
            Fault: 429 if that are too many.
        """
        registry, uid = self._service.registry, sub.made.uid
        async with self.using(sub):
            new = [path for path in dict.fromkeys(paths) if path not in sub.named]
            self._check_room(len(new))
            for some in _batches(new, TOGETHER // 2):
                put: dict[str, bytes] = {self._named_key(uid, path): b"" for path in some}
                ends: dict[Stream, int | None] = {}
                for stream in map(registry.at, some):
                    if stream is not None and stream.live and stream not in sub.links:
                        ends[stream] = stream.seen[0] if stream.seen is not None else None
                        key = self._cursor_key(uid, stream)
                        put[key] = compact(Cursor(ends[stream]))
                await self._store(sub, None, put)
                for path in some:
                    self._name(sub, path)
                    stream = registry.at(path)
                    if stream is None or not stream.live:
                        continue
                    if stream in sub.links:
                        sub.links[stream].explicit = True
                    else:
                        self._link_one(sub, stream, ends.get(stream, stream.entry.base))
        await self._resolve(sub)

    async def remove(self, sub: Subscription, path: str) -> None:
        """A stream is not named any more. It stays linked if the pattern matches it."""
        async with self.using(sub):
            if path not in sub.named:
                return
            uid = sub.made.uid
            stream = self._service.registry.at(path)
            link = sub.links.get(stream) if stream is not None else None
            delete = [self._named_key(uid, path)]
            if link is not None and not link.matched:
                delete.append(self._cursor_key(uid, link.stream))
            await self._store(sub, None, {}, delete)
            del sub.named[path]
            _take_out(self._named, path, sub)
            if link is not None and not link.matched:
                self._unlink(link)
            elif link is not None:
                link.explicit = False

    # ---- wakes

    async def wake(self, sub: Subscription) -> str | None:
        """Wake it, if it is idle and there is something to do. Returns the wake's id."""
        async with self.using(sub):
            if sub.phase != "idle" or not sub.pending or sub.retry_at > trio.current_time():
                return None
            wake = _new_wake()
            await self._store(sub, sub.state.woken(wake, self._service.clock()))
            self._begun(sub)
            return wake

    def _begun(self, sub: Subscription) -> None:
        sub.moved = False
        sub.told = None
        sub.lease()

    async def claim(
        self, sub: Subscription, worker: str, check: Callable[[Sequence[Told]], object]
    ) -> tuple[State, list[Told]]:
        """Have a worker work on it. Returns the wake, and what there is to do.

        Args:
            check: is called with what there is to do, before it is told; it may raise.

        Raises:
            Fault: 409 if another has it, or there is nothing to do.
        """
        async with self.using(sub):
            state = sub.state
            if sub.phase == "held" and not sub.lease_is_over():
                raise Fault(
                    409,
                    "ALREADY_CLAIMED",
                    current_holder=state.holder,
                    generation=state.generation,
                )
            if not sub.pending:
                if state.wake:  # so that new events wake it again
                    await self._turn(sub, state.ended(None), 0.0)
                raise Fault(409, "NO_PENDING_WORK", "there is nothing to do")
            told = sub.snapshot()
            check(told)
            if sub.phase != "woken":
                state = state.woken(_new_wake(), self._service.clock())
            await self._store(sub, state.claimed(worker))
            self._begun(sub)
            return sub.state, told

    async def acknowledge(
        self, sub: Subscription, grant: Grant, acks: Mapping[str, int], *, done: bool
    ) -> bool:
        """Who works on a wake has processed this: offsets by path. Returns whether more is to do.

        Streams that are not linked, or became others since the wake, are passed over.

        Raises:
            Fault: 409 for a wake that is over, or an offset that a stream does not have yet.
        """
        for link, _ in self._meant(sub, acks):
            await self._service.seen(link.stream)  # nobody may have looked since the start
        async with self.using(sub):
            self._check(sub, grant)
            moves = self._moves(sub, acks)
            if done:
                await self._finish(sub, moves)
                return bool(sub.pending)
            state = sub.state.delivered() if sub.state.error is not None else None
            await self._move(sub, moves, state)
            sub.lease()
            return False

    async def release(self, sub: Subscription, grant: Grant) -> None:
        """Who works on a wake does not any more.

        Raises:
            Fault: 409 for a wake that is over.
        """
        async with self.using(sub):
            self._check(sub, grant)
            await self._finish(sub, [])

    async def expire(self, sub: Subscription) -> None:
        """End the wake if its lease is over."""
        async with self.using(sub):
            if not sub.lease_is_over():
                return
            if sub.state.error is not None:  # it was not answered, and that was counted
                await self._turn(sub, sub.state.lapsed(), sub.retry_at)
            else:
                await self._finish(sub, [])

    async def delivered(self, sub: Subscription, wake: str, done: Sequence[Told] | None) -> None:
        """A wake has arrived; `done`: all of it was processed."""
        async with self.using(sub):
            if sub.state.wake != wake:
                return
            if done is None:
                if sub.state.error is not None:
                    await self._store(sub, sub.state.delivered())
                return
            moves = [(told.link, told.tail) for told in done if told.pending]
            await self._finish(sub, [m for m in moves if sub.links.get(m[0].stream) is m[0]])

    async def undelivered(self, sub: Subscription, wake: str, error: str, *, known: bool) -> None:
        """A wake has not arrived; or, unless that is `known`, perhaps it has."""
        async with self.using(sub):
            if sub.state.wake != wake:
                return
            log.warning("subscription %s was not woken: %s", sub.id, error)
            pause = sub.pause()
            over = sub.is_webhook and (known or sub.lease_is_over())
            state = sub.state.undelivered(error, self._service.clock() + pause, over=over)
            await self._turn(sub, state, trio.current_time() + pause)

    async def told(self, sub: Subscription, wake: str, topic: str) -> None:
        """The event of a wake is in this topic, durably."""
        async with self.using(sub):
            if sub.state.wake == wake:
                sub.told = topic
                if sub.state.error is not None:
                    await self._store(sub, sub.state.delivered())

    def _check(self, sub: Subscription, grant: Grant) -> None:
        state = sub.state
        if (
            (grant.generation, grant.wake) != (state.generation, state.wake)
            or sub.phase != "held"
            or sub.lease_is_over()
        ):
            raise Fault(409, "FENCED")

    def _moves(self, sub: Subscription, acks: Mapping[str, int]) -> list[tuple[Link, int]]:
        moves = self._meant(sub, acks)
        for link, offset in moves:
            if link.stream.seen is None or offset > link.stream.seen[0]:
                raise Fault(409, "INVALID_OFFSET", f"{link.stream.path} does not go so far")
        return moves

    def _meant(self, sub: Subscription, acks: Mapping[str, int]) -> list[tuple[Link, int]]:
        """The links of these streams, of those that were not processed so far before."""
        found: list[tuple[Link, int]] = []
        for path, offset in acks.items():
            stream = self._service.registry.at(path)
            link = sub.links.get(stream) if stream is not None else None
            if link is None or link.since == sub.state.generation:
                continue
            if link.acked is None or offset > link.acked:
                found.append((link, offset))
        return found

    async def _finish(self, sub: Subscription, moves: Sequence[tuple[Link, int]]) -> None:
        """The wake ends. If it came to nothing the next one waits for a moment."""
        pause = 0.0 if moves or sub.moved else sub.pause()
        again_at = self._service.clock() + pause if pause else None
        state = sub.state.ended(again_at)
        await self._move(sub, moves, state)
        sub.retry_at = trio.current_time() + pause
        sub.kick()

    async def _turn(self, sub: Subscription, state: State, retry_at: float) -> None:
        await self._store(sub, state)
        sub.retry_at = retry_at
        sub.kick()

    # ---- writing

    @asynccontextmanager
    async def using(self, sub: Subscription) -> AsyncGenerator[None]:
        """The block in which one task changes a subscription.

        Raises:
            Fault: 404 if it was deleted.
        """
        async with sub.lock:
            await self._settle(sub)
            if sub.gone:
                raise no_such_subscription()
            yield

    async def settle(self, sub: Subscription) -> None:
        """If it is in doubt, ask the store."""
        async with sub.lock:
            await self._settle(sub)

    async def _settle(self, sub: Subscription) -> None:
        if not sub.in_doubt or sub.gone:
            return
        made = await self._metadata.get(self._made_key(sub.id))
        state = await self._metadata.get(self._state_key(sub.made.uid))
        if state is None or made is None:
            self._forget(sub)
            return
        sub.made, sub.made_revision = self._decoded(made, Made), made.revision
        sub.state, sub.state_revision = self._decoded(state, State), state.revision
        sub.in_doubt = False
        sub.told = None
        sub.resume(self._service.clock())

    async def _move(
        self, sub: Subscription, moves: Sequence[tuple[Link, int]], state: State | None
    ) -> None:
        """Write cursors, and with the last of them the state."""
        uid = sub.made.uid
        batches = _batches(moves, TOGETHER) or [()]
        for number, some in enumerate(batches, 1):
            put = {self._cursor_key(uid, link.stream): compact(Cursor(end)) for link, end in some}
            last = state if number == len(batches) else None
            if put or last is not None:
                await self._store(sub, last, put)
            for link, end in some:
                sub.acknowledge(link, end)

    async def _store(
        self,
        sub: Subscription,
        state: State | None,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> None:
        """One transaction, in which the state is as it was, or becomes `state`."""
        key = self._state_key(sub.made.uid)
        put = dict(put or {})
        if state is not None:
            put[key] = compact(state)
        revision = await self._write(sub, {key: sub.state_revision}, put, delete)
        if state is not None:
            sub.state, sub.state_revision = state, revision

    async def _write(
        self,
        sub: Subscription,
        expect: Mapping[str, int],
        put: Mapping[str, bytes],
        delete: Iterable[str] = (),
    ) -> int:
        doubt = partial(self._doubt, sub)
        revision = await commit(self._metadata, expect, put=put, delete=delete, doubt=doubt)
        if revision is None:
            raise Fault(503, "UNAVAILABLE", "another process changes this subscription")
        return revision

    def _doubt(self, sub: Subscription) -> None:
        sub.in_doubt = True
        sub.kick()


def root_of(service: Service) -> str:
    """What the keys of all documents of subscriptions begin with."""
    return f"{service.storage.config.metadata_root}/http/subscriptions"


def no_such_subscription() -> Fault:
    """For an id that has none."""
    return Fault(404, "SUBSCRIPTION_NOT_FOUND", "there is no such subscription")


def _too_many(text: str) -> Fault:
    return Fault(429, "TOO_MANY", text)


def _new_wake() -> str:
    return f"w_{secrets.token_hex(WAKE_BYTES)}"


def _covered(sub: Subscription) -> str:
    """A pattern that all of its streams have; it may have had others, and may have none."""
    pattern = sub.made.configuration.pattern
    paths = [*sub.named] if pattern is None else [pattern, *sub.named]
    return covering(paths) if paths else ""


def _has(configuration: Configuration, path: str) -> bool:
    """Whether a path has the pattern. What a subscription writes itself does not wake it."""
    pattern = configuration.pattern
    return pattern is not None and path != configuration.wake_stream and matches(pattern, path)


def _came_after(stream: Stream, sub: Subscription) -> bool:
    """Whether a stream was made after a subscription was woken; for who has just started.

    A clock that was set back says so of too many streams. Revisions alone do, too: those of a
    document that was written again.
    """
    made_at, woken_at = stream.entry.created_at, sub.state.woken_at
    return stream.revision > sub.state_revision and made_at >= woken_at


def _last(entry: Revised) -> str:
    return entry.key.rpartition("/")[2]


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _take_out(owners: dict[str, dict[Subscription, None]], key: str, sub: Subscription) -> None:
    found = owners.get(key)
    if found is not None:
        found.pop(sub, None)
        if not found:
            del owners[key]
