"""Opening under an object store: make directory and catalog agree, and take the next epoch.

`attach` is synchronous; it runs in the log's lane with its lock held, between reading the catalog
and publishing the take-over. Both are done by `take_over`: when somebody else published in between,
all of `attach` is done again with what the catalog says then. Each step is durable before the next,
and may be repeated:

1. *Whose is it?* Settings, directory and catalog must be of one log (`identity`). If the directory
   does not own the log any more, or went on apart from it, its tail is set aside.
2. *Recover*, with the objects as cover: local files may begin where objects end, a directory that
   knows less than the catalog goes on at the catalog's end, and the active segment is empty
   afterwards, because a segment never spans epochs.
3. *Save the epoch* in ``wal.meta``. Only then may it be published.
"""

from __future__ import annotations

import secrets
import uuid

import attrs
import trio

from danube_trio._core.catalog import CatalogState
from danube_trio._core.disk import Disk, Lane, OpenDirectory
from danube_trio._core.files import Meta, Trim, encode_document
from danube_trio._core.identity import check_log, check_topic
from danube_trio._core.segment import LogNames, SegmentList
from danube_trio._engine.files.directory import directory_crc, read_document, read_mark
from danube_trio._engine.files.recover import Cover, Recovered, recover
from danube_trio._engine.files.set_aside import belongs, disown, set_aside, went_on_apart
from danube_trio._engine.files.space import replace_with_room
from danube_trio.catalog import Catalog, CatalogSession, acquire
from danube_trio.catalog._base import SharedCatalog, other_codec
from danube_trio.catalog._claim import claim_prefix, refuse_beginning, refuse_older
from danube_trio.catalog._default import probe_once
from danube_trio.cloud import CloudStore
from danube_trio.config import WalConfig
from danube_trio.errors import Advice, CorruptDataError, StoreUnavailableError, bad_argument


async def take_over(
    lane: Lane,
    disk: OpenDirectory,
    config: WalConfig,
    cloud: tuple[CloudStore, Catalog],
    holder: str,
) -> tuple[Recovered, CatalogSession]:
    """Have the log be this directory's, in store and catalog.

    Raises what `attach` does, FencedError, and StoreUnavailableError if the store does not answer
    within ``open_timeout``, in which what the directory takes is not counted.
    """
    store, catalog = cloud
    timeout = config.cloud.open_timeout
    asking = trio.CancelScope(deadline=trio.current_time() + timeout)
    recovered: Recovered | None = None

    def attach_once(state: CatalogState | None) -> CatalogState:
        nonlocal recovered
        told: list[str] = []
        if recovered is not None:  # somebody published meanwhile: all of it again
            told, before = recovered.notes, recovered
            recovered = None  # whatever happens next, it is not abandoned twice
            before.tail.abandon()
        unique = f"{holder}, opening {secrets.token_hex(4)}"
        recovered, after = attach(disk, config, uuid.uuid4().hex, unique, catalog, state)
        recovered.notes[:0] = told
        recovered.tail.know_small_files()
        return after

    async def settle(state: CatalogState | None) -> CatalogState:
        """Make the directory agree with this state; returns the one that takes the next epoch."""
        if state is None:
            await refuse_beginning(*cloud)
        else:
            await refuse_older(*cloud, state)
            if state.log and not state.place:
                await claim_prefix(*cloud, state)
        # Recovering a large directory is not the store's silence.
        left = asking.deadline - trio.current_time()
        asking.deadline = float("inf")
        try:
            return await lane.run(attach_once, state)
        finally:
            asking.deadline = trio.current_time() + left

    try:
        with asking:
            await probe_once(store)
            state = await acquire(catalog, settle)
            if not state.place:
                await claim_prefix(*cloud, state)
            assert recovered is not None  # nothing is acquired before it was settled
            return recovered, CatalogSession(catalog, state)
        raise StoreUnavailableError(
            f"opening {config.dir}: {store.url} and {catalog.url} did not answer within "
            f"cloud.open_timeout={timeout:g} s; open it again when they do"
        )
    except BaseException:
        if recovered is not None:
            with trio.CancelScope(shield=True):
                await lane.run(recovered.tail.abandon)
        raise


def attach(
    disk: OpenDirectory,
    config: WalConfig,
    directory_id: str,
    holder: str,
    catalog: Catalog,
    state: CatalogState | None,
) -> tuple[Recovered, CatalogState]:
    """Returns the recovered log and the state to publish, which takes the next epoch.

    Args:
        directory_id: for a new directory.
        holder: who takes the epoch, for people; different at each call.
        catalog: says where in the store the log's objects are, and which layouts it takes.
        state: the newest one, None if nothing was ever published.

    Raises CorruptDataError, UnsupportedFormatError, ValueError, OSError, like `recover`.
    """
    assert config.dir is not None
    names = LogNames.of(config.dir, config.file_name)
    place = catalog.object_prefix
    meta = read_document(disk, names.meta, Meta)
    if isinstance(catalog, SharedCatalog):
        codec = state.codec if state is not None else meta.codec if meta else config.codec
        if codec != catalog.codec:
            raise ValueError(other_codec(codec, catalog.codec, catalog.url))
    notes: list[str] = []
    if meta is not None:
        check_topic(config.topic_name, meta.topic, names.directory)
    if state is None:
        _refuse_other_place(names, meta, place)
        _refuse_lost_catalog(disk, names)
        cover = Cover()
    else:
        check_topic(config.topic_name, state.topic, place)
        if meta is not None:
            meta = _joined(disk, names, meta, state)
            if belongs(meta, state) and went_on_apart(disk, names, meta, state):
                meta = disown(disk, names, meta)
            if not belongs(meta, state):
                notes = set_aside(disk, names, meta, state)
        cover = Cover(state.end, state.start_offset, state.codec, state.log)
    if meta is not None and not cover.log:
        cover = attrs.evolve(cover, log=meta.log or meta.directory_id)
    recovered = recover(disk, config, directory_id, cover)
    try:
        recovered.notes[:0] = notes
        if state is not None:  # it may know of records that this directory never had
            recovered.last_time = max(recovered.last_time, state.newest_time)
        after = _take_over(disk, recovered, holder, place, state)
    except BaseException:
        recovered.tail.abandon()
        raise
    return recovered, after


