"""Files of Danube's own in the directory of a log: nothing is written beside them, or to them.

A broker that was given a directory of ours appends to it, whatever it finds, and one of ours that
was opened over Danube's would mix two histories. So both are told by the names that Danube gives,
and, for the first file of its write-ahead log, which a setting names, by what is in it:

- ``wal.log``, ``wal.1.log`` and so on, and the same under the log's own name; ``data-*.dnb1``,
  ``data-*.bin``, ``segment_<id>.bin``; ``uploader.ckpt``. Empty ones, too.
- ``wal.ckpt``, a name that logs of ours have as well, if it has one of Danube's layouts.
- any other file that is not ours, if it begins with a frame without our trailer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from danube_trio._core.bincode import DecodeError
from danube_trio._core.danube_ckpt import CHECKPOINT_LAYOUTS, DanubeCheckpoint, decode_checkpoint
from danube_trio._core.danube_names import CHECKPOINT, PAYLOADS_NAME, ROTATED_NAME, SEGMENT_NAME
from danube_trio._core.disk import Disk, read_file
from danube_trio._core.frame import HEADER_BYTES, TRAILER_BYTES, TRAILER_MARKER, scan
from danube_trio._core.segment import LogNames
from danube_trio.errors import CorruptDataError

CHECKPOINT_LIMIT_BYTES = 16 << 20
DNB1_MAGIC: Final = b"DNB1"

_ALWAYS = re.compile(rf"wal\.log|uploader\.ckpt|{ROTATED_NAME.pattern}|.+\.dnb1")
# Danube's is of the seed, if it is JSON at all, and begins like this; ours never does.
_SEED_CHECKPOINT = b'{"last_offset"'
# Of the smallest message.
_LEAST_BODY_BYTES = 10
# Danube's limit of a payload is 10 MiB: so much of a strange file is read at most.
_LOOK_BYTES = 16 << 20
MOST_NAMES = 5


def danube_files(disk: Disk, names: LogNames, listing: Iterable[str]) -> list[str]:
    """The names of Danube's own files among these, sorted. Changes nothing."""
    stem, suffix = re.escape(names.stem), re.escape(names.suffix)
    always = re.compile(
        rf"{_ALWAYS.pattern}|{PAYLOADS_NAME.pattern}|{SEGMENT_NAME.pattern}"
        rf"|{stem}\.([0-9]{{1,19}}\.)?{suffix}"
    )
    small = rf"{stem}\.(meta|trim|mark|ckpt|lock|watch)(\.tmp)?"
    ours = re.compile(rf"{small}|.+\.[0-9]{{20}}\..+|\..*")  # other logs' segments, too
    own_checkpoint = names.checkpoint.rpartition("/")[2]
    found: list[str] = []
    for name in listing:
        path = f"{names.directory}/{name}"
        if name == CHECKPOINT:
            theirs = _is_checkpoint(disk, path)
        elif always.fullmatch(name):
            theirs = name != own_checkpoint
        else:
            theirs = not ours.fullmatch(name) and begins_as_danube(disk, path)
        if theirs:
            found.append(name)
    return sorted(found)


def begins_as_danube(disk: Disk, path: str) -> bool:
    """Whether the file begins with a whole frame of Danube's, or as its oldest objects."""
    try:
        file = disk.open(path, "r")
    except OSError:  # a directory, a socket, gone since, or not to be read
        return False
    try:
        head = file.read_at(HEADER_BYTES, 0)
        length = int.from_bytes(head[8:12], "little")
        end = HEADER_BYTES + length
        if head[:4] == DNB1_MAGIC:
            return True
        if length < _LEAST_BODY_BYTES or not end <= min(file.size(), _LOOK_BYTES):
            return False
        data = file.read_at(end, 0)
    except OSError:
        return False
    finally:
        file.close()
    whole = scan(data, 0, int.from_bytes(head[:8], "little"), trailer=False).positions[-1] == end
    return whole and data[-TRAILER_BYTES:][:1] != bytes([TRAILER_MARKER])


def decode_any_checkpoint(data: bytes) -> DanubeCheckpoint | None:
    """A checkpoint of Danube's in any of its layouts; None: it is none."""
    if data[:1] == b"{" and not data.startswith(_SEED_CHECKPOINT):
        return None
    for layout in reversed(CHECKPOINT_LAYOUTS):
        try:
            return decode_checkpoint(data, layout, strict=True)
        except DecodeError:
            continue
    return None


def _is_checkpoint(disk: Disk, path: str) -> bool:
    try:
        found = decode_any_checkpoint(read_file(disk, path, CHECKPOINT_LIMIT_BYTES))
    except (OSError, CorruptDataError):
        return False
    return found is not None and bool(found.file_path)  # zeros are none


def listed(names: list[str]) -> str:
    """The names in a sentence."""
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
