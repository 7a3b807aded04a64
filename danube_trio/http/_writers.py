"""What was written to a stream so far, and by whom: what the next append is compared with.

Whether a stream is closed, what each producer has sent, and the last ``Stream-Seq`` are written
into the log itself, as attributes of the last record of the batch that changed them. A batch is
atomic, so data and these *marks* are durable together, or neither is, and no crash comes between.
`Writers` are what the marks of all records say, in memory while the log is open.

::

    check (sync) --> accept (sync) --> the writers move (sync) --> durable --> the answer

The three steps that are sync are one: no other append of the stream comes between. They say
what was *accepted*, which is more than what is durable. So whoever is told something because of an
earlier append, as that theirs is a duplicate, waits until that one is durable. If it never will be
the log is broken, and they are forgotten with it: they belong to one opening of the log.

**Closing without data** is a record too, an empty one, always the last: a *closing record*. It has
an offset, which no client is told: for clients the stream ends where that record begins.

**Opening** reads the marks again, from the last note on: a *note* is what they were at some
offset, in the metadata store. It is written after the fact, when `NOTE_RECORDS` or `NOTE_BYTES`
came since the last one, so opening reads about as much at most. Retention leaves alone what the
note does not cover, or a producer would be forgotten with its last record.

**Bounds.** Of the producers those are kept that sent last, as many as `PRODUCERS_BYTES` hold: a
note must fit into one value of the metadata store. One that was forgotten begins at sequence 0
again, like one that never was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs

from danube_trio import Reader, StartPosition, Wal
from danube_trio._core.documents import compact, parse
from danube_trio.http._fields import Sent
from danube_trio.http._request import Refusal
from danube_trio.message import Gap, StreamMessage

# Read in a few milliseconds. A guess.
NOTE_RECORDS = 1000
NOTE_BYTES = 1 << 20
# A value of the metadata store may have a megabyte, and JSON may write a character in six.
PRODUCERS_BYTES = 128 << 10
PRODUCER_BYTES = 24  # what a producer takes beside its name, about

PRODUCER, EPOCH, SEQ = "ds-producer", "ds-epoch", "ds-seq"
WRITER_SEQ = "ds-stream-seq"
CLOSED = "ds-closed"


@attrs.frozen
class Producer:
    """What a producer has sent: its epoch, the last sequence number in it, and where that ends."""

    epoch: int
    seq: int
    end: int


@attrs.frozen
class Note:
    """Writers as they were at some offset.

    Attributes:
        end: the offset in the topic's log: what is before it is covered.
        data_end, closed: see `Writers`.
        writer_seq: the last Stream-Seq.
        producers: epoch, sequence number and end of each, those that sent last at the end.
    """

    end: int
    data_end: int
    closed: bool = False
    writer_seq: str | None = None
    producers: dict[str, list[int]] = attrs.Factory(dict[str, list[int]])
    format: int = 1

    def encode(self) -> bytes:
        """Its document."""
        return compact(self)

    @classmethod
    def decode(cls, data: bytes) -> Note:
        """The note in a document; ValueError for what is none."""
        return parse(data, cls, newest=1)


def marks(sent: Sent | None, writer_seq: str | None, *, closes: bool) -> dict[str, str]:
    """The attributes of a batch's last record."""
    found: dict[str, str] = {}
    if sent is not None:
        found |= {PRODUCER: sent.producer, EPOCH: str(sent.epoch), SEQ: str(sent.seq)}
    if writer_seq is not None:
        found[WRITER_SEQ] = writer_seq
    if closes:
        found[CLOSED] = "true"
    return found


