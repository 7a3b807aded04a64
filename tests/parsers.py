"""Every parser of bytes from outside: what it is called with, and which errors it documents.

Where a checksum guards the bytes, it is made to fit after they were mutated: anybody can compute
one, and behind it are the fields. What is checked besides is that of an input that is accepted: it
is what could have been written.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import attrs
from danube_writer import dnb1, on_disk, sent
from danube_writer import run as danube_frames
from fuzzer import Parser
from golden import GOLDEN

from danube_trio import CorruptDataError, UnsupportedFormatError, WalConfig
from danube_trio._core.bincode import DecodeError
from danube_trio._core.catalog import CatalogState, Descriptor
from danube_trio._core.codec import CODECS, probe_codec
from danube_trio._core.crc import crc32
from danube_trio._core.danube_catalog import (
    Details,
    EpochEntry,
    Head,
    TopicKeys,
    decode_segment,
    encode_segment,
    split_segment,
)
from danube_trio._core.danube_ckpt import (
    CHECKPOINT_LAYOUTS,
    DanubeCheckpoint,
    decode_checkpoint,
    encode_checkpoint,
)
from danube_trio._core.danube_names import (
    OBJECT_NAME,
    PAYLOADS_NAME,
    ROTATED_NAME,
    SEGMENT_NAME,
)
from danube_trio._core.documents import compact, parse
from danube_trio._core.files import (
    Checkpoint,
    Mark,
    Meta,
    Trim,
    decode_document,
    decode_marks,
    decode_trim_copies,
    encode_document,
    encode_trim,
    mark_position,
    with_crc,
    without_crc,
)
from danube_trio._core.frame import find_frame, scan
from danube_trio._core.framing import encode_block
from danube_trio._core.index import SparseIndex
from danube_trio._core.manifest import (
    Page,
    decode_manifest,
    decode_page,
    encode_manifest,
    encode_row,
    manifest_sequence,
    object_parts,
    page_sequence,
)
from danube_trio._core.numbers import number_in
from danube_trio._core.plain import from_json
from danube_trio._core.segment import LogNames, Segment
from danube_trio._engine.danube.directory import find_files
from danube_trio._engine.danube.source import DanubeSource
from danube_trio._engine.files.recover import recover
from danube_trio._engine.watch.serve import Request, RequestError
from danube_trio.catalog._claim import Claim
from danube_trio.cli._input import make_parser, message_of
from danube_trio.cli._say import shown, shown_bytes
from danube_trio.cli._times import seconds_of
from danube_trio.cli.top.figures import View, rates
from danube_trio.cli.top.page import page, plain
from danube_trio.dispatch._cursor import CursorState, Witness, pack_offsets, unpack_offsets
from danube_trio.dispatch._redrive import _decode as decode_redriven
from danube_trio.errors import StoreError
from danube_trio.message import StreamMessage
from danube_trio.metadata import _etcd, _etcd_answer
from danube_trio.metadata._etcd_watch import EtcdWatch
from danube_trio.metadata._format import (
    BATCHES_START,
    FormatError,
    JournalHeader,
    NewerError,
    decode_batch,
    decode_journal_header,
    decode_snapshot,
    encode_batch,
    encode_snapshot,
)
from danube_trio.metadata._format import Mark as JournalMark
from danube_trio.metadata._format import decode_marks as decode_journal_marks
from danube_trio.metadata._journal import Names
from danube_trio.metadata._recovery import recover as recover_metadata
from danube_trio.metadata._rules import Put
from danube_trio.metadata._table import Change, Entry
from danube_trio.testing import SimDisk
from danube_trio.typed import Schema, SchemaError

__all__ = ["PARSERS", "READS_JSON"]

_DIR = "/log"
_CORRUPT = (CorruptDataError, UnsupportedFormatError)


def _line(document: object) -> bytes:
    """The guarded line of a document, without its guard."""
    return without_crc(encode_document(document))


def _guarded(data: bytes) -> bytes:
    return with_crc(data.replace(b"\n", b" "))


def _checked(data: bytes) -> bytes:
    return data + struct.pack("<I", crc32(data))


# ---- the files of a log

_META = Meta("0f" * 16, "s5-standard", ((0, 0), (2, 70)), writers=((2, "x"),), place="a/b")
_CHECKPOINT = Checkpoint.of(25, [Segment(0, 10, 500, 7, 8), Segment(10, 25, 600, 8, 9)])


def _index() -> SparseIndex:
    index = SparseIndex(70)
    for _ in range(4):
        index.add_batch(index.end, index.end + 100, 70_000, 5, 9)
    return index


def _take_marks(data: bytes) -> None:
    slots = bytearray(1024)
    for at in (0, 512):
        slots[at : at + 40] = _checked((data[at // 16 :] + bytes(36))[:36])
    decode_marks(bytes(slots), 7)
    decode_marks(data, 7)


def _take_names(data: bytes) -> None:
    listing = [*data.decode(errors="replace").split("/"), data.decode("latin-1")]
    names = LogNames.of(_DIR, "wal.log")
    for base in names.segment_bases(listing):
        assert names.segment(base).rpartition("/")[2] in listing
    for base in names.index_bases(listing):
        assert names.index(base).rpartition("/")[2] in listing
    names.unfinished(listing)
    names.leftovers(listing)
    for theirs in (ROTATED_NAME, OBJECT_NAME, PAYLOADS_NAME, SEGMENT_NAME):
        for match in filter(None, map(theirs.fullmatch, listing)):
            assert all(group == "pending" or int(group) >= 0 for group in match.groups())
    names.other_logs(listing)
    revisions = Names(_DIR)
    for base in revisions.bases(listing):
        assert revisions.journal(base).rpartition("/")[2] in listing
    for name in listing:
        manifest_sequence(name)
        page_sequence(name)
        object_parts(name)
        TopicKeys.start_of(name)
        number_in(name)


def _take_frames(data: bytes) -> None:
    for trailer in (True, False):
        for frames in (data, _reframed(data)):
            found = scan(frames, 0, 70_000, trailer=trailer)
            find_frame(frames, found.positions[-1], 0, 1 << 40, trailer=trailer)


def _reframed(data: bytes) -> bytes:
    """Frames whose checksums fit: of each, the header's first twelve bytes and the body."""
    parts: list[bytes] = []
    at = 0
    while at + 16 <= len(data):
        length = int.from_bytes(data[at + 8 : at + 12], "little")
        body = data[at + 16 : at + 16 + length]
        if len(body) < length:
            break
        parts += (data[at : at + 12], struct.pack("<I", crc32(body)), body)
        at += 16 + length
    return b"".join(parts) + data[at:]


