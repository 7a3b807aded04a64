"""A cursor as it is saved: which messages of a topic are settled, and how often others failed.

::

    0 ........ end ........................ edge ............
      settled  | settled, except the holes |  not settled

`end` is the contiguous end: everything below it is settled. Between `end` and `edge` everything is,
except the *holes*. The first hole, if there is one, is `end` itself.

The saved form is a JSON object (Danube's custom: compact, keys in alphabetical order)::

    {"attempts":"...","edge":1007,"end":1000,"holes":"...","owner":"5f...","rejected":"...",
     "saves":12,"version":1}

`holes` and the offsets of `attempts` are offsets packed as text: the differences of neighbours as
little-endian integers of 4 bytes (8 if one of them needs it), byte planes separated (first all the
lowest bytes, then all the second ones, ...), compressed with zlib, one byte before it that tells
the width, base64. A million holes at random places among two million messages take 0.4 MB that way,
regular ones next to nothing: so there is a limit to how many there are, too (`MAX_HOLES`,
`MAX_FAILED`), which what is saved keeps to. `attempts` is two such lists, a comma between them:
offsets, and running sums of the counts of failures. `rejected` are those of its offsets whose
messages are poison whatever the count; the field is missing when there are none, and in cursors of
older versions, which pass over it.

`owner` is a random number of whoever saved it: a save whose outcome was unknown is recognized by
it, and so is somebody else's. `saves` grows with each one.

Two more say which log it is of, each left out where it is not known (older versions do not have
them): `log` is the log's id, and `witness` is ``[offset, checksum]`` of a message that was settled,
usually the last one. Offsets are given again by a log that was restored from an older copy; the
same message is not there again. `_opening` compares both.

Danube's own key holds the last acknowledged offset as a bare number, and is not there before the
first acknowledgement: 0 says that message 0 was acknowledged.
"""

from __future__ import annotations

import base64
import binascii
import json
import reprlib
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import sub
from typing import cast
from zlib import crc32

import attrs

from danube_trio._core.numbers import number_in
from danube_trio._core.plain import from_json
from danube_trio.errors import CorruptDataError
from danube_trio.message import StreamMessage

VERSION = 1
MAX_OFFSET = (1 << 63) - 1
# Of one cursor. A million offsets take 40 MB when they are unpacked, a failure 150 bytes.
MAX_HOLES = 1_000_000
MAX_FAILED = 100_000


def pack_offsets(offsets: Sequence[int]) -> str:
    """Pack ascending offsets, each below 2**63."""
    if not offsets:
        return ""
    steps = [offsets[0], *map(sub, offsets[1:], offsets)]
    width = 4 if max(steps) < 1 << 32 else 8
    raw = array("I" if width == 4 else "Q", steps)
    if sys.byteorder == "big":
        raw.byteswap()
    data = raw.tobytes()
    planes = b"".join(data[plane::width] for plane in range(width))
    return base64.b64encode(bytes((width,)) + zlib.compress(planes, 6)).decode("ascii")


def unpack_offsets(text: str, limit: int = MAX_HOLES) -> list[int]:
    """The reverse. Raises ValueError when `text` is not what `pack_offsets` gives, or of more."""
    if not text:
        return []
    try:
        packed = base64.b64decode(text, validate=True)
        width = packed[0]
        if width not in (4, 8):
            raise ValueError(f"integers of {width} bytes")
        inflate = zlib.decompressobj()
        planes = inflate.decompress(packed[1:], limit * width + 1)
    except (binascii.Error, zlib.error, IndexError) as error:
        raise ValueError(f"packed offsets: {error}") from error
    count, rest = divmod(len(planes), width)
    if rest or not 0 < count <= limit or not inflate.eof or inflate.unused_data:
        raise ValueError(f"packed offsets are cut short, or not 1 to {limit}")
    data = bytearray(len(planes))
    for plane in range(width):
        data[plane::width] = planes[plane * count : (plane + 1) * count]
    del planes
    raw = array("I" if width == 4 else "Q")
    raw.frombytes(data)
    del data
    if sys.byteorder == "big":
        raw.byteswap()
    offsets = list(accumulate(raw))
    if offsets[-1] > MAX_OFFSET or 0 in raw[1:]:
        raise ValueError("packed offsets are not ascending, or too large")
    return offsets


