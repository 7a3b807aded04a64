"""The shelves that a reader's records come from: memory, files, objects; or they are yet to come.

`route` says which one holds the cursor, for every block anew, so falling behind (the cache moved
on), retention, rolls and sealing in between need no special case: whoever finds that the world has
moved while it looked gives nothing, and is asked again.

======================================  ==========================================================
what a fetch meets                      what it gives
======================================  ==========================================================
records                                 the block that holds the cursor, or begins before it
bytes that may be stepped over          a `Gap`
a search by time, and older records     `Passed`, and then the block
the start moved beyond the cursor       `OffsetTrimmedError`; to a search by time, `Passed`
nothing yet, and then something         nothing
a file that retention or pruning took   nothing
a damaged file whose records are        nothing: it is not read any more
stored
files that may be another writer's      an error, see `FileShelf.check_ours`
======================================  ==========================================================
"""

from __future__ import annotations

from collections.abc import Sequence

from danube_trio._core.route import Tier, route
from danube_trio._engine.read.file_shelf import Place
from danube_trio._engine.read.shelf import Passed, Piece
from danube_trio._engine.read.source import ReaderSource, local_start
from danube_trio.errors import (
    Advice,
    CorruptDataError,
    ObjectNotFoundError,
    OffsetTrimmedError,
    StoreUnavailableError,
    Worded,
)


class Shelves:
    """Fetches what there is at a cursor.

    Attributes:
        tier: where it looked last.
    """

    def __init__(self, source: ReaderSource) -> None:
        self._source = source
        self.tier = Tier.LIVE
        self._place = Place()

    async def fetch(self, cursor: int, time: int) -> Sequence[Piece]:
        """What there is at the cursor; nothing if it must be asked again.

        Args:
            cursor: the offset that is wanted.
            time: what is older (us) need not be given; 0: all is wanted.

        Raises what `Reader` does.
        """
        source = self._source
        self.tier = tier = self._route(cursor)
        if tier is Tier.TRIMMED:
            return _trimmed(cursor, source.marks.start_offset, time)
        if tier is Tier.LIVE:
            await source.wait_visible(cursor + 1)
            return ()
        if tier is Tier.CACHE:
            return await self._fetch_memory(cursor, time)
        with source.pins.pin(cursor, stored=tier is Tier.CLOUD):
            if tier is Tier.CLOUD:
                return await self._fetch_object(cursor, time)
            return await self._fetch_file(cursor, time)

    def _route(self, cursor: int) -> Tier:
        source, memory, files = self._source, self._source.memory, self._source.files
        return route(
            cursor,
            start_offset=source.marks.start_offset,
            local_start=local_start(source),
            cache_start=memory.start if memory is not None else source.visible_end,
            visible_end=source.visible_end,
            damaged=files is not None and files.is_damaged(cursor),
        )

    async def _fetch_memory(self, cursor: int, time: int) -> Sequence[Piece]:
        memory, stop = self._source.memory, self._source.visible_end
        assert memory is not None  # says `route`
        blocks = await memory.fetch(cursor, stop, time)
        if not blocks and cursor >= memory.start:
            raise CorruptDataError(
                f"records {cursor} to {self._source.visible_end} are missing (cache tier)",
                offset=cursor,
            )
        return blocks

    async def _fetch_file(self, cursor: int, time: int) -> Sequence[Piece]:
        source, files = self._source, self._source.files
        assert files is not None  # says `route`
        # What is stored is not stepped over: the store has the records.
        skip = source.config.on_corruption == "skip" and not self._stored(cursor)
        sealed = files.segments.find(cursor)  # now: it may be pruned while it is read
        try:
            return await files.fetch(cursor, source.visible_end, time, self._place, skip=skip)
        except CorruptDataError as error:
            if cursor < source.marks.start_offset:
                return ()  # retention overtook us: route will say so
            if sealed is None or not self._stored(cursor):
                raise
            missing = isinstance(error.__cause__, FileNotFoundError)
            await files.heal(sealed.base, str(error.__cause__ if missing else error))
            return ()  # route will say: the store

    async def _fetch_object(self, cursor: int, time: int) -> Sequence[Piece]:
        source, tier = self._source, self._source.tier
        if tier is None:
            what = f"records {cursor} to {local_start(source)} are in the object store only: "
            raise StoreUnavailableError(Worded(what, Advice.WITH_STORE))
        known = tier.objects.find(cursor)  # to see whether looking again found another
        try:
            return await tier.fetch(cursor, source.visible_end, time)
        except (LookupError, ObjectNotFoundError) as error:
            await source.look_again()
            if cursor < source.marks.start_offset:
                return ()  # retention overtook us: route will say so
            if tier.objects.find(cursor) not in (None, known):
                return ()  # a follower had not heard of this object yet
            start = tier.start
            if cursor < start:  # a follower's directory does not know who trimmed the log
                return _trimmed(cursor, start, time, error)
            raise CorruptDataError(
                f"no object holds the record ({error})",
                offset=cursor,
                advice="Restore it from a copy or an older version of the store",
            ) from error

    def _stored(self, cursor: int) -> bool:
        """Whether a verified object holds the record at the cursor."""
        tier = self._source.tier
        return tier is not None and tier.objects.find(cursor) is not None


def _trimmed(cursor: int, start: int, time: int, cause: Exception | None = None) -> Sequence[Piece]:
    """The log begins later: an error, but to a search by time."""
    if not time:
        raise OffsetTrimmedError(cursor, start) from cause
    return [Passed(cursor, start)]
