"""`Schema`: what the messages of one type look like, in every version that there ever was; and
`Schemas`, the types of a log that has several, told apart by the messages' schema ids.

A message carries, beside its payload, the schema's id and the version that it was written in (in
Danube's own fields `schema_id` and `schema_version`), and its content type (in the attribute
``content-type``). Reading it goes:

::

    id      another one: UnknownSchemaError
    version newer, or older than there are upgrades for: UnknownVersionError
    bytes   to plain data, by the content type
    upgrades, one by one, from its version to this one
    plain data to the value

Writing goes the other way, always in the newest version. With `check`, what was written is read
back before it is handed out: a value whose field has another type than was declared would be
written without complaint and could never be read again, and a log keeps it forever.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar, get_origin

from cattrs import Converter

from danube_trio.errors import describe
from danube_trio.message import StreamMessage
from danube_trio.typed._codec import Codec, make_codec
from danube_trio.typed._errors import Problem, SchemaError, UnknownSchemaError, UnknownVersionError
from danube_trio.typed._formats import CONTENT_TYPE, FormatName, format_named, format_of
from danube_trio.typed._paths import name_of, problems_of, show

T = TypeVar("T")
U = TypeVar("U")

Upgrade = Callable[[Any], Any]  # plain data of a version, to that of the next one


class _Writes(Generic[T]):
    """How a value becomes a message, by the schema that it has."""

    def of(self, value: T) -> Schema[T]:
        """The schema of a value. Raises SchemaError if there is none for its class."""
        raise NotImplementedError

    def message(
        self,
        value: T,
        *,
        attributes: Mapping[str, str] | None = None,
        routing_key: str | None = None,
        publish_time: int | None = None,
    ) -> StreamMessage:
        """A message with the value in it, for whatever takes messages.

        Args:
            value: what to encode.
            attributes, routing_key: go with it.
            publish_time: in milliseconds; None: now.

        Raises:
            SchemaError: the value is not what the type says.
            ValueError: `attributes` have another content type.
        """
        schema = self.of(value)
        return StreamMessage(
            schema.encode(value),
            publish_time=time.time_ns() // 1_000_000 if publish_time is None else publish_time,
            attributes=schema.dress(attributes),
            schema_id=schema.id,
            schema_version=schema.version,
            routing_key=routing_key,
        )


class Schema(_Writes[T]):
    """How values of one type become messages, and back. Pure, immutable; any thread may use it.

    Args:
        kind: an attrs class, a dataclass, or whatever else the converter can structure.
        id: of the schema, a u64: no other type in the same log may have it, ever.
        version: of the type as it is now, 1 or more (a u32). Raise it when messages of before can
            not be read any more without help, or must not be read by programs of before.
        upgrades: by version: plain data of that version to plain data of the next one. They begin
            at the oldest version that can be read, and there is one for each up to the newest.
        format: in which messages are written; they are read in any.
        untagged_version: take messages without a schema id, or without a version, as of this
            version; None: refuse them.
        check: read back what was encoded, and refuse what could not be read. Costs the time of
            reading a message.
        forbid_extra_keys: refuse messages with fields that the type does not have, else they are
            ignored. Goes with the default converter.
        converter: instead of one from `make_converter(format)`. It must be complete: add nothing
            to it later. For messages in the other format too, hand in one for each:
            ``{"json": ..., "msgpack": ...}``.

    Raises:
        ValueError, TypeError: an argument is wrong, or the type has a field that cannot be read.
        ModuleNotFoundError: msgpack is not installed.

    Attributes:
        kind, id, version, format: as handed in.
        name: of the type, for people.
        attributes: what every message has, to be read.
    """

    def __init__(
        self,
        kind: type[T],
        *,
        id: int,
        version: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
        format: FormatName = "json",
        untagged_version: int | None = None,
        check: bool = True,
        forbid_extra_keys: bool = False,
        converter: Converter | Mapping[FormatName, Converter] | None = None,
    ) -> None:
        self.kind = kind
        self.id = _whole("id", id, 0, 2**64 - 1)
        self.version = _whole("version", version, 1, 2**32 - 1)
        self.format: FormatName = format
        self.name = name_of(kind)
        self.untagged_version = untagged_version
        self.attributes: Mapping[str, str] = MappingProxyType(
            {CONTENT_TYPE: format_named(format).content_type}
        )
        self._upgrades = _chain(upgrades or {}, version)
        self._oldest = min(self._upgrades, default=version)
        if untagged_version is not None:
            _whole("untagged_version", untagged_version, self._oldest, version)
        self._check = check
        self._forbid_extra_keys = forbid_extra_keys
        self._converters = _converters(converter, format)
        self._own: Codec[T] = self._make_codec(format)
        self._codecs: dict[str | None, Codec[T]] = {
            None: self._own,
            self._own.format.content_type: self._own,
        }

    def __repr__(self) -> str:
        return f"<Schema {self.name}, id {self.id}, version {self.version}, {self.format}>"

    def __or__(self, other: Schema[U] | Schemas[U]) -> Schemas[T | U]:
        """Both, for a log of several types; see `Schemas`."""
        return Schemas([self]) | other

    def of(self, value: T) -> Schema[T]:
        """The schema that the value is encoded by: itself. (`Schemas` has several.)"""
        return self

    # ---- writing

    def encode(self, value: T) -> bytes:
        """The payload of a value. Raises SchemaError: the value is not what the type says."""
        own = self._own
        try:
            payload = own.dumps(value)
        except MemoryError:
            raise
        except Exception as error:
            raise SchemaError(own.unwritable(value, error), self._title) from error
        if self._check:
            self._read_back(payload)
        return payload

    def _read_back(self, payload: bytes) -> None:
        """Raise SchemaError if nobody could read this."""
        own, tree = self._own, None
        try:
            tree = own.format.loads(payload)
            own.structure(tree)
        except MemoryError:
            raise
        except Exception as error:
            problems = own.unreadable(tree, error) if tree is not None else [*problems_of(error)]
            raise SchemaError(problems, self._title) from error

    def dress(self, attributes: Mapping[str, str] | None) -> dict[str, str]:
        """These attributes and the schema's own. Raises ValueError if they contradict."""
        if not attributes:
            return dict(self.attributes)
        own = self.attributes[CONTENT_TYPE]
        if attributes.get(CONTENT_TYPE, own) != own:
            raise ValueError(
                f"attributes[{CONTENT_TYPE!r}]={attributes[CONTENT_TYPE]!r}, but the schema "
                f"writes {own}: leave it out"
            )
        return {**attributes, CONTENT_TYPE: own}

    # ---- reading

    def decode(self, message: StreamMessage) -> T:
        """The value in a message, of this or an older version.

        Raises:
            UnknownSchemaError: it is of another schema, or of none.
            UnknownVersionError: it is too new, or too old.
            SchemaError: its payload is not what the version says.
            ModuleNotFoundError: it is in msgpack, which is not installed.
            DecodeError: the message's own bytes do not fit the log's codec.
        """
        version = message.schema_version
        if message.schema_id != self.id or version is None:
            version = self._untagged(message)
        if version != self.version:
            self._check_version(message, version)
        codec = self._codecs.get(message.attributes.get(CONTENT_TYPE)) or self._codec_for(
            message, version
        )
        try:
            tree = codec.format.loads(message.payload)
        except MemoryError:
            raise
        except Exception as error:
            reason = f"the payload is no {codec.format.name}: {next(problems_of(error))}"
            raise self._bad(message, version, reason) from error
        if version != self.version:
            tree = self._upgraded(tree, version, message)
        try:
            return codec.structure(tree)
        except MemoryError:
            raise
        except Exception as error:
            problems = codec.unreadable(tree, error)
            raise SchemaError(problems, self._title_of(version), message) from error

    def _untagged(self, message: StreamMessage) -> int:
        """The version of a message that does not tell both id and version."""
        found = message.schema_id
        if found is not None and found != self.id:
            reason = f"it is of schema id {found}, not {self.id}: read it with that schema"
        elif self.untagged_version is not None:
            return self.untagged_version
        elif found is None:
            reason = "it has no schema id: say what it is with untagged_version"
        else:
            reason = "it has no schema version: say which it is with untagged_version"
            raise UnknownVersionError([Problem("", reason)], self._title, message)
        raise UnknownSchemaError([Problem("", reason)], self._title, message)

    def _codec_for(self, message: StreamMessage, version: int) -> Codec[T]:
        """The codec for a content type that was not seen before."""
        found = message.attributes[CONTENT_TYPE]
        name = format_of(found)
        if name is None:
            raise self._bad(message, version, f"its content type {found!r} is not known")
        if name == self.format:
            return self._own
        if self._converters and name not in self._converters:
            reason = f'it is {found}: hand in a converter for that too, converter={{"{name}": ...}}'
            raise self._bad(message, version, reason)
        codec = self._make_codec(name)
        self._codecs[codec.format.content_type] = codec
        return codec

    def _make_codec(self, name: FormatName) -> Codec[T]:
        return make_codec(self.kind, name, self._converters.get(name), self._forbid_extra_keys)

    def _check_version(self, message: StreamMessage, version: int) -> None:
        if version > self.version:
            reason = "newer than this program knows: update the program"
        elif version < self._oldest:
            reason = f"and the oldest that can be read is {self._oldest}: add an upgrade"
        else:
            return
        problem = Problem("", f"it is of version {version}, {reason}")
        raise UnknownVersionError([problem], self._title, message)

    def _upgraded(self, tree: Any, version: int, message: StreamMessage) -> Any:
        """Plain data of the newest version, from those of this one."""
        for step in range(version, self.version):
            try:
                tree = self._upgrades[step](tree)
            except MemoryError:
                raise
            except Exception as error:
                reason = f"the upgrade from version {step} failed: {describe(error)}"
                raise self._bad(message, version, reason) from error
            if tree is None:
                reason = f"the upgrade from version {step} returned None: it must return the data"
                raise self._bad(message, version, reason)
        return tree

    # ---- errors

    @property
    def _title(self) -> str:
        return self._title_of(self.version)

    def _title_of(self, version: int | None) -> str:
        return f"{self.name} version {version}"

    def _bad(self, message: StreamMessage, version: int | None, reason: str) -> SchemaError:
        return SchemaError([Problem("", reason)], self._title_of(version), message)


