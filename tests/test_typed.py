"""Typed messages: what is written is read, and what cannot be is told, field by field."""

from __future__ import annotations

import dataclasses
import enum
import json
import subprocess
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import attrs
import cattrs
import pytest
from cattrs.preconf.json import make_converter as make_lenient_converter
from cattrs.strategies import configure_tagged_union, include_subclasses
from hypothesis import given, settings
from hypothesis import strategies as st

from danube_trio import StreamMessage
from danube_trio.typed import (
    Problem,
    Schema,
    SchemaError,
    Schemas,
    UnknownSchemaError,
    UnknownVersionError,
    make_converter,
)
from danube_trio.typed._formats import FormatName

ROOT = Path(__file__).parent.parent
FORMATS: tuple[FormatName, ...] = ("json", "msgpack")
T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(enum.StrEnum):
    SMALL = "s"
    LARGE = "l"


Cents = NewType("Cents", int)


class Point(NamedTuple):
    x: int
    y: str


class Note(TypedDict):
    text: str
    stars: int


POINT = Point(1, "y")
IDENT = UUID(int=7)


@attrs.frozen
class Line:
    sku: str
    price: Decimal
    amount: int = 1


@dataclasses.dataclass(frozen=True)
class Address:
    street: str
    lines: tuple[Line, ...] = ()


@attrs.define
class Tree:
    name: str
    children: list[Tree] = attrs.Factory(list["Tree"])


@attrs.frozen
class Box(Generic[T]):
    content: T
    more: list[T]


@attrs.define
class Order:
    """Everything that a field can be."""

    number: int
    when: datetime
    lines: list[Line]
    address: Address | None = None
    color: Color = Color.RED
    level: Level = Level.LOW
    size: Size = Size.SMALL
    day: date = date(2026, 1, 2)
    hour: time = time(12, 30)
    took: timedelta = timedelta(0)
    total: Decimal = Decimal("0.00")
    ident: UUID = IDENT
    raw: bytes = b""
    weight: float = 0.5
    ratio: float | None = None
    paid: bool = False
    cents: Cents = Cents(3)
    path: Path = Path("a/b")
    either: int | str | None = None
    kind: Literal["a", "b"] = "a"
    tags: frozenset[str] = frozenset()
    seen: set[int] = attrs.Factory(set[int])
    pair: tuple[int, str] = (1, "x")
    point: Point = POINT
    note: Note = attrs.Factory(lambda: Note(text="t", stars=5))
    queue: deque[int] = attrs.Factory(deque[int])
    items: Sequence[int] = ()
    by_name: dict[str, list[Line]] = attrs.Factory(dict[str, list[Line]])
    by_level: dict[Level, int] = attrs.Factory(dict[Level, int])
    by_number: dict[int, str] = attrs.Factory(dict[int, str])
    by_ratio: dict[float, bool] = attrs.Factory(dict[float, bool])
    by_flag: dict[bool, int] = attrs.Factory(dict[bool, int])
    by_day: dict[date, int] = attrs.Factory(dict[date, int])
    counts: Counter[str] = attrs.Factory(Counter[str])
    numbers: Counter[int] = attrs.Factory(Counter[int])
    groups: defaultdict[int, list[int]] = attrs.Factory(lambda: defaultdict(list))
    tree: Tree | None = None
    box: Box[int] | None = None
    anything: Any = None


# ---- strategies

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
small = st.integers(-(2**63), 2**63 - 1)
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-3, minutes=30, seconds=7))])
decimals = st.decimals(allow_nan=False)
lines = st.builds(Line, texts, decimals, small)
trees = st.recursive(
    st.builds(Tree, texts), lambda inner: st.builds(Tree, texts, st.lists(inner, max_size=2))
)
plain = st.recursive(
    st.none() | st.booleans() | small | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)


