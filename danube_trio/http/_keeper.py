"""What happens to streams while nobody asks: ends, last uses, notes, and the trash.

Four tasks, each of which may be cancelled at any moment: what they do is written down before, and
done again. What fails is tried again later, with growing pauses, and said in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from danube_trio._core.pauses import Pauses
from danube_trio.errors import DanubeError
from danube_trio.http._request import Refusal
from danube_trio.http._service import Service
from danube_trio.http._stream import SAVE_SECONDS, Stream
from danube_trio.storage import housekeeping

log = logging.getLogger("danube_trio.http")

# How often it is looked for streams whose time is over. They cannot be used before that.
LOOK_SECONDS = 1.0
# How many streams are looked at in one step, and in a second: of a processor that is about 1 %.
AT_ONCE = 1000
STREAMS_A_SECOND = 20_000
# How many streams are deleted together: each waits for the disk, or a store. A guess.
TOGETHER = 8
# Who uses a topic that is to be deleted is soon done.
PAUSES = Pauses(0.2, 60.0)


class Keeper:
    """Of one service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def run(self) -> None:
        """Until it is cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._again, "deleting", self._empty, self._wait_for_trash)
            nursery.start_soon(self._again, "ending", self._end_what_is_over, self._rest)
            nursery.start_soon(self._again, "noting", self._note, _look)
            nursery.start_soon(self._again, "renewing", self.renew, _save)

    async def _again(
        self, what: str, do: Callable[[], Awaitable[bool]], wait: Callable[[], Awaitable[object]]
    ) -> None:
        """Do it, and wait until it is to be done again. It says whether all of it was done."""
        failures = 0
        while True:
            try:
                done = await do()
            except (DanubeError, OSError, Refusal) as error:
                log.warning("%s streams failed, and is tried again: %s", what, error)
                done = False
            failures = 0 if done else failures + 1
            if done:
                await wait()
            else:
                await trio.sleep(PAUSES.after(failures))

    async def leave(self) -> None:
        """Before the end: what would be missed is written down."""
        try:
            with trio.move_on_after(SAVE_SECONDS):
                await self.renew()
        except (DanubeError, Refusal) as error:
            log.warning("the last uses of streams were not written down: %s", error)

    # ---- the trash

    async def _wait_for_trash(self) -> None:
        await self._service.registry.thrown.wait()

    async def _empty(self) -> bool:
        registry = self._service.registry
        waiting = iter([*registry.trash])
        failed: list[Exception] = []

        async def work() -> None:
            for topic in waiting:
                try:
                    await registry.empty(topic, self._delete)
                except trio.BusyResourceError:
                    continue  # somebody reads it to the end
                except (DanubeError, OSError) as error:
                    failed.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(TOGETHER):
                nursery.start_soon(work)
        if failed:
            raise failed[0]
        return not registry.trash

    async def _delete(self, topic: str) -> None:
        await self._service.storage.delete(topic, for_good=True)

    # ---- time

    async def _rest(self) -> None:
        await trio.sleep(LOOK_SECONDS * (1 + len(self._service.registry) / STREAMS_A_SECOND))

    async def _end_what_is_over(self) -> bool:
        service = self._service
        for number, stream in enumerate(service.registry.all()):
            if number % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            if stream.entry.deleted:
                await service.registry.end_unheld(stream)
            elif service.over(stream) and service.believed() is not None:
                await service.registry.end(stream)
        return True

    async def renew(self) -> bool:
        """Write down when streams were used last."""
        renewed, self._service.renewed = self._service.renewed, {}
        try:
            await self._service.registry.renew(renewed)
        except BaseException:
            self._service.renewed = renewed | self._service.renewed
            raise
        return True

    # ---- notes

    async def _note(self) -> bool:
        unnoted = self._service.unnoted
        for stream in [*unnoted]:
            unnoted.pop(stream, None)
            if stream.gone:
                continue
            try:
                await self._write_note(stream)
            except BaseException:
                unnoted[stream] = None
                raise
        return True

    async def _write_note(self, stream: Stream) -> None:
        service = self._service
        with housekeeping():
            async with service.writing(stream) as (wal, writers):
                if not writers.worth_a_note:
                    return
                note, size = writers.note(), writers.unnoted_bytes
                await wal.wait_durable(note.end)
                key = service.registry.note_key(stream.topic)
                await service.storage.metadata.put(key, note.encode())
                writers.was_noted(note, size)
                stream.noted = note.end


async def _look() -> None:
    await trio.sleep(LOOK_SECONDS)


async def _save() -> None:
    await trio.sleep(SAVE_SECONDS / 2)
