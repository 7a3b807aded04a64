"""The errors of danube-trio.

A type exists only where a caller would act differently; the facts are attributes. Bad settings and
bad arguments are plain ``ValueError`` or ``TypeError`` that name the field and the value.

The texts are for programmers. Where a command line says it in other words, because of an argument
that is an option there, or of advice that is a command, the text is `Worded`.
"""

from __future__ import annotations

import contextlib
from enum import StrEnum

import attrs

__all__ = [
    "AccessDeniedError",
    "CorruptDataError",
    "DanubeError",
    "DishonestStoreError",
    "FencedError",
    "LogBrokenError",
    "LogClosedError",
    "LogLockedError",
    "MessageTooLargeError",
    "ObjectNotFoundError",
    "OffsetTrimmedError",
    "PreconditionFailedError",
    "StoreError",
    "StoreUnavailableError",
    "UnexpectedOffsetError",
    "UnsupportedFormatError",
    "WatchLostError",
]


class Advice(StrEnum):
    """What to do next, as a program is told, where the command line has words of its own."""

    MEND_OR_SKIP = (
        "Copy the directory, look at it with `danube-trio verify`, then restore the range from a "
        'copy, or open with on_corruption="skip" or "truncate"'
    )
    FOLLOW_AGAIN = "Open a new follower"
    COMPARE = (
        "What was read last may be gone, and other records may have these offsets now: open a new "
        "follower, and compare before you go on"
    )
    MEND_DISK = "leave the log, free space or mend the disk, and open it again"
    WAIT_AT_END = "use StartPosition.latest() to wait for new records"
    WITH_STORE = "open the log with its store to read them"
    OWN_PLACE = "open it with its own topic_name or cloud.prefix, or choose another directory"
    OWN_TOPIC = "give each its own directory and cloud.prefix, or name this topic"
    ALLOW_GAPS = "readers need on_corruption='skip', and get a gap there"
    ENCRYPT = "set allow_http=True, or https"
    FIND_LOG = ""  # a program has none: it may be that there is no log yet


@attrs.frozen
class Argument:
    """An argument as a text names it, with its value as shown; "" if that may be a secret."""

    name: str
    shown: str = ""

    def __str__(self) -> str:
        return f"{self.name}={self.shown}" if self.shown else self.name


class Worded(str):
    """A text that knows its parts, for who says arguments and advice in other words.

    Only as it is: put into another text it is a `str` like any other.
    """

    parts: tuple[str | Argument, ...]

    def __new__(cls, *parts: str | Argument) -> Worded:
        text = super().__new__(cls, "".join(map(str, parts)))
        text.parts = parts
        return text


def bad_argument(name: str, value: object, *what: str | Argument) -> ValueError:
    """A plain ValueError that begins with the argument and its value."""
    return ValueError(Worded(Argument(name, repr(value)), *what))


class DanubeError(Exception):
    """Base of every error that danube-trio defines.

    Its facts, its text and its notes survive ``pickle``, ``copy.copy`` and ``copy.deepcopy``, so
    that an error comes out of a pool of processes as it was raised. As with all of Python's
    exceptions, the cause and the traceback do not.
    """

    def __reduce__(self) -> tuple[object, ...]:
        # Python's own way calls the class with the text alone, which is not what it takes.
        return _again, (type(self), self.args), self.__dict__ or None


def _again(kind: type[DanubeError], args: tuple[object, ...]) -> DanubeError:
    """An error with this text; what else it knew is put back by whoever copies it."""
    return kind.__new__(kind, *args)


class LogClosedError(DanubeError):
    """The log (or reader) is closed, or closing: nothing more is accepted.

    The record was not accepted. Open the log again to continue.
    """


class LogBrokenError(DanubeError):
    """A write or sync failed, so nothing more is promised until the log is reopened.

    Never retried on the same bytes: after a failed fsync a second one may succeed although the
    data is lost. For a record in flight it means *outcome unknown*: recovery finds it or it does
    not. Readers of durable records go on. The cause is chained.

    Attributes:
        lost: records that were accepted and whose failure had been delivered to nobody when this
            error was raised on leaving the log; 0 in any other place.
    """

    def __init__(self, message: str, *, lost: int = 0) -> None:
        super().__init__(message)
        self.lost = lost


class LogLockedError(DanubeError):
    """Another process (or another ``open_wal`` in this one) holds the directory for writing.

    Attributes:
        path: the lock file.
        holder: what the holder wrote about itself, for example its process id.
    """

    def __init__(self, path: str, holder: str) -> None:
        self.path = path
        self.holder = holder
        super().__init__(
            f"it is locked by {holder or 'another process'} ({path}): close it there first (a log "
            f"can be followed read-only meanwhile, with open_follower())"
        )