def few(keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(keys, values, max_size=2)


def counter(values: dict[Any, int]) -> Counter[Any]:
    return Counter(values)


finite = st.floats(allow_nan=False, allow_infinity=False)
orders = st.builds(
    Order,
    number=small,
    when=st.datetimes(timezones=zones),
    lines=st.lists(lines, max_size=2),
    address=st.none() | st.builds(Address, texts, st.lists(lines, max_size=2).map(tuple)),
    color=st.sampled_from(Color),
    level=st.sampled_from(Level),
    size=st.sampled_from(Size),
    day=st.dates(),
    hour=st.times(),
    took=st.timedeltas(),
    total=decimals,
    ident=st.uuids(),
    raw=st.binary(max_size=8),
    weight=finite,
    ratio=st.none() | finite,
    paid=st.booleans(),
    either=st.none() | small | texts,
    kind=st.sampled_from(["a", "b"]),
    tags=st.frozensets(texts, max_size=2),
    seen=st.sets(small, max_size=2),
    pair=st.tuples(small, texts),
    point=st.builds(Point, small, texts),
    queue=st.lists(small, max_size=2).map(deque),
    items=st.lists(small, max_size=2).map(tuple),
    by_name=few(texts, st.lists(lines, max_size=1)),
    by_level=few(st.sampled_from(Level), small),
    by_number=few(small, texts),
    by_ratio=few(finite, st.booleans()),
    by_flag=few(st.booleans(), small),
    by_day=few(st.dates(), small),
    counts=few(texts, small).map(counter),
    numbers=few(small, small).map(counter),
    groups=few(small, st.lists(small, max_size=2)).map(lambda d: defaultdict(list, d)),
    tree=st.none() | trees,
    box=st.none() | st.builds(Box, small, st.lists(small, max_size=2)),
    anything=plain,
)

ORDER = Order(1, datetime(2026, 3, 4, 5, 6, 7, 8, UTC), [Line("a", Decimal("1.10"))])
SCHEMAS = {
    name: Schema(Order, id=7, version=3, format=name, untagged_version=3) for name in FORMATS
}


MAPPINGS: set[object] = {dict, Counter, defaultdict}
LISTS: set[object] = {list, tuple, deque}
SETS: set[object] = {set, frozenset}
NUMBERS: set[object] = {float, Decimal}


def exact(value: Any) -> object:
    """The value with its types: 1, 1.0 and True differ, and so do an enum and its value."""
    kind: object = value.__class__
    names: Any = getattr(value, "__match_args__", None)  # of an object's fields
    if names is not None:
        return kind, {name: exact(getattr(value, name)) for name in names}
    if kind in MAPPINGS:
        return kind, {repr(key): (exact(key), exact(inner)) for key, inner in value.items()}
    if kind in LISTS:
        return kind, [exact(item) for item in value]
    if kind in SETS:
        return kind, {exact(item) for item in value}
    return kind, repr(value) if kind in NUMBERS else value


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60)
@given(order=orders)
def test_what_is_written_is_read(name: FormatName, order: Order) -> None:
    schema = SCHEMAS[name]
    message = schema.message(order, routing_key="eu", attributes={"k": "v"})
    found = schema.decode(message)
    assert found == order
    assert exact(found) == exact(order)
    assert (message.schema_id, message.schema_version, message.routing_key) == (7, 3, "eu")
    assert message.attributes == {"k": "v", "content-type": f"application/{name}"}


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_have_is_not_read(text: str) -> None:
    schema = Schema(float, id=1, untagged_version=1)
    with pytest.raises(SchemaError, match=f"{text} is no JSON"):
        schema.decode(StreamMessage(text.encode()))


@settings(max_examples=60)
@given(tree=plain | st.binary())
def test_whatever_the_payload_is_the_answer_is_a_value_or_a_schema_error(tree: Any) -> None:
    payload = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    for schema in SCHEMAS.values():
        with pytest.raises(SchemaError) as caught:
            schema.decode(StreamMessage(payload))
        assert caught.value.reason
        assert str(caught.value)