# ---- several


class Schemas(_Writes[T]):
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

    def decode(self, message: StreamMessage) -> T:
        """See `Schema.decode`."""
        schema = self._by_id.get(message.schema_id)
        if schema is None:
            found = message.schema_id
            which = "it has no schema id" if found is None else f"it is of schema id {found}"
            problem = Problem("", f"{which}: add its schema")
            raise UnknownSchemaError([problem], self._names, message)
        return schema.decode(message)


# ---- arguments


def _whole(name: str, value: object, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} must be a whole number")
    if not low <= value <= high:
        raise ValueError(f"{name}={value!r} must be between {low} and {high}")
    return value


def _chain(upgrades: Mapping[int, Upgrade], version: int) -> dict[int, Upgrade]:
    """The upgrades, if they lead to the version without a gap."""
    for number, upgrade in upgrades.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number < version:
            raise ValueError(f"upgrades[{number!r}]: there is no such version before {version}")
        if not callable(upgrade):
            raise TypeError(f"upgrades[{number}]={upgrade!r} must be a function of the plain data")
    missing = set(range(min(upgrades, default=version), version)) - set(upgrades)
    if missing:
        raise ValueError(
            f"upgrades: there is none from version {min(missing)}; if nothing changed that "
            f"matters, let it return what it is given"
        )
    return dict(upgrades)


def _converters(
    converter: Converter | Mapping[FormatName, Converter] | None, format: FormatName
) -> dict[FormatName, Converter]:
    """The converters that were handed in, by format: none, or one for the schema's at least."""
    if converter is None:
        return {}
    if isinstance(converter, Converter):
        return {format: converter}
    if format not in converter:
        raise ValueError(f"converter={converter!r} has none for the schema's format, {format}")
    return dict(converter)