class CorruptDataError(DanubeError):
    """Stored bytes are not what was written. Nothing on disk was changed.

    Attributes:
        reason: what is wrong.
        path: the file.
        position: the byte position in the file, or None.
        offset: the first offset that cannot be given, or None.
    """

    def __init__(
        self,
        reason: str,
        *,
        path: str | None = None,
        position: int | None = None,
        offset: int | None = None,
        advice: str | None = None,
    ) -> None:
        self.reason = reason
        self.path = path
        self.position = position
        self.offset = offset
        where = f"{path}: " if path is not None else ""
        at = f" at byte {position}" if position is not None else ""
        of = f", offset {offset}" if offset is not None else ""
        super().__init__(Worded(f"{where}{reason}{at}{of}. ", advice or Advice.MEND_OR_SKIP))


class OffsetTrimmedError(DanubeError):
    """The wanted offset was dropped from the front of the log by retention.

    Attributes:
        offset: the offset that was wanted.
        start_offset: the first offset that still exists; start again from there.
    """

    def __init__(self, offset: int, start_offset: int) -> None:
        self.offset = offset
        self.start_offset = start_offset
        super().__init__(
            f"offset {offset} was trimmed: the log now starts at {start_offset}; "
            f"read from StartPosition.earliest() or StartPosition.offset({start_offset})"
        )


class FencedError(DanubeError):
    """Another writer took the log over: this one can change nothing any more.

    Attributes:
        epoch: the epoch of this writer.
        by: who took over, as far as known.
    """

    def __init__(self, epoch: int, by: str) -> None:
        self.epoch = epoch
        self.by = by
        super().__init__(f"the writer of epoch {epoch} was fenced by {by}: open the log there")


class StoreError(DanubeError):
    """Base of what an object or metadata store answers. A cause, if there is one, is chained."""


class StoreUnavailableError(StoreError):
    """The store does not answer, or not now: the same call may succeed later.

    The outcome of the call is unknown: a write may have happened, or may yet happen.
    """


class ObjectNotFoundError(StoreError):
    """There is no such object."""


class PreconditionFailedError(StoreError):
    """The object exists already, or is not the one that was expected.

    Of a retried call it may be one's own first try that got there: read, and compare.
    """


class AccessDeniedError(StoreError):
    """The store refuses these credentials: retrying does not help."""


class DishonestStoreError(StoreError):
    """The store breaks a promise that data depends on: it must not be used for a log."""


class WatchLostError(StoreError):
    """Changes were missed that the store cannot replay any more: list, then watch again."""


class MessageTooLargeError(DanubeError):
    """The message is larger than the log accepts. It was not accepted.

    Attributes:
        size_bytes: the size of the message or batch.
        limit_bytes: the limit that it exceeds.
        setting: the name of the setting that holds the limit.
    """

    def __init__(self, size_bytes: int, limit_bytes: int, setting: str) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        self.setting = setting
        super().__init__(
            f"{size_bytes} bytes exceed {setting}={limit_bytes}: split it, or raise the setting"
        )


class UnexpectedOffsetError(DanubeError):
    """``append(..., expected_offset=n)``, and `n` is not the next offset. Nothing was accepted.

    Attributes:
        expected: the offset that the caller expected.
        next_offset: the next offset of the log at that moment.
    """

    def __init__(self, expected: int, next_offset: int) -> None:
        self.expected = expected
        self.next_offset = next_offset
        super().__init__(
            f"expected_offset={expected}, but the next offset is {next_offset}: "
            f"read what was appended since, and decide again"
        )


class UnsupportedFormatError(DanubeError):
    """The directory was written in a format that this version does not know. It is untouched.

    Attributes:
        path: the file that says so.
        found: what it says.
    """

    def __init__(self, path: str, found: str, advice: str) -> None:
        self.path = path
        self.found = found
        super().__init__(f"{path}: {found}. {advice}")


# What a description of somebody else's exception may take, for it is kept and passed on (a guess).
MOST_TEXT = 1000  # characters


def shortened(text: str) -> str:
    """The text, or its beginning with an ellipsis; a plain `str`, whatever class it has."""
    if str.__len__(text) > MOST_TEXT:
        return str.__getitem__(text, slice(MOST_TEXT - 1)) + "\N{HORIZONTAL ELLIPSIS}"
    return str.__getitem__(text, slice(MOST_TEXT))


def text_of(error: BaseException) -> str:
    """What an exception says, shortened; it may be nothing. Never raises.

    The class may be the program's, and getting its text runs the program's code.
    """
    try:
        return shortened(str(error))
    except BaseException:  # all of them: whatever that raises is not what has happened
        return "(its text cannot be had)"


def describe(error: BaseException) -> str:
    """An exception in words, with its class. Never raises."""
    name, text = type.__dict__["__name__"].__get__(type(error)), text_of(error)
    return f"{name}: {text}" if text else name


def add_note(error: BaseException, text: str) -> None:
    """Add a note to somebody else's exception, if its class lets one."""
    with contextlib.suppress(Exception):
        error.add_note(text)