@settings(max_examples=40)
@given(order=orders, data=st.data())
def test_one_field_that_is_something_else_is_read_or_named(order: Order, data: Any) -> None:
    schema = SCHEMAS["json"]
    tree = json.loads(schema.encode(order))
    name = data.draw(st.sampled_from(sorted(tree)))
    tree[name] = data.draw(plain)
    try:
        schema.decode(StreamMessage(json.dumps(tree).encode()))
    except SchemaError as error:
        assert all(
            problem.path == name or problem.path.startswith((f"{name}.", f"{name}["))
            for problem in error.problems
        )


# ---- errors name the field


def refused(change: dict[str, Any], name: FormatName = "json", **more: Any) -> Problem:
    """The problem of an order with other values, which must be refused when it is written."""
    schema = Schema(Order, id=7, format=name, **more)
    with pytest.raises(SchemaError) as caught:
        schema.encode(attrs.evolve(ORDER, **change))
    assert caught.value.message is None
    assert caught.value.offset is None
    (problem,) = caught.value.problems
    assert (problem.path, problem.reason) == (caught.value.path, caught.value.reason)
    return problem


THREE = [Line("a", Decimal(1)), Line("b", Decimal(2))]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"number": "3"}, "number", "expected int, got '3' (str)"),
        ({"number": True}, "number", "expected int, got True (bool)"),
        ({"number": None}, "number", "expected int, got None"),
        ({"paid": 1}, "paid", "expected bool, got 1 (int)"),
        ({"weight": "1"}, "weight", "expected float, got '1' (str)"),
        ({"when": date(2026, 1, 1)}, "when", "expected datetime, got datetime.date(2026, 1, 1)"),
        ({"total": 1.5}, "total", "expected Decimal, got 1.5 (float)"),
        ({"color": "red"}, "color", "expected Color, got 'red' (str)"),
        ({"level": 2}, "level", "expected Level, got 2 (int)"),
        ({"raw": "text"}, "raw", "expected bytes, got 'text' (str)"),
        ({"lines": "text"}, "lines", "expected list[Line], got 'text' (str)"),
        ({"lines": [*THREE, Line("c", 1)]}, "lines[2].price", "expected Decimal, got 1 (int)"),  # type: ignore[arg-type]
        ({"lines": [{"sku": "a"}]}, "lines[0]", "expected Line, got {'sku': 'a'} (dict)"),
        ({"lines": [Line("a", Decimal(1), "x")]}, "lines[0].amount", "expected int, got 'x'"),  # type: ignore[arg-type]
        ({"address": Line("a", Decimal(1))}, "address", "expected Address, got Line("),
        ({"address": Address("s", (1,))}, "address.lines[0]", "expected Line, got 1 (int)"),  # type: ignore[arg-type]
        ({"by_name": {"x": [Line("a", 1)]}}, "by_name['x'][0].price", "expected Decimal"),  # type: ignore[arg-type]
        ({"by_number": {3: 4}}, "by_number[", "expected str, got 4 (int)"),
        ({"tags": frozenset([1])}, "tags[0]", "expected str, got 1 (int)"),
        ({"pair": (1, "x", 2)}, "pair", "expected a tuple of 2, got (1, 'x', 2) (tuple)"),
        ({"pair": (1, 2)}, "pair[1]", "expected str, got 2 (int)"),
        ({"kind": "c"}, "kind", "c not in literal"),
        ({"either": 1.5}, "either", "1.5 (<class 'float'>) not part of int | str | None"),
        ({"tree": Tree("a", [Tree("b", ["c"])])}, "tree.children[0].children[0]", "(Tree)"),  # type: ignore[list-item]
        ({"box": Box("x", [])}, "box.content", "expected int, got 'x' (str)"),
        ({"anything": {"a": [object()]}}, "anything['a'][0]", "cannot be written as"),
        ({"tags": frozenset(["\ud800"])}, "tags[0]", "cannot be written as"),
        ({"weight": 10**400}, "weight", ""),
    ],
)
def test_a_value_that_is_not_what_its_field_says_is_refused_before_it_is_written(
    name: FormatName, change: dict[str, Any], path: str, reason: str
) -> None:
    problem = refused(change, name)
    assert problem.path.startswith(path)
    assert reason in problem.reason