class Writers:
    """What was accepted so far. All offsets here are those of the topic's log.

    Attributes:
        end: where the next record goes.
        data_end: where the data ends: `end`, or less if the last record only closes.
        closed: nothing more is accepted.
        noted: the end of the last note.
        unnoted_bytes: how many came since.
    """

    def __init__(self, note: Note) -> None:
        self.end = self.noted = note.end
        self.data_end = note.data_end
        self.closed = note.closed
        self.unnoted_bytes = 0
        self._writer_seq = note.writer_seq
        self._producers = {name: Producer(*each) for name, each in note.producers.items()}
        self._producers_bytes = sum(map(_size, self._producers))

    # ---- moving

    def apply(self, items: Iterable[StreamMessage | Gap]) -> None:
        """Records that were accepted, in their order. What a gap said is lost."""
        for item in items:
            if isinstance(item, Gap):
                self.end = self.data_end = item.end
            else:
                self._moved(item.offset + 1, item.payload, item.attributes)

    def accepted(
        self, offsets: range, size_bytes: int, last: bytes, found: Mapping[str, str]
    ) -> None:
        """A batch was accepted: its offsets and bytes, its last payload and the marks with it."""
        if len(offsets) > 1:
            self.end = self.data_end = offsets.stop - 1
        self.unnoted_bytes += size_bytes - len(last)
        self._moved(offsets.stop, last, found)

    def _moved(self, end: int, payload: bytes, found: Mapping[str, str]) -> None:
        self.unnoted_bytes += len(payload)
        self.end = end
        name = found.get(PRODUCER)
        if name is not None:
            if self._producers.pop(name, None) is None:
                self._producers_bytes += _size(name)
            self._producers[name] = Producer(int(found[EPOCH]), int(found[SEQ]), end)
            while self._producers_bytes > PRODUCERS_BYTES:
                oldest = next(iter(self._producers))
                del self._producers[oldest]
                self._producers_bytes -= _size(oldest)
        self._writer_seq = found.get(WRITER_SEQ, self._writer_seq)
        if CLOSED in found:
            self.closed = True
        if payload or CLOSED not in found:
            self.data_end = end

    # ---- asking

    def repeated(self, sent: Sent) -> Producer | None:
        """The producer, if it has sent this batch before.

        Raises:
            Refusal: 403 for an older epoch.
        """
        known = self._producers.get(sent.producer)
        if known is None or sent.epoch > known.epoch:
            return None
        if sent.epoch < known.epoch:
            text = "the producer has a newer epoch"
            raise Refusal(403, text, {"producer-epoch": str(known.epoch)})
        return known if sent.seq <= known.seq else None

    def check_next(self, sent: Sent) -> None:
        """Refuse a batch that is new, and is not the next one of its producer.

        Raises:
            Refusal: 400 for an epoch that does not begin at 0, 409 if something is missing.
        """
        known = self._producers.get(sent.producer)
        goes_on = known is not None and sent.epoch == known.epoch
        expected = known.seq + 1 if known is not None and goes_on else 0
        if sent.seq == expected:
            return
        if known is not None and not goes_on:
            raise Refusal(400, "a new epoch begins with the sequence number 0")
        said = {"producer-expected-seq": str(expected), "producer-received-seq": str(sent.seq)}
        raise Refusal(409, "a batch of this producer is missing", said)

    def check_writer_seq(self, text: str) -> None:
        """Refuse, with 409, a Stream-Seq that does not come after the last one."""
        last = self._writer_seq
        if last is not None and text <= last:  # a character is a byte of the header
            raise Refusal(409, "Stream-Seq does not come after the last one")

    # ---- notes

    @property
    def worth_a_note(self) -> bool:
        """Whether opening would have much to read."""
        return self.end - self.noted >= NOTE_RECORDS or self.unnoted_bytes >= NOTE_BYTES

    def note(self) -> Note:
        """They as they are now."""
        producers = {name: [p.epoch, p.seq, p.end] for name, p in self._producers.items()}
        return Note(self.end, self.data_end, self.closed, self._writer_seq, producers)

    def was_noted(self, note: Note, size_bytes: int) -> None:
        """The note is durable; `unnoted_bytes` were so many when it was made."""
        self.noted = note.end
        self.unnoted_bytes -= size_bytes


def _size(name: str) -> int:
    return len(name.encode()) + PRODUCER_BYTES


async def read_writers(wal: Wal, note: Note | None) -> Writers:
    """The writers of a log that was opened, from a note on.

    Raises what reading raises.
    """
    if note is None or note.end > wal.next_offset:
        # Of records that a lost disk took, a note says what is not so any more.
        note = Note(wal.start_offset, wal.start_offset)
    elif note.end < wal.start_offset:
        # Somebody trimmed the log by hand: what the note says is still the best there is.
        note = attrs.evolve(note, end=wal.start_offset, data_end=wal.start_offset)
    writers = Writers(note)
    reader: Reader[StreamMessage] = wal.reader(StartPosition.offset(writers.end), end="current")
    while batch := await reader.next_batch():
        writers.apply(batch)
    return writers
