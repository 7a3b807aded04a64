"""`Subscription`: a named cursor that persists and moves by acknowledgements, for its users."""

from __future__ import annotations

import trio
from trio.lowlevel import checkpoint

from danube_trio import StartPosition
from danube_trio.dispatch._consumer import Consumer, give_back_ahead
from danube_trio.dispatch._core import DispatchCore
from danube_trio.dispatch._dead_letters import DeadLetters
from danube_trio.dispatch._delivery import Take
from danube_trio.dispatch._errors import CursorTooLargeError
from danube_trio.dispatch._opening import offset_of, witness_before
from danube_trio.dispatch._options import SubscriptionOptions
from danube_trio.dispatch._redrive import redrive
from danube_trio.dispatch._run import Handler, check_run_options, run_handlers
from danube_trio.dispatch._saving import CursorKeeper, Saving
from danube_trio.dispatch._state import Phase, SubscriptionState
from danube_trio.dispatch._statistics import Blocked, SubscriptionStatistics, statistics_of
from danube_trio.dispatch._store import TopicStore
from danube_trio.dispatch._tasks import Reading, bury, keep_time
from danube_trio.errors import FencedError, OffsetTrimmedError


class Subscription:
    """A subscription of a topic; made by `ReliableDispatch.add_subscription`.

    Its cursor lives in the metadata store. What is acknowledged and saved is never delivered again,
    what is not acknowledged always is.
    """

    def __init__(
        self,
        name: str,
        core: DispatchCore,
        keeper: CursorKeeper,
        store: TopicStore,
        letters: DeadLetters | None,
    ) -> None:
        self.name = name
        self.options: SubscriptionOptions = core.options
        self._store = store
        self._keeper = keeper
        self._letters = letters
        self._state = SubscriptionState(name, core)
        self._reading = Reading(self._state, store.log)
        self._saving = Saving(self._state, keeper, store.log)
        self._calls = self._state.calls
        self._own = Consumer(self._state, self._saving, "take", ordered=False)
        self._redriving = trio.Lock()
        self._tasks = trio.CancelScope(shield=True)
        self._done = trio.Event()
        self._numbered = 0

    def __repr__(self) -> str:
        state = self._state
        return (
            f"<Subscription {self.name!r} {self.options.type.value} {state.phase.value}, "
            f"settled up to {state.core.end}>"
        )

    # ---- taking

    def take(self) -> Take:
        """A block around one message: ``async with subscription.take() as message``.

        Leaving it acknowledges, an exception nacks and goes on, `Cancelled` releases without
        burning an attempt. Any number of tasks may take; they are one consumer together.

        Raises, on entering, what `Consumer.receive` raises, and SubscriptionBusyError when the
        subscription is exclusive and has another consumer.
        """
        return Take(self._own, leave=True)

    def consumer(self, name: str = "") -> Consumer:
        """A consumer of its own, for an ``async with`` block. See `Consumer`."""
        return self._consumer(name, ordered=False)

    def _consumer(self, name: str, *, ordered: bool) -> Consumer:
        self._numbered += 1
        name = name or f"consumer {self._numbered}"
        return Consumer(self._state, self._saving, name, ordered=ordered)

    async def run(
        self, handler: Handler, *, concurrency: int = 1, stop_on: tuple[type[Exception], ...] = ()
    ) -> None:
        """Call ``await handler(message)`` for each message, so many at a time, until cancelled.

        A handler that returns acknowledges. One that raises an `Exception` nacks: the message comes
        again, or meets its ``poison_policy``, and the run goes on (errors are logged). A handler is
        cancelled when its delivery times out (`Delivery.extend` puts that off), which counts as
        failed too. The handler may answer itself first: `Delivery.nack` with a delay, `reject`.

        Messages of the same key are handled one at a time and in order, through failures as well,
        unless the subscription is SHARED. Messages without a key are in no order.

        Args:
            concurrency: at most ``max_unacked_messages``.
            stop_on: exceptions that stop the run: the message is nacked, the other handlers are
                cancelled (their messages released), and the exception comes out.

        Raises:
            TypeError: the handler is no async function. No message pays for that.
            SubscriptionBusyError: it is exclusive and has a consumer.
            SubscriptionClosedError: it was closed meanwhile.
            What is not an `Exception`, as it is; what made the subscription fail.

        Cancellation: handlers are cancelled, and what they had in hand is released.
        """
        check_run_options(handler, concurrency, self.options.max_unacked_messages, stop_on)
        async with self.run_consumer() as consumer:
            await run_handlers(consumer, handler, concurrency, stop_on)

    def run_consumer(self) -> Consumer:
        """The consumer of a `run`: where it is the only one, one message of a key at a time."""
        return self._consumer("run", ordered=True)

    # ---- control

    def pause(self) -> None:
        """Hand out nothing until `resume`. What is in consumers' hands stays there. Not saved.

        No handler of a `run` begins another message. (What a run on asyncio or in threads has taken
        ahead of its handlers is in nobody's hands, and goes back.)
        """
        self._state.check_run()
        self._state.core.paused = True
        for consumer in list(self._state.core.consumers):
            if isinstance(consumer, Consumer):
                give_back_ahead(consumer)

    def resume(self) -> None:
        """Undo `pause`."""
        self._state.check_run()
        self._state.core.paused = False
        self._state.changed()

    @property
    def paused(self) -> bool:
        """Whether it is paused."""
        return self._state.core.paused

    async def seek(self, start: StartPosition) -> int:
        """Begin anew at a position, and save that; returns its offset.

        Acknowledgements at and after it are forgotten, messages before it are not delivered any
        more. Deliveries so far are over: answers to them do not count, and their messages may come
        again while they are still being handled.

        It is saved first. After that, what is still there stays for it: a round of retention asks
        the metadata store before it frees anything.

        Raises:
            OffsetTrimmedError, ValueError: the topic does not have that offset. (If another
                program's retention freed it in this moment, the subscription goes on with what is
                left.)
            StoreError: the subscription was moved, and that is not saved yet (but will be).
        """
        return await self._calls.run(self._seek, start)

    async def _seek(self, start: StartPosition) -> int:
        state = self._state
        async with self._store.needs.guard:  # nothing is freed between looking and moving
            offset = await offset_of(self._store, start)
            witness = await witness_before(self._store, offset)
            state.check_open()
            state.core.move(offset, witness)
            self._store.needs.went_back += 1
        self._reading.moved()
        state.changed()
        await self._saving.save()
        first = await self._store.start_offset()
        if first > offset:  # another program's retention had asked the store before
            raise OffsetTrimmedError(offset, first)
        return offset

    async def flush(self) -> None:
        """Save every acknowledgement so far, now instead of within ``save_interval``.

        Raises:
            StoreError: it is not known whether they are saved; it will be tried again.
            CursorTooLargeError: not all fit into ``max_cursor_bytes``.
            FencedError: another program has opened the subscription.

        Cancellation: as StoreError.
        """
        await checkpoint()
        state = self._state
        if state.fenced:
            state.check_open()
        try:
            await self._calls.run(self._saving.save)
        except FencedError:
            state.untold = None  # our own task may have got it first: now somebody is told
            raise
        unsaved_from = state.core.unsaved_from
        if unsaved_from is not None:
            raise CursorTooLargeError(self.options.max_cursor_bytes, unsaved_from)

    async def wait_settled(self, end: int | None = None) -> None:
        """Wait until every message below offset `end` (None: of now) is settled.

        Settled is acknowledged, dropped or dead-lettered. Raises what `Consumer.receive` raises.
        """
        if end is None:
            end = await self._store.current_offset()
        await self._state.wait_settled(end)

    # ---- poison

    def blocked(self) -> list[Blocked]:
        """What ``PoisonPolicy.BLOCK`` holds back, by offset."""
        return [
            Blocked(entry.offset, entry.message, entry.failures, entry.reason)
            for entry in self._state.core.blocked()
        ]

    def retry_blocked(self, offset: int) -> bool:
        """Deliver a blocked message again, as if it had never failed. False: it is not blocked."""
        return self._unblock(offset, retry=True)

    def drop_blocked(self, offset: int) -> bool:
        """Settle a blocked message unhandled. False: it is not blocked."""
        return self._unblock(offset, retry=False)

    def _unblock(self, offset: int, *, retry: bool) -> bool:
        self._state.check_run()
        found = self._state.core.unblock(offset, retry=retry)
        self._state.changed()
        return found

    async def redrive(self, limit: int | None = None) -> int:
        """Append this subscription's dead letters to the topic again, oldest first; how many.

        Each is brought back once; a crash in between may bring up to 100 of them back twice. Every
        subscription of the topic gets them. They stay in the dead letter topic.

        Args:
            limit: at most so many; None: all that there are at the call.

        Raises ValueError for a bad limit or without ``PoisonPolicy.DEAD_LETTER``, else like the
        storages.
        """
        letters = self._letters
        if letters is None:
            raise ValueError("only poison_policy=PoisonPolicy.DEAD_LETTER has dead letters")
        if limit is not None and limit < 0:
            raise ValueError(f"limit={limit!r} must be 0 or more")
        return await self._calls.run(self._redrive, letters, limit)

    async def _redrive(self, letters: DeadLetters, limit: int | None) -> int:
        async with self._redriving:
            return await redrive(letters, self._keeper, self._store, limit)

    # ---- watching

    async def lag(self) -> int:
        """How many messages of the topic are not settled."""
        return self._state.core.lag(await self._store.current_offset())

    async def statistics(self) -> SubscriptionStatistics:
        """Everything that can be counted, at this moment."""
        return statistics_of(self._state, await self._store.current_offset())

    def statistics_nowait(self) -> SubscriptionStatistics:
        """The same without asking the log. Over a storage of another kind `lag` may be too low."""
        return statistics_of(self._state, self._store.end_now())

    @property
    def topic(self) -> str:
        """The topic whose messages it delivers."""
        return self._store.topic

    @property
    def end(self) -> int:
        """Every message below it is settled."""
        return self._state.core.end

    @property
    def saved_end(self) -> int:
        """Every message below it is settled, and that is saved."""
        return self._state.saved_end

    @property
    def kept_from(self) -> int:
        """What retention is to leave alone: messages at and above it.

        That is the saved end; or, for a moment after it was moved back, the end.
        """
        return min(self.saved_end, self.end)

    @property
    def is_open(self) -> bool:
        """Whether messages can be had: it has neither failed nor been closed."""
        return self._state.phase is Phase.OPEN

    # ---- its life, for ReliableDispatch

    @property
    def held_from(self) -> int | None:
        """What retention is to leave alone beside what is saved: see `SubscriptionState`."""
        return self._state.held_from

    async def take_over(self) -> None:
        """Save the cursor with a new owner, which fences an earlier one. Raises StoreError."""
        await self._saving.save()

    async def run_tasks(self) -> None:
        """Run its tasks until `finish`. They are shielded: the cursor is saved at the very end."""
        state = self._state
        try:
            with self._tasks:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._reading.run)
                    nursery.start_soon(keep_time, state)
                    nursery.start_soon(self._saving.run)
                    if self._letters is not None:
                        nursery.start_soon(bury, state, self._letters)
                        nursery.start_soon(self._letters.keep_young)
        finally:
            state.close()
            self._done.set()

    async def finish(self, grace: float) -> BaseException | None:
        """Close it, and save what is not saved yet, for so many seconds at most.

        Returns why it could not be saved. Not to be cancelled.
        """
        if self._state.phase is Phase.CLOSED:
            return None
        await self._close()
        error = await self._save_last(grace)
        await self._calls.end()
        return error

    async def _save_last(self, grace: float) -> BaseException | None:
        state, core = self._state, self._state.core
        if state.fenced or core.changes == core.saved_changes:
            return None
        with trio.move_on_after(grace):
            try:
                await self._saving.save()
            except Exception as error:  # for the one who leaves, whatever it is
                return error
            return None
        return TimeoutError(
            f"it took more than {grace} seconds to save the cursor of "
            f"{self.name!r}: what was acknowledged last will be delivered again"
        )

    @property
    def untold_fence(self) -> BaseException | None:
        """Who has the cursor now, if it lacks what was settled here, and nobody was told."""
        state, core = self._state, self._state.core
        unsaved = core.changes > core.saved_changes
        return state.untold if state.fenced and unsaved else None

    async def close_unsaved(self) -> None:
        """Close it and save nothing. Not to be cancelled."""
        await self._close()
        await self._calls.end()

    async def _close(self) -> None:
        if self._state.phase is not Phase.CLOSED:
            self._state.close()
            self._tasks.cancel()
            await self._done.wait()
