"""Runs of records, file by file, into the histories that the engine wrote: *generations*.

Danube's engine starts at offset 0 again when it is restarted without having been sealed, and
appends to the files that are there: a second history with the same offsets, in the same files. Two
tasks may also write frames in another order than their offsets, and the uploader stores the same
records several times. First, neighbours in a file that fill each other's holes are put in order.
Then the runs of a directory are taken in the order in which they were written, and each goes to the
first generation that it can belong to:

1. one that ends where the run begins, beginning with the latest that this file has added to;
2. one in which all its offsets are still free, and not all of them lie before what is there:
   damage left a hole;
3. of uploaded objects, one that has some of its offsets with exactly the same bytes: these are
   dropped as copies. In a file of the write-ahead log nothing is a copy: the engine never writes a
   record twice, but a producer may well send the same message after a restart;
4. a new one.

Within a file generations follow each other, so a run never goes to an earlier one than the run
before it did. A frame on its own that continues nothing comes last in its generation, because a
damaged header may be the reason: it must not take the place of others. Nothing is ever dropped but
byte-identical copies of the same offset. When the choice is wrong, which takes damage or a
coincidence of offsets, records are in another generation than they should be, in the order of their
offsets there.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import attrs

from danube_trio._engine.danube.survey import Run
from danube_trio.errors import CorruptDataError

# One for each restart without a seal. More are taken for rubbish: placing a run looks at all.
MOST_GENERATIONS = 10_000
# How far apart in a file, in runs, frames that were written out of order are at most. A guess.
NEIGHBOURS = 64


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


@attrs.frozen
class Cluster:
    """Neighbouring runs of a file that together have all of `[start, end)`, by their offsets."""

    runs: tuple[Run, ...]

    @property
    def start(self) -> int:
        return self.runs[0].start

    @property
    def end(self) -> int:
        return self.runs[-1].end

    @property
    def is_lone(self) -> bool:
        """One record, which does not begin a history."""
        return self.start > 0 and self.end - self.start == 1


def clusters(runs: Sequence[Run]) -> Iterator[Cluster]:
    """Put runs in order that were written out of order: neighbours fill each other's holes."""
    i = 0
    while i < len(runs):
        found = [runs[i]]
        i += 1
        while i < len(runs):
            if len(found) == 1 and _is_swapped(found[0], runs[i]):
                found.insert(0, runs[i])
                i += 1
                continue
            stop = _filled(runs, i, found[-1].end)
            if stop == i:
                break
            found += sorted(runs[i:stop], key=lambda run: run.start)
            i = stop
        yield Cluster(tuple(found))


def _is_swapped(first: Run, second: Run) -> bool:
    return second.end == first.start and first.end - second.start == 2


def _filled(runs: Sequence[Run], i: int, end: int) -> int:
    """The first `stop` for which `runs[i:stop]` have all offsets from `end` on up to theirs."""
    low, high, records = runs[i].start, runs[i].end, 0
    for stop in range(i + 1, min(i + NEIGHBOURS, len(runs)) + 1):
        run = runs[stop - 1]
        low, high = min(low, run.start), max(high, run.end)
        records += run.end - run.start
        if low < end:
            return i
        if low == end and high - low == records and _tile(runs[i:stop]):
            return stop
    return i


def _tile(runs: Sequence[Run]) -> bool:
    ordered = sorted(runs, key=lambda run: run.start)
    return all(before.end == after.start for before, after in pairwise(ordered))


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
        lone: list[Cluster] = []
        for number, cluster in enumerate(clusters(runs)):
            found = self._continued(cluster, lowest)
            if found is None and number and cluster.is_lone:
                lone.append(cluster)
                continue
            if found is None:
                found = self._place(cluster, lowest)
            if found != lowest:
                self._place_all(lone, lowest)
            lowest = found
        self._place_all(lone, lowest)

    def _place_all(self, lone: list[Cluster], lowest: int) -> None:
        for cluster in lone:
            self._place(cluster, lowest)
        lone.clear()

    def _continued(self, cluster: Cluster, lowest: int) -> int | None:
        """Add to the generation that ends where the cluster begins, if there is one."""
        for i in range(lowest, len(self.generations)):
            if self.generations[i].end == cluster.start:
                return self._insert(cluster, i)
        return None

    def _place(self, cluster: Cluster, lowest: int) -> int:
        """Add to a generation that has room for the cluster, and return which."""
        generations = self.generations
        choice = range(lowest, len(generations))
        for i in choice:
            if generations[i].admits(cluster.start, cluster.end):
                return self._insert(cluster, i)
        for i in choice:
            if self._merge(generations[i], cluster):
                return i
        if len(generations) >= MOST_GENERATIONS:
            raise CorruptDataError(
                f"more than {MOST_GENERATIONS} histories that begin with the same offsets",
                path=cluster.runs[0].file.path,
                position=cluster.runs[0].position,
                advice="Leave this file out: it is not what Danube writes",
            )
        generations.append(Generation())
        return self._insert(cluster, len(generations) - 1)

    def _insert(self, cluster: Cluster, number: int) -> int:
        for run in cluster.runs:
            self.generations[number].insert(Piece(run, run.start, run.end))
        return number

    def _merge(self, generation: Generation, cluster: Cluster) -> bool:
        """Add what is new of a cluster, if all the rest is in the generation, byte for byte."""
        if self._same is None or not generation.overlapping(cluster.start, cluster.end):
            return False
        for run in cluster.runs:
            for piece in generation.overlapping(run.start, run.end):
                low, high = max(run.start, piece.start), min(run.end, piece.end)
                if not self._same(run, piece.run, low, high):
                    return False
        for run in cluster.runs:
            at = run.start
            for piece in generation.overlapping(run.start, run.end):
                if at < piece.start:
                    generation.insert(Piece(run, at, piece.start))
                self.copies.append((run, max(at, piece.start), min(run.end, piece.end)))
                at = piece.end
            if at < run.end:
                generation.insert(Piece(run, at, run.end))
        return True