def _directory(name: str, data: bytes) -> None:
    """Open a log in which one file was replaced."""
    whole = _reframed(data) if name.endswith(".log") else _guarded(data)
    files = _FILES | {name: whole}
    disk = SimDisk()
    disk.make_dir(_DIR)
    for each, content in files.items():
        disk.write_file(f"{_DIR}/{each}", content)
    config = WalConfig(dir=_DIR, segment_bytes=4096)
    recover(disk.open_dir(_DIR), config, "1f" * 16).tail.abandon()


def _log_files() -> dict[str, bytes]:
    frames = _sealed_frames()
    first, rest = frames[:3], frames[3:]
    directory = Meta("0f" * 16, "s5-standard")
    return {
        "wal.meta": encode_document(directory),
        "wal.00000000000000000000.log": b"".join(first),
        "wal.00000000000000000003.log": b"".join(rest),
        "wal.ckpt": encode_document(
            Checkpoint.of(3, [Segment(0, 3, sum(map(len, first)), 1000, 1000)])
        ),
        "wal.trim": encode_trim(Trim(0)),
    }


def _sealed_frames() -> list[bytes]:
    codec = CODECS["s5-standard"]
    parts = codec.encode_parts(StreamMessage(b"payload"))
    return [encode_block([(1000, [parts])], n, codec.encode_uint).data for n in range(5)]


# ---- messages


def _take_message(data: bytes) -> None:
    probe_codec([data])
    for codec in CODECS.values():
        for strict in (False, True):
            try:
                message = codec.decode(data, strict=strict)
            except DecodeError:
                continue
            assert codec.decode(codec.encode(message)) == message


