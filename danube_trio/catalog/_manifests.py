"""The catalog in the object store itself: numbered manifests, each created once.

It needs put-if-absent and strong listing, nothing else: no server besides the store, no clock, no
lease. `_core.manifest` has the keys and the bytes.

**The rule.** Manifest ``n + 1`` follows manifest ``n``; of all that want to be it, `create` lets
one win. The highest number that was ever created counts, and is never deleted.

**Why creating is not enough.** Manifests below the highest are removed in time, so their numbers
become free, and a writer that slept through it (or a request that was late) can create one again.
Such a manifest never counts, and two looks find that out:

- *publish*: create ``n + 1``; then list what comes after it. Nothing: it counts, and was the newest
  just now. Anything: fenced.
- *latest*: list, get the highest, list what comes after it. Nothing: what was got is what counts.
  It cannot be a manifest that was created again, because then a higher one would exist. Anything
  (or the get found nothing): start again. A lower number is never an answer.

**Unknown outcomes.** The answer to a create may be lost, may come from the library's own second
try, or may be a conflict although nothing was stored. So whatever it says but success, only a look
counts: get ``n + 1``. Ours (it has our nonce): created. Another's: fenced. Nothing: list what comes
after it; anything: fenced, nothing: create again. A create that is still on its way then meets
either itself or a number that does not count.

**Index pages** are written before the manifest that names them first, and belong to it by number
and nonce. One that the newest manifest does not name, with a number that is not higher, can be
named by no later one: it is garbage, whoever finds that out.

**What is kept in memory**: the newest state seen, and its pages. A manifest that was the highest
and still is has not changed, so looking again costs one listing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.identity import check_place, check_topic
from danube_trio._core.manifest import (
    Manifest,
    Page,
    PageRef,
    check_successor,
    decode_manifest,
    decode_page,
    encode_manifest,
    encode_row,
    fold,
    manifest_name,
    manifest_sequence,
    page_sequence,
)
from danube_trio.catalog._patient import each, read_document
from danube_trio.catalog._retry import Backoff, Tries, look_twice
from danube_trio.cloud import CloudStore
from danube_trio.errors import (
    CorruptDataError,
    FencedError,
    PreconditionFailedError,
    StoreError,
    StoreUnavailableError,
    bad_argument,
)

log = logging.getLogger("danube_trio.catalog")


@attrs.frozen
class _Known:
    """A published state, and the pages that its manifest names."""

    state: CatalogState
    pages: tuple[Page, ...] = ()


class ManifestCatalog:
    """A `Catalog` of one log, below `prefix` in an object store.

    Args:
        store: the store. It must keep the promise of `create`; some servers do not.
        prefix: of all keys of this log, whole parts, ``topics/default/orders``. Nobody else's keys
            begin with it.
        topic: of the log. If the catalog names another, each look is a ValueError. "": any.
        fold_segments, fold_bytes: more segments than this, or about so many bytes of descriptors,
            and the oldest go into an index page. Guesses: a manifest is written at each upload, a
            page of 256 KiB once in many.
        requests: how many pages are read at a time.
        keep: how many manifests `collect` leaves, the newest included: readers that just found
            one still get it.
        backoff: for unknown outcomes.
    """

    def __init__(
        self,
        store: CloudStore,
        prefix: str,
        *,
        topic: str = "",
        fold_segments: int = 1000,
        fold_bytes: int = 256 * 1024,
        keep: int = 8,
        requests: int = 8,
        backoff: Backoff | None = None,
    ) -> None:
        counts = (("fold_segments", fold_segments), ("keep", keep), ("requests", requests))
        for name, value in counts:
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value!r}")
        if not prefix or prefix != prefix.strip("/"):
            raise bad_argument("prefix", prefix, ' must have parts, and no "/" around them')
        self._store = store
        self._prefix = prefix
        self._topic = topic
        self._fold_segments = fold_segments
        self._fold_bytes = fold_bytes
        self._keep = keep
        self._requests = requests
        self._backoff = backoff or Backoff()
        self._newest: _Known | None = None
        self._stuck: set[str] = set()  # keys that could not be removed: tried after all others
        # What the last manifest lists, by base: most of it is in the next one too.
        self._rows: dict[int, tuple[Descriptor, bytes]] = {}

    def __repr__(self) -> str:
        sequence = self._newest.state.sequence if self._newest else 0
        return f"<ManifestCatalog {self.url}, number {sequence} seen>"

    @property
    def url(self) -> str:
        """See `Catalog`."""
        return f"{self._store.url.rstrip('/')}/{self._prefix}"

    @property
    def object_prefix(self) -> str:
        """See `Catalog`."""
        return f"{self._prefix}/segments"

    def object_key(self, object_id: str) -> str:
        """See `Catalog`."""
        return f"{self.object_prefix}/{object_id}"

    @property
    def _manifests(self) -> str:
        return f"{self._prefix}/manifest"

    def _key(self, sequence: int) -> str:
        return f"{self._manifests}/{manifest_name(sequence)}"

    def _page_key(self, name: str) -> str:
        return f"{self._prefix}/pages/{name}"

    # ---- looking

    async def latest(self) -> CatalogState | None:
        """See `Catalog`. Raises StoreUnavailableError also when it was overtaken too often;
        ValueError if it is the catalog of another topic, or of a prefix that is folded into this.
        """
        tries = Tries(self._backoff.for_reading(), f"reading {self.url}")
        while True:
            top = await self._highest()
            if top is None:
                return None
            known = await self._read(top)
            if known is not None:
                return known.state
            await tries.again(None)

    async def _highest(self) -> int | None:
        """The highest manifest's number; None if there is none and never was."""
        known = self._newest
        seen = known.state.sequence if known else 0

        async def look() -> int | None:
            top = max(await self._list_manifests(max(seen - 1, 0)), default=None)
            if known and (top is None or top < seen):
                raise self._corrupt(
                    f"manifest {seen} was the newest, and there is none as new any more", seen
                )
            return top

        return await look_twice(look)

    async def _read(self, sequence: int) -> _Known | None:
        """The manifest with this number, if it is the highest and has its pages; else None."""
        known = self._newest
        if known and known.state.sequence == sequence:
            return known
        got = await self._get(sequence)
        if got is None or await self._superseded(sequence):
            return None
        manifest, _ = got
        check_topic(self._topic, manifest.topic, self.url)
        check_place(self.object_prefix, manifest.place, self.url)
        pages = await self._load(manifest.pages)
        if None in pages:
            if await self._superseded(sequence):
                return None
            missing = manifest.pages[pages.index(None)]
            raise self._corrupt(f"the index page {missing.name} is missing", sequence)
        try:
            whole = tuple(page for page in pages if page is not None)
            state = manifest.state(whole)
        except ValueError as error:
            raise self._corrupt(str(error), sequence) from error
        return self._learn(_Known(state, whole))

    def _learn(self, known: _Known) -> _Known:
        newest = self._newest
        if newest is None or newest.state.sequence < known.state.sequence:
            self._newest = known
        return known

    async def _list_manifests(self, after: int) -> list[int]:
        """The numbers of the manifests after this one."""
        listed = await self._store.list_objects(self._manifests, after=self._key(after))
        names = (info.key.removeprefix(f"{self._manifests}/") for info in listed)
        numbers = (manifest_sequence(name) for name in names)
        return [number for number in numbers if number is not None and number > after]

    async def _superseded(self, sequence: int) -> bool:
        """Whether a higher number than this one, which exists, does. The second look.

        The list begins with the number itself. One that does not even have that, nor a higher one,
        is late, or is no list: StoreUnavailableError.
        """
        listed = await self._list_manifests(sequence - 1)
        if not listed:
            raise StoreUnavailableError(
                f"{self.url}: a list does not show manifest {sequence}, which is there; whether "
                f"there are later ones is not known"
            )
        return max(listed) > sequence

    async def _get(self, sequence: int) -> tuple[Manifest, bytes] | None:
        """The manifest with this number, and its bytes; None if there is none."""
        return await read_document(
            self._store,
            self._key(sequence),
            lambda data: (decode_manifest(data, sequence), data),
            lambda reason: self._corrupt(reason, sequence),
        )

    async def _load(self, refs: Sequence[PageRef]) -> list[Page | None]:
        """These pages; None for each that is not there. Several at a time: a log may have many."""
        known = self._newest.pages if self._newest else ()
        pages: dict[PageRef, Page | None] = {page.ref: page for page in known}

        async def load(ref: PageRef) -> None:
            key = self._page_key(ref.name)
            pages[ref] = await read_document(
                self._store,
                key,
                lambda data: decode_page(data, ref),
                lambda why: CorruptDataError(why, path=key, offset=ref.base, advice=_ADVICE),
            )

        await each(load, [ref for ref in refs if ref not in pages], self._requests)
        return [pages[ref] for ref in refs]

    def _corrupt(self, reason: str, sequence: int) -> CorruptDataError:
        where = f"{self.url}/manifest/{manifest_name(sequence)}"
        return CorruptDataError(reason, path=where, advice=_ADVICE)

    # ---- publishing

    async def publish(self, before: CatalogState | None, after: CatalogState) -> CatalogState:
        """See `Catalog`.

        Raises ValueError if `after` is no successor of `before`. Cancelled anywhere, the same call
        can be made again.
        """
        after = check_successor(before, after)
        known = self._newest
        kept, groups, listed = fold(
            after.segments,
            known.pages if known and before and known.state.nonce == before.nonce else (),
            limit=self._fold_segments,
            limit_bytes=self._fold_bytes,
        )
        new = [Page.of(group, after.sequence, after.nonce) for group in groups]
        pages = (*kept, *new)
        assert not pages or pages[-1].ref.end == (listed[0].base if listed else after.end), after
        data = encode_manifest(after, pages, self._encode_rows(listed))
        tries = Tries(self._backoff, f"publishing number {after.sequence} of {self.url}")
        while (stored := await self._try(after, data, new, tries)) is None:
            pass
        # Another handle may have published the same, in other pages: those are not known here.
        if stored == data:
            self._learn(_Known(after, pages))
        return after

    def _encode_rows(self, listed: Sequence[Descriptor]) -> list[bytes]:
        rows: dict[int, tuple[Descriptor, bytes]] = {}
        for d in listed:
            known = self._rows.get(d.base)
            rows[d.base] = known if known and known[0] == d else (d, encode_row(d))
        self._rows = rows
        return [row for _, row in rows.values()]

    async def _try(
        self, after: CatalogState, data: bytes, pages: list[Page], tries: Tries
    ) -> bytes | None:
        """One attempt: the bytes of the published manifest, or None: not known, try again.

        Raises FencedError. Removes from `pages` what is stored.
        """
        try:
            while pages:
                await self._store.put(self._page_key(pages[0].ref.name), pages[0].encode())
                del pages[0]
            try:
                await self._store.create(self._key(after.sequence), data)
                stored = data
            except (PreconditionFailedError, StoreUnavailableError) as error:
                found = await self._find(after)
                if found is None:
                    await tries.again(error)
                    return None
                stored = found
            if await self._superseded(after.sequence):
                raise FencedError(after.epoch, f"a writer that published after {after.sequence}")
        except StoreUnavailableError as error:
            await tries.again(error)
            return None
        return stored

    async def _find(self, after: CatalogState) -> bytes | None:
        """The manifest's bytes, if it is there and ours; None if there is none.

        FencedError if it is another's, or later ones exist.
        """
        got = await self._get(after.sequence)
        if got is not None:
            found, data = got
            if found.nonce == after.nonce:
                return data
            raise FencedError(after.epoch, f"{found.writer or 'a writer'} (epoch {found.epoch})")
        if await self._list_manifests(after.sequence):
            raise FencedError(after.epoch, f"a writer that published after {after.sequence}")
        return None

    # ---- collecting

    async def collect(self, state: CatalogState) -> int:
        """See `Catalog`: manifests below the newest few, and pages that `state` does not name.

        Safe to call at any time, even for a writer that is fenced and does not know: what it
        removes counts no more, and never will.
        """
        removed = 0
        try:
            numbers = await self._list_manifests(0)
            # Later ones may exist; what is far below `state` is superseded all the more.
            old = [n for n in numbers if n <= state.sequence - self._keep and n < max(numbers)]
            keys = [self._key(number) for number in old]
            known = self._newest
            if known and known.state.nonce == state.nonce:
                keys += await self._list_unnamed_pages(known)
            # One that stays keeps no other from going, the next time at the latest.
            for key in sorted(keys, key=self._stuck.__contains__):
                try:
                    await self._store.delete(key)
                except StoreError:
                    self._stuck.add(key)
                    raise
                removed += 1
        except StoreError as error:
            log.info("collecting %s stopped, and goes on another time: %s", self.url, error)
        return removed

    async def _list_unnamed_pages(self, known: _Known) -> list[str]:
        named = {page.ref.name for page in known.pages}
        prefix = f"{self._prefix}/pages/"
        unnamed: list[str] = []
        for info in await self._store.list_objects(prefix.rstrip("/")):
            name = info.key.removeprefix(prefix)
            number = page_sequence(name)
            if number is not None and number <= known.state.sequence and name not in named:
                unnamed.append(info.key)
        return unnamed


_ADVICE = (
    "Nothing was changed. Compare the store with a copy, or restore the catalog from the newest "
    "manifest that is whole"
)
