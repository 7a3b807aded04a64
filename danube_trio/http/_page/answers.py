"""Answers: what goes out, with the headers that keep a page safe, and live ones.

Every answer has the same strict policy, whatever it is: no script or style but the files beside the
page, no other host, no frame, nothing that a browser guesses. Data is never stored by a browser.

A *feed* is an answer that goes on: server-sent events, ``event: <name>`` and one line of JSON. It
ends when its reader goes, takes nothing, or has had it long enough; ``event: end`` says why.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from danube_trio.errors import DanubeError, text_of
from danube_trio.http._asgi import Message, Receive, Send, until_gone
from danube_trio.http._request import Refusal

log = logging.getLogger("danube_trio.http")

Headers = list[tuple[bytes, bytes]]
# Say an event: its name, and plain data.
Say = Callable[[str, Any], Awaitable[None]]
Produce = Callable[[Say], Awaitable[None]]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SAFE: Headers = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
# The longest body that is asked for anything: a redrive has three short fields.
MAX_BODY_BYTES = 4096


async def answer(
    send: Send, status: int, body: bytes, headers: Headers, *, head: bool = False
) -> None:
    """A whole answer; `head`: without its body."""
    length = [(b"content-length", b"%d" % len(body))] if status != 304 else []
    start = {"status": status, "headers": [*SAFE, *length, *headers]}
    await send({"type": "http.response.start", **start})
    await send({"type": "http.response.body", "body": b"" if head else body})


async def answer_data(
    send: Send, data: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> None:
    """Plain data, as JSON."""
    kind = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    more = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await answer(send, status, as_json(data), [*kind, *more])


def as_json(data: Any) -> bytes:
    """Plain data as JSON, in one line of ASCII."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode()


async def read_body(receive: Receive) -> bytes:
    """The body of a request. Raises Refusal for a long one."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal(400, "the request ended in the middle")
        more: bytes = message.get("body", b"")
        body += more
        if len(body) > MAX_BODY_BYTES:
            raise Refusal(413, f"a request has at most {MAX_BODY_BYTES} bytes")
        if not message.get("more_body", False):
            return body


# ---- live answers


async def answer_feed(
    receive: Receive,
    send: Send,
    produce: Produce,
    beside: Sequence[Callable[[], Awaitable[None]]] = (),
    *,
    ended: trio.CancelScope,
    seconds: float,
    send_seconds: float,
) -> None:
    """Send what is produced until that ends, its reader goes, `ended` is cancelled, or it is time.

    Args:
        produce: says events; what it raises of the log is told as ``event: error``.
        beside: what else runs meanwhile.
        seconds: how long it lasts at most.
        send_seconds: for taking one event.
    """
    kind = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    headers = [*SAFE, *kind, (b"x-accel-buffering", b"no")]

    async def put(message: Message) -> None:
        with trio.fail_after(send_seconds):
            await send(message)

    async def say(event: str, data: Any) -> None:
        text = b"event: %s\ndata: %s\n\n" % (event.encode(), as_json(data))
        await put({"type": "http.response.body", "body": text, "more_body": True})

    async def run() -> None:
        try:
            await put({"type": "http.response.start", "status": 200, "headers": headers})
            reason = "it has lasted long enough"
            with ended, trio.move_on_after(seconds):
                reason = await _produced(produce, say)
            if ended.cancel_called:
                reason = "the server stops"
            await say("end", {"reason": reason})
            await put({"type": "http.response.body", "body": b"", "more_body": False})
        except trio.TooSlowError:
            log.debug("somebody did not take what the page shows, and is left")
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
        for task in beside:
            nursery.start_soon(task)
        nursery.start_soon(run)


async def _produced(produce: Produce, say: Say) -> str:
    """Run it; why it ended."""
    try:
        await produce(say)
    except (DanubeError, Refusal) as error:
        await say("error", {"error": text_of(error)})
        return "it failed"
    return "there is no more"


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    await until_gone(receive)
    scope.cancel()