@attrs.define
class Decorated:
    note: Note | None = None
    cents: Cents = Cents(1)
    marked: Annotated[int | None, "why not"] = None
    rows: list[Annotated[list[Cents], "cells"]] = attrs.Factory(list[list[Cents]])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"note": 3}, "note: expected "),
        ({"note": {"text": "t", "stars": "many"}}, "note.stars: expected int, got 'many' (str)"),
        ({"cents": "x"}, "cents: expected int, got 'x' (str)"),
        ({"marked": "x"}, "marked: expected int, got 'x' (str)"),
        ({"rows": [[1], 2]}, "rows[1]: expected list[Cents], got 2 (int)"),
        ({"rows": [[1], [1, "x"]]}, "rows[1][1]: expected int, got 'x' (str)"),
    ],
)
def test_decorated_types_are_named_as_well(change: dict[str, Any], text: str) -> None:
    value = Decorated(**change)
    with pytest.raises(SchemaError) as caught:
        Schema(Decorated, id=1).encode(value)
    assert str(caught.value).startswith(f"Decorated version 1: {text}")


def test_what_json_does_not_have_is_refused_and_msgpack_may_have_it() -> None:
    problem = refused({"lines": [Line("a", Decimal("NaN"))], "weight": float("inf")})
    assert problem.path == "weight"
    assert problem.reason.startswith("inf (float) cannot be written as json")
    schema = SCHEMAS["msgpack"]
    order = attrs.evolve(ORDER, weight=float("inf"))
    assert schema.decode(schema.message(order)) == order
    assert refused({"number": 2**70}, "msgpack").path == "number"


def test_a_value_that_contains_itself_is_refused() -> None:
    tree = Tree("a")
    tree.children.append(tree)
    with pytest.raises(SchemaError, match="nested too deeply"):
        Schema(Tree, id=1).encode(tree)


def test_a_message_that_is_nested_too_deeply_is_refused() -> None:
    for depth in (200, 100_000):
        payload = b'{"name":"a","children":[' * depth + b"]}" * depth
        with pytest.raises(SchemaError, match="nested too deeply"):
            Schema(Tree, id=1, untagged_version=1).decode(StreamMessage(payload))


@attrs.frozen
class RushLine(Line):
    hours: int = 1


@attrs.define
class Basket:
    lines: list[Line]
    extra: int = 0


def test_an_object_of_a_subclass_is_refused_as_its_fields_would_be_lost() -> None:
    basket = Basket([Line("a", Decimal(1)), RushLine("b", Decimal(2))])
    with pytest.raises(
        SchemaError, match=r"lines\[1\]: expected Line itself, got RushLine"
    ) as info:
        Schema(Basket, id=1).encode(basket)
    assert info.value.path == "lines[1]"
    converter = make_converter("json")
    include_subclasses(Line, converter, union_strategy=configure_tagged_union)
    schema = Schema(Basket, id=1, converter=converter)
    assert schema.decode(schema.message(basket)) == basket


