"""`Streams`: the ASGI callable, and the block in which it works.

::

    the server's loop                      the storage's trio run
    -----------------                      ----------------------
    scope --> head --> rights --> body --> answer(service, request)
    send  <----------------------------<-- Response, or a feed of pieces

What is left of the picture is the *shell*. It knows nothing of streams, and has two forms, because
waiting is different in trio and asyncio; on trio both sides are one. A request is whole when it
crosses, so it crosses once, and so does its answer, but for the pieces of a feed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol
from urllib.parse import parse_qs, quote

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from danube_trio import Storage
from danube_trio.errors import DanubeError
from danube_trio.http._answer import ALLOWED, answer, waits
from danube_trio.http._asgi import (
    Authenticate,
    Message,
    Receive,
    Scope,
    Send,
    rights_of,
    until_gone,
)
from danube_trio.http._config import HttpConfig
from danube_trio.http._control import MAX_BODY_BYTES, Control, is_open, path_limit
from danube_trio.http._keeper import Keeper
from danube_trio.http._keys import Keys
from danube_trio.http._names import canonical, is_control
from danube_trio.http._registry import Registry
from danube_trio.http._request import Refusal, Request, Response, Rights
from danube_trio.http._service import END_SECONDS, Service
from danube_trio.http._subscription import SubscriptionStatistics
from danube_trio.http._subscriptions import Subscriptions, root_of
from danube_trio.http._waking import Waking

log = logging.getLogger("danube_trio.http")

# More parameters than the protocol has.
MAX_PARAMETERS = 32
# Of a body that is too large so many times the limit is read before the connection is given up.
THROWN_AWAY = 4
_HOST = re.compile(r"[A-Za-z0-9.:_\[\]-]{1,255}")
_UNSAFE = frozenset({"PUT", "POST", "DELETE"})
_EXPOSED = (
    *("ETag", "Location", "Stream-Next-Offset", "Stream-Cursor", "Stream-Up-To-Date"),
    *("Stream-Closed", "Stream-TTL", "Stream-Expires-At", "Stream-SSE-Data-Encoding"),
    *("Producer-Epoch", "Producer-Seq", "Producer-Expected-Seq", "Producer-Received-Seq"),
    "Retry-After",
)
_ASKED = (
    *("Authorization", "Content-Type", "If-None-Match", "Stream-Seq", "Stream-TTL"),
    *("Stream-Expires-At", "Stream-Closed", "Stream-Forked-From", "Stream-Fork-Offset"),
    *("Stream-Fork-Sub-Offset", "Producer-Id", "Producer-Epoch", "Producer-Seq"),
)


class Shell(Protocol):
    """The two things that are different in each loop."""

    async def call(self, fn: Callable[[], Awaitable[Any]]) -> Any:
        """Call an async function in the storage's trio run."""

    def tell(self, fn: Callable[[], object]) -> None:
        """Call a function there that never waits; nobody hears of it."""

    async def within(self, seconds: float, fn: Callable[[], Awaitable[bytes]]) -> bytes | None:
        """What an async function of this loop gives; None if that takes longer."""

    async def while_there(self, receive: Receive, answering: Answering) -> None:
        """Answer, in this loop, until the client has gone."""


class Answering(Protocol):
    """A request that is being answered.

    Attributes:
        ending: the end of the answer is being sent. Some servers say that the client has gone while
            they are at that; whoever stops then leaves the connection half closed.
    """

    ending: bool

    async def __call__(self) -> None:
        """Answer."""


class _Nobody:
    """The rights of who was not asked who they are."""

    def may(self, action: str, path: str) -> bool:
        """Nothing."""
        return False


NOBODY = _Nobody()


class Gone(Exception):
    """The client went away before the request was whole."""


