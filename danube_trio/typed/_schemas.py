"""`Schemas`: the types of a log that has several, told apart by the messages' schema ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar, get_origin

from danube_trio.message import StreamMessage
from danube_trio.typed._errors import Problem, SchemaError, UnknownSchemaError
from danube_trio.typed._paths import show
from danube_trio.typed._schema import Schema, message_of

__all__ = ["Schemas"]

T = TypeVar("T")
U = TypeVar("U")


class Schemas(Generic[T]):
    """Several schemas as one: ``placed | paid | cancelled``, or ``Schemas([placed, paid])``.

    A value is encoded by the schema of its class, which must be one of theirs exactly; a message is
    decoded by the schema whose id it has, one without an id by the schema that has an
    ``untagged_version``. The methods are those of `Schema`.

    Raises:
        ValueError: there is none, or two have the same id or the same type, or more than one has
            an ``untagged_version``.
    """

    def __init__(self, schemas: Iterable[Schema[T]]) -> None:
        self._schemas = list(schemas)
        if not self._schemas:
            raise ValueError("schemas is empty: there must be at least one")
        self._by_id: dict[int | None, Schema[T]] = {}
        self._by_kind: dict[Any, Schema[T]] = {}
        for schema in self._schemas:
            if self._by_id.setdefault(schema.id, schema) is not schema:
                raise ValueError(f"{schema!r} and {self._by_id[schema.id]!r} have the same id")
            kind = get_origin(schema.kind) or schema.kind
            if self._by_kind.setdefault(kind, schema) is not schema:
                raise ValueError(f"{schema!r} and {self._by_kind[kind]!r} are of the same type")
        untagged = [schema for schema in self._schemas if schema.untagged_version is not None]
        if len(untagged) > 1:
            raise ValueError(f"{untagged[0]!r} and {untagged[1]!r} both take untagged messages")
        if untagged:
            self._by_id[None] = untagged[0]

    def __repr__(self) -> str:
        return f"<Schemas {self._names}>"

    def __or__(self, other: Schema[U] | Schemas[U]) -> Schemas[T | U]:
        """These and others."""
        more: list[Any] = [other] if isinstance(other, Schema) else other._schemas
        both: list[Any] = [*self._schemas, *more]
        return Schemas(both)

    @property
    def _names(self) -> str:
        return ", ".join(schema.name for schema in self._schemas)

    def of(self, value: T) -> Schema[T]:
        """The schema of a value. Raises SchemaError if there is none for its class."""
        schema = self._by_kind.get(type(value))
        if schema is None:
            problem = Problem("", f"expected one of {self._names}, got {show(value)}")
            raise SchemaError([problem], self._names)
        return schema

    def encode(self, value: T) -> bytes:
        """See `Schema.encode`."""
        return self.of(value).encode(value)

    def message(
        self,
        value: T,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        publish_time: int | None = None,
    ) -> StreamMessage:
        """See `Schema.message`."""
        return message_of(self.of(value), value, attributes, routing_key, publish_time)

    def decode(self, message: StreamMessage) -> T:
        """See `Schema.decode`."""
        schema = self._by_id.get(message.schema_id)
        if schema is None:
            found = message.schema_id
            which = "it has no schema id" if found is None else f"it is of schema id {found}"
            problem = Problem("", f"{which}: add its schema")
            raise UnknownSchemaError([problem], self._names, message)
        return schema.decode(message)
