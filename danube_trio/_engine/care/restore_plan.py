"""What a restore fetches, and where the log will end; nothing is written.

Batches are atomic, so the log ends at the last end of a batch at or below `until_offset`; of
`until_time` before the first record that was appended then or later, which is where
``StartPosition.timestamp`` begins. The catalog's index says in which stretch of which object that
is, and one fetch of that stretch says where.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import time as wall_clock

import attrs

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.clocks import MAX_AHEAD, find_time, latest_believed
from danube_trio._core.disk import Disk
from danube_trio._core.frame import Block, batch_boundaries
from danube_trio._core.times import microseconds, moment
from danube_trio._engine.read.objects import CloudTier
from danube_trio.catalog import Catalog
from danube_trio.catalog._default import readable_state
from danube_trio.cloud import CloudStore
from danube_trio.config import CloudConfig
from danube_trio.errors import (
    CorruptDataError,
    ObjectNotFoundError,
    OffsetTrimmedError,
    bad_argument,
)

# How often retention may get in the way before it is taken for something else.
LOOKS = 20


@attrs.frozen
class RestorePlan:
    """What a restore fetches.

    Attributes:
        state: of the catalog.
        objects: oldest first; the last one may be cut.
        end_offset: where the fork ends.
        cut_bytes: bytes of the last object that are behind it.
        last_time: append time (us) of the last record, 0 if unknown or if there is none.
    """

    state: CatalogState
    objects: tuple[Descriptor, ...]
    end_offset: int
    cut_bytes: int = 0
    last_time: int = 0

    @property
    def start_offset(self) -> int:
        """Where the fork begins."""
        return self.state.start_offset

    @property
    def fetch_bytes(self) -> int:
        """The size of all objects."""
        return sum(d.size_bytes for d in self.objects)


async def plan_restore(
    store: CloudStore,
    catalog: Catalog,
    *,
    until_offset: int | None = None,
    until_time: float | None = None,
    disk: Disk,
) -> RestorePlan:
    """Say what a restore would fetch, and where the log would end.

    Raises as `restore_log` does."""
    _check_until(until_offset, until_time)
    for _ in range(LOOKS):
        state = await readable_state(catalog)
        tier = CloudTier.of(store, catalog, state, CloudConfig(readahead=0), disk.run)
        try:
            if until_offset is not None:
                return await _until_offset(tier, state, until_offset)
            if until_time is not None:
                return await _until_time(tier, state, until_time)
        except ObjectNotFoundError as error:
            await refuse_missing(store, catalog, state, error)
            continue
        last = state.segments[-1].last_time if state.segments else 0
        return RestorePlan(state, state.segments, state.end, 0, last)
    raise ValueError(f"{catalog.url}: the log is trimmed as fast as it is looked at: try again")


# ---- the point


def _check_until(offset: int | None, time: float | None) -> None:
    if offset is not None and time is not None:
        raise ValueError("until_offset and until_time exclude each other")
    if offset is not None and (isinstance(offset, bool) or offset < 0):
        raise bad_argument("until_offset", offset, " must be an offset, 0 or more")
    if time is not None:
        microseconds(time, "until_time")


async def _until_offset(tier: CloudTier, state: CatalogState, until: int) -> RestorePlan:
    if until > state.end:
        what = f" is beyond what the store holds, which ends at {state.end}"
        raise bad_argument("until_offset", until, what)
    if until < state.start_offset:
        raise OffsetTrimmedError(until, state.start_offset)
    last = state.find(until)
    if last is None or until == last.base:
        return _cut(state, until)
    block = await tier.block(until)
    end, position, time = block.start, _place_of(last, block.start), 0
    for found in _batch_ends(block, position):
        if found[0] > until:
            break
        end, position, time = found
    if end == block.start > max(last.base, state.start_offset):
        time = (await tier.block(end - 1)).last_time
    return _cut(state, end, last, position, time)


async def _until_time(tier: CloudTier, state: CatalogState, until: float) -> RestorePlan:
    time = microseconds(until, "until_time")
    latest = latest_believed(time, wall_clock(), MAX_AHEAD)
    runs = [(d.base, d.first_time, d.last_time) for d in state.segments]
    at = find_time(runs, time, latest, state.end)
    while (last := state.find(at)) is not None:
        if at == state.first_base and time <= last.first_time:
            first = moment(last.first_time / 1e6)
            what = f": the first record in the store was appended later, at {first}"
            raise bad_argument("until_time", until, what)
        older = [entry for entry in last.index if entry[2] < time]
        plan, found = _cut(state, last.base), last.first_time
        if older:
            # The first record that is too late is in this stretch, or the first one after it.
            block = await tier.block(max(older[-1][0], state.start_offset))
            kept = (block.start, _place_of(last, block.start), 0)
            found = next((entry[2] for entry in last.index if entry[2] >= time), last.last_time)
            for batch in _batch_ends(block, kept[1]):
                if batch[2] >= time:
                    found = batch[2]
                    break
                kept = batch
            end, position, before = kept
            plan = _cut(state, end, last, position, before)
        if found <= latest:
            return plan
        later = (run for run in runs if run[0] > last.base)
        at = find_time(later, time, latest, state.end, last.base)
        if at == last.base:
            return plan
    newest = state.segments[-1].last_time if state.segments else 0
    return RestorePlan(state, state.segments, state.end, 0, newest)


def _batch_ends(block: Block, position: int) -> Iterator[tuple[int, int, int]]:
    """Where each batch of a stretch ends: offset and position, and its time."""
    for i, time in batch_boundaries(block.data, block.positions):
        yield block.start + i, position + block.positions[i], time


def _place_of(descriptor: Descriptor, offset: int) -> int:
    """The position of a stretch's first byte."""
    return next((position for at, position, _ in descriptor.index if at == offset), 0)


def _cut(
    state: CatalogState, end: int, last: Descriptor | None = None, position: int = 0, time: int = 0
) -> RestorePlan:
    """The plan that ends at `end`, which is byte `position` of `last`."""
    if end <= state.start_offset:  # a start in the middle of a batch
        return RestorePlan(state, (), state.start_offset)
    objects = tuple(d for d in state.segments if d.base < end)
    if last is None or end == last.base:
        return RestorePlan(state, objects, end, 0, objects[-1].last_time)
    return RestorePlan(state, objects, end, last.size_bytes - position, time)


async def refuse_missing(
    store: CloudStore, catalog: Catalog, state: CatalogState, error: ObjectNotFoundError
) -> None:
    """Return if retention took the object, which the catalog says then."""
    now = await readable_state(catalog)
    if now.segments[:1] == state.segments[:1]:
        raise CorruptDataError(
            f"an object is missing: {error}",
            path=store.url,
            offset=now.start_offset,
            advice="Restore the object from a copy or an older version of it",
        ) from error
