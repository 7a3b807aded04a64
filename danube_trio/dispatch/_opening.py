"""Where a subscription begins: the offset that a position means, and the cursor to open it with.

A cursor is never saved above what is durable in the log. A power cut could take those messages, the
log would give their offsets to others, and these would pass for settled. So whatever offset comes
from the end of the log is waited for here before anybody saves it.

**Of this log?** The same happens when a log comes back from an older copy, or another log is in its
place. So a cursor that has settled anything must fit, before it is used and before retention
believes it (`unfit`):

1. The log goes as far as the cursor, and as its witness.
2. The message at the witness is the one that was settled. That decides, whatever the ids say: a
   fork or a copy of a log has the same messages up to where it began.
3. Where that cannot be read (trimmed, damaged, never saved) the log has the id that the cursor
   names, as far as both are known.

A cursor that does not fit is refused. Where the log should go on instead, nobody here can know: at
its end messages would never be delivered, at its start all of them twice. Retention frees nothing
meanwhile.
"""

from __future__ import annotations

import attrs

from danube_trio import StartPosition
from danube_trio.dispatch._cursor import CursorState, Witness
from danube_trio.dispatch._log import KnowsLog
from danube_trio.dispatch._saving import CursorKeeper
from danube_trio.dispatch._store import TopicStore, first_offset, reading
from danube_trio.errors import CorruptDataError, OffsetTrimmedError
from danube_trio.message import Gap, StreamMessage
from danube_trio.metadata import MetadataStore


async def offset_of(store: TopicStore, start: StartPosition) -> int:
    """The offset that a position means now, once everything below it is durable.

    Raises OffsetTrimmedError, ValueError; LogBrokenError when it will not be durable.
    """
    offset = max(await _offset_of(store, await store.not_freed(start)), store.needs.freed)
    # Reading the witness waits for the same, where there is a message to read: this does not depend
    # on that.
    await store.log.make_durable(offset)
    return offset


async def _offset_of(store: TopicStore, start: StartPosition) -> int:
    if start.kind == "earliest":
        return await store.start_offset()
    if start.kind == "latest":
        return await store.current_offset()
    if start.kind == "timestamp":
        return await first_offset(store, start)
    async with reading(store, start, "current"):  # raises, if the log does not have it
        return start.value


async def cursor_of(store: TopicStore, keeper: CursorKeeper, start: StartPosition) -> CursorState:
    """The saved cursor of a subscription, or one at `start` if there is none.

    Raises what `offset_of` and `CursorKeeper.load` raise, and CorruptDataError when the cursor is
    not of this log.
    """
    cursor = await keeper.load()
    if cursor is None:
        offset = await offset_of(store, start)
        return CursorState.at(offset, witness=await witness_before(store, offset))
    if (reason := await unfit(store, cursor)) is not None:
        raise CorruptDataError(
            f"{reason}: they do not belong together, or the log was restored from an older copy, "
            f"or its end was lost when another writer took it over",
            path=keeper.key,
            advice="Restore both from the same time. If those messages are gone for good, remove "
            "the subscription (remove_subscription) and add it again at the position that you "
            "want. If this is another log, it needs a metadata_root (or topic) of its own. Over an "
            "object store, seal() a log before it moves elsewhere",
        )
    if cursor.witness is None:  # of an older version
        cursor = attrs.evolve(cursor, witness=await witness_before(store, cursor.edge))
    return cursor


async def unfit(store: TopicStore, cursor: CursorState) -> str | None:
    """Why a cursor is not of this log; None if it is, as far as that can be told.

    Raises what reading the log raises, but for damage.
    """
    if not cursor.edge and not cursor.attempts:
        return None  # it says nothing
    end, witness = await store.current_offset(), cursor.witness
    settled = max(cursor.edge - 1, witness.offset if witness is not None else -1)
    if settled >= end:
        return f"the cursor has acknowledged offset {settled}, and the topic ends at {end}"
    found = await witness_before(store, witness.offset + 1) if witness is not None else None
    if found is not None:
        if found == witness:
            return None
        return f"the cursor has acknowledged another message at offset {found.offset} than is there"
    if cursor.log and _log_id(store) not in ("", cursor.log):
        return f"the cursor is of the log {cursor.log}, and this is {_log_id(store)}"
    return None


async def witness_before(store: TopicStore, offset: int) -> Witness | None:
    """Of the last message below `offset`; None if there is none, or it cannot be read."""
    if offset <= await store.start_offset():
        return None
    try:
        async with reading(store, StartPosition.offset(offset - 1), offset) as reader:
            batch = await reader.next_batch()
    except (CorruptDataError, OffsetTrimmedError):
        return None
    first: StreamMessage | Gap | None = batch[0] if batch else None
    return None if first is None or isinstance(first, Gap) else Witness.of(first)


def keeper_of(
    store: TopicStore, metadata: MetadataStore, root: str, subscription: str
) -> CursorKeeper:
    """The keeper of a subscription's cursor, which says what log that is of."""
    return CursorKeeper(metadata, store.topic, subscription, root=root, log_id=_log_id(store))


def _log_id(store: TopicStore) -> str:
    return store.log.log_id if isinstance(store.log, KnowsLog) else ""
