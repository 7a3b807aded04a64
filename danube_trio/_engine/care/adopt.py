"""Making a catalog anew of the objects that it lost.

An object is a run of whole frames, and its name says at which offset it begins, and in which epoch
it was uploaded. So where there is no catalog, or one that is older than its objects, they tell
themselves what it said: each is read to its end and verified, and continues the one before. Of
several that begin at the same offset the one of the latest epoch counts: whoever took the log over
began at the end of what was in the catalog then, so the earlier ones were in none.

What cannot be told is what was trimmed: records whose objects were not removed yet come back,
unless the directory says that they were trimmed. And a log with a hole between its objects is none:
either these were trimmed, or one is missing; whoever knows removes the first, or puts the other
back.

The new state names no owner, so that every directory of the log may go on with it. Its local tail
is compared with the objects then, as always (`_engine.files.set_aside`). Its epoch is the highest
of all objects, and its number higher than any that a writer may have given: where manifests are
numbered, the milliseconds since 1970. So a writer that lives on is fenced.

Nothing is published unless the catalog still is what it was when the objects were read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby

import attrs
import trio

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.codec import CODECS, DEFAULT_CODEC
from danube_trio._core.frame import TRAILER_VERSION
from danube_trio._engine.care.verify_objects import ObjectFile
from danube_trio._engine.care.verify_segment import SegmentCheck, ignore
from danube_trio._engine.files.directory import Directory
from danube_trio._engine.files.segments import build_index
from danube_trio.catalog import Catalog, ManifestCatalog, fresh, object_parts
from danube_trio.catalog._claim import claim_prefix, newer_objects, read_claim
from danube_trio.catalog._danube import MAX_ADDED
from danube_trio.catalog._patient import PatientStore, latest_state
from danube_trio.cloud import CloudStore, ObjectInfo
from danube_trio.config import CloudConfig
from danube_trio.errors import FencedError, ObjectNotFoundError


@attrs.frozen
class Adoption:
    """What would be adopted.

    Attributes:
        before: what the catalog says; None: nothing.
        after: what it would say.
        added: the objects that it would name, oldest first.
        refused: path and reason of what keeps this from being done. Empty: it can be done.
        left: path and reason of what is no part of it.
    """

    before: CatalogState | None
    after: CatalogState
    added: tuple[Descriptor, ...]
    refused: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]

    def lines(self, catalog: Catalog) -> list[tuple[str, str]]:
        """Path and text of each step."""
        said = "is empty" if self.before is None else f"ends at {self.before.end}"
        text = (
            f"the catalog {said}, and is made anew of {len(self.added)} verified objects: the log "
            f"would be records {self.after.start_offset} to {self.after.end}, and the next epoch "
            f"{self.after.epoch + 1}"
        )
        return [(catalog.url, text)]


async def plan_adoption(
    store: CloudStore,
    catalog: Catalog,
    directory: Directory | None = None,
    *,
    progress: Callable[[int], object] = ignore,
) -> Adoption | None:
    """What objects that are newer than the catalog say; None if there are none. Changes nothing.

    Args:
        directory: of the log, if it is there: it knows what was trimmed.

    Raises as `Catalog.latest` and `CloudStore.get`.
    """
    store = PatientStore(store)
    before = await latest_state(catalog)
    newer = await newer_objects(store, catalog, before)
    if not newer or (await latest_state(catalog)) != before:
        return None
    below = f"{catalog.object_prefix}/"
    listed: list[tuple[int, int, ObjectInfo]] = []
    epoch = before.epoch if before is not None else 0
    for info in await store.list_objects(catalog.object_prefix):
        if (parts := object_parts(info.key.removeprefix(below))) is not None:
            epoch = max(epoch, parts[1])
            listed.append((*parts, info))
    listed.sort(key=lambda entry: (entry[0], -entry[1], entry[2].key))
    run = _Run(store, below, progress)
    await run.walk(listed, before.end if before is not None else -1)
    meta = directory.meta if directory is not None else None
    codec = meta.codec if meta is not None else await run.codec()
    trailer = meta.trailer if meta is not None else TRAILER_VERSION
    claim = await read_claim(store, catalog)
    state = before or CatalogState.begin(run.start, codec, trailer)
    log, topic = (claim.log, claim.topic) if claim is not None else ("", "")
    if meta is not None:
        log, topic = log or meta.log, topic or meta.topic
    after = state.adopted(epoch, tuple(run.found)).named(log, topic, state.place)
    if directory is not None and after.start_offset < directory.start_offset <= after.end:
        after = after.trimmed(directory.start_offset)
    return Adoption(before, after, tuple(run.found), tuple(run.refused), tuple(run.left))


class _Run:
    """Objects that continue one another, verified."""

    def __init__(self, store: CloudStore, below: str, progress: Callable[[int], object]) -> None:
        self.found: list[Descriptor] = []
        self.refused: list[tuple[str, str]] = []
        self.left: list[tuple[str, str]] = []
        self.start = 0
        self._end = -1
        self._store = store
        self._below = below
        self._progress = progress

    async def walk(self, listed: list[tuple[int, int, ObjectInfo]], end: int) -> None:
        """Begin at `end`, or if it is -1 with the first one."""
        self._end = end
        for base, group in groupby(listed, key=lambda entry: entry[0]):
            if base < self._end:
                continue  # the one that has its records is later, and was named by a catalog
            objects = list(group)
            if self._end >= 0 and base > self._end:
                reason = (
                    f"records {self._end} to {base} are in no whole object: put it back from a "
                    f"copy or, if they were trimmed, remove the objects before {base}"
                )
                self.refused.append((self._path(objects[0][2]), reason))
                return
            for _, epoch, info in objects:
                if await self._add(base, epoch, info):
                    break
        if self._end < 0:
            self._end = 0

    async def _add(self, base: int, epoch: int, info: ObjectInfo) -> bool:
        """Verify an object, and add it; False if it is not whole."""
        try:
            found = await trio.to_thread.run_sync(self._verify, base, epoch, info)
        except (ObjectNotFoundError, OSError) as error:
            found = f"{error}"
        if isinstance(found, str):
            self.left.append((self._path(info), f"{found}: it is not adopted"))
            return False
        if not self.found and self._end < 0:
            self.start = base
        self.found.append(found)
        self._end = found.end
        return True

    def _path(self, info: ObjectInfo) -> str:
        return f"{self._store.url}/{info.key}"

    def _verify(self, base: int, epoch: int, info: ObjectInfo) -> Descriptor | str:
        """The object's descriptor, or why there is none. Runs in a thread of trio's."""
        file = ObjectFile(self._store, info.key, self._progress)
        size = file.size()
        index, walk = build_index(file, base, size=size)
        if walk.fault is not None or index.size_bytes != size or index.end == base:
            why = walk.fault.reason if walk.fault is not None else "its last batch is not whole"
            return f"damaged at byte {walk.position}, offset {walk.offset}: {why}"
        return Descriptor(
            base=base,
            end=index.end,
            size_bytes=size,
            object_id=info.key.removeprefix(self._below),
            crc32=file.whole_crc(),
            etag=info.etag,
            created_at=int(info.modified),
            epoch=epoch,
            first_time=index.first_time,
            last_time=index.last_time,
            index=tuple(index.thinned(CloudConfig().block_bytes)),
        )

    async def codec(self) -> str:
        """The layout in which all messages of the first object can be read; the default if none."""
        for name in (DEFAULT_CODEC, *CODECS):
            if not self.found:
                break
            if await trio.to_thread.run_sync(self._reads, name):
                return name
        return DEFAULT_CODEC

    def _reads(self, codec: str) -> bool:
        first = self.found[0]
        key = self._below + first.object_id
        file = ObjectFile(self._store, key, self._progress)
        check = SegmentCheck(key, first.base, CODECS[codec])
        return not any(check.run(file, file.size()))


async def adopt_objects(store: CloudStore, catalog: Catalog, shown: Adoption) -> CatalogState:
    """Publish it; the objects were verified for `shown`. Returns the new state.

    Raises FencedError if the catalog is not what it was; and what publishing raises.
    """
    if await latest_state(catalog) != shown.before or shown.refused:
        raise FencedError(shown.after.epoch, "somebody who changed the catalog meanwhile")
    if shown.after.log:
        await claim_prefix(store, catalog, shown.after)
    before = shown.before
    state = before or CatalogState.begin(
        shown.added[0].base, shown.after.codec, shown.after.trailer
    )
    if isinstance(catalog, ManifestCatalog):
        number = time.time_ns() // 1_000_000
        before = attrs.evolve(state, sequence=max(number, state.sequence), nonce="")
        return await catalog.publish(before, fresh(shown.after))
    # As many as one transaction takes.
    old = len(state.segments)
    for i in range(0, len(shown.added), MAX_ADDED):
        step = state.adopted(shown.after.epoch, shown.added[i : i + MAX_ADDED])
        step = step.named(shown.after.log, shown.after.topic, shown.after.place)
        before = state = await catalog.publish(before, fresh(step))
    assert len(state.segments) == old + len(shown.added), state
    if shown.after.start_offset > state.start_offset:
        state = await catalog.publish(state, fresh(state.trimmed(shown.after.start_offset)))
    return state
