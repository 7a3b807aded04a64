"""Rows of the application's own SQLite database reach the log once. Usage: outbox.py DIR [ROWS]

The application commits an order and a row of its outbox in one SQLite transaction. A relay appends
the rows to the log, and then notes in the same database where it is: the last row, and the offset
after it. Killed in between, it finds at its next start what is in the log already, by a scan from
the noted offset on; and because it appends with `expected_offset`, nothing can get in between
unseen. So each row is in the log once, in order, however often this is killed and run again.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from functools import partial

import trio

from danube_trio import StartPosition, StreamMessage, Wal, WalConfig, open_wal

ROW = "outbox-row"  # the attribute that says which row a message is
SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, what TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS relay (only_one INTEGER PRIMARY KEY CHECK (only_one = 1),
                                      last_row INTEGER NOT NULL, next_offset INTEGER NOT NULL);
    INSERT OR IGNORE INTO relay VALUES (1, 0, 0);
"""


def open_database(path: str) -> sqlite3.Connection:
    """Open the application's database."""
    database = sqlite3.connect(path, check_same_thread=False)  # one thread at a time
    database.execute("PRAGMA synchronous = FULL")
    database.executescript(SCHEMA)
    return database


def place_order(database: sqlite3.Connection, what: str) -> None:
    """What the application does: both rows or none."""
    with database:
        database.execute("INSERT INTO orders (what) VALUES (?)", (what,))
        database.execute("INSERT INTO outbox (body) VALUES (?)", (what.encode(),))


def noted(database: sqlite3.Connection) -> tuple[int, int]:
    """The last row that is known to be in the log, and the offset after it."""
    found: tuple[int, int] = database.execute("SELECT last_row, next_offset FROM relay").fetchone()
    return found


def note(database: sqlite3.Connection, last_row: int, next_offset: int) -> None:
    """Remember where the relay is."""
    with database:
        database.execute("UPDATE relay SET last_row = ?, next_offset = ?", (last_row, next_offset))


def rows_after(database: sqlite3.Connection, row: int) -> list[tuple[int, bytes]]:
    """Rows that are not in the log."""
    return database.execute(
        "SELECT id, body FROM outbox WHERE id > ? ORDER BY id LIMIT 100", (row,)
    ).fetchall()


class Relay:
    """Brings rows to the log."""

    def __init__(self, database: sqlite3.Connection, wal: Wal) -> None:
        self._database = database
        self._wal = wal

    async def catch_up(self) -> None:
        """Note what an earlier run had appended and not noted."""
        last_row, next_offset = await trio.to_thread.run_sync(noted, self._database)
        start = StartPosition.offset(next_offset)
        async for message in self._wal.reader(start, end="current"):
            if ROW in message.attributes:
                last_row = int(message.attributes[ROW])
            next_offset = message.offset + 1
        await trio.to_thread.run_sync(partial(note, self._database, last_row, next_offset))

    async def relay(self) -> int:
        """Append what is there; returns how many rows that were.

        UnexpectedOffsetError: somebody else appended too; catch up first.
        """
        last_row, next_offset = await trio.to_thread.run_sync(noted, self._database)
        rows = await trio.to_thread.run_sync(rows_after, self._database, last_row)
        if not rows:
            return 0
        batch = [StreamMessage(body, attributes={ROW: str(row)}) for row, body in rows]
        offsets = await self._wal.append_batch(batch, expected_offset=next_offset)
        if os.environ.get("OUTBOX_DIES") and rows[-1][0] % 3 == 0:
            os.kill(os.getpid(), 9)  # for the test: appended, and not noted
        await trio.to_thread.run_sync(partial(note, self._database, rows[-1][0], offsets.stop))
        return len(rows)


async def main(directory: str, orders: int) -> None:
    """Place orders, relay them, and show what is in the log."""
    os.makedirs(directory, exist_ok=True)
    database = open_database(os.path.join(directory, "orders.db"))
    try:
        async with open_wal(WalConfig(dir=os.path.join(directory, "log"))) as wal:
            relay = Relay(database, wal)
            await relay.catch_up()
            for _ in range(orders):
                ((count,),) = database.execute("SELECT count(*) FROM orders")
                await trio.to_thread.run_sync(place_order, database, f"order {count + 1}")
                await relay.relay()
            while await relay.relay():
                pass
            async for message in wal.reader(end="current"):
                print(message.offset, message.attributes[ROW], message.payload.decode())
    finally:
        database.close()


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    trio.run(main, sys.argv[1], int(sys.argv[2]) if len(sys.argv) == 3 else 5)
