"""Verification of what a log has in its object store. Changes nothing.

Every object that the catalog names is read to its end: its size, the CRC of all its bytes, every
frame (order, CRC, trailer, batches), every message by decoding it strictly, every entry of its
index against the batch that it points at, and where its records end. `SegmentCheck` does that for
files and objects alike: an `ObjectFile` is an object that can be read like a file. It runs in a
thread, and asks the event loop for the next piece, so memory is bounded by two pieces.

What no catalog names is noted: uploads that were never finished, for the log's owner to remove.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from itertools import pairwise
from time import time as wall_clock

import attrs
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.clocks import MAX_AHEAD
from danube_trio._core.codec import CODECS
from danube_trio._core.crc import crc32
from danube_trio._core.disk import Disk
from danube_trio._core.identity import check_log
from danube_trio._core.index import SparseIndex
from danube_trio._engine.care.verify_segment import Finding, SegmentCheck, ignore
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.files.set_aside import belongs, same_records
from danube_trio.catalog import Catalog
from danube_trio.catalog._claim import newer_objects
from danube_trio.catalog._patient import PatientStore, latest_state
from danube_trio.cloud import CloudStore
from danube_trio.errors import CorruptDataError, ObjectNotFoundError

PIECE_BYTES = 4 << 20
# Of what no catalog names; the summary counts all.
MOST_STRANGERS = 100


@attrs.define(eq=False)
class ObjectsVerified:
    """What was read.

    Attributes:
        state: of the catalog, after which nothing new was looked at.
        objects, records, size_bytes: how many were checked.
        damaged: bases of the objects with a problem.
    """

    state: CatalogState
    objects: int = 0
    records: int = 0
    size_bytes: int = 0
    damaged: list[int] = attrs.Factory(list[int])


async def verify_objects(
    store: CloudStore,
    catalog: Catalog,
    state: CatalogState,
    report: Callable[[Finding], object],
    *,
    wanted: Callable[[Descriptor], bool] = lambda descriptor: True,
    expect: Callable[[int], object] = ignore,
    progress: Callable[[int], object] = ignore,
) -> ObjectsVerified:
    """Check the objects of this state; `report` is called with each finding, at once.

    Args:
        wanted: which objects to check.
        expect, progress: called with how many bytes there are, and how many more are checked.

    Raises StoreUnavailableError, AccessDeniedError, OSError. Can be cancelled.
    """
    store = PatientStore(store)
    chosen = [d for d in state.segments if wanted(d)]
    verified = ObjectsVerified(state)
    expect(sum(d.size_bytes for d in chosen))
    for descriptor in chosen:
        key = catalog.object_key(descriptor.object_id)
        found: list[Finding] = []
        try:
            for look in (progress, ignore):  # a damaged answer is asked for again
                found.clear()
                records = await trio.to_thread.run_sync(
                    _check, store, key, descriptor, state.codec, found.append, look
                )
                if not any(finding.severity == "problem" for finding in found):
                    break
        except ObjectNotFoundError:
            if await _was_trimmed(catalog, descriptor):
                continue
            path = f"{store.url}/{key}"
            found = [Finding("problem", "the object is missing", path, offset=descriptor.base)]
            records = 0
        for finding in found:
            report(finding)
        if any(finding.severity == "problem" for finding in found):
            verified.damaged.append(descriptor.base)
        verified.objects += 1
        verified.records += records
        verified.size_bytes += descriptor.size_bytes
    return verified


def compare(disk: Disk, directory: Directory, state: CatalogState) -> Iterator[Finding]:
    """Do a log's directory and its catalog fit together? Yields what the next open would meet.

    Reads every local segment that objects cover. Blocks.
    """
    names, meta, start = directory.names, directory.meta, directory.start_offset
    try:
        check_log(meta, state, names.meta)
    except CorruptDataError as error:
        yield Finding("problem", error.reason, names.meta)
        return
    if not belongs(meta, state):
        reason = (
            f"{state.writer or 'another directory'} took the log over (epoch {state.epoch}): the "
            f"next open sets aside what is not uploaded"
        )
        yield Finding("warning", reason, names.meta)
        return
    first = directory.bases[0] if directory.bases else directory.local_start
    if state.end < first and start < first:
        reason = f"records {max(state.end, start)} to {first} are neither in the catalog nor here"
        path = names.segment(state.end)
        yield Finding("problem", reason, path, offset=max(state.end, start))
    before = [base for base in directory.bases if base < state.end]
    if before and state.end < directory.bases[-1] and state.end not in directory.bases:
        reason = f"the catalog ends at offset {state.end}, where no local segment begins"
        yield Finding("problem", reason, names.segment(before[-1]), offset=state.end)
    if start > state.start_offset and start < state.end:
        reason = f"the log was trimmed up to {start}, and the catalog up to {state.start_offset}"
        yield Finding("note", f"{reason}; the next open tells it", names.trim)
    for base, end in pairwise([*directory.bases, None]):
        assert base is not None
        covering = state.find(base)
        path = names.segment(base)
        try:
            if covering and same_records(disk, path, base, end or base + 1, covering) is False:
                reason = (
                    f"its records are not those that the store has at these offsets, in "
                    f"{covering.object_id}: the directory and a copy of it went on apart, or it "
                    f"was restored from a copy; the next open sets aside what the store has not"
                )
                yield Finding("problem", reason, path, offset=base)
        except FileNotFoundError:
            continue  # trimmed meanwhile, or missing, which the directory's own check says


async def note_strangers(
    store: CloudStore, catalog: Catalog, state: CatalogState, report: Callable[[Finding], object]
) -> None:
    """Report, as notes, the objects that this state does not name; newer ones are a problem."""
    newer = await newer_objects(PatientStore(store), catalog, state)
    if newer and await latest_state(catalog) == state:
        reason = (
            f"the catalog is older than {len(newer)} of the objects that belong to it: it was lost "
            f"or restored from a copy, and the next open refuses it"
        )
        report(Finding("problem", reason, f"{store.url}/{newer[0]}"))
    named = {catalog.object_key(d.object_id) for d in state.segments}
    strangers = [
        info.key
        for info in await PatientStore(store).list_objects(catalog.object_prefix)
        if info.key not in named
    ]
    for key in strangers[:MOST_STRANGERS]:
        reason = "the catalog does not name it; the log's owner removes it in time"
        report(Finding("note", reason, f"{store.url}/{key}"))


async def _was_trimmed(catalog: Catalog, descriptor: Descriptor) -> bool:
    now = await latest_state(catalog)
    return now is None or now.deleted or now.start_offset >= descriptor.end


def _check(
    store: CloudStore,
    key: str,
    descriptor: Descriptor,
    codec: str,
    report: Callable[[Finding], object],
    progress: Callable[[int], object],
) -> int:
    """Check one object; returns how many records are good. Runs in a thread of trio's."""
    path, size = f"{store.url}/{key}", descriptor.size_bytes
    file = ObjectFile(store, key, progress)
    index = SparseIndex(descriptor.base)
    for offset, position, time in descriptor.index:
        index.offsets.append(offset)
        index.positions.append(position)
        index.times.append(time)
    check = SegmentCheck(
        path,
        descriptor.base,
        CODECS[codec],
        index=index,
        index_path=path,
        latest_time=int((wall_clock() + MAX_AHEAD) * 1e6),
    )
    if file.size() != size:
        reason = f"the object has {file.size()} bytes, and the catalog says {size}"
        report(Finding("problem", reason, path, offset=descriptor.base))
    for finding in check.run(file, file.size()):
        report(finding)
    for finding in check.rest_of_index():
        report(attrs.evolve(finding, reason=f"in the catalog, {finding.reason}"))
    crc = file.whole_crc()
    if crc != descriptor.crc32:
        reason = f"its checksum is {crc:08x}, and the catalog says {descriptor.crc32:08x}"
        report(Finding("problem", reason, path, offset=descriptor.base))
    if not check.whole:
        report(Finding("problem", "the last batch is not whole", path, check.position))
    if check.offset != descriptor.end:
        reason = f"its records end at offset {check.offset}, the catalog says {descriptor.end}"
        report(Finding("problem", reason, path, check.position, check.offset))
    times, said = (check.first_time, check.last_time), (descriptor.first_time, descriptor.last_time)
    if not check.damaged and times != said and all(said):
        reason = "the times of its first and last record are others in the catalog"
        report(Finding("problem", reason, path))
    return check.records