@attrs.frozen
class Witness:
    """A message that was settled: its offset, and a checksum that no other one has there."""

    offset: int
    checksum: int

    @classmethod
    def of(cls, message: StreamMessage) -> Witness | None:
        """Of a message as the log gives it; None if its bytes cannot be decoded.

        It sums up what every layout keeps, so a log that was imported or copied passes.
        """
        try:
            facts = (
                message.request_id,
                message.publish_time,
                message.producer_name,
                message.msg_id.producer_id,
                sorted(message.attributes.items()),
            )
        except ValueError:
            return None
        text = json.dumps(facts, separators=(",", ":"))
        return cls(message.offset, crc32(text.encode("utf-8", "replace"), crc32(message.payload)))


@attrs.frozen(kw_only=True)
class CursorState:
    """What is settled and what is not.

    Attributes:
        end: everything below it is settled.
        edge: everything at and above it is not.
        holes: what is not settled between the two, ascending. `end` is its first item, or `edge`
            when it is empty.
        attempts: how often unsettled messages have failed, by offset; those never did are absent.
        rejected: those of them that are poison whatever the count, ascending.
        owner: who saved it.
        saves: how often it was saved.
        log: id of the log, "" if it is not known.
        witness: a message of the log that was settled, or None.
    """

    end: int = 0
    edge: int = 0
    holes: Sequence[int] = attrs.Factory(list[int])
    attempts: Mapping[int, int] = attrs.Factory(dict[int, int])
    rejected: Sequence[int] = attrs.Factory(list[int])
    owner: str = ""
    saves: int = 0
    log: str = ""
    witness: Witness | None = None

    def __attrs_post_init__(self) -> None:
        holes = self.holes
        first = holes[0] if holes else self.edge
        if not (0 <= self.end == first <= self.edge) or (holes and holes[-1] >= self.edge):
            raise ValueError(
                f"a cursor with end={self.end}, edge={self.edge} and {len(holes)} holes "
                f"from {first} contradicts itself"
            )

    @classmethod
    def at(
        cls, offset: int, *, owner: str = "", saves: int = 0, witness: Witness | None = None
    ) -> CursorState:
        """Everything below `offset` is settled, nothing else."""
        return cls(end=offset, edge=offset, owner=owner, saves=saves, witness=witness)

    @classmethod
    def from_danube(cls, value: bytes, key: str) -> CursorState:
        """From the last acknowledged offset, which Danube's own key holds. Raises CorruptDataError,
        which names `key`.
        """
        last = number_in(value.decode("ascii", "replace"))
        if last is None or last >= MAX_OFFSET:
            raise CorruptDataError(
                f"{value[:40]!r} is not an offset",
                path=key,
                advice="Restore the key from a copy of the metadata store, or delete it",
            )
        return cls.at(last + 1)

    def before(self, edge: int) -> CursorState:
        """The same without what is known about messages at and above `edge` (not below `end`)."""
        if edge >= self.edge:
            return self
        holes = self.holes[: bisect_left(self.holes, edge)]
        return attrs.evolve(self._forgetting(edge), edge=edge, holes=holes)

    def _forgetting(self, edge: int) -> CursorState:
        """The same without failures of messages at and above `edge`."""
        attempts = {offset: count for offset, count in self.attempts.items() if offset < edge}
        rejected = self.rejected[: bisect_left(self.rejected, edge)]
        return attrs.evolve(self, attempts=attempts, rejected=rejected)

    def _cut(self, edge: int) -> CursorState:
        """As `before`; where nothing is settled above `end`, only failures are cut."""
        return self.before(edge) if self.holes else self._forgetting(edge)

    def fitted(self, limit_bytes: int) -> tuple[CursorState, bytes]:
        """As much of it, from its beginning, as fits into `limit_bytes` (and `MAX_HOLES`); and its
        saved form.
        """
        if len(self.holes) > MAX_HOLES:
            return self.before(self.holes[MAX_HOLES]).fitted(limit_bytes)
        if len(self.attempts) > MAX_FAILED:
            return self._forgetting(sorted(self.attempts)[MAX_FAILED]).fitted(limit_bytes)
        value = self.encode()
        if len(value) <= limit_bytes:
            return self, value
        best = attrs.evolve(self, edge=self.end, holes=[], attempts={})
        best_value = b""
        cuts = self.holes or sorted(self.attempts)
        low, high = 0, len(cuts)  # how many holes to keep, or failures if there are no holes
        near = max(1, len(cuts) // 100)  # good enough, once there is something to keep
        while high - low > (near if best_value else 1):
            middle = (low + high) // 2
            state = self._cut(cuts[middle])
            value = state.encode()
            if len(value) <= limit_bytes:
                low, best, best_value = middle, state, value
            else:
                high = middle
        return best, best_value or best.encode()

    def is_settled(self, offset: int) -> bool:
        """Whether message `offset` is settled. Looks at every hole."""
        return offset < self.end or (offset < self.edge and offset not in self.holes)

    def encode(self) -> bytes:
        """The saved form."""
        failed = sorted(self.attempts)
        counts = list(accumulate(self.attempts[offset] for offset in failed))
        attempts = f"{pack_offsets(failed)},{pack_offsets(counts)}" if failed else ""
        document: dict[str, object] = {
            "attempts": attempts,
            "edge": self.edge,
            "end": self.end,
            "holes": pack_offsets(self.holes),
            "owner": self.owner,
            "saves": self.saves,
            "version": VERSION,
        }
        if self.rejected:
            document["rejected"] = pack_offsets(self.rejected)
        if self.log:
            document["log"] = self.log
        if self.witness is not None:
            document["witness"] = [self.witness.offset, self.witness.checksum]
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode("ascii")

    @classmethod
    def decode(cls, value: bytes, key: str) -> CursorState:
        """Read the saved form. Raises CorruptDataError, which names `key`."""
        try:
            document = from_json(value)
            if document["version"] != VERSION:
                raise ValueError(f"version {reprlib.repr(document['version'])} is not known")
            return cls(
                end=_offset(document["end"]),
                edge=_offset(document["edge"]),
                holes=unpack_offsets(_text(document["holes"])),
                attempts=_unpack_attempts(_text(document["attempts"])),
                rejected=unpack_offsets(_text(document.get("rejected", "")), MAX_FAILED),
                owner=_text(document["owner"]),
                saves=_offset(document["saves"]),
                log=_text(document.get("log", "")),
                witness=_witness(document.get("witness")),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptDataError(
                f"the saved cursor cannot be read ({type(error).__name__}: {error})",
                path=key,
                advice="Restore the key from a copy of the metadata store, or remove the "
                "subscription and add it again at the position that you want",
            ) from error


def _unpack_attempts(text: str) -> dict[int, int]:
    failed, _, counts = text.partition(",")
    offsets, sums = unpack_offsets(failed, MAX_FAILED), unpack_offsets(counts, MAX_FAILED)
    if len(offsets) != len(sums):
        raise ValueError(f"{len(offsets)} messages have {len(sums)} counts of failures")
    return dict(zip(offsets, map(sub, sums, [0, *sums]), strict=True))


def _offset(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_OFFSET:
        raise ValueError(f"{reprlib.repr(value)} is no offset")
    return value


def _witness(value: object) -> Witness | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise ValueError(f"{reprlib.repr(value)} is no witness")
    offset, checksum = map(_offset, cast("list[object]", value))
    return Witness(offset, checksum)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{reprlib.repr(value)} is no text")
    return value
