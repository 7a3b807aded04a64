"""Danube's keys and JSON in a metadata store, and ours beside them: both ways.

Below ``{root}/storage/topics/{ns}/{topic}/``, Danube's own, byte for byte (v0.9.0 on), so that its
brokers and tools can read what we write:

- ``segments/{start:020d}``: `SegmentDescriptor`. Its `end_offset` is inclusive.
- ``segments/cur``: where the newest of them starts.
- ``state``: the sealed marker, `SealedState`: the next owner goes on after `last_committed_offset`,
  which is inclusive. So an empty log has none: 0 would mean that offset 0 was taken.

Ours, which Danube does not look at:

- ``epoch``: the newest writer's. `EpochEntry`.
- ``head``: everything else of the catalog's state, `Head`. It changes with every publication.
- ``details/{start:020d}``: what Danube's descriptor has no place for, `Details`: the CRC, the
  times, the writer's epoch.

**Topics.** Danube drops one leading "/", and keeps the first two parts, whatever follows. So
``/a/b/c`` and ``/a/b/d`` are one topic to it, and ``//ns/t`` is ``/ns``. Names that it would take
for others are refused here.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import attrs

from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.documents import compact, omit_defaults, parse
from danube_trio._core.manifest import FORMAT, Facts, check_index
from danube_trio._core.numbers import DIGITS, number_in
from danube_trio.errors import bad_argument

_START = re.compile(DIGITS)


def normalise_topic(topic: str) -> str:
    """``ns/topic`` of a topic's name, as Danube's; ValueError for one that is not safe with it."""
    parts = topic.removeprefix("/").split("/")
    if len(parts) != 2:
        what = (
            " must be /namespace/name: Danube keeps two parts of a name, so other names would be "
            "taken for one another"
        )
        raise bad_argument("topic", topic, what)
    for part in parts:
        if part in ("", ".", "..") or not part.isprintable():
            raise bad_argument("topic", topic, f" has a part that cannot be in a key: {part!r}")
    return "/".join(parts)


@attrs.frozen
class TopicKeys:
    """The keys of one topic. Made by `of`."""

    base: str
    objects: str

    @classmethod
    def of(cls, root: str, topic: str) -> TopicKeys:
        """Of a topic by its name, below a root like ``/danube``."""
        if not root.startswith("/") or root.endswith("/") or "//" in root:
            raise ValueError(f'root={root!r} must begin with "/", and not end with it')
        path = f"storage/topics/{normalise_topic(topic)}"
        return cls(f"{root}/{path}", f"{path}/segments")

    @property
    def epoch(self) -> str:
        """The key of the newest epoch."""
        return f"{self.base}/epoch"

    @property
    def head(self) -> str:
        """The key of the catalog's state."""
        return f"{self.base}/head"

    @property
    def sealed(self) -> str:
        """The key of the sealed marker."""
        return f"{self.base}/state"

    @property
    def segments(self) -> str:
        """What the keys of descriptors begin with."""
        return f"{self.base}/segments/"

    @property
    def current(self) -> str:
        """The key of the pointer to the newest descriptor."""
        return f"{self.segments}cur"

    @property
    def details(self) -> str:
        """What the keys of our details begin with."""
        return f"{self.base}/details/"

    def segment(self, start: int) -> str:
        """The key of a descriptor."""
        return f"{self.segments}{start:020d}"

    def detail(self, start: int) -> str:
        """The key of a descriptor's details."""
        return f"{self.details}{start:020d}"

    @property
    def of_segment(self) -> tuple[Callable[[int], str], Callable[[int], str]]:
        """What makes the two keys of a segment, of its start."""
        return self.segment, self.detail

    @staticmethod
    def start_of(key: str) -> int | None:
        """The offset at the end of a key, or None if there is none."""
        last = key.rpartition("/")[2]
        return number_in(last) if _START.fullmatch(last) else None


# ---- Danube's values


@attrs.frozen
class SegmentDescriptor:
    """Danube's descriptor of a segment, with its names.

    Attributes:
        start_offset, end_offset: its records; the end is inclusive.
        offset_index: offset and byte position of some frames; None leaves it out.
    """

    segment_id: str
    start_offset: int
    end_offset: int
    size: int
    etag: str | None
    created_at: int
    completed: bool
    offset_index: tuple[tuple[int, int], ...] | None = None


@attrs.frozen
class SealedState:
    """Danube's marker of a topic that was left; `last_committed_offset` is inclusive."""

    sealed: bool
    last_committed_offset: int
    broker_id: int
    timestamp: int


def sealed_marker(state: CatalogState, broker_id: int, timestamp: int) -> SealedState | None:
    """The marker that Danube finds beside this state; None if there is to be none."""
    if not state.sealed or state.deleted or not state.end:
        return None
    return SealedState(True, state.end - 1, broker_id, timestamp)


def current_segment(state: CatalogState) -> bytes | None:
    """The pointer to the newest descriptor of this state; None if it has none."""
    return encode_cur(state.segments[-1].base) if state.segments else None