def decoded(schema: Schema[Any], tree: object, **fields: Any) -> Any:
    message = StreamMessage(json.dumps(tree).encode(), **fields)
    return schema.decode(message)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"lines": []}, ""),
        ({}, "lines: it is missing"),
        ([], "expected an object (Basket), got [] (list)"),
        ("text", "expected an object (Basket), got 'text' (str)"),
        (None, "expected an object (Basket), got None"),
        ({"lines": "ab"}, "lines: expected a list, got 'ab' (str)"),
        ({"lines": {"0": {}}}, "lines: expected a list, got {'0': {}} (dict)"),
        ({"lines": [{"sku": "a"}]}, "lines[0].price: it is missing"),
        (
            {"lines": [{"sku": 1, "price": "x"}], "extra": 1.5},
            "lines[0].sku: expected str, got 1 (int); "
            "lines[0].price: expected a decimal number in a text, got 'x' (str); "
            "extra: expected int, got 1.5 (float)",
        ),
        ({"lines": [1, 2, 3, 4]}, "; and 1 more"),
        ({"lines": [], "unknown": 1}, ""),
    ],
)
def test_a_message_that_does_not_fit_is_told_field_by_field(tree: object, text: str) -> None:
    schema = Schema(Basket, id=1, untagged_version=1)
    if not text:
        assert decoded(schema, tree) == Basket([])
        return
    with pytest.raises(SchemaError) as caught:
        decoded(schema, tree)
    assert str(caught.value).endswith(text)


def test_fields_that_are_not_known_can_be_refused() -> None:
    schema = Schema(Basket, id=1, untagged_version=1, forbid_extra_keys=True)
    with pytest.raises(SchemaError, match=r"lines\[0\]: unknown fields: 'a', 'b'"):
        decoded(schema, {"lines": [{"sku": "", "price": "1", "b": 1, "a": 2}]})


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("when", "yesterday", "a time in ISO 8601"),
        ("when", 17, "a time in ISO 8601"),
        ("took", "P", "a duration in ISO 8601"),
        ("took", "1h", "a duration in ISO 8601"),
        ("took", f"P{10**20}D", "a duration in ISO 8601"),
        ("ident", "x", "a UUID"),
        ("raw", "&&&", "bytes in base64"),
        ("raw", "ü", "bytes in base64"),
        ("level", True, "expected int, got True"),
        ("level", 2.0, "expected int, got 2.0"),
        ("color", "green", "not a valid Color"),
        ("by_number", {"x": ""}, "a text with int in it"),
        ("by_number", {"[1]": ""}, "a text with int in it"),
        ("by_number", {"1.5": ""}, "expected int"),
        ("by_flag", {"1": 1}, "expected bool"),
        ("by_level", {"3": 1}, "3 is not a valid Level"),
        ("by_number", 3, "expected an object"),
        ("point", [1], "a list of 2"),
        ("note", {"text": "x"}, "missing"),
    ],
)
def test_a_plain_value_that_is_no_such_thing_is_told(
    field: str, value: object, reason: str
) -> None:
    tree = json.loads(SCHEMAS["json"].encode(ORDER)) | {field: value}
    with pytest.raises(SchemaError) as caught:
        decoded(SCHEMAS["json"], tree)
    assert caught.value.path.startswith(field)
    assert reason in caught.value.reason


def test_durations_of_others_are_read() -> None:
    tree = json.loads(SCHEMAS["json"].encode(ORDER))
    for text, took in (
        ("P1DT2H3M4.5S", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=500)),
        ("-PT1M", -timedelta(minutes=1)),
        ("P3D", timedelta(days=3)),
    ):
        assert decoded(SCHEMAS["json"], tree | {"took": text}).took == took


def test_the_error_carries_what_it_speaks_of() -> None:
    schema = Schema(Basket, id=4, version=2, upgrades={1: dict})
    message = schema.message(Basket([]))
    message.payload = b'{"lines":3}'
    message.offset = 17
    message.msg_id.topic_name = "/default/orders"
    with pytest.raises(SchemaError) as caught:
        schema.decode(message)
    error = caught.value
    assert str(error) == (
        "offset 17 of /default/orders, Basket version 2: lines: expected a list, got 3 (int)"
    )
    assert (error.offset, error.topic, error.message) == (17, "/default/orders", message)
    assert (error.path, error.reason) == ("lines", "expected a list, got 3 (int)")


