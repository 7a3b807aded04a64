"""The bytes of a catalog that lives in the object store: manifests and index pages, both ways.

Below a log's prefix there are, and `catalog._manifests` says how they are used:

- ``manifest/{sequence:020d}``: one state of the catalog. The highest number counts.
- ``pages/{sequence:020d}-{nonce}-{base:020d}-{crc32:08x}``: a run of old descriptors, so that the
  manifests of a long log stay small. Written once, before the manifest `sequence` that names it
  first. Number and nonce make it that publication's own, so whether it is needed can be told from
  the newest manifest alone; the CRC makes equal names mean equal bytes.
- ``segments/{base:020d}-{epoch:010d}-{random}.dnb1``: the objects.

Manifest and page are one line of JSON and a line with its CRC, as `wal.meta` is. A descriptor's
index is one flat list: offset, position and time of each entry, as differences to the entry before
(the first to `base`, 0 and 0).

Decoding trusts nothing. What it gives back is a state that the transitions could have made: the
segments are dense and cover ``[start_offset, end)`` exactly. Everything else is a ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain
from operator import lt, sub
from typing import Any, Self, cast

import attrs

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.crc import crc32
from danube_trio._core.documents import compact, converter, omit_defaults, parse
from danube_trio._core.files import with_crc, without_crc
from danube_trio._core.numbers import DIGITS, number_in

FORMAT = 1
# What a descriptor and an entry of its index weigh in a manifest, in bytes; about, for folding.
_ROW_BYTES = 300
_ENTRY_BYTES = 20

_MANIFEST = re.compile(DIGITS)
_PAGE = re.compile(rf"({DIGITS})-[^/]+")
_OBJECT = re.compile(rf"({DIGITS})-([0-9]{{10,20}})-[0-9A-Za-z]+\.dnb1")


# ---- names


def manifest_name(sequence: int) -> str:
    """``{sequence:020d}``, below ``manifest/``."""
    return f"{sequence:020d}"


def manifest_sequence(name: str) -> int | None:
    """The number of a manifest, or None if the name is not one's."""
    return number_in(name) if _MANIFEST.fullmatch(name) else None


def page_sequence(name: str) -> int | None:
    """The number of the manifest that named this page first, or None if it is no page's name."""
    match = _PAGE.fullmatch(name)
    return number_in(match[1]) if match else None


def object_name(base: int, epoch: int, random: str) -> str:
    """The id of an object: its first offset, its writer's epoch, and something unique."""
    name = f"{base:020d}-{epoch:010d}-{random}.dnb1"
    assert object_parts(name) == (base, epoch), name
    return name


def object_parts(object_id: str) -> tuple[int, int] | None:
    """Base offset and epoch of an object by its id, or None if it is not one of ours."""
    match = _OBJECT.fullmatch(object_id)
    base, epoch = (number_in(match[1]), number_in(match[2])) if match else (None, None)
    return (base, epoch) if base is not None and epoch is not None else None


# ---- descriptors


@attrs.frozen
class _Row:
    base: int
    end: int
    size_bytes: int
    object_id: str
    crc32: int
    etag: str | None = None
    created_at: int = 0
    epoch: int = 0
    first_time: int = 0
    last_time: int = 0
    index: Any = None  # a list; checked below, because a log has many of these numbers


def _deltas(values: Sequence[int], first: int) -> Iterable[int]:
    return map(sub, values, (first, *values[:-1]))


def _unstructure_descriptor(d: Descriptor) -> Any:
    check_index(d)
    row: dict[str, Any] = {f.name: getattr(d, f.name) for f in attrs.fields(Descriptor)}
    offsets, positions, times = zip(*d.index, strict=True) if d.index else ((), (), ())
    deltas = zip(_deltas(offsets, d.base), _deltas(positions, 0), _deltas(times, 0), strict=True)
    return row | {"index": list(chain.from_iterable(deltas))}


def _structure_descriptor(value: object, _: object) -> Descriptor:
    row = converter.structure(value, _Row)
    if not isinstance(cast("object", row.index), list):
        raise TypeError(f"the index of the segment at {row.base} is no list")
    flat: list[int] = row.index
    if any(type(number) is not int for number in flat):
        raise TypeError(f"the index of the segment at {row.base} has what is no number")
    if len(flat) % 3:
        raise ValueError(f"the index of the segment at {row.base} is cut")
    if not (0 <= row.base < row.end and row.size_bytes > 0):
        raise ValueError(f"no segment is [{row.base}, {row.end}) with {row.size_bytes} bytes")
    offsets, positions, times = (accumulate(flat[i::3]) for i in range(3))
    index = tuple(zip((row.base + offset for offset in offsets), positions, times, strict=True))
    fields: dict[str, Any] = attrs.asdict(row, recurse=False) | {"index": index}
    d = Descriptor(**fields)
    check_index(d)
    return d


