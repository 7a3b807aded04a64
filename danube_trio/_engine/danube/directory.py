"""The files of a directory that Danube's engine wrote, and the order in which it wrote them.

A directory holds one of three kinds of data (two, if somebody copied them together; then the caller
says which one is meant):

``wal``       ``wal.log``, then ``wal.1.log``, ``wal.2.log`` and so on: by number, never by name.
              After a restart the engine begins with ``wal.log`` again and appends to the files that
              are there, so each file may hold a piece of every run of the engine.
``objects``   ``data-<start>-<x>.dnb1``, uploaded slices of such files. *x* is the last offset, the
              word ``pending``, or, since v0.6.2, the unix time of the upload. The engine uploads
              the same slice again and again, so objects overlap.
``segments``  ``segment_<id>.bin``, what the engine before the write-ahead log kept.

``wal.ckpt`` is a hint and never the truth: it says what the engine believed to have written, which
is how a tail that is gone without a trace is noticed. Everything is opened for reading only.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from contextlib import closing
from typing import Final, Literal

import attrs

from danube_trio._core.danube_ckpt import DanubeCheckpoint
from danube_trio._core.danube_names import (
    CHECKPOINT,
    OBJECT_NAME,
    PAYLOADS_NAME,
    ROTATED_NAME,
    SEGMENT_NAME,
)
from danube_trio._core.disk import Disk, read_file
from danube_trio._core.numbers import DIGITS
from danube_trio._core.segment import LogNames
from danube_trio._engine.care.verify_segment import Finding
from danube_trio._engine.danube.frames import Format
from danube_trio._engine.files.foreign import (
    CHECKPOINT_LIMIT_BYTES,
    DNB1_MAGIC,
    begins_as_danube,
    danube_files,
    decode_any_checkpoint,
    listed,
)
from danube_trio.errors import CorruptDataError

Kind = Literal["wal", "objects", "segments"]
KINDS: Final[tuple[Kind, ...]] = ("wal", "objects", "segments")

DNB1_HEADER_BYTES = 9
SEGMENT_HEADER_BYTES = 24
# Above it the second number in an object's name is a time: offsets are lower, this is July 2017,
# and Danube's first object is of 2025.
EARLIEST_UNIX_TIME = 1_500_000_000


@attrs.frozen
class SourceFile:
    """A file with messages.

    Attributes:
        size: its size in bytes when it was found; what is appended later is not looked at.
        format: see `frames`.
        header_bytes: how many bytes come before the first frame.
        first, last: the offsets of its first and last record, if its name says so.
    """

    path: str
    size: int
    format: Format
    header_bytes: int = 0
    first: int | None = None
    last: int | None = None


@attrs.frozen
class DanubeFiles:
    """What was found.

    Attributes:
        files: in the order in which the engine wrote them.
        checkpoint: what `wal.ckpt` says, or None.
        findings: what is odd about the listing itself.
    """

    directory: str
    kind: Kind
    files: tuple[SourceFile, ...]
    checkpoint: DanubeCheckpoint | None
    findings: tuple[Finding, ...]


def find_files(
    disk: Disk, directory: str, *, file_name: str = "wal.log", kind: Kind | None = None
) -> DanubeFiles:
    """List a directory of Danube's; `file_name` is the name of the first file of kind "wal".

    Raises FileNotFoundError if there is nothing of Danube's in it, ValueError if it is a log of
    ours or holds several kinds, and OSError.
    """
    listing = disk.list_dir(directory)
    if ours := [name for name in listing if _is_ours(name)]:
        theirs = danube_files(disk, LogNames.of(directory, "wal.log"), listing)
        raise ValueError(
            f"{directory}/{ours[0]}: this directory is a log of danube-trio already: "
            + (
                f"move what Danube wrote into it to a directory of its own ({listed(theirs)}), and "
                f"import that"
                if theirs
                else "open it, or check it with `danube-trio verify`"
            )
        )
    names = _sorted_names(listing, file_name)
    kind = kind or _only_kind(directory, names)
    if not names[kind]:
        raise FileNotFoundError(
            errno.ENOENT,
            f"there are no {kind} files of Danube's here{_advice(disk, directory)}",
            directory,
        )
    findings: list[Finding] = []
    checkpoint = None
    if kind == "wal" and CHECKPOINT in listing:
        checkpoint = _read_checkpoint(disk, f"{directory}/{CHECKPOINT}", findings)
        findings += _missing_files(f"{directory}/{CHECKPOINT}", checkpoint, listing)
    files = tuple(_describe(disk, f"{directory}/{name}", kind, findings) for name in names[kind])
    findings += _strangers(disk, directory, listing, names, kind)
    return DanubeFiles(directory, kind, files, checkpoint, tuple(findings))


def _only_kind(directory: str, names: dict[Kind, list[str]]) -> Kind:
    present: list[Kind] = [kind for kind in KINDS if names[kind]]
    if len(present) > 1:
        raise ValueError(
            f"{directory} holds {' and '.join(present)} of Danube's, which may be the same "
            f"messages: say which are meant (--kind {present[0]}, or another)"
        )
    return present[0] if present else "wal"


def _is_ours(name: str) -> bool:
    return name == "wal.meta" or re.fullmatch(rf".+\.{DIGITS}\.(log|idx)", name) is not None


def _sorted_names(listing: Iterable[str], file_name: str) -> dict[Kind, list[str]]:
    """The files of each kind, in the order in which they were written."""
    wal: list[tuple[int, str]] = []
    objects: list[tuple[int, int, int, str]] = []
    segments: list[tuple[int, str]] = []
    for name in listing:
        if name == file_name:
            wal.append((-1, name))
        elif match := ROTATED_NAME.fullmatch(name):
            wal.append((int(match[1]), name))
        elif match := OBJECT_NAME.fullmatch(name):
            start, second = int(match[1]), match[2]
            number = 1 << 64 if second == "pending" else int(second)
            time = number if EARLIEST_UNIX_TIME <= number < 1 << 40 else 0
            objects.append((time, start, number, name))
        elif name.endswith(".dnb1"):  # a name that is not the engine's; what is in it may be
            objects.append((1 << 40, 0, 0, name))
        elif match := SEGMENT_NAME.fullmatch(name):
            segments.append((int(match[1]), name))
    return {
        "wal": [name for *_, name in sorted(wal)],
        "objects": [name for *_, name in sorted(objects)],
        "segments": [name for *_, name in sorted(segments)],
    }


def _advice(disk: Disk, directory: str) -> str:
    """Where they may be: under another name, or in a topic's own directory."""
    for name in disk.list_dir(directory)[:100]:
        below = f"{directory}/{name}"
        if begins_as_danube(disk, below):
            return f"; {name} begins as one of Danube's: name it with --file-name"
        try:
            listing = disk.list_dir(below)
        except OSError:  # a file, or not to be read: no advice then
            continue
        if any(_sorted_names(listing, "wal.log").values()):
            return f"; a topic has a directory of its own, such as {below}"
    return ""