def test_without_the_check_a_wrong_value_is_written_and_told_when_it_is_read() -> None:
    schema = Schema(Basket, id=1, check=False)
    message = schema.message(Basket([], extra="x"))  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="extra: expected int, got 'x'"):
        schema.decode(message)


@attrs.define
class Positive:
    number: int = attrs.field(validator=attrs.validators.gt(0))


def test_what_a_validator_says_is_told() -> None:
    with pytest.raises(SchemaError, match=r"'number' must be > 0: -1"):
        decoded(Schema(Positive, id=1, untagged_version=1), {"number": -1})


# ---- versions


@attrs.define
class Person:
    """Version 1 had one `name`; version 2 `first` and `last`; since 3 there is `born`."""

    first: str
    last: str
    born: date | None = None


def split_name(tree: dict[str, Any]) -> dict[str, Any]:
    first, last = tree.pop("name").split(" ")
    return {**tree, "first": first, "last": last}


PERSON = Schema(Person, id=9, version=3, upgrades={1: split_name, 2: lambda tree: tree})


def person(tree: object, version: int | None, id: int | None = 9) -> StreamMessage:
    payload = json.dumps(tree).encode()
    return StreamMessage(payload, schema_id=id, schema_version=version)


def test_older_versions_are_upgraded_step_by_step() -> None:
    ada = {"first": "Ada", "last": "Lovelace"}
    assert PERSON.decode(person({"name": "Ada Lovelace"}, 1)) == Person("Ada", "Lovelace")
    assert PERSON.decode(person(ada, 2)) == Person("Ada", "Lovelace")
    found = PERSON.decode(person({**ada, "born": "1815-12-10"}, 3))
    assert found == Person("Ada", "Lovelace", date(1815, 12, 10))


def test_an_upgrade_that_fails_is_told() -> None:
    with pytest.raises(SchemaError, match=r"version 1: the upgrade from version 1 failed: KeyErr"):
        PERSON.decode(person({}, 1))
    forgets = Schema(Person, id=9, version=2, upgrades={1: lambda tree: tree.clear()})
    with pytest.raises(SchemaError, match="returned None: it must return the data"):
        forgets.decode(person({}, 1))
    with pytest.raises(SchemaError, match=r"version 1: first: it is missing"):
        Schema(Person, id=9, version=2, upgrades={1: dict}).decode(person({"last": ""}, 1))


def test_a_version_that_is_not_known_is_told() -> None:
    with pytest.raises(UnknownVersionError, match=r"version 4, newer than this program knows"):
        PERSON.decode(StreamMessage(b"not looked at", schema_id=9, schema_version=4))
    with pytest.raises(UnknownVersionError, match=r"version 2, and the oldest .* is 3: add an up"):
        Schema(Person, id=9, version=3).decode(person({}, 2))
    with pytest.raises(UnknownVersionError, match=r"no schema version: say which"):
        PERSON.decode(person({}, None))


def test_messages_without_a_schema_can_be_read_as_a_version() -> None:
    with pytest.raises(UnknownSchemaError, match=r"no schema id: say what it is with untagged"):
        PERSON.decode(person({}, None, None))
    schema = Schema(Person, id=9, version=2, upgrades={1: split_name}, untagged_version=1)
    for message in (person({"name": "A L"}, None, None), person({"name": "A L"}, None)):
        assert schema.decode(message) == Person("A", "L")
    with pytest.raises(UnknownSchemaError, match="schema id 8, not 9"):
        schema.decode(person({"name": "A L"}, None, 8))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"id": -1}, "id=-1 must be between 0 and"),
        ({"id": 2**64}, "must be between 0 and"),
        ({"id": True}, "id=True must be a whole number"),
        ({"version": 0}, "version=0 must be between 1 and"),
        ({"version": 3, "upgrades": {1: dict}}, "upgrades: there is none from version 2"),
        ({"version": 2, "upgrades": {2: dict}}, "upgrades[2]: there is no such version before 2"),
        ({"upgrades": {0: dict}}, "upgrades[0]: there is no such version before 1"),
        ({"version": 2, "upgrades": {1: 3}}, "upgrades[1]=3 must be a function"),
        ({"untagged_version": 2}, "untagged_version=2 must be between 1 and 1"),
        ({"format": "xml"}, "format='xml' must be one of json, msgpack"),
        ({"converter": {}}, "has none for the schema's format, json"),
    ],
)
def test_a_wrong_argument_is_told(arguments: dict[str, Any], text: str) -> None:
    arguments = {"id": 9, **arguments}
    with pytest.raises((ValueError, TypeError)) as caught:
        Schema(Person, **arguments)
    assert text in str(caught.value)


