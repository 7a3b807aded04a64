"""Orders as attrs classes, in two versions, and a message that is none. Usage: typed_orders.py DIR

The first part is the program as it was last year, the second as it is now: it reads last year's
orders as if they had been written today.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import attrs
import trio

from danube_trio import WalConfig, open_wal
from danube_trio.typed import Schema, SchemaError, TypedTopic


@attrs.frozen
class OldOrder:
    number: int
    customer: str
    total: float


@attrs.frozen
class Line:
    sku: str
    price: Decimal
    amount: int = 1


@attrs.frozen
class Order:
    """Since version 2 there are lines, whose prices are exact, instead of a total."""

    number: int
    customer: str
    lines: list[Line]
    placed: datetime | None = None

    @property
    def total(self) -> Decimal:
        """The sum over all lines."""
        return sum((line.price * line.amount for line in self.lines), Decimal(0))


def give_lines(tree: dict[str, Any]) -> dict[str, Any]:
    """Plain data of version 1 as plain data of version 2."""
    total = str(Decimal(tree.pop("total")).quantize(Decimal("0.01")))
    return {**tree, "lines": [{"sku": "unknown", "price": total}]}


last_year = Schema(OldOrder, id=1, version=1)
today = Schema(Order, id=1, version=2, upgrades={1: give_lines})


async def main(directory: str) -> None:
    """Append orders of both years and one that is wrong; read them all."""
    async with open_wal(WalConfig(dir=directory, topic_name="/default/orders")) as wal:
        old = TypedTopic(wal, last_year)
        await old.append_batch([OldOrder(1, "ann", 9.5), OldOrder(2, "bob", 20.0)])

        orders = TypedTopic(wal, today, key=lambda order: order.customer)
        books = [Line("book", Decimal("12.50"), 2), Line("pen", Decimal("1.20"))]
        await orders.append(Order(3, "cid", books, datetime(2026, 1, 2, tzinfo=UTC)))
        try:
            wrong: Any = "12.50"  # what a type checker would have found
            await orders.append(Order(4, "dan", [*books, Line("ink", wrong)]))
        except SchemaError as error:
            print("refused:", error)

        # Another program, in another language, without our check:
        await wal.append(b'{"number":"five"}', schema_id=1, schema_version=2)
        await orders.append(Order(6, "eve", []))

        def tell(error: SchemaError) -> None:
            print("unreadable:", error)

        async for item in orders.reader(end="current", skip=SchemaError, on_skip=tell):
            print(item.offset, item.value.customer, item.value.total)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    trio.run(main, sys.argv[1])
