"""The errors of typed messages: one to look at, and two that a caller may want to pass over."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from danube_trio.errors import DanubeError
from danube_trio.message import StreamMessage

SHOWN = 3  # problems in the text of an error; all are in `problems`


@attrs.frozen
class Problem:
    """One thing that is wrong.

    Attributes:
        path: of the field, such as ``lines[2].price``; empty for the value as a whole.
        reason: what is wrong with it.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" if self.path else self.reason


class SchemaError(DanubeError):
    """A value cannot be encoded, or a message cannot be decoded, as the schema says.

    Raised by encoding, nothing was appended. Raised by a reader, it speaks of one message, which
    it carries; the reader can be asked for the next one.

    Attributes:
        problems: everything that is wrong, at least one `Problem`.
        schema: the name of the schema, or of the several that were tried.
        message: the message as it was read; None when a value was being encoded.
    """

    def __init__(
        self, problems: Sequence[Problem], schema: str, message: StreamMessage | None = None
    ) -> None:
        self.problems = tuple(problems)
        self.schema = schema
        self.message = message
        super().__init__(self._text())

    @property
    def path(self) -> str:
        """The path of the first problem's field; empty for the value as a whole."""
        return self.problems[0].path

    @property
    def reason(self) -> str:
        """What is wrong with it."""
        return self.problems[0].reason

    @property
    def offset(self) -> int | None:
        """Where the message is, or None when it was not read from a log."""
        found = self.message.offset if self.message is not None else -1
        return found if found >= 0 else None

    @property
    def topic(self) -> str | None:
        """The topic that the message names, if it names one."""
        return (self.message.msg_id.topic_name or None) if self.message is not None else None

    def _text(self) -> str:
        where = [f"offset {self.offset}"] if self.offset is not None else []
        if self.topic is not None:
            where.append(f"of {self.topic}")
        shown = "; ".join(map(str, self.problems[:SHOWN]))
        more = len(self.problems) - SHOWN
        return (
            (" ".join(where) + ", " if where else "")
            + f"{self.schema}: {shown}"
            + (f"; and {more} more" if more > 0 else "")
        )


class UnknownSchemaError(SchemaError):
    """The message is of another schema, or of none.

    In a log of several types that is nothing bad: read it with `Schemas`, or pass such messages
    over with ``skip=UnknownSchemaError``.
    """


class UnknownVersionError(SchemaError):
    """The message is of a version that this schema has no way to read: too new, or too old."""
