"""`open_site`: what a server shows of a storage, as one ASGI callable.

====================  ========================================================================
``/v1/stream/...``    the streams (`Streams`)
``/healthz``          200 as long as the process answers
``/readyz``           200 as long as it can append; 503 when a log is broken, or it is stopping
``/metrics``          an ASGI callable that was handed in
``/...``              the page for people, if there is one
====================  ========================================================================

The health of the server is told to anybody; the rest is asked of `authenticate`, by the streams and
by the page themselves (whose own files are no secret).

**Names.** A page of a foreign site can make a browser look that site's name up anew, and find this
machine: then the browser lets the page read what a server on loopback answers, because the name did
not change. What did not change either is the Host header. So a site may have `hosts`, the names
that it answers to, and refuses the others.

**Proxies.** A proxy in front asks in the name of others. With `proxied` it is believed who they
are, and whether they came by TLS: what it adds at the end of ``X-Forwarded-For``, and
``X-Forwarded-Proto``. Without, these are headers like any other, which everybody can write.

**Who and what.** `access` is told of each request when it has been answered, or was given up. It is
told the path, and of the query only what the protocol knows: whatever else stands in a URL may be a
secret. Of who asked it is told the name that `authenticate` gave.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import parse_qsl

import attrs

from danube_trio import Storage
from danube_trio.http._app import Streams, respond
from danube_trio.http._asgi import App, Authenticate, Message, Receive, Scope, Send, rights_of
from danube_trio.http._config import HttpConfig
from danube_trio.http._open import open_streams
from danube_trio.http._request import TEXT, Refusal, Response, Rights

log = logging.getLogger("danube_trio.http")

STREAMS = "/v1/stream"
# What the protocol has in a query; the values are shortened to so much.
SHOWN_PARAMETERS = ("cursor", "live", "offset")
SHOWN_CHARACTERS = 80
# Names of this machine alone.
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")

_EXCHANGE = "danube_trio.exchange"


class Page(Protocol):
    """What answers everything that is not the site's own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        ...

    def end(self) -> None:
        """End all answers that would go on. Idempotent."""
        ...


@attrs.frozen(kw_only=True)
class Access:
    """A request that was answered, or given up.

    Attributes:
        time: when it ended, in seconds since 1970.
        method, path: as they were sent; the path without a query.
        query: of it, what the protocol has.
        status: of the answer; 0 if there was none.
        bytes: of the answer's body, sent.
        seconds: from the request's head to the end of the answer.
        who: the name that `authenticate` gave; None: nobody's.
        client: the address that it came from; None if there is none.
        http: the version of HTTP.
    """

    time: float
    method: str
    path: str
    query: dict[str, str]
    status: int
    bytes: int
    seconds: float
    who: str | None
    client: str | None
    http: str


@asynccontextmanager
async def open_site(
    storage: Storage,
    config: HttpConfig | None = None,
    *,
    authenticate: Authenticate | None = None,
    hosts: Iterable[str] | None = None,
    proxied: bool = False,
    page: Callable[[Streams, Authenticate | None], Page] | None = None,
    metrics: App | None = None,
    access: Callable[[Access], None] | None = None,
) -> AsyncGenerator[Site]:
    """Open a site: ``async with open_site(storage) as site:``; it is an ASGI callable.

    Args:
        storage: what `open_storage` gives, on trio or on asyncio. It stays the caller's.
        config: the settings of the streams.
        authenticate: says what a request may, or None: it is answered with 401. `Tokens` is one.
            Without it everybody may do everything.
        hosts: the names that the site answers to, without ports. Without it, to any.
        proxied: nobody reaches it but by a proxy, which says who asks.
        page: makes what answers everything else, from the streams and an `authenticate`. Without
            it, that is 404.
        metrics: what answers at ``/metrics``, to whoever may read everything.
        access: is told of each request that has ended. It must not raise, and not wait.

    Raises like `open_streams`.
    """
    site = Site(storage, authenticate, hosts, proxied, metrics, access)
    known = site.authenticate if authenticate is not None else None
    async with open_streams(storage, config, authenticate=known) as streams:
        site.streams = streams
        if page is not None:
            site.page = page(streams, known)
        try:
            yield site
        finally:
            site.stop()


