"""Tokens of a language model, into a page that may be reloaded in the middle.

    pip install 'danube-trio[serve]'
    TOKENS_DIR=tokens hypercorn --worker-class trio examples/tokens:app

Each answer is a durable stream. The model (here a generator that makes words) appends to it and
closes it at the end; the page only follows. So the page may be reloaded, opened in a second window,
or lose its connection, at any moment: it reads what there is and goes on live. A proxy of a model's
own response can do none of that.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import httpx2
import trio

from danube_trio import StorageConfig, open_storage
from danube_trio.http import Streams, open_streams

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

MOUNTED = "/v1/stream"
DAY = 86_400
SECONDS_A_TOKEN = 0.05

PAGE = b"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Tokens</title>
<style>
  body { font: 1.1rem/1.6 Georgia, serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }
  form { display: flex; gap: .5rem } input { flex: 1 } input, button { font: inherit }
  #answer { white-space: pre-wrap; min-height: 8rem }
  #state { color: #666; font-size: .9rem }
  @media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } }
</style>
<form id="form">
  <input id="question" required placeholder="Ask something"><button>Ask</button>
</form>
<p id="answer" aria-live="polite"></p>
<p id="state">Reload this page whenever you like.</p>
<script>
const answer = document.getElementById("answer"), state = document.getElementById("state")
let events = null

// Follows an answer from an offset on. The server ends a connection now and then: go on there.
function follow(id, offset) {
  if (events) events.close()
  const mine = events = new EventSource(`v1/stream/answers/${id}?live=sse&offset=${offset}`)
  mine.addEventListener("data", (event) => { answer.append(event.data) })
  mine.addEventListener("control", (event) => {
    const control = JSON.parse(event.data)
    offset = control.streamNextOffset
    state.textContent = control.streamClosed ? "complete" : "writing ..."
    if (control.streamClosed) mine.close()
  })
  mine.onerror = () => {
    mine.close()
    if (events === mine) setTimeout(() => { if (events === mine) follow(id, offset) }, 500)
  }
}

document.getElementById("form").addEventListener("submit", async (event) => {
  event.preventDefault()
  const question = document.getElementById("question").value
  const response = await fetch("ask", { method: "POST", body: question })
  location.hash = await response.text()
})
function begin() {
  answer.textContent = ""
  if (location.hash) follow(location.hash.slice(1), "-1")
}
addEventListener("hashchange", begin)
begin()
</script>
</html>
"""


async def model(question: str) -> AsyncIterator[str]:
    """What a language model would say, a word at a time."""
    text = (
        f"You ask: {question}. A log keeps what is appended to it, in its order. Who reads it may "
        "come late, leave, and come again: each offset is a place in it, and stays one. So a page "
        "that was reloaded reads what it has missed, and goes on with what is being written."
    )
    for word in text.split():
        await trio.sleep(SECONDS_A_TOKEN)
        yield word + " "


class Tokens:
    """The application: the page, the questions, and the streams."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._streams: Streams | None = None
        self._client: httpx2.AsyncClient | None = None
        self._nursery: trio.Nursery | None = None

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """What the server calls."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        assert self._streams is not None
        path = scope["path"]
        if path.startswith(f"{MOUNTED}/"):
            await self._streams({**scope, "root_path": MOUNTED}, receive, send)
        elif path == "/" and scope["method"] == "GET":
            await answer(send, 200, PAGE, b"text/html; charset=utf-8")
        elif path == "/ask" and scope["method"] == "POST":
            question = (await receive()).get("body", b"")[:1000].decode(errors="replace")
            await answer(send, 200, (await self._ask(question)).encode(), b"text/plain")
        else:
            await answer(send, 404, b"there is nothing here\n", b"text/plain")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        async with (
            open_storage(StorageConfig(dir=self._directory)) as storage,
            open_streams(storage) as self._streams,
            # An HTTP client that calls the streams as a function: there is no socket in between.
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(self._streams), base_url="http://localhost/"
            ) as self._client,
            trio.open_nursery() as self._nursery,
        ):
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
            self._nursery.cancel_scope.cancel()
        await send({"type": "lifespan.shutdown.complete"})

    async def _ask(self, question: str) -> str:
        """Begin an answer; returns its id."""
        assert self._client is not None
        assert self._nursery is not None
        name = uuid.uuid4().hex
        headers = {"content-type": "text/plain", "stream-ttl": str(DAY)}
        (await self._client.put(f"answers/{name}", headers=headers)).raise_for_status()
        self._nursery.start_soon(self._write, self._client, f"answers/{name}", question)
        return name

    async def _write(self, client: httpx2.AsyncClient, path: str, question: str) -> None:
        """Each token is on disk before the next one is asked for."""
        headers = {"content-type": "text/plain"}
        async for token in model(question):
            (await client.post(path, content=token, headers=headers)).raise_for_status()
        (await client.post(path, headers={"stream-closed": "true"})).raise_for_status()


async def answer(send: Send, status: int, body: bytes, kind: bytes) -> None:
    """A whole response."""
    headers = [(b"content-type", kind), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = Tokens(os.environ.get("TOKENS_DIR", "tokens"))
