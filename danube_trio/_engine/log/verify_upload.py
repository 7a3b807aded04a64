"""Whether an object is what was uploaded, asked of the store before any catalog names it.

An upload that returned says what the store believes to have. Compared with the file are size, tag
and, unless `verify_uploads` is ``head``, the checksum of all bytes, read back in parts.
"""

from __future__ import annotations

from typing import Literal

from danube_trio._core.crc import crc32
from danube_trio._core.segment import Segment
from danube_trio._engine.files.segments import CHUNK_BYTES
from danube_trio.catalog import look_twice
from danube_trio.cloud import CloudStore, ObjectInfo
from danube_trio.errors import CorruptDataError


async def verify_upload(
    store: CloudStore,
    key: str,
    uploaded: ObjectInfo,
    segment: Segment,
    crc: int,
    how: Literal["read", "head"],
) -> None:
    """What the store has now is what the file has.

    Args:
        uploaded: what the store said of the upload.
        segment, crc: what was uploaded, and the checksum of its bytes.
        how: read the bytes back, or ask for size and tag only.

    Raises CorruptDataError, or what the store raises.
    """

    async def compare() -> None:
        if how == "head":
            stored, found = await store.head(key), crc
        else:
            stored, found = await _read_back(store, key, segment.size_bytes)
        # A read of a part need not give the tag: a directory's is a digest of all of the content.
        tag = stored.etag if stored.etag is not None else uploaded.etag
        if (stored.size_bytes, tag, found) != (segment.size_bytes, uploaded.etag, crc):
            raise CorruptDataError(
                f"the object differs from the file: size {stored.size_bytes} for "
                f"{segment.size_bytes}, tag {stored.etag} for {uploaded.etag}, "
                f"CRC {found:08x} for {crc:08x}",
                path=f"{store.url}/{key}",
                offset=segment.base,
                advice="It is uploaded again; if this stays, the store is not to be trusted",
            )

    await look_twice(compare)


async def _read_back(store: CloudStore, key: str, size: int) -> tuple[ObjectInfo, int]:
    position = crc = 0
    while True:
        info, data = await store.get(key, position, position + 4 * CHUNK_BYTES)
        crc = crc32(data, crc)
        position += len(data)
        if not data or position >= min(size, info.size_bytes):
            return info, crc
