"""Where a subscription begins: the offset that a position means, and the cursor to open it with.

A cursor is never saved above what is durable in the log. A power cut could take those messages, the
log would give their offsets to others, and these would pass for settled. So whatever offset comes
from the end of the log is waited for here before anybody saves it.
"""

from __future__ import annotations

import trio

from danube_trio import StartPosition
from danube_trio.dispatch._cursor import CursorState
from danube_trio.dispatch._log import first_offset
from danube_trio.dispatch._saving import CursorKeeper
from danube_trio.dispatch._store import TopicStore
from danube_trio.errors import CorruptDataError

__all__ = ["cursor_of", "offset_of"]


async def offset_of(store: TopicStore, start: StartPosition) -> int:
    """The offset that a position means now, once everything below it is durable.

    Raises OffsetTrimmedError, ValueError; LogBrokenError when it will not be durable.
    """
    offset = max(await _offset_of(store, await store.not_freed(start)), store.freed)
    await store.log.make_durable(offset)
    return offset


async def _offset_of(store: TopicStore, start: StartPosition) -> int:
    if start.kind == "earliest":
        return await store.start_offset()
    if start.kind == "latest":
        return await store.current_offset()
    end = await store.current_offset()
    reader = await store.log.reader(start, end="current", count=1)
    try:
        if start.kind == "offset":
            return start.value
        return first_offset(await reader.next_batch(), end)
    finally:
        with trio.CancelScope(shield=True):
            await reader.aclose()


async def cursor_of(store: TopicStore, keeper: CursorKeeper, start: StartPosition) -> CursorState:
    """The saved cursor of a subscription, or one at `start` if there is none.

    Raises what `offset_of` and `CursorKeeper.load` raise, and CorruptDataError when the cursor is
    not of this log.
    """
    cursor = await keeper.load()
    if cursor is None:
        return CursorState.at(await offset_of(store, start))
    end = await store.current_offset()
    if cursor.edge > end:
        raise CorruptDataError(
            f"the cursor has acknowledged offset {cursor.edge - 1}, and the topic ends at {end}: "
            f"they do not belong together, or the end of the log was lost when another writer took "
            f"it over",
            path=keeper.key,
            advice="Restore both from the same time. If those messages are gone for good, remove "
            "the subscription (remove_subscription) and add it again at the position that you "
            "want. Over an object store, seal() a log before it moves elsewhere",
        )
    return cursor