@attrs.define
class Unreadable:
    field: object
    thing: complex


def test_a_type_that_cannot_be_read_is_told_when_the_schema_is_made() -> None:
    with pytest.raises(TypeError, match="Unreadable cannot be read: there is no hook for"):
        Schema(Unreadable, id=1)


def test_an_annotation_that_cannot_be_resolved_is_told_when_the_schema_is_made() -> None:
    @attrs.define
    class Local:
        basket: Nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match="Local has an annotation that cannot be resolved"):
        Schema(Local, id=1)


# ---- formats and converters


def test_a_message_is_read_in_the_format_that_it_is_in() -> None:
    for message in (SCHEMAS["json"].message(ORDER), SCHEMAS["msgpack"].message(ORDER)):
        for schema in SCHEMAS.values():
            assert schema.decode(message) == ORDER
            assert schema.decode(message) == ORDER
    message = SCHEMAS["json"].message(ORDER)
    message.attributes["content-type"] = "Application/JSON; charset=utf-8"
    assert SCHEMAS["msgpack"].decode(message) == ORDER
    del message.attributes["content-type"]
    assert SCHEMAS["json"].decode(message) == ORDER
    with pytest.raises(SchemaError, match="the payload is no msgpack"):
        SCHEMAS["msgpack"].decode(message)
    message.attributes["content-type"] = "text/plain"
    with pytest.raises(SchemaError, match="its content type 'text/plain' is not known"):
        SCHEMAS["json"].decode(message)


def test_the_content_type_belongs_to_the_schema() -> None:
    schema = SCHEMAS["json"]
    with pytest.raises(ValueError, match=r"'text/plain', but the schema writes application/json"):
        schema.message(ORDER, attributes={"content-type": "text/plain"})
    schema.message(ORDER, attributes=schema.message(ORDER).attributes)


def test_a_converter_of_ones_own_does_it_its_way() -> None:
    converter = make_lenient_converter()
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))
    converter.register_unstructure_hook(Decimal, str)
    schema = Schema(Basket, id=1, untagged_version=1, converter=converter)
    assert decoded(schema, {"lines": [], "extra": "3"}) == Basket([], 3)  # cattrs' own leniency
    with pytest.raises(SchemaError, match=r"lines\[0\].price: it is missing"):
        decoded(schema, {"lines": [{"sku": "a"}]})
    packed = Schema(Basket, id=1, format="msgpack").message(Basket([]))
    with pytest.raises(SchemaError, match="hand in a converter for that too"):
        schema.decode(packed)
    both = Schema(Basket, id=1, converter={"json": converter, "msgpack": make_converter("msgpack")})
    assert both.decode(packed) == Basket([])


def test_what_was_packed_and_cannot_be_unpacked_is_refused() -> None:
    converter = make_converter("msgpack")
    converter.register_unstructure_hook(Basket, lambda basket: {(1, 2): basket.extra})
    with pytest.raises(SchemaError, match="Basket version 1: "):
        Schema(Basket, id=1, format="msgpack", converter=converter).encode(Basket([]))


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Money) and other.cents == self.cents

    __hash__ = None  # type: ignore[assignment]


@attrs.define
class Bill:
    total: Money


