"""Runs of records, file by file, into the histories that the engine wrote: *generations*.

Danube's engine starts at offset 0 again when it is restarted without having been sealed, and
appends to the files that are there: a second history with the same offsets, in the same files. Two
tasks may also write frames in another order than their offsets, and the uploader stores the same
records several times. The runs of a directory are taken in the order in which they were written,
and each goes to the first generation that it can belong to:

1. one that ends where the run begins, beginning with the latest that this file has added to;
2. one in which all its offsets are still free, and not all of them lie before what is there:
   damage or another order of writing left a hole;
3. of uploaded objects, one that has some of its offsets with exactly the same bytes: these are
   dropped as copies. In a file of the write-ahead log nothing is a copy: the engine never writes a
   record twice, but a producer may well send the same message after a restart;
4. a new one.

Within a file generations follow each other, so a run never goes to an earlier one than the run
before it did. Nothing is ever dropped but byte-identical copies of the same offset. When the choice
is wrong, which takes damage and a coincidence of offsets, records are in another generation than
they should be, with findings that say what is missing where.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import attrs

from danube_trio._danube_survey import Run
from danube_trio.errors import CorruptDataError

__all__ = ["Generation", "Orderer", "Piece"]

# One for each restart without a seal. More are taken for rubbish: placing a run looks at all.
MOST_GENERATIONS = 10_000


@attrs.frozen
class Piece:
    """Records `[start, end)` of a run."""

    run: Run
    start: int
    end: int


# Whether the records [start, end) are the same bytes in both runs.
Compare = Callable[[Run, Run, int, int], bool]


class Generation:
    """One history: pieces that do not overlap, ascending."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self.pieces: list[Piece] = []

    @property
    def start(self) -> int:
        """Its first offset."""
        return self.pieces[0].start

    @property
    def end(self) -> int:
        """The offset after its last record."""
        return self.pieces[-1].end

    @property
    def records(self) -> int:
        """How many records it has."""
        return sum(piece.end - piece.start for piece in self.pieces)

    def holes(self) -> Iterator[tuple[int, int]]:
        """The ranges of offsets that are missing between the first and the last."""
        for before, after in pairwise(self.pieces):
            if before.end < after.start:
                yield before.end, after.start

    def stretches(self) -> Iterator[tuple[int, int]]:
        """The ranges that are there, as large as possible."""
        start = self.start
        for low, high in self.holes():
            yield start, low
            start = high
        yield start, self.end

    def overlapping(self, start: int, end: int) -> list[Piece]:
        """The pieces that have some of these offsets."""
        at = max(0, bisect_right(self._starts, start) - 1)
        found: list[Piece] = []
        while at < len(self.pieces) and self.pieces[at].start < end:
            if self.pieces[at].end > start:
                found.append(self.pieces[at])
            at += 1
        return found

    def admits(self, start: int, end: int) -> bool:
        """Nothing of the range is there, and it does not begin a history of its own."""
        if self.overlapping(start, end):
            return False
        return start > self.start or end == self.start

    def insert(self, piece: Piece) -> None:
        """Add a piece whose offsets are free."""
        at = bisect_right(self._starts, piece.start)
        self._starts.insert(at, piece.start)
        self.pieces.insert(at, piece)


class Orderer:
    """Takes the runs of one file after the other.

    Args:
        same: compares records of two runs; None: nothing is a copy.

    Attributes:
        generations: in the order in which they began.
        copies: `(run, start, end)` of what was dropped, because the same bytes were there already.
    """

    def __init__(self, same: Compare | None) -> None:
        self.generations: list[Generation] = []
        self.copies: list[tuple[Run, int, int]] = []
        self._same = same

    def add_file(self, runs: Sequence[Run]) -> None:
        """Place the runs of the next file, which are in the order of their positions."""
        lowest = 0
        for run in runs:
            lowest = self._place(run, lowest)

    def _place(self, run: Run, lowest: int) -> int:
        """Give the run to a generation, and return which."""
        generations = self.generations
        choice = range(lowest, len(generations))
        for i in choice:
            if generations[i].end == run.start:
                generations[i].insert(Piece(run, run.start, run.end))
                return i
        for i in choice:
            if generations[i].admits(run.start, run.end):
                generations[i].insert(Piece(run, run.start, run.end))
                return i
        for i in choice:
            if self._merge(generations[i], run):
                return i
        if len(generations) >= MOST_GENERATIONS:
            raise CorruptDataError(
                f"more than {MOST_GENERATIONS} histories that begin with the same offsets",
                path=run.file.path,
                position=run.position,
                advice="Leave this file out: it is not what Danube writes",
            )
        generations.append(Generation())
        generations[-1].insert(Piece(run, run.start, run.end))
        return len(generations) - 1

    def _merge(self, generation: Generation, run: Run) -> bool:
        """Add what is new of a run, if all the rest is in the generation, byte for byte."""
        there = generation.overlapping(run.start, run.end)
        if not there or self._same is None:
            return False
        for piece in there:
            low, high = max(run.start, piece.start), min(run.end, piece.end)
            if not self._same(run, piece.run, low, high):
                return False
        at = run.start
        for piece in there:
            if at < piece.start:
                generation.insert(Piece(run, at, piece.start))
            self.copies.append((run, max(at, piece.start), min(run.end, piece.end)))
            at = piece.end
        if at < run.end:
            generation.insert(Piece(run, at, run.end))
        return True