converter.register_unstructure_hook(Descriptor, _unstructure_descriptor)
converter.register_structure_hook(Descriptor, _structure_descriptor)


def check_segments(segments: Iterable[Descriptor], start_offset: int, end: int) -> None:
    """ValueError unless these are what a log with these marks has: no gap, nothing beyond."""
    position: int | None = None
    for d in segments:
        if position is None and not d.base <= start_offset < d.end:
            raise ValueError(f"the first segment is {d.base}..{d.end}, the log's {start_offset}")
        if position is not None and d.base != position:
            raise ValueError(f"offsets {position}..{d.base} are in no segment")
        position = d.end
    covered = start_offset if position is None else position
    if covered != end:
        raise ValueError(f"the segments end at {covered}, the log at {end}")


def check_index(d: Descriptor) -> None:
    """ValueError unless a descriptor's index ascends within its object."""
    if not d.index:
        return
    offsets, positions, _ = zip(*d.index, strict=True)
    if positions[0] != 0 or positions[-1] >= d.size_bytes:
        raise ValueError(
            f"the index of the segment at {d.base} is [{positions[0]}, {positions[-1]}], not from "
            f"position 0 to below {d.size_bytes}"
        )
    if not d.base <= offsets[0] <= offsets[-1] < d.end:
        raise ValueError(f"the index of the segment at {d.base} does not lie in it")
    for column in (offsets, positions):
        if not all(map(lt, column, column[1:])):
            raise ValueError(f"the index of the segment at {d.base} does not ascend")


def encode_row(d: Descriptor) -> bytes:
    """A descriptor as a manifest lists it."""
    return compact(d)


# ---- pages


@attrs.frozen
class PageRef:
    """What a manifest says of an index page.

    Attributes:
        name: its key below ``pages/``.
        base, end: the records of its segments, ``[base, end)``.
        count: how many segments it describes.
        crc32: of all its bytes.
    """

    name: str
    base: int
    end: int
    count: int
    crc32: int


@attrs.frozen
class Page:
    """An index page: its reference, and what it holds."""

    ref: PageRef
    segments: tuple[Descriptor, ...]

    @classmethod
    def of(cls, segments: Sequence[Descriptor], sequence: int, nonce: str) -> Page:
        """The page that the publication `sequence` of `nonce` folds these segments into."""
        base, end = segments[0].base, segments[-1].end
        crc = crc32(_page_bytes(segments))
        name = f"{sequence:020d}-{nonce}-{base:020d}-{crc:08x}"
        return cls(PageRef(name, base, end, len(segments), crc), tuple(segments))

    def encode(self) -> bytes:
        """Its bytes."""
        return _page_bytes(self.segments)


@attrs.frozen
class _PageDocument:
    segments: tuple[Descriptor, ...]
    format: int = FORMAT


def _page_bytes(segments: Sequence[Descriptor]) -> bytes:
    return with_crc(compact(_PageDocument(tuple(segments))))


def decode_page(data: bytes, ref: PageRef) -> Page:
    """The page that a manifest's `ref` names; ValueError if these are not its bytes."""
    if crc32(data) != ref.crc32:
        raise ValueError("the page is not the one that the manifest names")
    segments = parse(without_crc(data), _PageDocument, newest=FORMAT).segments
    check_segments(segments, ref.base, ref.end)
    if len(segments) != ref.count:
        raise ValueError(f"the page has {len(segments)} segments, not {ref.count}")
    return Page(ref, segments)


def fold(
    segments: Sequence[Descriptor], known: Iterable[Page], *, limit: int, limit_bytes: int
) -> tuple[list[Page], list[Sequence[Descriptor]], Sequence[Descriptor]]:
    """Where the segments of a manifest go.

    Returns the pages of the state before (`known`) that still hold some of them, the groups that
    new pages are to hold, and the rest, which the manifest lists itself: at most `limit` segments,
    and about `limit_bytes`.
    """
    kept: list[Page] = []
    i = 0
    for page in known:
        if not segments or page.ref.end <= segments[0].base:
            continue
        rows = [d for d in page.segments if d.base >= segments[0].base]
        if list(segments[i : i + len(rows)]) != rows:
            break
        kept.append(page)
        i += len(rows)
    groups: list[Sequence[Descriptor]] = []
    first, weight = i, 0
    for j in range(i, len(segments)):
        if j > first and (j - first >= limit or weight >= limit_bytes):
            groups.append(segments[first:j])
            first, weight = j, 0
        weight += _ROW_BYTES + _ENTRY_BYTES * len(segments[j].index)
    return kept, groups, segments[first:]


