"""Typed messages: attrs classes, dataclasses, and whatever else cattrs can structure.

`Schema` is the heart: a pure codec between values and messages, with the schema's id and version in
the message and errors that name the field. `Schemas` picks one by the message's schema id.
`TypedTopic` appends and reads values over an open log. docs/typed.md tells the whole of it.
"""

from danube_trio.typed._converter import make_converter
from danube_trio.typed._errors import Problem, SchemaError, UnknownSchemaError, UnknownVersionError
from danube_trio.typed._formats import CONTENT_TYPE, FormatName
from danube_trio.typed._reader import MessageReader, TypedMessage, TypedReader
from danube_trio.typed._schema import Schema, Schemas, Upgrade
from danube_trio.typed._topic import MessageLog, TypedTopic

__all__ = [
    "CONTENT_TYPE",
    "FormatName",
    "MessageLog",
    "MessageReader",
    "Problem",
    "Schema",
    "SchemaError",
    "Schemas",
    "TypedMessage",
    "TypedReader",
    "TypedTopic",
    "UnknownSchemaError",
    "UnknownVersionError",
    "Upgrade",
    "make_converter",
]
