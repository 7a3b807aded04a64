"""Restoring a log from its object store, up to an offset or a time.

What is made is a *fork*: an independent log in a new directory, with an id of its own, whose
segments are the objects' bytes. It is opened without the store, and is no writer of the log in
there: nothing in the store is changed, not even its epoch. (To go on *with* the log, no restore is
needed: ``open_wal`` with the store and an empty directory continues at the catalog's end.)

**The point.** `restore_plan` finds out where the fork ends before anything is fetched. Offsets
stay as they are, and so does the start.

**Verified.** Each object is fetched as a whole, also the one that is cut: its size and the CRC of
all its bytes must be those that the catalog names, and its frames dense and whole. `OBJECTS` of
them are fetched at a time, in pieces, so memory is bounded by ``OBJECTS * PIECE_BYTES``.

**Interrupted**, it leaves ``TARGET.restoring`` (see `restore_files`), and the same call goes on
there. A store that fails ends it; the next one goes on, too.

**Retention** of the log's owner may remove objects meanwhile. Then the catalog is read again, and
the fork begins where the log begins now.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import attrs
import trio

from danube_trio._core.catalog import Descriptor
from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk, File
from danube_trio._core.segment import Segment
from danube_trio._disk.real import RealDisk
from danube_trio._engine.care.restore_files import Staging, check_target
from danube_trio._engine.care.restore_plan import LOOKS, RestorePlan, plan_restore, refuse_missing
from danube_trio._engine.care.verify_segment import ignore
from danube_trio.catalog import Catalog
from danube_trio.catalog._default import default_catalog
from danube_trio.catalog._patient import each
from danube_trio.cloud import CloudStore
from danube_trio.config import CloudConfig, WalConfig, directory_path
from danube_trio.errors import CorruptDataError, ObjectNotFoundError

# Objects under way at a time, and how much of each is in memory. Guesses: a store answers a single
# reader at a fraction of what a network carries.
OBJECTS = 4
PIECE_BYTES = 4 << 20


@attrs.frozen
class Restored:
    """A log that was restored. Offsets are exclusive ends; sizes in bytes.

    Attributes:
        path: its directory.
        start_offset, end_offset: the records that it has, ``[start_offset, end_offset)``.
        objects: how many it was made of.
        size_bytes: of its segments.
        fetched_bytes: from the store.
        resumed_bytes: that an interrupted restore had fetched.
        last_time: append time of the last record, in microseconds since 1970; 0 if unknown or if
            there is none.
        directory_id: its id.
    """

    path: str
    start_offset: int
    end_offset: int
    objects: int
    size_bytes: int
    fetched_bytes: int
    resumed_bytes: int
    last_time: int
    directory_id: str


async def restore_log(
    store: CloudStore,
    dir: str | os.PathLike[str],
    *,
    topic: str = "",
    prefix: str = "",
    catalog: Catalog | None = None,
    until_offset: int | None = None,
    until_time: float | None = None,
    file_name: str = "wal.log",
    disk: Disk | None = None,
    expect: Callable[[int], object] = ignore,
    progress: Callable[[int], object] = ignore,
) -> Restored:
    """Make a log directory of what an object store holds: a fork, which needs no store.

    Args:
        store: the log's object store; nothing in it is changed.
        dir: the new directory; must not exist, or be empty.
        topic, prefix: where the log is in the store, as in its `WalConfig`; or `catalog`, as for
            `open_wal`.
        until_offset: take only records below it, as whole batches.
        until_time: take only what comes before the first record that was appended then or later,
            in seconds since 1970.
        file_name: for the new log.
        disk: the file system; for tests, see `danube_trio.testing`.
        expect, progress: called with how many bytes there are, and with how many more are done.

    Raises:
        ValueError: the target is not empty, the point is not in the store, or settings are bad.
        OffsetTrimmedError: `until_offset` is before the start of the log.
        FileNotFoundError: there is no log in the store, or not any more.
        LogLockedError: another restore is writing there.
        CorruptDataError: an object or the catalog is damaged, or an object is missing.
        UnsupportedFormatError: the log is of a later version.
        StoreUnavailableError, AccessDeniedError: from the store; the same call goes on later.
        OSError: the target cannot be written.

    Cancellation: at once. What is done stays in ``dir + ".restoring"`` for the next call.
    """
    target = directory_path("dir", dir)
    disk = disk if disk is not None else RealDisk()
    if catalog is None:
        where = WalConfig(topic_name=topic, cloud=CloudConfig(prefix=prefix))
        catalog = default_catalog(where, store)
    staging = Staging.of(disk, target, file_name)
    await disk.run(check_target, disk, target)
    try:
        for _ in range(LOOKS):
            plan = await plan_restore(
                store, catalog, until_offset=until_offset, until_time=until_time, disk=disk
            )
            expect(plan.fetch_bytes)
            try:
                return await _Restore(store, catalog, staging, plan, progress).run()
            except ObjectNotFoundError as error:
                await refuse_missing(store, catalog, plan.state, error)
    finally:
        with trio.CancelScope(shield=True):
            await disk.run(staging.end)
    raise CorruptDataError(
        "objects go away as fast as they are listed",
        path=catalog.url,
        advice="Who removes them? Stop that, and restore again",
    )


# ---- fetching


class _Restore:
    """One try, with one state of the catalog."""

    def __init__(
        self,
        store: CloudStore,
        catalog: Catalog,
        staging: Staging,
        plan: RestorePlan,
        progress: Callable[[int], object],
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._staging = staging
        self._disk = staging.disk
        self._plan = plan
        self._progress = progress
        self._segments: dict[int, Segment] = {}
        self._fetched = self._resumed = 0

    async def run(self) -> Restored:
        plan, staging = self._plan, self._staging
        await self._disk.run(staging.begin, plan.objects)
        await each(self._object, plan.objects, OBJECTS)
        segments = [self._segments[base] for base in sorted(self._segments)]
        publish = partial(staging.publish, plan.state, plan.end_offset, segments)
        directory_id = await self._disk.run(publish)
        return Restored(
            path=staging.target,
            start_offset=plan.start_offset,
            end_offset=plan.end_offset,
            objects=len(segments),
            size_bytes=sum(s.size_bytes for s in segments),
            fetched_bytes=self._fetched,
            resumed_bytes=self._resumed,
            last_time=segments[-1].last_time if segments else 0,
            directory_id=directory_id,
        )

    async def _object(self, wanted: Descriptor) -> None:
        plan, staging = self._plan, self._staging
        cut = plan.cut_bytes if wanted is plan.objects[-1] else 0
        source = f"{self._store.url}/{self._catalog.object_key(wanted.object_id)}"
        index = None
        if not cut:
            index = await self._disk.run(staging.reuse, wanted, source)
        if index is not None:
            self._resumed += wanted.size_bytes
            self._progress(wanted.size_bytes)
        else:
            file = await self._disk.run(staging.create, wanted.base)
            try:
                await self._fetch(file, wanted, source)
                keep = wanted.size_bytes - cut
                index = await self._disk.run(staging.finish, file, wanted, source, keep)
            finally:
                with trio.CancelScope(shield=True):
                    await self._disk.run(file.close)
        self._segments[wanted.base] = index.segment()

    async def _fetch(self, file: File, wanted: Descriptor, source: str) -> None:
        key, size = self._catalog.object_key(wanted.object_id), wanted.size_bytes
        position = crc = 0
        while position < size:
            stop = min(position + PIECE_BYTES, size)
            try:
                info, data = await self._store.get(key, position, stop)
            except ValueError as error:  # it does not reach as far as `position`
                raise _damage(str(error), source, wanted) from error
            if info.size_bytes != size or len(data) != stop - position:
                reason = f"the object has {info.size_bytes} bytes, and the catalog says {size}"
                raise _damage(reason, source, wanted)
            crc = await self._disk.run(_write, file, data, position, crc)
            position = stop
            self._fetched += len(data)
            self._progress(len(data))
        if crc != wanted.crc32:
            reason = f"the object's checksum is {crc:08x}, and the catalog says {wanted.crc32:08x}"
            raise _damage(reason, source, wanted)


def _write(file: File, data: bytes, position: int, crc: int) -> int:
    file.write_at(data, position)
    return crc32(data, crc)


def _damage(reason: str, source: str, wanted: Descriptor) -> CorruptDataError:
    return CorruptDataError(
        reason,
        path=source,
        offset=wanted.base,
        advice=f"Restore the object from a copy or an older version of it, or restore the log up "
        f"to offset {wanted.base}",
    )