class Site:
    """An ASGI callable. Made by `open_site`.

    Attributes:
        streams: the streams alone.
        page: the page alone; None if there is none.
    """

    streams: Streams
    page: Page | None = None

    def __init__(
        self,
        storage: Storage,
        authenticate: Authenticate | None,
        hosts: Iterable[str] | None,
        proxied: bool,
        metrics: App | None,
        access: Callable[[Access], None] | None,
    ) -> None:
        self._storage = storage
        self._authenticate = authenticate
        self._hosts = None if hosts is None else frozenset(map(_host_name, hosts))
        self._proxied = proxied
        self._metrics = metrics
        self._access = access
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Site of {self._storage!r}>"

    def stop(self) -> None:
        """Answer those who wait for data, and let nobody wait any more. Idempotent.

        What is under way besides goes on.
        """
        self._stopping = True
        self.streams.stop()
        if self.page is not None:
            self.page.end()

    def authenticate(self, scope: Scope) -> Rights | Awaitable[Rights | None] | None:
        """What a request may; see `open_site`. Its exchange learns whose it is."""
        assert self._authenticate is not None
        found = self._authenticate(scope)
        exchange: _Exchange | None = scope.get(_EXCHANGE)
        if exchange is None:
            return found
        return exchange.heard(found) if inspect.isawaitable(found) else exchange.told(found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.streams(scope, receive, send)  # which says that it is not to be had
            return
        if self._proxied:
            scope = _unproxied(scope)
        exchange = _Exchange(scope, send)
        try:
            await self._answer({**scope, _EXCHANGE: exchange}, receive, exchange.send)
        except Exception:
            log.exception("a request failed: %s %s", scope["method"], exchange.path)
            if exchange.status:
                raise  # it is cut: its reader must not take it for whole
            await _reply(exchange.send, scope, 500, "an error of the server: see its own log")
        finally:
            if self._access is not None:
                self._access(exchange.access())

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        root: str = scope.get("root_path", "").rstrip("/")
        path: str = scope["path"].removeprefix(root)
        try:
            self._check_host(scope)
            if path == STREAMS or path.startswith(f"{STREAMS}/"):
                await self.streams({**scope, "root_path": root + STREAMS}, receive, send)
            elif path == "/metrics" and self._metrics is not None:
                _check_method(scope)
                await self._check_rights(scope)
                await self._metrics(scope, receive, send)
            elif path == "/healthz":
                _check_method(scope)
                await _reply(send, scope, 200, "ok")
            elif path == "/readyz":
                _check_method(scope)
                reason = self._not_ready()
                await _reply(send, scope, 503 if reason else 200, reason or "ready")
            elif self.page is not None:
                await self.page(scope, receive, send)
            else:
                raise Refusal(404, f"nothing is here: streams are below {STREAMS}/")
        except Refusal as refusal:
            bodiless = scope["method"] == "HEAD"
            await respond(send, refusal.response(), {}, bodiless=bodiless)

    def _check_host(self, scope: Scope) -> None:
        if self._hosts is None:
            return
        names = [value for name, value in scope["headers"] if name.lower() == b"host" and value]
        # Without any it is no browser.
        if not all(_host_name(name.decode("latin-1")) in self._hosts for name in names):
            raise Refusal(
                421, "the Host header has a name that is not this server's: see its option --host"
            )

    async def _check_rights(self, scope: Scope) -> None:
        """Whether whoever asks may read everything."""
        if self._authenticate is None:
            return
        rights = await rights_of(self.authenticate, scope)
        if rights is None:
            raise Refusal(401, "a token is needed", {"www-authenticate": "Bearer"})
        if not rights.may("read", ""):
            raise Refusal(403, "this token does not allow that")

    def _not_ready(self) -> str:
        """Why nothing can be appended, or nothing for now; "" if all is well."""
        if self._stopping:
            return "stopping"
        for topic in self._storage.open_topics():
            statistics = self._storage.topic_statistics(topic)
            if statistics is not None and statistics.phase == "broken":
                return "a log is broken"
        return ""


def _unproxied(scope: Scope) -> Scope:
    """The request as it came to the proxy."""
    said = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
    found = {**scope}
    client = said.get(b"x-forwarded-for", "").rpartition(",")[2].strip()
    if client:
        found["client"] = (client, 0)
    if said.get(b"x-forwarded-proto") in ("http", "https"):
        found["scheme"] = said[b"x-forwarded-proto"]
    return found


def _host_name(text: str) -> str:
    """The name in a Host header, without the port."""
    text = text.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    name, _, port = text.rpartition(":")
    return (name if port.isdigit() and ":" not in name and name else text).rstrip(".")


def _check_method(scope: Scope) -> None:
    if scope["method"] not in ("GET", "HEAD"):
        raise Refusal(405, "only GET and HEAD are here", {"allow": "GET, HEAD"})


class _Exchange:
    """A request and its answer, while they are under way: counts what is sent."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._begun = time.monotonic()
        self.status = 0
        self.bytes = 0
        self.who: str | None = None

    @property
    def path(self) -> str:
        """As it was sent, without the query."""
        raw: bytes | None = self._scope.get("raw_path")
        path = raw.decode("latin-1") if raw is not None else str(self._scope["path"])
        return path.partition("?")[0]

    def told(self, rights: Rights | None) -> Rights | None:
        """It is theirs."""
        self.who = getattr(rights, "name", None)
        return rights

    async def heard(self, rights: Awaitable[Rights | None]) -> Rights | None:
        """The same, of what is yet to be found out."""
        return self.told(await rights)

    async def send(self, message: Message) -> None:
        """Send, and count."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body":
            self.bytes += len(message.get("body", b""))
        await self._send(message)

    def access(self) -> Access:
        """What can be told of it, now that it has ended."""
        scope = self._scope
        query = parse_qsl(scope["query_string"].decode("latin-1"))
        client = scope.get("client")
        return Access(
            time=time.time(),
            method=scope["method"],
            path=self.path,
            query={
                name: value[:SHOWN_CHARACTERS] for name, value in query if name in SHOWN_PARAMETERS
            },
            status=self.status,
            bytes=self.bytes,
            seconds=time.monotonic() - self._begun,
            who=self.who,
            client=client[0] if client else None,
            http=scope["http_version"],
        )


async def _reply(send: Send, scope: Scope, status: int, text: str) -> None:
    headers = {"content-type": TEXT, "cache-control": "no-store"}
    response = Response(status, headers, f"{text}\n".encode())
    await respond(send, response, {}, bodiless=scope["method"] == "HEAD")
