"""`TypedTopic`: append values to an open log, and read them back."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, Literal, Protocol, TypeVar

from danube_trio import Receipt, StartPosition, StreamMessage
from danube_trio.config import Durability
from danube_trio.typed._reader import AnySchema, MessageReader, OnSkip, Skip, TypedReader

T = TypeVar("T")


class MessageLog(Protocol):
    """What a `TypedTopic` needs of a log. A `Wal` is one, through trio's and anyio's door."""

    async def append(
        self,
        message: bytes,
        /,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int: ...

    async def append_batch(
        self,
        messages: Iterable[StreamMessage],
        /,
        *,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range: ...

    def append_nowait(
        self,
        message: bytes,
        /,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        schema_id: int | None = None,
        schema_version: int | None = None,
        expected_offset: int | None = None,
    ) -> Receipt: ...

    def append_batch_nowait(
        self, messages: Iterable[StreamMessage], /, *, expected_offset: int | None = None
    ) -> Receipt: ...

    def reader(
        self,
        start: StartPosition = ...,
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
    ) -> MessageReader: ...


class TypedTopic(Generic[T]):
    """An open log whose messages are values of one type, or of several.

    Each call encodes, and then does what its namesake of `Wal` does: it raises, waits and cancels
    like that, and besides raises `SchemaError`, with nothing appended, if a value is not what its
    type says.

    Args:
        log: an open log; it stays its opener's.
        schema: a `Schema`, or `Schemas`.
        key: gives the routing key of a value, unless a call has one.

    Attributes:
        log, schema: as handed in.
    """

    def __init__(
        self, log: MessageLog, schema: AnySchema[T], *, key: Callable[[T], str | None] | None = None
    ) -> None:
        append = getattr(log, "append", None)
        if not inspect.iscoroutinefunction(append):
            # Else the mistake would be noticed after the first record was accepted.
            raise TypeError(
                f"log={log!r} must be an open log of danube_trio or danube_trio.anyio. To read "
                f"only: TypedReader(follower.reader(), schema). With other doors: schema.message() "
                f"and schema.decode()"
            )
        self.log = log
        self.schema = schema
        self._key = key

    def __repr__(self) -> str:
        return f"<TypedTopic of {self.schema!r} over {self.log!r}>"

    async def append(
        self,
        value: T,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> int:
        """Append one value and return its offset; see `Wal.append`."""
        payload, fields = self._dressed(value, attributes, routing_key)
        return await self.log.append(
            payload, durability=durability, expected_offset=expected_offset, **fields
        )

    def append_nowait(
        self,
        value: T,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        expected_offset: int | None = None,
    ) -> Receipt:
        """Accept one value now; see `Wal.append_nowait`."""
        payload, fields = self._dressed(value, attributes, routing_key)
        return self.log.append_nowait(payload, expected_offset=expected_offset, **fields)

    def _dressed(
        self, value: T, attributes: Mapping[str, str] | None, routing_key: str | None
    ) -> tuple[bytes, dict[str, Any]]:
        """The payload and the fields of a message."""
        schema = self.schema.of(value)
        if routing_key is None and self._key is not None:
            routing_key = self._key(value)
        return schema.encode(value), {
            "attributes": schema.dress(attributes),
            "routing_key": routing_key,
            "schema_id": schema.id,
            "schema_version": schema.version,
        }

    async def append_batch(
        self,
        values: Iterable[T],
        *,
        attributes: Mapping[str, str] | None = None,
        durability: Durability | None = None,
        expected_offset: int | None = None,
    ) -> range:
        """Append values as one atomic batch; see `Wal.append_batch`.

        `attributes` go with each of them. If one cannot be encoded, none is appended.
        """
        return await self.log.append_batch(
            self._messages(values, attributes),
            durability=durability,
            expected_offset=expected_offset,
        )

    def append_batch_nowait(
        self,
        values: Iterable[T],
        *,
        attributes: Mapping[str, str] | None = None,
        expected_offset: int | None = None,
    ) -> Receipt:
        """Accept an atomic batch now; see `Wal.append_batch_nowait`."""
        messages = self._messages(values, attributes)
        return self.log.append_batch_nowait(messages, expected_offset=expected_offset)

    def _messages(
        self, values: Iterable[T], attributes: Mapping[str, str] | None
    ) -> list[StreamMessage]:
        key, message = self._key, self.schema.message
        return [
            message(value, attributes=attributes, routing_key=key(value) if key else None)
            for value in values
        ]

    def reader(
        self,
        start: StartPosition = StartPosition.earliest(),  # noqa: B008 (frozen)
        *,
        end: int | Literal["current"] | None = None,
        count: int | None = None,
        skip: Skip = (),
        on_skip: OnSkip | None = None,
    ) -> TypedReader[T]:
        """A new reader of values; see `Wal.reader` and `TypedReader`.

        Args:
            start, end, count: as for `Wal.reader`.
            skip: errors whose messages are passed over: ``UnknownSchemaError`` in a log that has
                other types too, ``SchemaError`` for everything that cannot be decoded.
            on_skip: called with each of them.
        """
        reader = self.log.reader(start, end=end, count=count)
        return TypedReader(reader, self.schema, skip=skip, on_skip=on_skip)
