"""A fuzzer that follows coverage: what a mutated input runs anew makes it worth mutating again.

It needs nothing but `sys.settrace`: within the files that are named, each step from one line to the
next is one fact, and an input that shows a new one joins the corpus. All chance comes from a seed,
and rounds are counted, not timed, so a run finds the same things again.
"""

from __future__ import annotations

import random
import sys
import tracemalloc
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import attrs

import danube_trio

__all__ = ["MEMORY_BYTES", "Fuzzed", "Parser", "fuzz", "lines_of", "peak_of"]

PACKAGE = str(Path(danube_trio.__file__).parent)
# What any input may cost beside its own size.
MEMORY_BYTES = 64 << 20
LONGEST = 4096  # of an input that is made here

NUMBERS = (0, 1, 127, 128, 250, 251, 255, 256, 65535, 65536, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
PIECES = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"null", b"true", b"-1", b"1e999"),
    *(b"NaN", b"-Infinity", b"[" * 70, b'{"a":' * 70, b"9" * 25, b"1.5", b'"\\ud800"', b"\xff"),
    *("٣".encode(), "²".encode(), b"0" * 20, b"9" * 20, b"18446744073709551616", b"-", b"/", b"."),
    *(b"\0", b"\0" * 8, b"\xff" * 8, b"\x1b[2J", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"1_0", b"+5"),
)


@attrs.frozen
class Parser:
    """Something that takes bytes from outside.

    Attributes:
        run: the call.
        allowed: the errors that it documents.
        seeds: inputs that it takes, as the program itself writes them.
        weight: it takes so many times what others take.
    """

    name: str
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: Sequence[bytes]
    weight: int = 1


@attrs.frozen
class Fuzzed:
    """What became of it: which inputs showed something new, and how many steps they did."""

    corpus: Sequence[bytes]
    steps: int


def fuzz(parser: Parser, rounds: int) -> Fuzzed:
    """Try so many inputs. Raises AssertionError with the input that led to another error."""
    chance = random.Random(parser.name)
    corpus = list(parser.seeds)
    known: set[tuple[CodeType, int, int]] = set()
    for seed in corpus:
        _try(parser, seed, known)
    for number in range(rounds):
        data = _mutated(chance, corpus)
        before = len(known)
        _try(parser, data, known)
        if len(known) > before:
            corpus.append(data)
        if number % 50 == 0:
            peak = peak_of(parser, data)
            assert peak < MEMORY_BYTES + len(data), f"{parser.name}: {peak} bytes for {data!r}"
    return Fuzzed(corpus, len(known))


def _try(parser: Parser, data: bytes, known: set[tuple[CodeType, int, int]]) -> None:
    def note(code: CodeType, before: int, after: int) -> None:
        known.add((code, before, after))

    with _traced(note):
        error = _error_of(parser, data)
    if error is not None:
        raise AssertionError(f"{parser.name}: {error!r:.300} for {data!r}") from error


def _error_of(parser: Parser, data: bytes) -> BaseException | None:
    """What it raises and does not document."""
    try:
        parser.run(data)
    except parser.allowed:
        return None
    except Exception as error:
        return error
    return None


@contextmanager
def _traced(note: Callable[[CodeType, int, int], None]) -> Generator[None]:
    """Have each step within the package noted."""

    def called(frame: FrameType, event: str, arg: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith((PACKAGE, "<cattrs")):
            return None
        before = 0

        def step(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal before
            if event == "line":
                note(frame.f_code, before, frame.f_lineno)
                before = frame.f_lineno
            return step

        return step

    former = sys.gettrace()
    sys.settrace(called)
    try:
        yield
    finally:
        sys.settrace(former)


def lines_of(parser: Parser, data: bytes) -> int:
    """How many lines of the package an input runs."""
    lines = 0

    def note(code: CodeType, before: int, after: int) -> None:
        nonlocal lines
        lines += 1

    with _traced(note):
        error = _error_of(parser, data)
    assert error is None, (parser.name, error, data[:100])
    return lines


def peak_of(parser: Parser, data: bytes) -> int:
    """The most that it held at once while it took an input, in bytes, beside the input."""
    tracemalloc.start()
    try:
        error = _error_of(parser, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error is None, (parser.name, error, data[:100])
    return peak


# ---- mutations


def _mutated(chance: random.Random, corpus: Sequence[bytes]) -> bytes:
    # What came last was new last: half of all tries begin there.
    among = corpus[-8:] if chance.random() < 0.5 else corpus
    data = bytearray(chance.choice(among))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        chance.choice(_MUTATIONS)(chance, data, corpus)
    return bytes(data[:LONGEST])


def _flip(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _number(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    size = chance.choice((1, 2, 4, 8))
    at = chance.randrange(len(data) + 1)
    number = chance.choice(NUMBERS) % (1 << 8 * size)
    data[at : at + size] = number.to_bytes(size, "little")


def _digits(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    places = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    if places:
        start = end = chance.choice(places)
        while end < len(data) and 48 <= data[end] < 58:
            end += 1
        data[start:end] = b"%d" % chance.choice(NUMBERS)


def _piece(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, 0, 1, 4))] = chance.choice(PIECES)


def _cut(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    del data[at : at + chance.choice((1, 2, 8, 64, LONGEST))]


def _again(chance: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = chance.randrange(len(data) + 1)
    data[at:at] = data[at : at + chance.choice((1, 8, 64))] * chance.choice((1, 2, 10))


def _splice(chance: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = chance.choice(corpus)
    begin = chance.randrange(len(other) + 1)
    at = chance.randrange(len(data) + 1)
    data[at : at + chance.choice((0, 8, LONGEST))] = other[begin : begin + chance.randrange(1, 200)]


_MUTATIONS = (_flip, _number, _digits, _piece, _cut, _again, _splice)
