"""A web service that answers when the record is on disk.

Plain ASGI without a framework, so it runs under any server, on asyncio or trio:

    EVENTS_DIR=events uvicorn --app-dir examples web:app
    EVENTS_DIR=events hypercorn --worker-class trio examples/web:app

POST /events appends the body and answers with its offset: 201 means that it is on disk. GET
/events?start=N streams what is there from N on, a line each. One process writes a log, so this
takes one worker; others could serve GET with `open_follower`.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from danube_trio import DanubeError, MessageTooLargeError, StartPosition, Wal, WalConfig
from danube_trio.anyio import open_wal

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


class Events:
    """The application; the log is open from the server's startup to its shutdown."""

    def __init__(self, config: WalConfig) -> None:
        self._config = config
        self._wal: Wal | None = None

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """What the server calls."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and scope["path"] == "/events" and self._wal is not None:
            if scope["method"] == "POST":
                await self._append(self._wal, receive, send)
            elif scope["method"] == "GET":
                await self._read(self._wal, scope, send)
            else:
                await answer(send, 405, b"POST appends, GET reads\n")
        elif scope["type"] == "http":
            await answer(send, 404, b"there is only /events\n")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        try:
            async with open_wal(self._config) as self._wal:
                await send({"type": "lifespan.startup.complete"})
                await receive()  # lifespan.shutdown: requests have ended
        except DanubeError as error:
            # Another process has the log, it is damaged, or its disk failed.
            what = "startup" if self._wal is None else "shutdown"
            await send({"type": f"lifespan.{what}.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _append(self, wal: Wal, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            more = event.get("more_body", False)
        try:
            offset = await wal.append(body)
        except MessageTooLargeError as error:
            await answer(send, 413, f"{error}\n".encode())
        except DanubeError as error:  # closing, or the disk failed: not acknowledged
            await answer(send, 503, f"{error}\n".encode())
        else:
            await answer(send, 201, b"%d\n" % offset)

    async def _read(self, wal: Wal, scope: Event, send: Send) -> None:
        query = parse_qs(scope["query_string"].decode())
        try:
            start = StartPosition.offset(int(query.get("start", ["0"])[0]))
            reader = wal.reader(start, end="current")
        except (ValueError, DanubeError) as error:  # no offset, none yet, or not any more
            await answer(send, 400, f"{error}\n".encode())
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async for batch in reader.batches():
            lines = [b"%d %s\n" % (m.offset, m.payload) for m in batch]
            await send({"type": "http.response.body", "body": b"".join(lines), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def answer(send: Send, status: int, text: bytes) -> None:
    """A whole response."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": text})


app = Events(WalConfig(dir=os.environ.get("EVENTS_DIR", "events")))
