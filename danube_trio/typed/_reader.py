"""Reading values: a log's reader, decoded.

It takes the log's messages in batches and decodes them one by one, as they are asked for. A message
that cannot be decoded is handed out as its error, once; after that comes the next one, so a bad
message neither ends an iteration for good nor is read again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import attrs
import trio

from danube_trio.message import Gap, StreamMessage
from danube_trio.typed._errors import SchemaError
from danube_trio.typed._schema import Schema, Schemas

T = TypeVar("T")

AnySchema = Schema[T] | Schemas[T]
Skip = type[SchemaError] | tuple[type[SchemaError], ...]
OnSkip = Callable[[SchemaError], object]


class MessageReader(Protocol):
    """A reader of messages: that of a `Wal`, a `Follower`, a `Replica`, a topic of a `Storage`."""

    @property
    def cursor(self) -> int: ...
    async def next_batch(self) -> list[StreamMessage]: ...
    async def aclose(self) -> None: ...


@attrs.define
class TypedMessage(Generic[T]):
    """A value, and the message that it came in.

    Attributes:
        value: what the message says, in the newest version of its type.
        message: all of it, as it was read.
    """

    value: T
    message: StreamMessage

    @property
    def offset(self) -> int:
        """Where it is in the log."""
        return self.message.offset

    @property
    def attributes(self) -> dict[str, str]:
        """The message's attributes."""
        return self.message.attributes

    @property
    def routing_key(self) -> str | None:
        """The message's routing key."""
        return self.message.routing_key


class TypedReader(trio.abc.ReceiveChannel[TypedMessage[T]]):
    """An async iterator over values; made by `TypedTopic.reader`, or over any reader.

    Raises from the iteration what the reader raises, and `SchemaError` for a message that cannot be
    decoded: it carries the message, and whoever goes on iterating gets the one after it. `Gap`
    items (of a log opened with ``on_corruption="skip"``) come through as they are.

    Args:
        reader: becomes this one's: closing this closes it.
        schema: what decodes.
        skip: errors whose messages are passed over and counted, instead of raised.
        on_skip: called with each error that is passed over. If it raises, that comes out, and the
            message is still to be handed out.

    Attributes:
        skipped: how many messages were passed over.
    """

    def __init__(
        self,
        reader: MessageReader,
        schema: AnySchema[T],
        *,
        skip: Skip = (),
        on_skip: OnSkip | None = None,
    ) -> None:
        for kind in skip if isinstance(skip, tuple) else (skip,):
            if not (isinstance(kind, type) and issubclass(kind, SchemaError)):
                raise TypeError(f"skip={skip!r} must be SchemaError, or kinds of it")
        self._reader = reader
        self._decode = schema.decode
        self._skip = skip
        self._on_skip = on_skip
        self._messages: list[StreamMessage] = []
        self._next = 0
        self.skipped = 0

    def __repr__(self) -> str:
        return f"<TypedReader of {self._reader!r}>"

    @property
    def cursor(self) -> int:
        """The offset of the next message that it will hand out, or raise the error of."""
        if self._next >= len(self._messages):
            return self._reader.cursor
        item = cast("StreamMessage | Gap", self._messages[self._next])
        return item.start if isinstance(item, Gap) else item.offset

    def __aiter__(self) -> TypedReader[T]:
        return self

    async def __anext__(self) -> TypedMessage[T]:
        while True:
            if self._next >= len(self._messages):
                await self._refill()
            found = self._take()
            if found is not None:
                return found

    async def receive(self) -> TypedMessage[T]:
        """The next value, as any trio channel gives it: raises trio.EndOfChannel at the end."""
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise trio.EndOfChannel from None

    async def next_batch(self) -> list[TypedMessage[T]]:
        """The next values, as many as are at hand, at least one; empty at the reader's end.

        The values before a message that cannot be decoded come first; the next call raises.
        """
        batch: list[TypedMessage[T]] = []
        while not batch:
            if self._next >= len(self._messages):
                try:
                    await self._refill()
                except StopAsyncIteration:
                    return []
            while self._next < len(self._messages):
                before = self._next
                try:
                    found = self._take()
                except Exception:
                    if not batch:
                        raise
                    self._next = before
                    break
                if found is not None:
                    batch.append(found)
        return batch

    async def _refill(self) -> None:
        """Get the next messages. Raises StopAsyncIteration at the end."""
        self._messages, self._next = [], 0
        self._messages = await self._reader.next_batch()
        if not self._messages:
            raise StopAsyncIteration

    def _take(self) -> TypedMessage[T] | None:
        """The next message at hand, decoded; None if it is passed over."""
        message = self._messages[self._next]
        if isinstance(message, Gap):
            self._next += 1
            return cast("Any", message)
        try:
            found = TypedMessage(self._decode(message), message)
        except (ImportError, MemoryError):
            raise  # not the message's fault: it is still to be handed out
        except Exception as error:
            if not isinstance(error, self._skip):
                self._next += 1
                raise
            if self._on_skip is not None:  # before it is passed over: see above, if that raises
                self._on_skip(error)
            self._next += 1
            self.skipped += 1
            return None
        self._next += 1
        return found

    async def aclose(self) -> None:
        """Close the reader, too. Idempotent."""
        self._messages, self._next = [], 0
        await self._reader.aclose()
