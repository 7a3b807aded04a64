"""Asking an ASGI application in the same process: no server, no socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote, unquote

import attrs
import trio

from danube_trio import Storage

App = Callable[[Any, Any, Any], Awaitable[None]]
ZERO = "0000000000000000_0000000000000000"


@attrs.frozen
class Answer:
    """What came: names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def next(self) -> str:
        """The offset to go on from."""
        return self.headers["stream-next-offset"]

    @property
    def closed(self) -> bool:
        """Whether it says that the stream is closed."""
        return self.headers.get("stream-closed") == "true"


def scope_of(method: str, target: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    """An ASGI scope, as hypercorn makes it."""
    path, _, query = target.partition("?")
    pairs = {"host": "test", **(headers or {})}
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": quote(path, safe="/%:@!$&'()*+,;=-._~").encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in pairs.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


class Exchange:
    """One request, and what was sent for it so far."""

    def __init__(self, app: App, scope: dict[str, Any], body: bytes) -> None:
        self._app = app
        self._scope = scope
        self._inbox = [{"type": "http.request", "body": body, "more_body": False}]
        self._came = trio.Event()
        self.gone = trio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.over = False

    async def run(self) -> None:
        """Have it answered."""
        await self._app(self._scope, self._receive, self._send)
        self.over = True
        self._wake()

    async def _receive(self) -> MutableMapping[str, Any]:
        if self._inbox:
            return self._inbox.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            assert not self.status
            self.status = message["status"]
            self.headers = {k.decode(): v.decode("latin-1") for k, v in message["headers"]}
        else:
            self.body += message.get("body", b"")
        self._wake()

    def _wake(self) -> None:
        came, self._came = self._came, trio.Event()
        came.set()

    async def until(self, text: bytes, after: int = 0) -> int:
        """Wait until this came, after so many bytes; returns where it ends."""
        while (found := self.body.find(text, after)) < 0:
            assert not self.over, (text, self.body)
            await self._came.wait()
        return found + len(text)


async def ask(
    app: App,
    method: str,
    target: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Answer:
    """Ask, and wait for all of the answer."""
    exchange = Exchange(app, scope_of(method, target, headers), body)
    await exchange.run()
    return Answer(exchange.status, exchange.headers, exchange.body)


class Client:
    """Short words for the operations of the protocol.

    Args:
        app: that is asked.
        root: what each path begins with.
    """

    def __init__(self, app: App, root: str = "/") -> None:
        self.app = app
        self._root = root

    async def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        """Ask."""
        return await ask(self.app, method, self._root + path, body, headers)

    async def create(
        self, path: str, body: bytes = b"", kind: str = "text/plain", **more: str
    ) -> Answer:
        """PUT."""
        return await self.ask("PUT", path, body, {"content-type": kind, **_names(more)})

    async def append(self, path: str, body: bytes, kind: str = "text/plain", **more: str) -> Answer:
        """POST."""
        return await self.ask("POST", path, body, {"content-type": kind, **_names(more)})

    async def close(self, path: str, body: bytes = b"", **more: str) -> Answer:
        """POST that closes."""
        return await self.append(path, body, stream_closed="true", **more)

    async def fork(self, path: str, source: str, body: bytes = b"", **more: str) -> Answer:
        """PUT of a fork."""
        headers = {"stream-forked-from": self._root + source, **_names(more)}
        return await self.ask("PUT", path, body, headers)

    async def read(self, path: str, offset: str = "-1", **more: str) -> Answer:
        """GET."""
        return await self.ask("GET", f"{path}?offset={offset}", headers=_names(more))

    async def read_all(self, path: str) -> bytes:
        """GET until it is up to date; of a byte stream."""
        found, offset = b"", "-1"
        while True:
            answer = await self.read(path, offset)
            assert answer.status == 200, answer
            found, offset = found + answer.body, answer.next
            if "stream-up-to-date" in answer.headers:
                return found

    async def head(self, path: str) -> Answer:
        """HEAD."""
        return await self.ask("HEAD", path)

    async def delete(self, path: str) -> Answer:
        """DELETE."""
        return await self.ask("DELETE", path)


def _names(more: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in more.items()}


def sent(producer: str, epoch: int, seq: int) -> dict[str, str]:
    """The headers of a producer, as arguments."""
    return {
        "producer_id": producer,
        "producer_epoch": str(epoch),
        "producer_seq": str(seq),
    }


async def until_tidy(storage: Storage) -> None:
    """Wait, in virtual time, until every topic is deleted that no stream needs."""
    with trio.fail_after(10_000):
        while await storage.metadata.list_entries("/danube/http/trash/"):  # noqa: ASYNC110
            await trio.sleep(1)