def _take_over(
    disk: Disk, recovered: Recovered, holder: str, place: str, state: CatalogState | None
) -> CatalogState:
    directory, meta = recovered.directory, recovered.directory.meta
    segments, start = recovered.segments, directory.start_offset
    before = state
    if before is None:
        before = CatalogState.begin(segments.first_base, meta.codec, meta.trailer)
    _check_seam(directory.names, segments, before.end, start)
    known = meta.epoch
    after = before.taken_over(meta.directory_id, holder, least_epoch=known)
    # A catalog that named its log before has claimed its prefix by now; see `catalog._claim`.
    after = after.named(meta.log, meta.topic, place if before.log else "")
    start = aligned_start(segments, after.end, start)
    if start > after.start_offset:
        after = after.trimmed(start)
    kept = _epochs_from(meta, before.end)
    epochs = (*kept, (after.epoch, recovered.next_offset))
    # The catalog never names an older epoch than now; of those since, any may be the one it names.
    writers = [(epoch, writer) for epoch, writer in meta.writers if epoch >= before.epoch]
    writers.append((after.epoch, after.writer))
    meta = attrs.evolve(meta, epochs=epochs, writers=tuple(writers), place=place)
    # Before the state is published: a directory that lost its own epoch could not say whose it is.
    replace_with_room(disk, directory.names, directory.names.meta, encode_document(meta))
    recovered.directory = attrs.evolve(directory, meta=meta)
    return after


def aligned_start(segments: SegmentList, catalog_end: int, start: int) -> int:
    """The highest start at or below `start` that the next object can begin at."""
    if start <= catalog_end or start < segments.first_base:
        return start
    segment = segments.find(start)
    return segment.base if segment is not None else segments.active_base


def _epochs_from(meta: Meta, end: int) -> tuple[tuple[int, int], ...]:
    """The epochs under which anything at or after `end` was written."""
    covering = [pair for pair in meta.epochs if pair[1] <= end][-1:]
    return (*covering, *(pair for pair in meta.epochs if pair[1] > end))


def _check_seam(names: LogNames, segments: SegmentList, end: int, start: int) -> None:
    """Where the objects end a local segment must begin, unless all in between was trimmed."""
    if end == segments.active_base or end < segments.first_base <= start:
        return
    if end < segments.first_base:
        raise CorruptDataError(
            f"records {end} to {segments.first_base} are neither in the catalog nor in a file",
            path=names.segment(end),
            offset=end,
            advice="Restore the file from a copy of the directory",
        )
    segment = segments.find(end)
    if segment is None or segment.base != end:
        raise CorruptDataError(
            f"the catalog ends at offset {end}, where no local segment begins",
            path=names.segment(segment.base if segment is not None else segments.active_base),
            offset=end,
            advice="Is this the catalog of another log? Check the prefix and the directory",
        )


def _joined(disk: Disk, names: LogNames, meta: Meta, state: CatalogState) -> Meta:
    """The meta of a directory that is one of this log's.

    One that never had a record is no log's yet, whatever id it was made with: another directory may
    have been faster to begin this one. One that had records, and never took an epoch, has no tail
    of this log: they are another's.
    """
    bases = names.segment_bases(disk.list_dir(names.directory))
    held = [base for base in bases if disk.file_size(names.segment(base))]
    if held and meta.epoch == 0 and not belongs(meta, state):
        raise CorruptDataError(
            f"the directory holds a log that never was in a store, and the catalog another one, "
            f"of {state.writer}",
            path=names.segment(held[0]),
            offset=held[0],
            advice="Nothing was changed. Check the prefix and the directory",
        )
    mark = read_mark(disk, names, directory_crc(meta))
    trim = read_document(disk, names.trim, Trim)
    trimmed = trim is not None and trim.first_local > 0
    if not held and not trimmed and (mark is None or not mark.durable_end):
        meta = attrs.evolve(meta, log=state.log)
    check_log(meta, state, names.meta)
    return meta


def _refuse_lost_catalog(disk: Disk, names: LogNames) -> None:
    """Nothing was ever published, they say: but part of this log is in objects only."""
    trim = read_document(disk, names.trim, Trim)
    if trim is not None and trim.local_start > trim.start_offset:
        raise CorruptDataError(
            f"records {trim.start_offset} to {trim.local_start} are in an object store, and "
            f"the catalog that names them is empty",
            path=names.trim,
            offset=trim.start_offset,
            advice="Is this the right store and prefix? Otherwise restore the catalog",
        )


def _refuse_other_place(names: LogNames, meta: Meta | None, place: str) -> None:
    """Nothing was ever published here, but this log was published elsewhere."""
    if meta is not None and meta.place not in ("", place):
        what = f" holds a log whose objects are below {meta.place!r}, and there is no log below "
        raise bad_argument("dir", names.directory, what, f"{place!r}: ", Advice.OWN_PLACE)
