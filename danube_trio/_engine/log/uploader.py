"""The uploader task: sealed segments become objects, in order, and the catalog says so.

It is the only one who adds to the catalog. For the segment that begins where objects end::

    read --> upload under a name of its own --> verify --> descriptor into the catalog --> uploaded

Nothing before the last step can be seen by anybody, so a crash leaves an object that no catalog
names, and which goes when another one has its records (`sweeper`). The last step is conditional on
the writer's epoch (`CatalogSession`): it settles an unknown outcome before anything else is tried,
so no range is ever catalogued twice. Names are never used again: an upload whose outcome is unknown
may still arrive.

A store that fails is tried again, after pauses that double up to `retry_seconds`, each one cut by
chance so that many writers do not come back at once. Meanwhile appends go on, until
`max_local_bytes` wait.

**Damage.** A segment that is not what was written is not uploaded, nor what comes after it, because
objects leave nothing out: it is *held*. Who waits for it is told, and it is looked at again like a
store that fails: a file that was put back goes on by itself, a repair with the next opening, and a
trim leaves it behind.

**Fenced.** Nothing is uploaded any more. What was put for a change that did not count is removed,
before anybody is told if the store answers soon, because the winner has looked for such objects
already. The newest catalog is asked first: an object that it names had counted after all.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.crc import crc32
from danube_trio._core.disk import File
from danube_trio._core.index import SparseIndex
from danube_trio._core.life import Phase
from danube_trio._core.segment import Segment
from danube_trio._engine.files.segments import CHUNK_BYTES, build_index, file_crc
from danube_trio._engine.log.cloud_side import CloudSide
from danube_trio._engine.log.engine import Engine
from danube_trio._engine.log.local_files import LocalFiles
from danube_trio._engine.log.sweeper import Sweeper
from danube_trio._engine.log.verify_upload import verify_upload
from danube_trio.catalog import Backoff, CatalogSession, Outage, new_object_id
from danube_trio.cloud import CloudStore, ObjectInfo
from danube_trio.errors import CorruptDataError, DanubeError, FencedError, StoreError

log = logging.getLogger("danube_trio.uploader")

# Failed uploads that may be in the store before they are removed, which is else done after the next
# one that does not fail.
MAX_RUBBISH = 8
# Seconds for removing what a fenced writer put, before it says that it is fenced. A guess, as long
# as a probe of the store has.
CLEANING_SECONDS = 2.0


class Uploader:
    """The task.

    Attributes:
        sweeper: removes objects, also for this one.
    """

    def __init__(
        self,
        engine: Engine,
        cloud: CloudSide,
        files: LocalFiles,
        store: CloudStore,
        session: CatalogSession,
    ) -> None:
        self._engine = engine
        self._cloud = cloud
        self._files = files
        self._disk = files.disk
        self._names = files.names
        self._store = store
        self._session = session
        self.sweeper = Sweeper(engine, cloud, store, session)
        self._settings = engine.config.cloud
        self._epoch = session.state.epoch
        self._scope = trio.CancelScope()
        self._rubbish: set[str] = set()  # keys of ours that maybe no catalog names
        self._pauses = Backoff(limit_seconds=self._settings.retry_seconds)
        self._outage = self._cloud.outage = Outage(log, f"uploading to {store.url}", self._pauses)
        self._meter = engine.meters.task("uploader")

    async def run(self) -> None:
        """Upload until the log is left, broken or fenced."""
        try:
            with self._scope:
                await self._run()
        finally:
            self._cloud.over.set()

    async def _run(self) -> None:
        pause = 0.0
        while self._engine.log.running and self._engine.log.phase is not Phase.FENCED:
            if pause:
                self._meter.enter("pausing")
                with trio.move_on_after(pause):
                    await self._left()
                if not self._engine.log.running:
                    return
            try:
                await self._step()
            except FencedError as error:
                with trio.move_on_after(CLEANING_SECONDS):
                    await self._take_back()
                self._engine.fenced(error)
            except (DanubeError, OSError) as error:
                pause = self._failed(error)
            else:
                pause = 0.0
                self._outage.over()
        if self._engine.log.phase is Phase.FENCED:
            await self._take_back()

    def stop(self) -> None:
        """Give up what is under way: the log is being left."""
        self._scope.cancel()
        self.sweeper.stop()

    async def _left(self) -> None:
        while self._engine.log.running:
            await self._engine.bells.uploader.wait()

    def _failed(self, error: Exception) -> float:
        """Returns how long to wait before the next try, in seconds."""
        self._cloud.uploads.failures += 1
        return self._outage.failed(error)

    async def _step(self) -> None:
        """Upload one segment, or wait until there may be one."""
        engine = self._engine
        await self._trim()
        segment = self._next()
        if segment is not None:
            await self._upload(segment)
            return
        end = engine.marks.uploaded_end
        if engine.log.phase is Phase.SEALED and end == engine.marks.next_offset:
            await self._leave_sealed()
        elif (engine.log.upload_wanted > end or self._cloud.full) and self._files.active.size_bytes:
            engine.ask_for_roll()
        self._meter.enter("idle")
        await engine.bells.uploader.wait()

    def _next(self) -> Segment | None:
        """The first sealed segment that is not uploaded."""
        engine = self._engine
        # The catalog's own end: `uploaded_end` may be further, at a start inside this segment.
        end = self._cloud.objects.state.end
        if engine.marks.sealed_end <= end:
            return None
        segment = self._files.segments.find(end)
        assert segment is not None and segment.base == end, (segment, end, engine.marks)
        return segment

    async def _upload(self, segment: Segment) -> None:
        engine, doing, started = self._engine, self._meter, trio.current_time()
        if self._session.pending:  # what the catalog does not take now it will not take after it
            await self._change(lambda state: state)
            return
        if len(self._rubbish) >= MAX_RUBBISH:
            await self._sweep()
        object_id = new_object_id(segment.base, self._epoch)
        key = self._session.catalog.object_key(object_id)
        try:
            doing.enter("reading")
            index, crc = await self._read(segment)
            if engine.log.phase is Phase.FENCED:
                return  # a trim found out
            # Before the upload: an answer that is lost leaves an object, too.
            self._rubbish.add(key)
            doing.enter("uploading")
            info = await self._store.upload(key, partial(self._chunks, segment, crc))
        except CorruptDataError as error:
            if self._cloud.objects.state.end > segment.base:
                return  # trimmed meanwhile
            raise self._hold(segment, error) from error
        doing.enter("verifying")
        how = self._settings.verify_uploads
        # The catalog is what makes it count, so this comes before.
        await verify_upload(self._store, key, info, segment, crc, how)
        descriptor = self._describe(segment, index, object_id, crc, info)
        state = await self._change(partial(self._commit, descriptor=descriptor))
        if state.find(segment.base) == descriptor:  # else it was trimmed meanwhile
            self._cloud.uploads.done += 1
            self._cloud.uploads.bytes += segment.size_bytes
            self._cloud.uploads.seconds.add(trio.current_time() - started)
        await self._sweep()

    async def _read(self, segment: Segment) -> tuple[SparseIndex, int]:
        """Index and CRC of a segment's file. CorruptDataError if it is known to be damaged."""
        crc = self._cloud.checksums.get(segment.base)
        if crc is None:
            crc = await self._disk.run(self._verified_crc, segment)
            self._cloud.checksums[segment.base] = crc
        elif self._cloud.held is not None:  # rather than send it, and find out at its end
            await self._disk.run(deque, self._chunks(segment, crc), 0)
        self._cloud.held = None
        index = self._files.indexes.get(segment.base)
        return index if index is not None else await self._files.load_index(segment), crc

    def _hold(self, segment: Segment, error: CorruptDataError) -> CorruptDataError:
        """The segment's file is not what was written; returns the error that says so."""
        make_error = partial(
            CorruptDataError,
            f"{error.reason}: it is not uploaded, nor is anything after it",
            path=error.path,
            position=error.position,
            offset=error.offset,
            advice=f"Put a copy of the file back, and uploading goes on; or close the log and run "
            f"`danube-trio repair {self._names.directory}`, which says what can be saved; or give "
            f"the records up with trim({segment.end})",
        )
        self._cloud.hold(segment.base, make_error)
        return make_error()

    def _chunks(self, segment: Segment, crc: int) -> Iterator[bytes]:
        """The file's bytes; raises at the end if they are not those that were written."""
        path = self._names.segment(segment.base)
        file = self._open(segment)
        try:
            position = found = 0
            while position < segment.size_bytes:
                size = min(CHUNK_BYTES, segment.size_bytes - position)
                data = file.read_at(size, position)
                found = crc32(data, found)
                position += len(data)
                if len(data) < size:
                    break
                if position == segment.size_bytes and found != crc:
                    break
                yield data
            else:
                return
            raise CorruptDataError(
                "the sealed segment is not what was written", path=path, offset=segment.base
            )
        finally:
            file.close()

    def _verified_crc(self, segment: Segment) -> int:
        """CRC of a segment that an earlier run wrote, all of whose frames are verified."""
        path = self._names.segment(segment.base)
        file = self._open(segment)
        try:
            size = file.size()
            _, walk = build_index(file, segment.base, size=size)
            if (walk.position, walk.offset) != (size, segment.end) or size != segment.size_bytes:
                reason = walk.fault.reason if walk.fault is not None else "records are missing"
                raise CorruptDataError(
                    reason, path=path, position=walk.position, offset=walk.offset
                )
            return file_crc(file)
        finally:
            file.close()

    def _open(self, segment: Segment) -> File:
        path = self._names.segment(segment.base)
        try:
            return self._disk.open(path, "r")
        except FileNotFoundError as error:
            reason = "the segment is missing"
            raise CorruptDataError(reason, path=path, offset=segment.base) from error

    def _describe(
        self, segment: Segment, index: SparseIndex, object_id: str, crc: int, info: ObjectInfo
    ) -> Descriptor:
        return Descriptor(
            base=segment.base,
            end=segment.end,
            size_bytes=segment.size_bytes,
            object_id=object_id,
            crc32=crc,
            etag=info.etag,
            created_at=int(self._engine.clock()),
            epoch=self._epoch,
            first_time=index.first_time,
            last_time=index.last_time,
            index=tuple(index.thinned(self._settings.block_bytes)),
        )

    async def _change(self, make: Callable[[CatalogState], CatalogState]) -> CatalogState:
        """Change the catalog; an unknown outcome is settled by the same change, sooner or later."""
        while True:
            self._meter.enter("cataloguing")
            try:
                return await self._session.change(make)
            except StoreError as error:
                pause = self._failed(error)
                self._meter.enter("pausing")
                await trio.sleep(pause)

    def _commit(self, state: CatalogState, descriptor: Descriptor) -> CatalogState:
        if state.end > descriptor.base:
            return state  # done by a try whose outcome was unknown, or trimmed meanwhile
        # A log may begin inside its first segment: it was trimmed before it had a store.
        start = self._engine.marks.start_offset
        return self._cloud.trimmed(state.committed(descriptor), start)

    async def _trim(self) -> None:
        """What retention wants; the janitor goes on with it."""
        cloud = self._cloud
        if self._engine.log.phase is not Phase.OPEN:
            return

        def trimmed(state: CatalogState) -> CatalogState:
            return cloud.trimmed(state, cloud.wanted_start)  # as it is wanted by then

        if trimmed(cloud.objects.state) is not cloud.objects.state:
            await self._change(trimmed)

    async def _leave_sealed(self) -> None:
        if self._cloud.left_sealed:
            return
        await self._change(lambda state: state if state.sealed else state.left_sealed())
        self._cloud.left_sealed = True
        self._cloud.over.set()
        self._engine.bells.janitor.ring()

    # ---- objects that no catalog names

    async def _tidy(self, step: Callable[[], Awaitable[object]]) -> bool:
        """Do what no upload has to wait for; whether there is nothing left to do of it."""
        self._meter.enter("sweeping")
        try:
            await step()
        except DanubeError as error:
            self.sweeper.left(error)
            return False
        return True

    async def _sweep(self) -> None:
        """Remove own uploads that failed.

        What a pending change names may yet be in the catalog, so nothing goes before it is settled.
        """
        # Looks redundant: this task settles its own changes before, and a caller's trim names only
        # what the session's state names. It stands so that no later caller can make it wrong.
        if self._session.pending:
            return
        self._forget_named(self._session.state)
        await self._tidy(self._delete_rubbish)

    def _forget_named(self, state: CatalogState) -> None:
        """What a catalog names is no rubbish."""
        key_of = self._session.catalog.object_key
        self._rubbish -= {key_of(d.object_id) for d in state.segments}

    async def _delete_rubbish(self) -> None:
        for key in sorted(self._rubbish):
            await self.sweeper.delete(key)
            self._rubbish.discard(key)

    async def _take_back(self) -> None:
        """Remove what a fenced writer put for changes that did not count."""
        self._forget_named(self._session.state)
        tried = 0
        while self._rubbish and not await self._tidy(self._delete_unnamed):
            self._meter.enter("pausing")
            tried += 1
            await trio.sleep(self._pauses.pause_after(tried))

    async def _delete_unnamed(self) -> None:
        """The rubbish, but for what the winner's catalog names."""
        newest = await self._session.catalog.latest()
        if newest is not None:  # the session's last look said the same, as far as that one showed
            self._forget_named(newest)
        await self._delete_rubbish()