class Streams:
    """The streams of a storage, as an ASGI application. Made by `open_streams` only.

    It may be mounted anywhere: the path below ``root_path`` is that of the stream.
    """

    def __init__(
        self,
        shell: Shell,
        service: Service,
        subscriptions: Subscriptions,
        authenticate: Authenticate | None,
    ) -> None:
        self._shell = shell
        self._service = service
        self._subscriptions = subscriptions
        self._authenticate = authenticate
        self._cors = _Origins(service.config.origins)
        self._bodies = Bodies(service.config.max_bodies_bytes)

    def __repr__(self) -> str:
        return f"<Streams in {self._service.storage.config.dir}>"

    @property
    def config(self) -> HttpConfig:
        """The settings."""
        return self._service.config

    def subscriptions(self) -> list[SubscriptionStatistics]:
        """All subscriptions, as they are now. Belongs to the trio run that the storage is in."""
        return self._subscriptions.statistics()

    def stop(self) -> None:
        """Nobody waits any more: long-polls are answered, SSE readers told to come again.

        Everything else goes on. For who stops a server: call it, then let what is under way end.
        """
        self._shell.tell(self._service.stop)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        more: dict[str, str] = {}
        held = Held(self._bodies)
        try:
            head = _Head.of(scope)
            more = self._cors.headers(head)
            self._cors.check(head)
            if scope["method"] == "OPTIONS":
                response = Response(204, {"allow": ALLOWED})
            else:
                path = canonical(head.path, path_limit(head.path, self.config.max_path_bytes))
                rights = NOBODY if is_open(path) else await self._rights(scope)
                request = await self._request(scope, head, path, receive, rights, held)
                if waits(request):
                    give = _Giver(self._shell, self._service, request, send, more)
                    await self._shell.while_there(receive, give)
                    return
                response = await self._shell.call(lambda: answer(self._service, request))
        except Refusal as refusal:
            response = refusal.response()
        except Gone:
            return
        finally:
            held.release()
        await respond(send, response, more, bodiless=scope["method"] == "HEAD")

    async def _rights(self, scope: Scope) -> Rights | None:
        if self._authenticate is None:
            return None
        rights = await rights_of(self._authenticate, scope)
        if rights is None:
            raise Refusal(401, "who are you?", {"www-authenticate": "Bearer"})
        return rights

    async def _request(
        self,
        scope: Scope,
        head: _Head,
        path: str,
        receive: Receive,
        rights: Rights | None,
        held: Held,
    ) -> Request:
        config = self.config
        query = _query(scope.get("query_string", b""))
        body = b""
        if scope["method"] in _UNSAFE:
            limit = config.max_body_bytes
            limit = min(limit, MAX_BODY_BYTES) if is_control(path) else limit
            seconds = config.body_seconds
            body = await read_body(self._shell, head.headers, receive, limit, seconds, held)
        base = f"{scope.get('scheme', 'http')}://{head.host}{head.root}"
        method: str = scope["method"]
        return Request(method, path, query, head.headers, body, base, head.root, rights)


@attrs.frozen
class _Head:
    """The head of a request.

    Attributes:
        headers: by name in lower case.
        host: that was asked for.
        root: where the streams are mounted: a path with a slash at both ends.
        path: below that, as it was sent.
    """

    headers: Mapping[str, str]
    host: str
    root: str
    path: bytes

    @classmethod
    def of(cls, scope: Scope) -> _Head:
        """Read a scope. Refuses what nobody should have let in."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        host = headers.get("host", "")
        if not _HOST.fullmatch(host):
            server = scope.get("server") or ("localhost", None)
            host = f"{server[0]}:{server[1]}" if server[1] else str(server[0])
        root = quote(scope.get("root_path", "").rstrip("/")) + "/"
        raw: bytes = scope.get("raw_path") or quote(scope["path"]).encode()
        raw = raw.partition(b"?")[0]
        if raw.startswith(root.encode()):
            return cls(headers, host, root, raw[len(root) :])
        return cls(headers, host, root, raw.removeprefix(b"/"))


class _Origins:
    """Whose pages may use the streams."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = origins
        self._said = {
            "x-content-type-options": "nosniff",
            "cross-origin-resource-policy": "cross-origin" if origins else "same-origin",
        }
        if not origins:
            return
        if "*" in origins:
            self._said["access-control-allow-origin"] = "*"
        else:
            self._said["vary"] = "origin"
        self._said["access-control-allow-methods"] = ALLOWED
        self._said["access-control-allow-headers"] = ", ".join(_ASKED)
        self._said["access-control-expose-headers"] = ", ".join(_EXPOSED)

    def headers(self, head: _Head) -> dict[str, str]:
        """What an answer says of it."""
        origin = head.headers.get("origin")
        if origin is None or "*" in self._origins or origin not in self._origins:
            return self._said
        return {**self._said, "access-control-allow-origin": origin}

    def check(self, head: _Head) -> None:
        """Refuse what a foreign page asks: a browser would send it without asking first."""
        origin = head.headers.get("origin")
        if origin is None or "*" in self._origins or origin in self._origins:
            return
        if origin.partition("://")[2] != head.host:
            raise Refusal(403, "this server is not for pages of other origins")