class ObjectFile:
    """An object, read like a file (`Readable`) from a thread of trio's; keeps two pieces.

    The CRC of all bytes is computed on the way, as far as they are read in order.
    """

    def __init__(self, store: CloudStore, key: str, progress: Callable[[int], object]) -> None:
        self._store = store
        self._key = key
        self._path = f"{store.url}/{key}"
        self._progress = progress
        self._pieces: dict[int, bytes] = {}
        self._crc = 0
        self._crc_end = 0
        self._size = 0
        self._size = self._fetch(0)

    @property
    def path(self) -> str:
        return self._path

    def size(self) -> int:
        return self._size

    def read_at(self, size: int, position: int) -> bytes:
        end = min(position + size, self._size)
        parts: list[bytes] = []
        while position < end:
            number, skip = divmod(position, PIECE_BYTES)
            if number not in self._pieces:
                self._fetch(number)
            part = self._pieces[number][skip : skip + end - position]
            if not part:
                raise OSError(errno.EIO, "the object became shorter while it was read", self._path)
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def whole_crc(self) -> int:
        """The CRC of all bytes; reads what was not read yet."""
        while self._crc_end < self._size:
            self._fetch(self._crc_end // PIECE_BYTES)
        return self._crc

    def _fetch(self, number: int) -> int:
        """Get one piece; returns the size of the object."""
        start = number * PIECE_BYTES
        try:
            info, data = trio.from_thread.run(
                self._store.get, self._key, start, start + PIECE_BYTES
            )
        except ValueError as error:  # it does not reach as far as `start`
            raise OSError(errno.EIO, f"the object was replaced: {error}", self._path) from error
        if len(self._pieces) > 1:
            del self._pieces[next(iter(self._pieces))]
        self._pieces[number] = data
        if start == self._crc_end:
            self._crc = crc32(data, self._crc)
            self._crc_end += len(data)
            trio.from_thread.run_sync(self._progress, len(data))
            if not data and start < self._size:
                raise OSError(errno.EIO, "the object became shorter while it was read", self._path)
        return info.size_bytes