def _take_block(data: bytes) -> None:
    """Decoded late: only the payload is looked for, and fields when they are asked for."""
    for codec in CODECS.values():
        frames = b"\0" * 16 + data
        try:
            (message,) = codec.decode_block(frames, [0, len(frames)], 5, 0, 1, 0)
            _ = message.attributes, message.msg_id, message.payload
        except DecodeError:
            continue


# ---- what Danube wrote


def _take_danube_files(data: bytes) -> None:
    for files in (
        {"wal.log": data, "wal.ckpt": data[:40]},
        {"data-0-29.dnb1": data},
        {"segment_0.bin": data},
    ):
        source = DanubeSource(on_disk(files), "/danube")
        for finding in source:
            str(finding)
        for batch in source.batches():
            assert all(message.payload is not None for message in batch)


def _take_danube_names(data: bytes) -> None:
    names = {name.replace("\0", "")[:100] for name in data.decode(errors="replace").split("/", 50)}
    disk = on_disk({name: b"" for name in names - {"", ".", ".."} if "/" not in name})
    find_files(disk, "/danube")


_DANUBE_CHECKPOINTS = {
    layout: encode_checkpoint(
        DanubeCheckpoint(last_offset=7, file_seq=1, file_path="/w/wal.1.log"), layout
    )
    for layout in CHECKPOINT_LAYOUTS
}


# ---- catalogs


def _descriptors() -> tuple[Descriptor, ...]:
    index = ((0, 0, 5), (4, 300, 6))
    first = Descriptor(
        0, 10, 500, "00000000000000000000-0000000001-ab.dnb1", 7, "e", 9, 1, 5, 6, index
    )
    return first, Descriptor(10, 30, 900, "00000000000000000010-0000000001-cd.dnb1", 8)


_STATE = attrs.evolve(
    CatalogState(epoch=1, owner="o", owner_since_epoch=1, end=30, segments=_descriptors()),
    codec="s5-standard",
    sequence=3,
    nonce="n",
    topic="/default/orders",
)
_PAGE = Page.of(_descriptors()[:1], 3, "n")


def _take_manifest(data: bytes) -> None:
    manifest = decode_manifest(_guarded(data), 3)
    state = manifest.state([_PAGE] if manifest.pages else [])
    assert state.find(state.start_offset) is None or state.start_offset < state.end


def _take_page(data: bytes) -> None:
    whole = _guarded(data)
    decode_page(whole, attrs.evolve(_PAGE.ref, crc32=crc32(whole)))


def _take_head(data: bytes) -> None:
    Head.decode(data).joined([])


# ---- cursors

_CURSOR = CursorState(
    end=5, edge=90, holes=[5, 9, 70], attempts={5: 2, 9: 1}, rejected=[9], owner="o", saves=3,
    log="l", witness=Witness(4, 77),
)  # fmt: skip


def _take_cursor(data: bytes) -> None:
    cursor = CursorState.decode(data, "/key")
    assert CursorState.decode(cursor.encode(), "/key") == cursor
    assert list(cursor.holes) == sorted(set(cursor.holes))


def _take_packed(data: bytes) -> None:
    offsets = unpack_offsets(base64.b64encode(data).decode())
    assert offsets == unpack_offsets(pack_offsets(offsets))


# ---- the metadata directory

_HEADER = JournalHeader(b"d" * 16, 1)
_PUTS = Change(2, (Put("/a", b"1"), Put("/b", b"", 5.0)), ()), Change(3, (), ("/a",))
_ENTRIES: list[tuple[str, Entry]] = [
    ("/a", Entry(b"1", 1, None, None)),
    ("/b", Entry(b"2", 1, 7.0, 1.0)),
]


def _take_batch(body: bytes) -> None:
    tied = struct.pack("<IQQI", len(body), 2, BATCHES_START, 7) + body
    batch = struct.pack("<IQI", len(body), 2, crc32(tied)) + body
    changes, end = decode_batch(bytes(BATCHES_START) + batch, BATCHES_START, 7, 1)
    assert end == BATCHES_START + len(batch)
    assert encode_batch(changes, BATCHES_START, 7)


