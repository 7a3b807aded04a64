"""Whatever the bytes from outside are: documented errors only, bounded memory, linear work.

`parsers` has the table of all that takes them. `DANUBE_FUZZ_ROUNDS` says how many inputs each is
tried with; with more than the default (300), what is large is larger, too.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable

import pytest
from fuzzer import MEMORY_BYTES, Parser, fuzz, lines_of, peak_of
from parsers import PARSERS, READS_JSON

from danube_trio import CorruptDataError
from danube_trio._core.plain import from_json
from danube_trio.dispatch._cursor import MAX_FAILED, MAX_HOLES, CursorState, pack_offsets

ROUNDS = int(os.environ.get("DANUBE_FUZZ_ROUNDS", "300"))

each_parser = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


@each_parser
def test_seeds_are_what_a_parser_takes(parser: Parser) -> None:
    for seed in parser.seeds:
        parser.run(seed)


@pytest.mark.happens
@each_parser
def test_no_bytes_lead_to_an_error_that_is_not_documented(parser: Parser) -> None:
    assert fuzz(parser, max(1, ROUNDS // parser.weight)).steps


# What grows: n times something, around which brackets and quotes are closed.
SHAPES: dict[str, Callable[[int], bytes]] = {
    "deep lists": lambda n: b"[" * n + b"]" * n,
    "deep objects": lambda n: b'{"a":' * n + b"1" + b"}" * n,
    "brackets that stay open": lambda n: b"[{" * n,
    "empty lists": lambda n: b"[" + b"[]," * n + b"[]]",
    "small objects": lambda n: b"[" + b'{"a":1},' * n + b"1]",
    "short texts": lambda n: b"[" + b'"ab",' * n + b"1]",
    "numbers": lambda n: b"[" + b"1000," * n + b"1]",
    "a long number": lambda n: b"9" * n,
    "a long fraction": lambda n: b"1." + b"9" * n,
    "a long text": lambda n: b'"' + b"x" * n + b'"',
    "a text of brackets": lambda n: b'"' + b'[{,\\"' * n + b'"',
    "keys": lambda n: b"{" + b",".join(b'"%d":1' % i for i in range(n)) + b"}",
    "one key again": lambda n: b"{" + b'"a":1,' * n + b'"a":1}',
    "escapes": lambda n: b'"' + b"\\u00e9" * n + b'"',
    "rows": lambda n: b'{"next_offset":1,"segments":[' + b"[0,1,2,3,4]," * n + b"[0,1,2,3,4]]}",
    "rows that are none": lambda n: b'{"next_offset":1,"segments":[' + b"1," * n + b"1]}",
    "entries": lambda n: b'{"header":{"revision":1},"kvs":[' + b"{}," * n + b"{}]}",
    "zeros": bytes,
    "bytes of ones": lambda n: b"\xff" * n,
    "small numbers": lambda n: b"\1" * n,
    "frames of zeros": lambda n: struct.pack("<QII", 1, 8, 0) * n,
    "headers that claim": lambda n: struct.pack("<QII", 70_000, 4096, 0) * n,
    "headers that claim the rest": lambda n: struct.pack("<QII", 70_000, 8 * n, 0) * n,
    "slashes": lambda n: b"wal.0.log/" * n,
}

SMALL, LARGE = 200, 30_000 if ROUNDS > 300 else 15_000

each_shape = pytest.mark.parametrize("shape", SHAPES)


@each_shape
def test_twice_the_bytes_take_twice_the_steps(shape: str) -> None:
    make = SHAPES[shape]
    for parser in PARSERS:
        once, twice = lines_of(parser, make(SMALL)), lines_of(parser, make(2 * SMALL))
        assert twice <= 2.05 * once + 1000, (parser.name, once, twice)


@each_shape
def test_large_inputs_cost_bounded_memory(shape: str) -> None:
    """Of those that are not JSON, less: a simulated disk keeps the history of its files."""
    for parser in PARSERS:
        data = SHAPES[shape](LARGE if parser in READS_JSON else LARGE // 50)
        peak = peak_of(parser, data)
        assert peak < MEMORY_BYTES + len(data), (parser.name, peak, len(data))


def test_a_cursor_that_unpacks_to_much_costs_bounded_memory() -> None:
    parser = Parser(
        "cursor", lambda data: CursorState.decode(data, "/key"), (CorruptDataError,), ()
    )
    failed = pack_offsets(range(1, MAX_FAILED + 1))
    for count in (MAX_HOLES, MAX_HOLES + 1, 25 * MAX_HOLES):
        packed = b64encode(b"\4" + zlib.compress(b"\1" * count + bytes(3 * count), 9)).decode()
        cursor = {"edge": 1 << 40, "end": 1, "holes": packed, "owner": "o", "saves": 1}
        data = json.dumps({**cursor, "attempts": f"{failed},{failed}", "version": 1}).encode()
        assert len(data) < 150_000
        assert peak_of(parser, data) < MEMORY_BYTES + len(data)


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ("empty lists", 360_000),
        ("small objects", 160_000),
        ("short texts", 690_000),
        ("numbers", 1_000_000),
        ("keys", 260_000),
    ],
)
def test_json_of_as_many_values_as_may_be_costs_bounded_memory(shape: str, count: int) -> None:
    (parser,) = (parser for parser in PARSERS if parser.name == "epoch")
    data = SHAPES[shape](count)
    from_json(data)
    assert peak_of(parser, data) < MEMORY_BYTES + len(data)
