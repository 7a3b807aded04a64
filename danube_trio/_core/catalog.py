"""The catalog of one log: which objects hold it, who owns it, and how that may change.

A catalog is a history of states, of which only the newest counts. Each is made from the one before
by one of the transitions below, and published under the condition that the one before still is the
newest (`danube_trio.catalog`). So the whole history is one line, whoever writes:

- an *epoch* is one opening of the log by one writer. `taken_over` begins the next one. A writer
  whose epoch is not the newest any more can publish nothing: it is fenced.
- the *owner* is a directory (its id in ``wal.meta``), whose local tail belongs to the log: records
  from `end` on that are acknowledged there and not uploaded yet. Taking over from another directory
  cuts its tail off. ``owner_since_epoch`` says since when, without interruption.
- *segments* are dense: each begins where the one before ends, the last one ends at `end`. Those
  that lie wholly below `start_offset` are dropped from the list.

Invariants, asserted after each transition: ``start_offset <= end``, density, ``owner_since_epoch <=
epoch``, and that `end`, `start_offset` and `epoch` never fall.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import attrs


@attrs.frozen
class Descriptor:
    """One object, which is one sealed segment's frames, verbatim.

    Attributes:
        base, end: its records, ``[base, end)``.
        size_bytes: its size.
        object_id: its name below the log's segment prefix; unique, never written twice.
        crc32: of all its bytes.
        etag: the store's opaque tag, if it has one.
        created_at: when it was uploaded, in whole seconds since 1970.
        epoch: of the writer that uploaded it.
        first_time, last_time: append times (us) of its first and last record; 0 if unknown.
        index: ``(offset, position, time)`` of some batch boundaries, ascending, the first one at
            position 0: what to fetch for an offset or a time (us).
    """

    base: int
    end: int
    size_bytes: int
    object_id: str
    crc32: int
    etag: str | None = None
    created_at: int = 0
    epoch: int = 0
    first_time: int = 0
    last_time: int = 0
    index: tuple[tuple[int, int, int], ...] = ()

    def __attrs_post_init__(self) -> None:
        assert 0 <= self.base < self.end and self.size_bytes > 0, self


@attrs.frozen
class CatalogState:
    """One state of a log's catalog. Made by the transitions only.

    Attributes:
        epoch: of the newest writer; 0 before the first.
        owner: id of the directory whose local tail belongs to the log.
        owner_since_epoch: since when it does.
        writer: who took the epoch, for people.
        start_offset: everything before it was trimmed.
        end: the end of the last object, and the lowest offset that a next one may have.
        segments: the objects, oldest first.
        codec: the message layout of all objects.
        trailer: version of the frames' trailer, 0 if there is none.
        sealed: the log was left with everything uploaded, to be opened elsewhere.
        deleted: the log was deleted; its objects go or are gone.
        log, topic, place: whose catalog it is, "" where nobody said it yet (see `identity`).
        last_time: append time (us) of the last record that was in an object, also when that is
            gone: whoever goes on appends nothing earlier, unless the clock is far behind; 0 if
            unknown. In a log of an earlier version, the latest time that any of them had.
        sequence: of the publication, 0 if it was not published. Set by the catalog.
        nonce: tells publications with the same content apart.
    """

    epoch: int = 0
    owner: str = ""
    owner_since_epoch: int = 0
    writer: str = ""
    start_offset: int = 0
    end: int = 0
    segments: tuple[Descriptor, ...] = ()
    codec: str = ""
    trailer: int = 1
    sealed: bool = False
    deleted: bool = False
    log: str = ""
    topic: str = ""
    place: str = ""
    last_time: int = 0
    sequence: int = 0
    nonce: str = ""

    def __attrs_post_init__(self) -> None:
        assert 0 <= self.start_offset <= self.end, self
        assert 0 <= self.owner_since_epoch <= self.epoch, self

    @property
    def first_base(self) -> int:
        """The first offset that an object holds; `end` if there is none."""
        return self.segments[0].base if self.segments else self.end

    @property
    def newest_time(self) -> int:
        """`last_time`, also of a state that was written before there was such a field."""
        return self.last_time or max((d.last_time for d in self.segments), default=0)

    def find(self, offset: int) -> Descriptor | None:
        """The object that holds `offset`."""
        i = bisect_right(self.segments, offset, key=lambda d: d.base) - 1
        if i < 0 or offset >= self.segments[i].end:
            return None
        return self.segments[i]

    # ---- transitions

    @classmethod
    def begin(cls, start_offset: int, codec: str, trailer: int) -> CatalogState:
        """Before anything was published: a log whose records from `start_offset` on are local."""
        return cls(start_offset=start_offset, end=start_offset, codec=codec, trailer=trailer)

    def taken_over(self, owner: str, writer: str, *, least_epoch: int = 0) -> CatalogState:
        """The next epoch begins, above `least_epoch` (what the owner's directory knows of)."""
        epoch = max(self.epoch, least_epoch) + 1
        # A log that was never published belongs to the directory that begins it, all of its tail.
        since = self.owner_since_epoch if self.owner in ("", owner) else epoch
        return self._next(
            epoch=epoch,
            owner=owner,
            writer=writer,
            owner_since_epoch=since,
            sealed=False,
            deleted=False,
        )

    def named(self, log: str, topic: str, place: str) -> CatalogState:
        """Say whose the log is, as far as nobody did; and where its objects are, once claimed."""
        return self._next(log=self.log or log, topic=self.topic or topic, place=place)

    def committed(self, descriptor: Descriptor) -> CatalogState:
        """One more object, which must begin at `end`."""
        assert descriptor.base == self.end, (descriptor.base, self.end)
        assert descriptor.epoch == self.epoch, (descriptor.epoch, self.epoch)
        segments, last_time = (*self.segments, descriptor), self.newest_time
        if descriptor.last_time > last_time or 0 < descriptor.first_time < last_time:
            last_time = descriptor.last_time  # the times rise, or fell (`clocks`)
        return self._next(segments=segments, end=descriptor.end, last_time=last_time)

    def adopted(self, epoch: int, descriptors: tuple[Descriptor, ...]) -> CatalogState:
        """Objects of writers that nobody remembers, up to this epoch: the log is nobody's now."""
        segments = (*self.segments, *descriptors)
        return self._next(
            epoch=max(self.epoch, epoch),
            owner="",
            owner_since_epoch=0,
            writer="a repair that adopted objects",
            segments=segments,
            end=segments[-1].end if segments else self.end,
            sealed=False,
        )

    def trimmed(self, start_offset: int) -> CatalogState:
        """Everything before `start_offset` may go; beyond `end`, the next object begins there."""
        assert start_offset >= self.start_offset, (start_offset, self.start_offset)
        kept = tuple(s for s in self.segments if s.end > start_offset)
        return self._next(start_offset=start_offset, end=max(self.end, start_offset), segments=kept)

    def left_sealed(self) -> CatalogState:
        """The writer leaves, and nothing of the log is anywhere but here."""
        return self._next(sealed=True)

    def left_deleted(self) -> CatalogState:
        """The log is deleted. Its offsets are not given again: a next life begins at `end`."""
        return self._next(start_offset=self.end, segments=(), deleted=True)

    def _next(self, **changes: Any) -> CatalogState:
        changes.setdefault("last_time", self.newest_time)
        after = attrs.evolve(self, **changes, sequence=0, nonce="")
        assert after.end >= self.end and after.epoch >= self.epoch, (self, after)
        position = after.first_base
        for segment in after.segments:
            assert segment.base == position, (segment, position)
            position = segment.end
        assert position == after.end, (position, after)
        return after