def test_hooks_can_be_added_to_the_usual_converter() -> None:
    converter: cattrs.Converter = make_converter("json")
    converter.register_unstructure_hook(Money, lambda money: money.cents)
    converter.register_structure_hook(Money, lambda cents, _: Money(cents))
    schema = Schema(Bill, id=1, converter=converter)
    assert schema.encode(Bill(Money(12))) == b'{"total":12}'
    assert schema.decode(schema.message(Bill(Money(12)))) == Bill(Money(12))


def test_types_other_than_classes_have_schemas_too() -> None:
    schema = Schema(list[Line], id=1)
    assert schema.name == "list[Line]"
    value = [Line("a", Decimal(1))]
    assert schema.decode(schema.message(value)) == value
    with pytest.raises(SchemaError, match=r"list\[Line\] version 1: \[0\]: expected Line"):
        schema.encode([1])  # type: ignore[list-item]
    box = Schema(Box[Line], id=2)
    filled = Box(Line("a", Decimal(1)), [])
    assert box.decode(box.message(filled)) == filled


def test_without_msgpack_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    message = SCHEMAS["msgpack"].message(ORDER)
    schema = Schema(Order, id=7, version=3)
    monkeypatch.setitem(sys.modules, "msgpack", None)  # not there
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'danube-trio\[msgpack\]'"):
        Schema(Order, id=7, format="msgpack")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'danube-trio\[msgpack\]'"):
        schema.decode(message)
    monkeypatch.undo()
    assert isinstance(sys.modules["msgpack"], ModuleType)
    assert schema.decode(message) == ORDER


def test_neither_msgpack_nor_a_door_is_imported_with_it() -> None:
    code = "import sys, danube_trio.typed as t; t.Schema(list[int], id=1); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert not set(done.stdout.split()) & {"msgpack", "anyio", "asyncio", "danube_trio.dispatch"}
    code = "import sys, danube_trio; print(*sys.modules)"
    assert "cattrs" not in subprocess.check_output([sys.executable, "-c", code], text=True).split()


# ---- several schemas

BASKET = Schema(Basket, id=1)
BOTH = BASKET | PERSON


def test_several_schemas_are_told_apart_by_their_ids() -> None:
    for value in (Basket([]), Person("A", "L")):
        message = BOTH.message(value, routing_key="k", publish_time=5)
        assert BOTH.decode(message) == value
        assert (message.routing_key, message.publish_time) == ("k", 5)
        assert message.payload == BOTH.encode(value) == BOTH.of(value).encode(value)
    assert BOTH.decode(person({"name": "A L"}, 1)) == Person("A", "L")
    assert repr(BOTH | SCHEMAS["json"]) == "<Schemas Basket, Person, Order>"


def test_what_is_not_among_several_schemas_is_told() -> None:
    with pytest.raises(SchemaError, match=r"expected one of Basket, Person, got 3 \(int\)"):
        BOTH.encode(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownSchemaError, match="Basket, Person: it is of schema id 8: add its"):
        BOTH.decode(person({}, 1, 8))
    with pytest.raises(UnknownSchemaError, match="it has no schema id"):
        BOTH.decode(StreamMessage(b"{}"))
    with pytest.raises(SchemaError, match="Person version 3: first: it is missing"):
        BOTH.decode(person({"last": "L"}, 3))


def test_one_of_several_schemas_may_take_what_has_none() -> None:
    schemas = PERSON | Schema(Basket, id=1, untagged_version=1)
    assert schemas.decode(StreamMessage(b'{"lines":[]}')) == Basket([])


def test_schemas_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="have the same id"):
        _ = BASKET | Schema(Line, id=1)
    with pytest.raises(ValueError, match="are of the same type"):
        _ = BASKET | Schema(Basket, id=2)
    with pytest.raises(ValueError, match="both take untagged messages"):
        _ = Schema(Line, id=3, untagged_version=1) | SCHEMAS["json"]
    with pytest.raises(ValueError, match="schemas is empty"):
        Schemas([])