# ---- manifests


@attrs.frozen
class Facts:
    """A state but for its segments, as a document says it: the fields of `CatalogState`."""

    sequence: int
    nonce: str
    epoch: int
    writer: str
    owner: str
    owner_since_epoch: int
    start_offset: int
    end: int
    codec: str
    trailer: int
    sealed: bool
    deleted: bool
    last_time: int = 0
    format: int = FORMAT
    log: str = ""
    topic: str = ""
    place: str = ""

    @classmethod
    def of(cls, state: CatalogState, **more: Any) -> Self:
        """The facts of a state."""
        names = {f.name for f in attrs.fields(cls)} & {f.name for f in attrs.fields(CatalogState)}
        return cls(**{name: getattr(state, name) for name in names} | more)

    def joined(self, segments: Iterable[Descriptor]) -> CatalogState:
        """The state with these segments; ValueError if they do not fit together."""
        segments = tuple(segments)
        check_segments(segments, self.start_offset, self.end)
        if not 0 <= self.start_offset <= self.end:
            raise ValueError(f"the log cannot be [{self.start_offset}, {self.end})")
        if not 0 <= self.owner_since_epoch <= self.epoch:
            raise ValueError(f"epoch {self.epoch} is before {self.owner_since_epoch}")
        if self.sequence < 1:
            raise ValueError(f"no publication has the number {self.sequence}")
        names = [f.name for f in attrs.fields(Facts) if f.name != "format"]
        return CatalogState(**{n: getattr(self, n) for n in names}, segments=segments)


@attrs.frozen
class Manifest(Facts):
    """One manifest: a state's facts, its pages, and the segments that are in no page."""

    segments: tuple[Descriptor, ...] = attrs.field(kw_only=True)
    pages: tuple[PageRef, ...] = attrs.field(kw_only=True)

    def state(self, pages: Iterable[Page]) -> CatalogState:
        """The state, put together with its pages; ValueError if they do not fit together."""
        paged = [d for page in pages for d in page.segments if d.end > self.start_offset]
        return self.joined((*paged, *self.segments))


omit_defaults(Manifest, "last_time", "log", "topic", "place")


def encode_manifest(state: CatalogState, pages: Sequence[Page], listed: Sequence[bytes]) -> bytes:
    """The bytes of a published state.

    Its segments are in `pages` and, after them, in `listed` as `encode_row` made them: a writer
    lists the same ones again and again.
    """
    manifest = Manifest.of(state, segments=(), pages=tuple(page.ref for page in pages))
    # Texts have their quotes escaped, so this can only be the field itself.
    before, field, after = compact(manifest).partition(b'"segments":[')
    assert field
    return with_crc(before + field + b",".join(listed) + after)


def decode_manifest(data: bytes, sequence: int) -> Manifest:
    """The manifest with this number; ValueError says why these bytes are not it."""
    manifest = parse(without_crc(data), Manifest, newest=FORMAT)
    if manifest.sequence != sequence:
        raise ValueError(f"the manifest says that it is number {manifest.sequence}")
    return manifest


def check_successor(before: CatalogState | None, after: CatalogState) -> CatalogState:
    """`after` with its sequence, if it may follow `before`; ValueError says why it may not.

    A change only adds segments at the end and drops them at the front.
    """
    if not after.nonce:
        raise ValueError("the state has no nonce: publish fresh(state)")
    if before is not None and not before.sequence:
        raise ValueError("the state before was never published: publish(None, ...) is the first")
    old = before or CatalogState()
    if after.epoch < max(old.epoch, 1):
        raise ValueError(f"epoch {after.epoch} cannot follow {old.epoch}: see taken_over()")
    if after.end < old.end or after.start_offset < old.start_offset:
        raise ValueError(f"[{after.start_offset}, {after.end}) cannot follow {old!r}")
    check_segments(after.segments, after.start_offset, after.end)
    remain = [d for d in old.segments if d.base >= after.first_base]
    if list(after.segments[: len(remain)]) != remain:
        raise ValueError("the segments are not those of the state before")
    if len(remain) < len(after.segments) and after.segments[len(remain)].base < old.end:
        raise ValueError("a segment that was dropped cannot come back")
    return attrs.evolve(after, sequence=old.sequence + 1)