def others_changes(
    keys: TopicKeys,
    state: CatalogState | None,
    *,
    current: bytes | None,
    sealed: bytes | None,
    beyond: str | None = None,
) -> list[tuple[str, str]]:
    """What Danube changed since this state was published: what that is, and what undoes it.

    Args:
        current, sealed: the values of these keys now.
        beyond: the key of a descriptor that begins at or after the state's end, and is not ours.
    """
    found: list[tuple[str, str]] = []
    if beyond is not None:
        found.append((f"it put {beyond}", f"remove {beyond}"))
    of_state = current_segment(state) if state is not None else None
    if current not in (None, of_state):
        undo = f"remove {keys.current}" if of_state is None else f"put {of_state.decode()} there"
        found.append((f"it changed {keys.current}", undo))
    marker = sealed_marker(state, 0, 0) if state is not None else None
    if marker is None and sealed is not None:
        found.append((f"it sealed the topic, in {keys.sealed}", f"remove {keys.sealed}"))
    elif marker is not None and _last_committed(sealed) != marker.last_committed_offset:
        how = "took the topic over, and removed" if sealed is None else "sealed the topic later, in"
        undo = f"put {compact(marker).decode()} at {keys.sealed}"
        found.append((f"it {how} {keys.sealed}", undo))
    return found


def _last_committed(marker: bytes | None) -> int | None:
    try:
        return parse(marker, SealedState).last_committed_offset if marker is not None else None
    except ValueError:
        return None


def encode_segment(segment: SegmentDescriptor) -> bytes:
    """The JSON of a descriptor."""
    tree = attrs.asdict(segment)
    if segment.offset_index is None:
        del tree["offset_index"]
    return compact(tree)


def decode_segment(data: bytes) -> SegmentDescriptor:
    """The descriptor in this JSON; ValueError if it is none."""
    return parse(data, SegmentDescriptor)


def encode_cur(start: int) -> bytes:
    """The JSON of the pointer to the newest descriptor."""
    return compact({"start": f"{start:020d}"})


# ---- our values


@attrs.frozen
class EpochEntry:
    """The newest writer's epoch, and who that is."""

    epoch: int
    writer: str
    format: int = FORMAT

    @classmethod
    def decode(cls, data: bytes) -> EpochEntry:
        """The entry in this JSON; ValueError if it is none."""
        return parse(data, cls, newest=FORMAT)


@attrs.frozen
class Details:
    """What a `Descriptor` has beyond Danube's.

    Attributes:
        object_id: of the object, to tell whether both speak of the same.
        times: of the entries of the index.
    """

    object_id: str
    end: int
    crc32: int
    epoch: int
    first_time: int
    last_time: int
    times: tuple[int, ...]
    format: int = FORMAT

    @classmethod
    def decode(cls, data: bytes) -> Details:
        """The details in this JSON; ValueError if it has none."""
        return parse(data, cls, newest=FORMAT)


@attrs.frozen
class Head(Facts):
    """The catalog's state but for the segments, which are beside it."""

    @classmethod
    def decode(cls, data: bytes) -> Head:
        """The head in this JSON; ValueError if it is none."""
        return parse(data, cls, newest=FORMAT)


omit_defaults(Head, "last_time", "log", "topic", "place")


def split_segment(d: Descriptor) -> tuple[SegmentDescriptor, Details]:
    """Danube's part of a descriptor, and ours."""
    check_index(d)
    index = tuple((offset, position) for offset, position, _ in d.index)
    danube = SegmentDescriptor(
        segment_id=d.object_id,
        start_offset=d.base,
        end_offset=d.end - 1,
        size=d.size_bytes,
        etag=d.etag,
        created_at=d.created_at,
        completed=True,
        offset_index=index or None,
    )
    times = tuple(time for _, _, time in d.index)
    ours = Details(d.object_id, d.end, d.crc32, d.epoch, d.first_time, d.last_time, times)
    return danube, ours


def join_segment(danube: SegmentDescriptor, ours: Details) -> Descriptor:
    """The descriptor that was split; ValueError if the two do not speak of the same object."""
    index = danube.offset_index or ()
    if (danube.segment_id, danube.end_offset + 1, len(index)) != (
        ours.object_id,
        ours.end,
        len(ours.times),
    ):
        raise ValueError(
            f"the segment at {danube.start_offset} is {danube.segment_id!r} to Danube and "
            f"{ours.object_id!r} to danube-trio"
        )
    if not (0 <= danube.start_offset <= danube.end_offset and danube.size > 0):
        raise ValueError(f"no segment is {danube!r}")
    d = Descriptor(
        base=danube.start_offset,
        end=ours.end,
        size_bytes=danube.size,
        object_id=ours.object_id,
        crc32=ours.crc32,
        etag=danube.etag,
        created_at=danube.created_at,
        epoch=ours.epoch,
        first_time=ours.first_time,
        last_time=ours.last_time,
        index=tuple((*entry, time) for entry, time in zip(index, ours.times, strict=True)),
    )
    check_index(d)
    return d