def _take_snapshot(data: bytes) -> None:
    """The body; with the number of entries, and their revision, before it."""
    count, body = int.from_bytes(data[:2], "little"), data[2:]
    header = struct.pack(
        "<8sI16sQQQI", b"DTRMSNP\n", 1, b"d" * 16, 9, count, len(body), crc32(body)
    )
    decode_snapshot(_checked(header) + body)


def _take_journal(data: bytes) -> None:
    header = decode_journal_header(data)
    decode_journal_marks(data, header.tie)


def _take_metadata_directory(data: bytes) -> None:
    """A journal after a snapshot that is whole."""
    names = Names("/metadata")
    disk = SimDisk()
    disk.make_dir(names.directory)
    snapshot = encode_snapshot(_HEADER.directory_id, 1, [("/a", Entry(b"0", 1, None, None))])
    disk.write_file(names.snapshot, snapshot)
    disk.write_file(names.journal(1), data)
    recover_metadata(disk.open_dir(names.directory), names).journal.abandon()


def _journal() -> bytes:
    first = encode_batch(_PUTS, BATCHES_START, _HEADER.tie)
    return _HEADER.encode(JournalMark(2, BATCHES_START + len(first), 3)) + first


# ---- etcd

_ANSWER = {
    "header": {"revision": "9", "cluster_id": "1"},
    "kvs": [{"key": "L2E=", "value": "MQ==", "mod_revision": "7"}],
    "more": True,
    "succeeded": True,
}
_EVENTS = {
    "header": {"revision": "9"},
    "events": [
        {"kv": {"key": "L2E=", "value": "MQ==", "mod_revision": "9"}},
        {"type": "DELETE", "kv": {"key": "L2I=", "mod_revision": "10"}},
    ],
}


def _take_answer(data: bytes) -> None:
    answer = _etcd_answer.parse("here", data)
    with _etcd_answer.understood("here"):
        _etcd_answer.header_of(answer)
        for kv in _etcd._entries(answer, b"/", b"0"):  # pyright: ignore[reportPrivateUsage]
            _etcd._revised(kv)  # pyright: ignore[reportPrivateUsage]
        _etcd_answer.flag(answer.get("more", False))


def _take_events(data: bytes) -> None:
    watch = EtcdWatch(cast("Any", None), b"/", 0)
    watch._take(_etcd_answer.parse("here", data))  # pyright: ignore[reportPrivateUsage]


# ---- what programs and people say

_STATISTICS = {
    "time": 1.5,
    "elapsed": 2,
    "statistics": {
        "phase": "open",
        "start_offset": 0,
        "durable_end": 70,
        "next_offset": 80,
        "sync_seconds": {"bounds": [0.1, 1], "counts": [3, 4, 1], "sum": 2.5},
        "tasks": {"writer": 5.0},
        "readers": [{"cursor": 5, "name": "r"}],
        "cloud": {"phase": "uploading", "uploaded_bytes": 5},
        "topics": {"/a/b": {"phase": "open", "next_offset": 3}},
    },
}


def _take_statistics(data: bytes) -> None:
    line = from_json(data)
    if isinstance(line, dict):
        view = View(cast("dict[str, Any]", line), _STATISTICS, cast("dict[str, Any]", line))
        text = plain(page(view))
        assert shown(text) == text
        json.dumps(rates(_STATISTICS, line))


def _take_message_line(data: bytes) -> None:
    message = message_of(data)
    CODECS["s5-standard"].encode(message)


def _take_stdin(data: bytes) -> None:
    for input_format in ("lines", "ndjson", "length-prefixed"):
        parser = make_parser(input_format, 1000)
        for at in range(0, len(data), 100):
            parser.feed(data[at : at + 100])
        parser.finish()


def _take_shown(data: bytes) -> None:
    text = shown_bytes(data).decode()
    assert all(c.isprintable() or c in "\t\n" or ord(c) > 0x9F for c in text)


def _take_json(data: bytes) -> None:
    assert from_json(data) == json.loads(data)


