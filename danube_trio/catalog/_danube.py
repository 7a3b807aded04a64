"""The catalog in a metadata store, under Danube's keys and with its JSON.

`_core.danube_catalog` has the keys and the values.

**The rule.** ``head`` holds the newest state but for the segments, and its nonce. Each publication
is one transaction, which changes ``head`` (a new epoch also ``epoch``) and puts and deletes only
what differs, if ``epoch`` and ``head`` have the revisions that a look just now found. The look
compares their values with what is to be replaced: a cluster restored from a backup gives the same
revisions again, to other values.

**Unknown outcomes.** Look again. The head has our nonce: done. It is still the one before: the same
transaction again, whose expectations the first one spoils if it is late. Anything else: fenced.

**Reading** is not one operation: the head first, then the segments. Those that came after it lie
beyond its end, and do not count; those of its own are still there, and the same, unless they were
trimmed in between. So if anything is missing, the head is read again: another one means that this
was the reason, the same one that it is corruption. A reader that knows an earlier state reads only
what came after it.

**The limit** of etcd, 128 changes in a transaction, bounds what one publication can add (see
`MAX_ADDED`), and what it can drop at once. Entries of segments below ``start_offset`` do not count,
whether they are there or not, and their keys are never used again. So a large trim changes the head
and drops as many as fit; the rest goes right after, and what is left then goes with `collect`.

**Danube's own entries.** A topic that Danube wrote has descriptors and no head of ours: it is
refused, untouched. Within our range an entry that is not ours is corruption; before it, it is
nobody's business.

**Danube after us.** Danube knows of no epochs, and may take a topic over from us, or write to it
beside us. It gives out offsets from our end on, and shows that by what it always changes: it
removes the sealed marker or puts one of its own, it points ``cur`` to a descriptor of its own. So
`refuse_others` compares these with the newest state before a take-over changes anything, and each
publication does, and has their revisions among its expectations: Danube fences, too. Who only reads
gets our history.

**One layout.** Danube reads all objects as s5-standard, and gets garbage from others without an
error: nothing else is published.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import attrs

from danube_trio._core.catalog import CatalogState
from danube_trio._core.codec import DEFAULT_CODEC
from danube_trio._core.danube_catalog import (
    Details,
    EpochEntry,
    Head,
    TopicKeys,
    current_segment,
    encode_segment,
    others_changes,
    sealed_marker,
    split_segment,
)
from danube_trio._core.documents import NewerFormatError, compact
from danube_trio._core.manifest import check_successor
from danube_trio.catalog._base import other_codec
from danube_trio.catalog._entries import assemble, beyond, join
from danube_trio.catalog._retry import Backoff, Tries, look_twice
from danube_trio.errors import (
    CorruptDataError,
    FencedError,
    StoreError,
    StoreUnavailableError,
    UnsupportedFormatError,
)
from danube_trio.metadata import MetadataStore, Revised

log = logging.getLogger("danube_trio.catalog")

MAX_CHANGES = 128  # etcd's --max-txn-ops
_OWN_CHANGES = 4  # epoch, head, cur, state
# Two entries each; half of what fits, so that a publication can add and drop at once.
MAX_ADDED = (MAX_CHANGES - _OWN_CHANGES) // 4
# New segments that are read one by one; beyond, two lists are cheaper. A guess.
CATCH_UP = 8


@attrs.frozen
class _Look:
    """`epoch` and `head`, as they were a moment ago, and just before them what Danube changes."""

    epoch: Revised | None
    head: Revised | None
    epoch_entry: EpochEntry | None
    head_entry: Head | None
    current: Revised | None = None
    sealed: Revised | None = None

    def is_before(self, before: CatalogState | None) -> bool:
        """Whether this is the state that is to be replaced."""
        if before is None or self.head_entry is None or self.epoch_entry is None:
            return before is None and self.head is None and self.epoch is None
        return (
            self.head_entry.nonce == before.nonce
            and self.head_entry.sequence == before.sequence
            and self.epoch_entry.epoch == before.epoch
        )


class MetadataCatalog:
    """A `Catalog` of one topic in a metadata store.

    Args:
        metadata: the store.
        topic: ``/namespace/name``. ValueError for names that Danube would take for others.
        root: Danube's `metadata_root`.
        broker_id: what to call ourselves in Danube's sealed marker.
        clock: gives its time, in seconds since 1970.
        backoff: for unknown outcomes.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        topic: str,
        *,
        root: str = "/danube",
        broker_id: int = 0,
        clock: Callable[[], float] = time.time,
        backoff: Backoff | None = None,
    ) -> None:
        self._metadata = metadata
        self._keys = TopicKeys.of(root, topic)
        self._broker_id = broker_id
        self._clock = clock
        self._backoff = backoff or Backoff()
        # The newest state seen, and the bytes of its head.
        self._newest: tuple[bytes, CatalogState] | None = None
        # A descriptor of Danube's beyond the end, if all were read.
        self._beyond: str | None = None

    def __repr__(self) -> str:
        sequence = self._newest[1].sequence if self._newest else 0
        return f"<MetadataCatalog {self.url}, number {sequence} seen>"

    @property
    def url(self) -> str:
        """See `Catalog`."""
        return f"{self._metadata.url.rstrip('/')}{self._keys.base}"

    @property
    def object_prefix(self) -> str:
        """See `Catalog`. Danube's, without the metadata's root."""
        return self._keys.objects

    def object_key(self, object_id: str) -> str:
        """See `Catalog`."""
        return f"{self.object_prefix}/{object_id}"

    @property
    def codec(self) -> str:
        """See `SharedCatalog`."""
        return DEFAULT_CODEC

    # ---- looking

    async def latest(self) -> CatalogState | None:
        """See `Catalog`.

        Raises UnsupportedFormatError for a topic that Danube itself wrote, StoreUnavailableError
        also when it was overtaken too often.
        """
        tries = Tries(self._backoff.for_reading(), f"reading {self.url}")
        while True:
            look = await look_twice(self._look)
            if look.head is None or look.head_entry is None:
                await self._refuse_foreign()
                return None
            if self._newest and self._newest[0] == look.head.value:
                return self._newest[1]
            self._beyond = None
            try:
                state = await self._catch_up(look) or await self._read_all(look)
            except CorruptDataError:
                if await self._look() == look:
                    raise
                await tries.again(None)
                continue
            self._newest = (look.head.value, state)
            return state

    async def _look(self) -> _Look:
        """Two reads: a transaction, or a second look, tells whether they belong together."""
        epoch = await self._metadata.get(self._keys.epoch)
        head = await self._metadata.get(self._keys.head)
        if epoch is not None and head is None:  # they came together, and neither ever goes
            raise self._corrupt("there is an epoch, and no head any more")
        try:
            return _Look(
                epoch,
                head,
                EpochEntry.decode(epoch.value) if epoch else None,
                Head.decode(head.value) if head else None,
            )
        except NewerFormatError as error:
            advice = "Use a newer version of danube-trio"
            raise UnsupportedFormatError(self.url, str(error), advice) from error
        except ValueError as error:
            raise self._corrupt(f"epoch or head cannot be read: {error}") from error

    async def _catch_up(self, look: _Look) -> CatalogState | None:
        """The state of a head that is a little ahead of the newest state seen; None: read it all.

        History only grows at its end, so if the last segment seen is still there, all before it
        are (a store that was restored from a backup may have others).
        """
        head, epoch = look.head_entry, look.epoch_entry
        assert head is not None
        if self._newest is None or not self._newest[1].segments:
            return None
        if epoch is None or epoch.epoch != head.epoch:
            return None
        *found, last = self._newest[1].segments
        position = last.base
        for _ in range(CATCH_UP + 1):
            if position >= head.end:
                break
            segment = await self._metadata.get(self._keys.segment(position))
            detail = await self._metadata.get(self._keys.detail(position))
            if segment is None or detail is None:
                return None
            try:
                d = join(position, segment.value, detail.value)
            except ValueError:
                return None  # reading it all tells what is wrong
            if position == last.base and d != last:
                return None
            found.append(d)
            position = d.end
        try:
            return head.joined([d for d in found if d.end > head.start_offset])
        except ValueError:
            return None

    async def _read_all(self, look: _Look) -> CatalogState:
        """The state of a head, from all entries. CorruptDataError: or it was trimmed since."""
        head, epoch = look.head_entry, look.epoch_entry
        assert head is not None
        segments = await self._metadata.list_entries(self._keys.segments)
        details = await self._metadata.list_entries(self._keys.details)
        if epoch is None or epoch.epoch != head.epoch:
            raise self._corrupt(f"the head is of epoch {head.epoch}, the epoch says {epoch}")
        try:
            state = assemble(self._keys, head, segments, details)
        except ValueError as error:
            raise self._corrupt(str(error), head.start_offset) from error
        self._beyond = beyond(self._keys, head, segments, details)
        return state

    async def refuse_others(self, state: CatalogState | None) -> None:
        """See `SharedCatalog`."""
        unread = None
        if state is not None and self._beyond is None:
            segment = await self._metadata.get(self._keys.segment(state.end))
            detail = await self._metadata.get(self._keys.detail(state.end))
            unread = segment.key if segment is not None and detail is None else None
        look = await self._look_around()
        if not look.is_before(state):
            return  # somebody published meanwhile: looked at again before anything is changed
        if found := self._others(look, state, self._beyond or unread):
            whats, undos = zip(*found, strict=True)
            end = state.end if state is not None else 0
            raise UnsupportedFormatError(
                self.url,
                f"Danube wrote to this topic: {', '.join(whats)}",
                f"Nothing was changed. The offsets from {end} on may be Danube's: stop its "
                f"brokers, make a log of its own of what they wrote (`danube-trio import-danube`), "
                f"then {', '.join(undos)}, and this one goes on at {end}",
            )

    async def _look_around(self) -> _Look:
        """A look, and before it what Danube changes: of this head, if it is the one before."""
        current = await self._metadata.get(self._keys.current)
        sealed = await self._metadata.get(self._keys.sealed)
        return attrs.evolve(await self._look(), current=current, sealed=sealed)

    def _others(
        self, look: _Look, state: CatalogState | None, beyond: str | None = None
    ) -> list[tuple[str, str]]:
        current = look.current.value if look.current is not None else None
        sealed = look.sealed.value if look.sealed is not None else None
        return others_changes(self._keys, state, current=current, sealed=sealed, beyond=beyond)

    async def _refuse_foreign(self) -> None:
        """A topic without a head of ours must have no segments."""
        entries = await self._metadata.list_entries(self._keys.segments)
        if not any(TopicKeys.start_of(entry.key) is not None for entry in entries):
            return
        if (await self._look()).head is None:  # else it was begun just now
            raise UnsupportedFormatError(
                self.url,
                f"Danube wrote {len(entries)} entries there, and danube-trio none",
                "Choose another topic or root, and import Danube's",
            )

    def _corrupt(self, reason: str, offset: int | None = None) -> CorruptDataError:
        advice = (
            "Nothing was changed. Compare the metadata store with a backup; Danube must not write "
            "to a topic of danube-trio"
        )
        return CorruptDataError(reason, path=self.url, offset=offset, advice=advice)

    # ---- publishing

    async def publish(self, before: CatalogState | None, after: CatalogState) -> CatalogState:
        """See `Catalog`.

        Raises ValueError if `after` is no successor of `before`, adds more than `MAX_ADDED`
        segments, or has another codec than Danube's; FencedError also if Danube wrote to the topic.
        Cancelled anywhere, the same call can be made again.
        """
        after = check_successor(before, after)
        if after.codec != self.codec:
            raise ValueError(other_codec(after.codec, self.codec, self.url))
        if before is None:
            await self._refuse_foreign()
        change = self._change(before, after)
        tries = Tries(self._backoff, f"publishing number {after.sequence} of {self.url}")
        while True:
            try:
                look = await look_twice(self._look_around)
                if look.head_entry is not None and look.head_entry.nonce == after.nonce:
                    break
                if not look.is_before(before):
                    raise self._fenced(after, look)
                if found := self._others(look, before):
                    raise FencedError(after.epoch, f"Danube ({found[0][0]})")
                if await self._transact(look, change):
                    break
                await self._refuse_occupied(after, look, change)
                await tries.again(None)
            except StoreUnavailableError as error:
                await tries.again(error)
        self._newest = (change.put[self._keys.head], after)
        await self._remove(change.later)
        return after

    def _fenced(self, after: CatalogState, look: _Look) -> FencedError:
        head = look.head_entry
        if head is None:
            return FencedError(after.epoch, "an unknown writer, which left no catalog")
        return FencedError(after.epoch, f"{head.writer or 'a writer'} (epoch {head.epoch})")

    def _change(self, before: CatalogState | None, after: CatalogState) -> _Change:
        """What a publication puts and deletes. Pure, but for the time in the marker."""
        keys = self._keys
        old = before.segments if before else ()
        added = [d for d in after.segments if before is None or d.base >= before.end]
        if len(added) > MAX_ADDED:
            raise ValueError(f"{len(added)} new segments in one change: at most {MAX_ADDED} fit")
        put = {keys.head: compact(Head.of(after))}
        if before is None or after.epoch != before.epoch:
            put[keys.epoch] = compact(EpochEntry(after.epoch, after.writer))
        for d in added:
            danube, details = split_segment(d)
            put[keys.segment(d.base)] = encode_segment(danube)
            put[keys.detail(d.base)] = compact(details)
        delete = [key(d.base) for d in old if d.base < after.first_base for key in keys.of_segment]
        current = current_segment(after)
        if current is None:
            delete.insert(0, keys.current)
        elif added:
            put[keys.current] = current
        marker = sealed_marker(after, self._broker_id, int(self._clock()))
        if marker is not None:
            put[keys.sealed] = compact(marker)
        else:
            delete.insert(0, keys.sealed)
        fits = MAX_CHANGES - len(put)
        return _Change(put, delete[:fits], delete[fits:], [keys.segment(d.base) for d in added])

    async def _transact(self, look: _Look, change: _Change) -> bool:
        # Every publication writes the head. The epoch is compared for who changes that key alone,
        # as an operator may to keep a writer out.
        expect = {
            self._keys.epoch: look.epoch.revision if look.epoch else 0,
            self._keys.head: look.head.revision if look.head else 0,
            self._keys.current: look.current.revision if look.current else 0,
            self._keys.sealed: look.sealed.revision if look.sealed else 0,
            **dict.fromkeys(change.absent, 0),
        }
        done = await self._metadata.transact(expect, put=change.put, delete=change.delete)
        return done is not None

    async def _refuse_occupied(self, after: CatalogState, look: _Look, change: _Change) -> None:
        """After a transaction that failed: nobody may have put an entry where ours is to go."""
        for key in change.absent:
            there = await self._metadata.get(key)
            if there is not None and await self._look_around() == look:
                raise FencedError(after.epoch, f"Danube (it put {key})")

    # ---- collecting

    async def collect(self, state: CatalogState) -> int:
        """See `Catalog`: entries of segments that were trimmed, and are still there.

        Safe to call at any time, also for a writer that is fenced: keys below `start_offset` are
        never used again. Entries that Danube wrote stay.
        """
        removed = 0
        try:
            details = await self._metadata.list_entries(self._keys.details)
            old: list[str] = []
            for entry in details:
                base = TopicKeys.start_of(entry.key)
                if base is not None and self._end_of(entry.value) <= state.start_offset:
                    old += [key(base) for key in self._keys.of_segment]
            removed = await self._remove(old)
        except StoreError as error:
            log.info("collecting %s stopped, and goes on another time: %s", self.url, error)
        return removed

    @staticmethod
    def _end_of(value: bytes) -> float:
        try:
            return Details.decode(value).end
        except ValueError:
            return float("inf")

    async def _remove(self, keys: Iterable[str]) -> int:
        """Delete entries that do not count any more, the oldest first; returns how many went."""
        left = list(keys)
        removed = 0
        while left:
            try:
                await self._metadata.transact({}, delete=left[:MAX_CHANGES])
            except StoreError as error:
                log.info("old entries of %s stay for another time: %s", self.url, error)
                break
            removed += len(left[:MAX_CHANGES])
            del left[:MAX_CHANGES]
        return removed


@attrs.frozen
class _Change:
    """What one publication does.

    Attributes:
        put, delete: in its transaction.
        later: what did not fit: entries that do not count any more.
        absent: keys that must not be there before.
    """

    put: dict[str, bytes]
    delete: list[str]
    later: list[str]
    absent: list[str]
