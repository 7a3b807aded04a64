"""`Page`: which path is answered by what, to whom."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, cast

import attrs
import trio

from danube_trio._core.plain import from_json, to_plain
from danube_trio._doors.topics import FarStorage
from danube_trio._version import __version__
from danube_trio.errors import DanubeError, StoreUnavailableError, text_of
from danube_trio.http._asgi import Authenticate, Receive, Scope, Send, rights_of
from danube_trio.http._page.answers import (
    Produce,
    Say,
    answer,
    answer_data,
    answer_feed,
    read_body,
)
from danube_trio.http._page.asked import Query, checked_topic, header, is_known_host
from danube_trio.http._page.config import PageConfig
from danube_trio.http._page.messages import Messages, Where, too_slow
from danube_trio.http._page.shown import EVERYTHING, AllRights, ShownSubscription, StreamList
from danube_trio.http._page.static import answer_file, static_files
from danube_trio.http._page.subscriptions import Dispatches, Subscriptions
from danube_trio.http._page.topics import KINDS, SORTS, Topics, Wanted
from danube_trio.http._request import Refusal, Rights
from danube_trio.storage import Storage

log = logging.getLogger("danube_trio.http")

DATA = "/_/"
ROOT_FILE = "index.html"
ShownSubscriptions = Callable[[], Iterable[ShownSubscription]]


@attrs.frozen
class Asked:
    """A request for data, of somebody whose rights are known."""

    scope: Scope
    receive: Receive
    send: Send
    rights: Rights
    query: Query

    def may_read(self, path: str) -> bool:
        """Whether it is for whoever asks."""
        return self.rights.may("read", path)


Handler = Callable[[Asked], Awaitable[None]]


class Page:
    """An ASGI callable on trio: the page at its root, and its data below ``_/``.

    Args:
        storage: what there is to see.
        streams: which of its topics are streams; None: none is.
        authenticate: as that of `open_streams`. Without it everybody may do everything, as long as
            they ask for this machine by an address, by localhost, or by one of `hosts`.
        dispatches: the dispatches that are open in this program, asked for each time.
        subscriptions: those to streams over HTTP, asked for each time; None: there are none.
        hosts: names of this machine that may be asked for without `authenticate`; None: any, which
            is for a server that looks at them itself.
        config: the settings.

    It may be mounted below a path (``root_path``). It has no lifespan, and holds nothing while
    nobody looks.
    """

    def __init__(
        self,
        storage: Storage,
        streams: StreamList | None = None,
        *,
        authenticate: Authenticate | None = None,
        dispatches: Dispatches | None = None,
        subscriptions: ShownSubscriptions | None = None,
        hosts: Iterable[str] | None = (),
        config: PageConfig | None = None,
    ) -> None:
        if isinstance(storage, FarStorage):
            raise TypeError(f"storage={storage!r} is asyncio's: the page is for servers on trio")
        self._storage = storage
        self._config = config if config is not None else PageConfig()
        self._authenticate = authenticate
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self._topics = Topics(storage, streams, self._config.interval)
        self._messages = Messages(storage, self._topics, self._config)
        self._subscriptions = Subscriptions(storage, self._topics, dispatches)
        self._has_streams = streams is not None
        self._stream_subscriptions = subscriptions
        self._feeds: set[trio.CancelScope] = set()
        self._ended = False
        self._routes: dict[str, Handler] = {
            "about": self._about,
            "feed/topics": self._feed_topics,
            "feed/topic": self._feed_topic,
            "feed/messages": self._feed_messages,
            "messages": self._span,
            "message": self._message,
            "payload": self._payload,
            "search": self._search,
            "subscriptions": self._list_subscriptions,
            "redrive": self._redrive,
        }

    def __repr__(self) -> str:
        return f"<Page of {self._storage!r}, live answers: {len(self._feeds)}>"

    def end(self) -> None:
        """End all live answers, and refuse new ones: the server stops. Idempotent."""
        self._ended = True
        for scope in self._feeds:
            scope.cancel()

    # ---- ways

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Raises NotImplementedError for what is not HTTP."""
        if scope["type"] != "http":
            raise NotImplementedError(f"the page speaks HTTP, not {scope['type']}")
        try:
            await self._answer(scope, receive, send)
        except Refusal as refusal:
            await answer_data(send, {"error": refusal.text}, refusal.status, refusal.headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method, root = str(scope["path"]), str(scope["method"]), scope.get("root_path", "")
        path = path.removeprefix(root)
        if not path:  # what the page names is beside it
            await answer(send, 308, b"", [(b"location", f"{root}/".encode())])
            return
        name = ROOT_FILE if path == "/" else path.removeprefix(DATA)
        file = static_files().get(name) if path == "/" or path.startswith(DATA) else None
        if file is not None and not (name == ROOT_FILE and path != "/"):
            _check_method(method, "GET", "HEAD")
            seen = header(scope, b"if-none-match")
            await answer_file(send, file, seen, head=method == "HEAD")
        elif path.startswith(DATA) and name in self._routes:
            _check_method(method, "POST" if name == "redrive" else "GET")
            asked = Asked(scope, receive, send, await self._rights(scope), Query(scope))
            await _told(self._routes[name], asked)
        else:
            raise Refusal(404, "there is nothing here")

    # ---- rights

    async def _rights(self, scope: Scope) -> Rights:
        if self._authenticate is not None:
            rights = await rights_of(self._authenticate, scope)
            if rights is None:
                challenge = {"www-authenticate": 'Bearer realm="danube-trio"'}
                raise Refusal(401, "this needs a token", challenge)
            return rights
        if self._hosts is not None and not is_known_host(scope, self._hosts):
            text = "this name of the server is not known: name it in Page(hosts=...), or use tokens"
            raise Refusal(403, text)
        return AllRights()

    async def _topic(self, asked: Asked) -> str:
        """The topic that is asked for, if it is there and may be read."""
        topic = asked.query.topic()
        self._check(asked.rights, "read", topic)
        if not await self._topics.has(topic):
            raise Refusal(404, f"there is no topic {topic}")
        return topic

    def _check(self, rights: Rights, action: str, topic: str) -> None:
        if not rights.may(action, self._topics.right_of(topic)):
            raise Refusal(403, f"this token has no {action} right to {topic}")

    # ---- what there is

    async def _about(self, asked: Asked) -> None:
        found: dict[str, Any] = {
            "version": __version__,
            "directory": self._storage.config.dir if asked.may_read(EVERYTHING) else "",
            "interval": self._config.interval,
            "rows": self._config.rows,
            "messages": self._config.messages,
            "streams": self._has_streams,
            "stream_subscriptions": self._stream_subscriptions is not None,
            "token": self._authenticate is not None,
        }
        await answer_data(asked.send, found)

    async def _feed(
        self, asked: Asked, produce: Produce, *beside: Callable[[], Awaitable[None]]
    ) -> None:
        if self._ended or len(self._feeds) >= self._config.feeds:
            text = "the server stops" if self._ended else "too many look at this page already"
            raise Refusal(503, text, {"retry-after": "5"})
        ended = trio.CancelScope()
        self._feeds.add(ended)
        try:
            await answer_feed(
                asked.receive,
                asked.send,
                produce,
                beside,
                ended=ended,
                seconds=self._config.feed_seconds,
                send_seconds=self._config.send_seconds,
            )
        finally:
            self._feeds.discard(ended)

    async def _feed_topics(self, asked: Asked) -> None:
        query = asked.query
        wanted = Wanted(
            sort=query.one_of("sort", SORTS, "records"),
            descending=query.one_of("order", ("up", "down"), "down") == "down",
            text=query.text("text").lower(),
            kind=query.one_of("kind", KINDS, "all"),
            first=query.number("first", 0),
            count=query.count("count", 50, self._config.rows),
        )

        async def produce(say: Say) -> None:
            while True:
                await self._topics.look()
                found = self._topics.shown(asked.rights, wanted)
                if asked.may_read(EVERYTHING):
                    found["storage"] = to_plain(self._storage.statistics())
                await say("topics", {"elapsed": self._topics.time, **found})
                await trio.sleep(self._config.interval)

        await self._feed(asked, produce, self._topics.keep_list)

    async def _feed_topic(self, asked: Asked) -> None:
        topic = await self._topic(asked)

        async def produce(say: Say) -> None:
            while await self._topics.has(topic):
                found = self._storage.topic_statistics(topic)
                stream, row = self._topics.stream_of(topic), self._topics.row(topic)
                about = {
                    "elapsed": trio.current_time(),
                    "stream": stream.data() if stream is not None else None,
                    "statistics": to_plain(found),
                    "last": row.shown() if row is not None and found is None else None,
                }
                await say("topic", about)
                await trio.sleep(self._config.interval)
            await say("gone", {})

        await self._feed(asked, produce)

    # ---- messages

    async def _feed_messages(self, asked: Asked) -> None:
        topic, start = await self._topic(asked), asked.query.number("start")
        await self._feed(asked, partial(self._messages.tail, topic, start))

    async def _span(self, asked: Asked) -> None:
        topic, query = await self._topic(asked), asked.query
        where = Where(
            start=query.number("start") if query.has("start") else None,
            before=query.number("before") if query.has("before") else None,
            time=query.time("time"),
        )
        count = query.count("count", 100, self._config.messages)
        await answer_data(asked.send, await self._messages.span(topic, where, count))

    async def _message(self, asked: Asked) -> None:
        topic, offset = await self._topic(asked), asked.query.number("offset")
        at = asked.query.number("at", 0)
        await answer_data(asked.send, await self._messages.message(topic, offset, at))

    async def _payload(self, asked: Asked) -> None:
        topic, offset = await self._topic(asked), asked.query.number("offset")
        body = await self._messages.payload(topic, offset)
        about = [
            (b"content-type", b"application/octet-stream"),
            (b"content-disposition", b"attachment"),
            (b"cache-control", b"no-store"),
        ]
        await answer(asked.send, 200, body, about)

    async def _search(self, asked: Asked) -> None:
        topic, text = await self._topic(asked), asked.query.text("text")
        if not text:
            raise Refusal(400, "text: must be what is searched for")
        query = asked.query
        before = query.number("before") if query.has("before") else None
        await answer_data(asked.send, await self._messages.search(topic, text, before))

    # ---- subscriptions

    async def _list_subscriptions(self, asked: Asked) -> None:
        query = asked.query
        if query.has("topic"):
            topic = await self._topic(asked)
            found = await self._subscriptions_of(topic)
            right = self._topics.right_of(topic)
            found["may_redrive"] = asked.rights.may("admin", right)
            await answer_data(asked.send, found)
            return
        text, first = query.text("text").lower(), query.number("first", 0)
        count = query.count("count", 50, self._config.rows)
        found = await self._subscriptions.all(asked.rights, text, first, count)
        found["streams"] = self._of_streams(asked)
        await answer_data(asked.send, found)

    async def _subscriptions_of(self, topic: str) -> dict[str, Any]:
        try:
            with trio.fail_after(self._config.read_seconds):
                return await self._subscriptions.of_topic(topic)
        except trio.TooSlowError:
            raise too_slow(self._config.read_seconds) from None

    def _of_streams(self, asked: Asked) -> list[Any] | None:
        if self._stream_subscriptions is None:
            return None
        found: list[Any] = []
        for each in self._stream_subscriptions():
            if len(found) >= self._config.rows:
                break
            if any(map(asked.may_read, each.paths)):
                found.append(to_plain(each))
        return found

    async def _redrive(self, asked: Asked) -> None:
        # A form of another site can send neither this type nor, where one is needed, the token.
        kind = header(asked.scope, b"content-type").partition(b";")[0].strip().lower()
        site = header(asked.scope, b"sec-fetch-site")
        if kind != b"application/json":
            raise Refusal(415, "the body must be application/json")
        if site not in (b"", b"same-origin"):
            raise Refusal(403, "this may be asked by the page itself only")
        try:
            body = from_json(await read_body(asked.receive))
        except ValueError as error:
            raise Refusal(400, f"the body is no JSON: {text_of(error)}") from None
        fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
        topic, name, letters = (fields.get(each) for each in ("topic", "subscription", "letters"))
        if not isinstance(topic, str) or not isinstance(name, str):
            raise Refusal(400, "topic, subscription: must be texts")
        if letters is not None and not isinstance(letters, str):
            raise Refusal(400, "letters: must be the name of a topic")
        topic = checked_topic(topic)
        letters = checked_topic(letters) if letters is not None else None
        self._check(asked.rights, "admin", topic)
        if letters is not None:
            self._check(asked.rights, "read", letters)
        if not await self._topics.has(topic):
            raise Refusal(404, f"there is no topic {topic}")
        limit = self._config.redrive
        done = await self._subscriptions.redrive(topic, name, letters, limit)
        log.info("%d dead letters of %s were brought back to %s", done, name, topic)
        await answer_data(asked.send, {"redriven": done, "more": done == limit})


async def _told(handler: Handler, asked: Asked) -> None:
    """What the log raises, as an answer."""
    try:
        await handler(asked)
    except StoreUnavailableError as error:
        raise Refusal(503, text_of(error), {"retry-after": "5"}) from None
    except DanubeError as error:
        raise Refusal(500, text_of(error)) from None


def _check_method(method: str, *allowed: str) -> None:
    if method not in allowed:
        headers = {"allow": ", ".join(allowed)}
        raise Refusal(405, f"the method must be {' or '.join(allowed)}", headers)