@attrs.frozen
class _Order:
    number: int
    price: float
    names: dict[int, str]
    lines: tuple[bytes, ...] = ()


_SCHEMA = Schema(_Order, id=1)


def _take_typed(data: bytes) -> None:
    _SCHEMA.decode(StreamMessage(data, schema_id=1, schema_version=1))


def _documents(*documents: object) -> Sequence[bytes]:
    return [json.dumps(document).encode() for document in documents]


_FILES = _log_files()
_MESSAGES = [data for name, data in GOLDEN.items() if name.startswith("msg")]


def _reads(kind: type[Any]) -> Callable[[bytes], object]:
    return lambda data: decode_document(_guarded(data), kind)


# Their bytes are JSON, or a line of it.
READS_JSON: Sequence[Parser] = (
    Parser("JSON", _take_json, (ValueError,), _documents(_ANSWER, [1.5, "ü", None], _STATISTICS)),
    Parser("meta", _reads(Meta), (ValueError,), [_line(_META)]),
    Parser("trim", _reads(Trim), (ValueError,), [_line(Trim(7, 9))]),
    Parser("checkpoint", _reads(Checkpoint), (ValueError,), [_line(_CHECKPOINT)]),
    Parser(
        "manifest",
        _take_manifest,
        (ValueError,),
        [
            without_crc(encode_manifest(_STATE, [], [encode_row(d) for d in _STATE.segments])),
            without_crc(encode_manifest(_STATE, [_PAGE], [encode_row(_STATE.segments[1])])),
        ],
    ),
    Parser("page", _take_page, (ValueError,), [without_crc(_PAGE.encode())]),
    Parser(
        "claim",
        lambda data: parse(data, Claim, newest=1),
        (ValueError,),
        [compact(Claim("l", "p", "t"))],
    ),
    Parser(
        "Danube's descriptor",
        decode_segment,
        (ValueError,),
        [encode_segment(split_segment(d)[0]) for d in _descriptors()],
    ),
    Parser(
        "details", Details.decode, (ValueError,), [compact(split_segment(_descriptors()[0])[1])]
    ),
    Parser("epoch", EpochEntry.decode, (ValueError,), [compact(EpochEntry(3, "w"))]),
    Parser(
        "head",
        _take_head,
        (ValueError,),
        [compact(Head.of(attrs.evolve(_STATE, start_offset=30, segments=())))],
    ),
    Parser(
        "Danube's checkpoint C0",
        lambda data: decode_checkpoint(data, "C0"),
        (DecodeError,),
        [_DANUBE_CHECKPOINTS["C0"]],
    ),
    Parser(
        "cursor",
        _take_cursor,
        (CorruptDataError,),
        [_CURSOR.encode(), CursorState.at(7).encode()],
    ),
    Parser(
        "redriven",
        lambda data: decode_redriven(data, "/key"),
        (CorruptDataError,),
        _documents({"offset": 7, "topic": "/a/b", "checksum": 5}, 7),
    ),
    Parser("etcd's answer", _take_answer, (StoreError,), _documents(_ANSWER)),
    Parser("etcd's events", _take_events, (StoreError,), _documents(_EVENTS)),
    Parser("request", Request.parse, (RequestError,), _documents({"every": 0.5, "count": 3})),
    Parser("statistics", _take_statistics, (ValueError,), _documents(_STATISTICS)),
    Parser(
        "message line",
        _take_message_line,
        (ValueError,),
        _documents(
            {"payload": "x", "attributes": {"k": "v"}, "schema_id": 3, "producer_id": 4},
            {"base64": "eA==", "routing_key": "eu", "offset": 7},
        ),
    ),
    Parser(
        "typed message",
        _take_typed,
        (SchemaError,),
        _documents({"number": 1, "price": 1.5, "names": {"7": "x"}, "lines": ["eA=="]}),
    ),
)

_MARK = Mark(4, 70, 30, 900).encode(7)