def _query(text: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(
            text.decode("latin-1"),
            keep_blank_values=True,
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError as error:
        raise Refusal(400, f"the query cannot be read: {error}") from None


@attrs.define
class Bodies:
    """The bodies of all requests that are under way, in memory.

    Attributes:
        limit: how many bytes they may have together.
        taken: how many they have.
    """

    limit: int
    taken: int = 0


@attrs.define
class Held:
    """What one request holds of them."""

    bodies: Bodies
    size: int = 0

    def take(self, size: int) -> None:
        """Some bytes came. Refuses them with 503 if that is too much."""
        if self.bodies.taken + size > self.bodies.limit:
            text = "the bodies of other requests take all the memory that is there for them"
            raise Refusal(503, text, {"retry-after": "1", "connection": "close"})
        self.bodies.taken += size
        self.size += size

    def release(self) -> None:
        """It is not needed any more. Idempotent."""
        self.bodies.taken -= self.size
        self.size = 0


async def read_body(
    shell: Shell,
    headers: Mapping[str, str],
    receive: Receive,
    limit: int,
    seconds: float,
    held: Held,
) -> bytes:
    """All of a request's body.

    Raises:
        Refusal: 413 if it is more than `limit` bytes, 408 if it takes more than `seconds`, 503 if
            there is no room for it.
        Gone: the client went away.
    """
    said = headers.get("content-length", "")
    too_large = said.isascii() and said.isdigit() and int(said[:20]) > limit

    async def collect() -> bytes:
        nonlocal too_large
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise Gone
            piece = message.get("body", b"")
            size += len(piece)
            too_large = too_large or size > limit
            if too_large:  # who is still sending reads no answer: the rest is thrown away
                pieces.clear()
                held.release()
            elif piece:
                held.take(len(piece))
                pieces.append(piece)
            if size > limit * THROWN_AWAY or not message.get("more_body", False):
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    body = await shell.within(seconds, collect)
    if body is None:
        raise Refusal(408, f"the body took more than {seconds} s", {"connection": "close"})
    if too_large:
        raise Refusal(413, f"the body has more than {limit} bytes", {"connection": "close"})
    return body


def registry_of(streams: Streams) -> Registry:
    """Which streams there are. Belongs to the trio run that the storage is in."""
    return streams._service.registry  # pyright: ignore[reportPrivateUsage]  # of this module


def seen_from(streams: Streams, shell: Shell) -> Streams:
    """The same streams for a server in another loop."""
    return Streams(
        shell,
        streams._service,  # pyright: ignore[reportPrivateUsage]  # of this module
        streams._subscriptions,  # pyright: ignore[reportPrivateUsage]
        streams._authenticate,  # pyright: ignore[reportPrivateUsage]
    )


class _Giver:
    """Answers a request that may wait, and gives it piece by piece."""

    def __init__(
        self, shell: Shell, service: Service, request: Request, send: Send, more: dict[str, str]
    ) -> None:
        self._shell = shell
        self._service = service
        self._request = request
        self._send = send
        self._more = more
        self.ending = False

    async def __call__(self) -> None:
        shell = self._shell
        response: Response = await shell.call(lambda: answer(self._service, self._request))
        feed = response.feed
        if feed is None:
            self.ending = True
            await respond(self._send, response, self._more)
            return
        try:
            await self._send(_start(response, self._more))
            while piece := await shell.call(feed.next):
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            self.ending = True
            await self._send({"type": "http.response.body", "body": b""})
        finally:
            shell.tell(feed.close)


async def respond(
    send: Send, response: Response, more: Mapping[str, str], *, bodiless: bool = False
) -> None:
    """Send a whole answer."""
    size = {} if response.status in (204, 304) or bodiless else _length(response)
    await send(_start(response, {**more, **size}))
    await send({"type": "http.response.body", "body": b"" if bodiless else response.body})


def _length(response: Response) -> dict[str, str]:
    return {"content-length": str(len(response.body))}


def _start(response: Response, more: Mapping[str, str]) -> Message:
    headers = {**more, **response.headers}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": response.status, "headers": encoded}


async def _lifespan(receive: Receive, send: Send) -> None:
    """There is nothing to start: the block is open."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


# ---- on trio


class TrioShell:
    """The shell where the server's loop is the storage's."""

    async def call(self, fn: Callable[[], Awaitable[Any]]) -> Any:
        """See `Shell`."""
        return await fn()

    def tell(self, fn: Callable[[], object]) -> None:
        """See `Shell`."""
        fn()

    async def within(self, seconds: float, fn: Callable[[], Awaitable[bytes]]) -> bytes | None:
        """See `Shell`."""
        with trio.move_on_after(seconds):
            return await fn()
        return None

    async def while_there(self, receive: Receive, answering: Answering) -> None:
        """See `Shell`."""
        error: Exception | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await until_gone(receive)
                if not answering.ending:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await answering()
            except Exception as raised:
                error = raised  # out of the nursery it is what it was
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error


class OpenStreams(AbstractAsyncContextManager[Streams]):
    """The block, on trio."""

    def __init__(
        self,
        storage: Storage,
        config: HttpConfig,
        authenticate: Authenticate | None,
        clock: Callable[[], float],
    ) -> None:
        self._service = service = Service(storage, config, clock)
        self._authenticate = authenticate
        self._keeper = Keeper(service)
        self._keys = Keys(storage.metadata, root_of(service), clock)
        self._subscriptions = Subscriptions(service, self._keys)
        self._nursery: AbstractAsyncContextManager[trio.Nursery] | None = None
        self._scope: trio.CancelScope | None = None

    @enable_ki_protection
    async def __aenter__(self) -> Streams:
        if self._nursery is not None:
            raise RuntimeError("open_streams(...) can be entered once: call it again")
        service, subscriptions = self._service, self._subscriptions
        service.storage.retain_from(service.registry.floor_of)  # nobody else has these streams
        try:
            await service.load()
            await self._keys.load()
            await subscriptions.load()
            self._nursery = trio.open_nursery()
            nursery = await self._nursery.__aenter__()
        except BaseException:
            service.storage.retain_from(None)
            raise
        service.control = Control(service, subscriptions, self._keys).answer
        self._scope = nursery.cancel_scope
        nursery.start_soon(self._keeper.run, name="danube_trio streams")
        waking = Waking(service, subscriptions, self._keys)
        nursery.start_soon(waking.run, name="danube_trio subscriptions")
        return Streams(TrioShell(), service, subscriptions, self._authenticate)

    @enable_ki_protection
    async def __aexit__(self, *exc: Any) -> bool | None:
        assert self._nursery is not None
        assert self._scope is not None
        self._service.stop()
        with trio.CancelScope(shield=True):
            await self._keeper.leave()
        self._scope.cancel()
        try:
            return await self._nursery.__aexit__(*exc)
        finally:
            with trio.CancelScope(shield=True):
                await self._leave()

    async def _leave(self) -> None:
        """Nothing changes any more: what the next start need not find out is written down."""
        self._service.storage.retain_from(None)
        try:
            if await self._service.close():
                with trio.move_on_after(END_SECONDS):
                    await self._subscriptions.leave()
        except DanubeError as error:
            log.warning("the next start has to look at all streams: %s", error)
