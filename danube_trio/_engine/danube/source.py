"""A directory of Danube's as one sequence of messages, and everything that is wrong with it.

Two passes. The survey reads every byte and yields `Finding`s: damage, records that are missing,
histories that begin again (see `survey`, `order`). Then `batches` reads the records
of all generations, the oldest first, by their offsets. What the second pass reads must still be
what the survey saw: the CRC is checked again, and another one is `CorruptDataError`.

A `problem` is data that is lost or cannot be read; a `warning` is something that was put right or
that must be known, such as offsets that begin again; a `note` is as it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

import attrs

from danube_trio._core.codec import CODECS, get_codec
from danube_trio._core.disk import Disk
from danube_trio._engine.care.verify_segment import Finding, ignore
from danube_trio._engine.danube.directory import DanubeFiles, Kind, SourceFile, find_files
from danube_trio._engine.danube.frames import Damage, Frame
from danube_trio._engine.danube.order import Generation, Orderer
from danube_trio._engine.danube.survey import SHIPPED, FileSurvey, Run, open_walk
from danube_trio.errors import CorruptDataError
from danube_trio.message import StreamMessage

BATCH_RECORDS = 1000
BATCH_BYTES = 1 << 20
MOST_FINDINGS = 100


@attrs.frozen
class Stretch:
    """Records of one generation without a hole, and where they are in the sequence.

    Attributes:
        generation: counted from 1.
        start, end: the offsets that Danube gave them.
        number: how many records of the directory come before.
    """

    generation: int
    start: int
    end: int
    number: int


class DanubeSource:
    """Iterate over it once for what the survey finds; then its messages can be read.

    Args:
        file_name: the name of the first file of the write-ahead log.
        kind: which kind of files, if the directory holds several.
        codec: the layout of all messages, instead of finding out.
        progress: called with how many bytes more were surveyed.
        expect: called with how many there are, before that.

    Attributes:
        files: what the directory holds.
        records, payload_bytes, size_bytes: of what was surveyed so far.
        damaged_bytes: how many bytes hold no message that can be read.
        dropped_segment_ids: how many messages have a `segment_id`, which newer layouts lack.
        missing_records: how many offsets between the first and the last have no record.
        copied_records: how many records are there again, byte for byte, and left out.
        publish_time: the first one that is set, in whatever unit; 0 if none is.
        codecs: the layouts that were found.
        generations: the histories, the oldest first.

    Making it raises as `find_files` does, and ValueError for an unknown codec; iterating raises
    CorruptDataError if a file is nothing but pieces, and OSError.
    """

    def __init__(
        self,
        disk: Disk,
        directory: str,
        *,
        file_name: str = "wal.log",
        kind: Kind | None = None,
        codec: str | None = None,
        progress: Callable[[int], object] = ignore,
        expect: Callable[[int], object] = ignore,
    ) -> None:
        if codec is not None:
            get_codec(codec)
        self.files: DanubeFiles = find_files(disk, directory, file_name=file_name, kind=kind)
        self.size_bytes: int = sum(file.size for file in self.files.files)
        self.records = 0
        self.payload_bytes = 0
        self.damaged_bytes = 0
        self.dropped_segment_ids = 0
        self.missing_records = 0
        self.copied_records = 0
        self.publish_time = 0
        self.codecs: list[str] = []
        self.generations: list[Generation] = []
        self._disk = disk
        self._codec = codec
        self._progress = progress
        self._expect = expect

    def __iter__(self) -> Iterator[Finding]:
        self._expect(self.size_bytes)
        yield from self.files.findings
        orderer = Orderer(self._same if self.files.kind == "objects" else None)
        codec = SHIPPED[-1]
        for file in self.files.files:
            survey = FileSurvey(file, self._codec, begin_with=codec, progress=self._progress)
            yield from survey.run(self._disk)
            codec = survey.last_codec
            yield from _against_the_name(survey, file)
            self._count(survey)
            if self.files.kind == "segments":
                self._number(orderer, survey)
            orderer.add_file(survey.runs)
        self.generations = orderer.generations
        self.records = sum(generation.records for generation in self.generations)
        yield from self._copies(orderer)
        yield from self._what_is_missing()

    def _count(self, survey: FileSurvey) -> None:
        self.records += survey.records
        self.payload_bytes += survey.payload_bytes
        self.damaged_bytes += survey.damaged_bytes
        self.dropped_segment_ids += survey.dropped_segment_ids
        self.publish_time = self.publish_time or survey.publish_time
        self.codecs = sorted({*self.codecs, *(run.codec for run in survey.runs)})

    def _number(self, orderer: Orderer, survey: FileSurvey) -> None:
        """The first engine counted within a segment: the segments are one sequence by their ids."""
        base = orderer.generations[0].end if orderer.generations else 0
        for run in survey.runs:
            run.hints = [(offset + base, position) for offset, position in run.hints]
            run.start, run.end = run.start + base, run.end + base

    # ---- findings about the whole

    def _copies(self, orderer: Orderer) -> Iterator[Finding]:
        for number, (run, start, end) in enumerate(orderer.copies):
            self.copied_records += end - start
            if number < MOST_FINDINGS:
                reason = f"records {start} to {end} are there already, byte for byte: left out"
                yield Finding("note", reason, run.file.path, None, start)

    def _what_is_missing(self) -> Iterator[Finding]:
        path = self.files.directory
        if len(self.generations) > 1:
            ranges = ", then ".join(f"{g.start} to {g.end}" for g in self.generations[:20])
            reason = (
                f"the engine began again {len(self.generations) - 1} times, with the same "
                f"offsets: {ranges}"
            )
            yield Finding("warning", reason, path)
        for number, generation in enumerate(self.generations, 1):
            of = f" of generation {number}" if len(self.generations) > 1 else ""
            for count, (low, high) in enumerate(generation.holes()):
                self.missing_records += high - low
                if count < MOST_FINDINGS:
                    reason = f"records {low} to {high}{of} are missing"
                    yield Finding("problem", reason, path, None, low)
            if generation.start:
                yield self._late_start(number, generation.start, of)
        yield from self._against_the_checkpoint()

    def _late_start(self, number: int, start: int, of: str) -> Finding:
        """As it should be if what came before was uploaded and deleted, or the topic moved here."""
        files = self.files
        reason = f"the records{of} begin at offset {start}"
        first = files.files[0]
        if files.kind == "wal" and self.generations[number - 1].pieces[0].run.file is not first:
            reason += ", although there is a file before"
            return Finding("problem", reason, first.path, None, 0)
        return Finding("warning" if number == 1 else "problem", reason, files.directory, None, 0)

    def _against_the_checkpoint(self) -> Iterator[Finding]:
        checkpoint = self.files.checkpoint
        if checkpoint is None:
            return
        end = self.generations[-1].end if self.generations else 0
        if checkpoint.last_offset >= max(end, 1):  # 0 is also what it says of an empty log
            reason = (
                f"the checkpoint says that record {checkpoint.last_offset} was written, and the "
                f"records end at {end}"
            )
            yield Finding("problem", reason, f"{self.files.directory}/wal.ckpt", None, end)

    def stretches(self) -> list[Stretch]:
        """Which records there are, in the order in which `batches` gives them."""
        found: list[Stretch] = []
        number = 0
        for generation, history in enumerate(self.generations, 1):
            for start, end in history.stretches():
                found.append(Stretch(generation, start, end, number))
                number += end - start
        return found

    # ---- records

    def batches(self) -> Generator[list[StreamMessage]]:
        """All messages, in batches that fit into memory.

        Raises CorruptDataError if the files are not what they were, and OSError.
        """
        batch: list[StreamMessage] = []
        size = 0
        for generation in self.generations:
            for piece in generation.pieces:
                decode = CODECS[piece.run.codec].decode
                for frame in self._frames(piece.run, piece.start, piece.end):
                    size += len(frame.body)
                    if batch and (len(batch) == BATCH_RECORDS or size > BATCH_BYTES):
                        yield batch
                        batch, size = [], len(frame.body)
                    batch.append(decode(frame.body))
        if batch:
            yield batch

    def _frames(self, run: Run, start: int, end: int) -> Generator[Frame]:
        """The frames of records `[start, end)` of a run."""
        if start >= end:
            return
        offset, position = run.hint(start)
        with closing(self._disk.open(run.file.path, "r")) as file:
            walk = open_walk(file, run.file, (run.codec,), position=position, stop=run.stop)
            for item in walk:
                if isinstance(item, Damage):
                    raise CorruptDataError(
                        f"{item.reason}, where the survey found records: the file was changed",
                        path=run.file.path,
                        position=item.position,
                        offset=offset,
                        advice="Stop the program that writes to it, or copy the directory first",
                    )
                if offset >= start:
                    yield item
                offset += 1
                if offset >= end:
                    return

    def _same(self, one: Run, other: Run, start: int, end: int) -> bool:
        """Whether two runs have the same bytes for these offsets."""
        with (
            closing(self._frames(one, start, end)) as ours,
            closing(self._frames(other, start, end)) as theirs,
        ):
            return all(a.body == b.body for a, b in zip(ours, theirs, strict=True))


def _against_the_name(survey: FileSurvey, file: SourceFile) -> Iterator[Finding]:
    """An object that was cut between two frames looks whole, but its name knows better."""
    start = min((run.start for run in survey.runs), default=None)
    end = max((run.end for run in survey.runs), default=0)
    if file.last is not None and end <= file.last:
        reason = f"its name says that it goes to record {file.last}, and its records end at {end}"
        yield Finding("problem", reason, file.path, file.size, end)
    # The engine may have taken a wrong number for the name, so this is no proof.
    if start is not None and file.first is not None and start > file.first:
        reason = f"its name says that it begins with record {file.first}, and it is {start}"
        yield Finding("warning", reason, file.path, 0, file.first)