PARSERS: Sequence[Parser] = (
    *READS_JSON,
    Parser(
        "document",
        lambda data: decode_document(data, Meta),
        (ValueError,),
        [encode_document(_META)],
    ),
    Parser(
        "trim file",
        lambda data: (decode_trim_copies(data), decode_document(data, Trim)),
        (ValueError,),
        [encode_trim(Trim(7, 9)), encode_document(Trim(7))],
    ),
    Parser("marks", _take_marks, (), [_MARK, bytes(mark_position(1)) + _MARK]),
    Parser(
        "index",
        lambda data: SparseIndex.decode(_checked(data), 70),
        (),
        [_index().encode()[:-4], SparseIndex(70).encode()[:-4]],
    ),
    Parser(
        "names",
        _take_names,
        (),
        [
            b"wal.00000000000000000005.log/wal.00000000000000000005.idx/wal.1.log/wal.meta",
            b"metadata.00000000000000000007.journal/00000000000000000003/wal.ckpt.tmp",
            b"00000000000000000003-n-00000000000000000000-0f0f0f0f",
            b"00000000000000000000-0000000001-ab.dnb1",
        ],
    ),
    Parser(
        "frames",
        _take_frames,
        (),
        [data * 2 for name, data in GOLDEN.items() if name.startswith("frame")],
    ),
    Parser("message", _take_message, (), _MESSAGES),
    Parser("message in a block", _take_block, (), _MESSAGES),
    *(
        Parser(
            f"Danube's checkpoint {layout}",
            partial(decode_checkpoint, layout=layout),
            (DecodeError,),
            [data],
        )
        for layout, data in _DANUBE_CHECKPOINTS.items()
        if layout != "C0"
    ),
    Parser(
        "Danube's files",
        _take_danube_files,
        (CorruptDataError, FileNotFoundError),
        [danube_frames(0, 3), dnb1((n, sent(n)) for n in range(2))],
        weight=20,
    ),
    Parser(
        "Danube's names",
        _take_danube_names,
        (FileNotFoundError, ValueError),
        [b"wal.log/wal.1.log/wal.ckpt", b"data-0-pending.dnb1/data-5-9.dnb1", b"segment_3.bin"],
    ),
    Parser(
        "Danube's cursor",
        lambda data: CursorState.from_danube(data, "/key"),
        (CorruptDataError,),
        [b"0", b"17"],
    ),
    Parser("packed offsets", _take_packed, (ValueError,), [b"\4x\x9cc```\0\0\0\4\0\1"]),
    Parser("batch", _take_batch, (FormatError,), [encode_batch(_PUTS, BATCHES_START, 7)[16:]]),
    Parser(
        "snapshot",
        _take_snapshot,
        (FormatError, NewerError),
        [b"\2\0" + encode_snapshot(b"d" * 16, 9, _ENTRIES)[60:]],
    ),
    Parser(
        "snapshot file",
        decode_snapshot,
        (FormatError, NewerError),
        [encode_snapshot(b"d" * 16, 9, _ENTRIES)],
    ),
    Parser("journal", _take_journal, (FormatError, NewerError), [_journal()]),
    Parser("metadata directory", _take_metadata_directory, _CORRUPT, [_journal()], weight=5),
    *(
        Parser(
            f"log with another {name}",
            partial(_directory, name),
            _CORRUPT,
            [without_crc(_FILES[name])],
            weight=10,
        )
        for name in ("wal.meta", "wal.ckpt")
    ),
    Parser(
        "log with another trim",
        partial(_directory, "wal.trim"),
        _CORRUPT,
        [_line(Trim(0)), _line(Trim(3, 3))],
        weight=10,
    ),
    Parser(
        "log with another segment",
        partial(_directory, "wal.00000000000000000003.log"),
        _CORRUPT,
        [_FILES["wal.00000000000000000003.log"]],
        weight=10,
    ),
    Parser("stdin", _take_stdin, (), [b'{"payload":"x"}\n{"base64":"eA=="}\n', b"\1\0\0\0x"]),
    Parser(
        "time",
        lambda data: seconds_of(data.decode(errors="replace")),
        (ValueError,),
        [b"1769860800", b"2026-01-31T12:00:00Z"],
    ),
    Parser("text", _take_shown, (), [b"\x1b[31mred\x9b\t\xff\xed\xa0\x80"]),
)