def _describe(disk: Disk, path: str, kind: Kind, findings: list[Finding]) -> SourceFile:
    """Find out the format, which only the objects of eleven days in 2025 say themselves."""
    size = disk.file_size(path)
    if kind == "segments":
        return SourceFile(path, size, "segment", SEGMENT_HEADER_BYTES)
    first = last = None
    if kind == "objects":
        first, last = _range_in(path.rpartition("/")[2])
        with closing(disk.open(path, "r")) as file:
            head = file.read_at(DNB1_HEADER_BYTES, 0)
        if head[:4] == DNB1_MAGIC and len(head) == DNB1_HEADER_BYTES:
            if head[4] != 1:
                reason = f"the version of this DNB1 object is {head[4]}, and only 1 is known"
                findings.append(Finding("problem", reason, path, 4))
            return SourceFile(path, size, "records", DNB1_HEADER_BYTES, first, last)
    return SourceFile(path, size, "frames", 0, first, last)


def _range_in(name: str) -> tuple[int | None, int | None]:
    """The first and the last offset that an object's name promises."""
    match = OBJECT_NAME.fullmatch(name)
    if match is None:
        return None, None
    is_offset = match[2] != "pending" and int(match[2]) < EARLIEST_UNIX_TIME
    return int(match[1]), int(match[2]) if is_offset else None


def _read_checkpoint(disk: Disk, path: str, findings: list[Finding]) -> DanubeCheckpoint | None:
    try:
        data = read_file(disk, path, CHECKPOINT_LIMIT_BYTES)
    except CorruptDataError as error:
        findings.append(Finding("warning", error.reason, path))
        return None
    found = decode_any_checkpoint(data)
    if found is None:
        reason = "the checkpoint, a hint, has none of the layouts that Danube wrote"
        findings.append(Finding("warning", reason, path))
    return found


def _missing_files(
    path: str, checkpoint: DanubeCheckpoint | None, listing: list[str]
) -> Iterable[Finding]:
    """Files that the checkpoint names. Their directory may have been moved since."""
    if checkpoint is None:
        return
    there = set(listing)
    named = [file.path for file in checkpoint.rotated_files] + [checkpoint.file_path]
    for name in dict.fromkeys(part.rpartition("/")[2] for part in named):
        if name and name not in there:
            reason = f"the checkpoint names the file {name}, which is not here"
            yield Finding("warning", reason, path)


def _strangers(
    disk: Disk, directory: str, listing: list[str], names: dict[Kind, list[str]], kind: Kind
) -> Iterable[Finding]:
    known = {name for of_kind in names.values() for name in of_kind}
    for name in sorted(set(listing).difference(names[kind], {CHECKPOINT})):
        path = f"{directory}/{name}"
        if PAYLOADS_NAME.fullmatch(name):
            reason = (
                "an object of Danube's first days: payloads without their boundaries, which "
                "nobody can take apart again"
            )
            yield Finding("problem", reason, path)
        elif name in ("wal.tmp", "uploader.ckpt"):
            yield Finding("note", "a file of Danube's without messages", path)
        elif name not in known and begins_as_danube(disk, path):
            reason = (
                "it begins with frames of Danube's, and is not read: if it is the first file, name "
                "it with --file-name"
            )
            yield Finding("problem", reason, path)
        else:
            yield Finding("note", "not read: no such file belongs to this kind", path)
