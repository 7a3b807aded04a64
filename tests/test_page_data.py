"""What the page's data says, to whom, and what looking at it can never do to the log."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import danube_trio.anyio
from danube_trio import Storage, StorageConfig, StreamMessage, WalConfig, open_storage
from danube_trio._engine.log.wal import inside
from danube_trio.dispatch import (
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    Subscription,
    SubscriptionOptions,
)
from danube_trio.dispatch._saved import saved_subscriptions
from danube_trio.http import Rights, Site, Tokens, open_site
from danube_trio.http._page import (
    EVERYTHING,
    Page,
    PageConfig,
    ShownStream,
    ShownSubscription,
    topic_path,
)
from danube_trio.http._page.static import static_files
from danube_trio.http._page.topics import SORTS
from danube_trio.http._shown_streams import page_of
from danube_trio.testing import SimDisk

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "danube_trio" / "http" / "page"
QUICK = PageConfig(interval=0.01, tail_interval=0.01)
ORDERS = "/default/orders"

Headers = dict[str, str]


# ---- asking


@attrs.frozen
class Answer:
    """What came back."""

    status: int
    headers: Headers
    body: bytes

    @property
    def data(self) -> Any:
        """The body, which is JSON."""
        return json.loads(self.body)


async def ask(
    page: Page | Site,
    path: str,
    headers: Headers | None = None,
    *,
    method: str = "GET",
    body: bytes = b"",
    root_path: str = "",
    **query: Any,
) -> Answer:
    """A request whose answer is whole."""
    sent: list[Any] = []
    received = trio.Event()

    async def receive() -> dict[str, Any]:
        if received.is_set():
            await trio.sleep_forever()
        received.set()
        return {"type": "http.request", "body": body}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await page(scope_of(path, headers, query, method, root_path), receive, send)
    start = sent[0]
    known = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], known, b"".join(each.get("body", b"") for each in sent[1:]))


def scope_of(
    path: str,
    headers: Headers | None = None,
    query: dict[str, Any] | None = None,
    method: str = "GET",
    root_path: str = "",
) -> dict[str, Any]:
    given = {"host": "127.0.0.1:4437", **(headers or {})}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "root_path": root_path,
        "query_string": urlencode(query or {}).encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
    }


async def data(page: Page, path: str, **query: Any) -> Any:
    """The data of an answer that is none of a refusal."""
    found = await ask(page, f"/_/{path}", **query)
    assert found.status == 200, found.body
    return found.data


class Feed:
    """A live answer that is read until `leave`; for one task."""

    def __init__(
        self, page: Page | Site, path: str, headers: Headers | None = None, **query: Any
    ) -> None:
        self._scope = scope_of(f"/_/{path}", headers, query)
        self._page = page
        self._gone = trio.Event()
        self._text = ""
        # Of one event: who does not read holds the server up, as a full socket does.
        self._send, self._receive = trio.open_memory_channel[Any](0)
        self.status = 0

    async def run(self) -> None:
        """The request itself."""

        async def receive() -> dict[str, Any]:
            await self._gone.wait()
            return {"type": "http.disconnect"}

        async with self._send:
            await self._page(self._scope, receive, self._send.send)

    async def next(self) -> tuple[str, Any]:
        """The next event. Raises trio.EndOfChannel at the end of the answer."""
        while "\n\n" not in self._text:
            message = await self._receive.receive()
            self.status = message.get("status", self.status)
            self._text += message.get("body", b"").decode()
        block, _, self._text = self._text.partition("\n\n")
        event, line = block.split("\n")
        return event.removeprefix("event: "), json.loads(line.removeprefix("data: "))

    async def until(self, event: str, when: Callable[[Any], bool] = lambda _: True) -> Any:
        """The data of the next such event of which `when` is true."""
        while True:
            name, found = await self.next()
            if name == event and when(found):
                return found

    async def rest(self) -> list[tuple[str, Any]]:
        """All events to the end."""
        found: list[tuple[str, Any]] = []
        while True:
            try:
                found.append(await self.next())
            except trio.EndOfChannel:
                return found

    def leave(self) -> None:
        """Go, as a browser does that closes its tab."""
        self._gone.set()


def opened(nursery: trio.Nursery, page: Page | Site, path: str, **query: Any) -> Feed:
    feed = Feed(page, path, **query)
    nursery.start_soon(feed.run)
    return feed


@attrs.define
class Streams:
    """A list of streams."""

    namespace = "streams"
    known: dict[str, ShownStream] = attrs.Factory(dict[str, ShownStream])

    def shown(self) -> Iterable[ShownStream]:
        return self.known.values()

    def of_topic(self, topic: str) -> ShownStream | None:
        return self.known.get(topic)


@attrs.frozen
class May:
    """Rights to some paths."""

    read: frozenset[str] = frozenset()
    admin: frozenset[str] = frozenset()

    def may(self, action: str, path: str) -> bool:
        return path in (self.read if action == "read" else self.admin)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncGenerator[Storage]:
    config = StorageConfig(dir=str(tmp_path / "logs"), idle_seconds=3600)
    async with open_storage(config) as opened_storage:
        yield opened_storage


async def fill(storage: Storage, count: int, topic: str = ORDERS) -> None:
    await storage.append_batch(topic, [b"order %d" % i for i in range(count)])


def payloads(found: Any) -> list[bytes]:
    return [base64.b64decode(item["head"]) for item in found["items"]]


def offsets(found: Any) -> list[int]:
    return [item["offset"] for item in found["items"]]


# ---- static files


async def test_every_file_of_the_page_is_served_with_its_type(storage: Storage) -> None:
    page = Page(storage)
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg"}
    assert {path.name for path in STATIC.iterdir()} == set(static_files())
    for path in STATIC.iterdir():
        found = await ask(page, "/" if path.name == "index.html" else f"/_/{path.name}")
        assert found.status == 200
        assert found.body == path.read_bytes()
        assert found.headers["content-type"].startswith(kinds[path.suffix[1:]])
        assert found.headers["cache-control"] == "no-cache"


async def test_a_file_that_the_browser_has_is_not_sent_again(storage: Storage) -> None:
    page = Page(storage)
    first = await ask(page, "/_/page.css")
    again = await ask(page, "/_/page.css", {"if-none-match": f'"other", W/{first.headers["etag"]}'})
    assert (again.status, again.body) == (304, b"")
    other = await ask(page, "/_/page.css", {"if-none-match": '"other"'})
    assert other.status == 200
    head = await ask(page, "/_/page.css", method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(first.body))


async def test_every_answer_has_the_strict_policy(storage: Storage) -> None:
    page = Page(storage)
    for path in ("/", "/_/main.js", "/_/about", "/_/messages", "/nothing"):
        found = await ask(page, path)
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert found.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in found.headers


def test_the_page_names_no_other_host_and_has_no_markup_from_text() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in text, path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", text)
        assert "—" not in text, path
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html)


async def test_what_is_not_there_is_a_404_and_what_may_not_be_done_a_405(storage: Storage) -> None:
    page = Page(storage)
    for path in ("/nothing", "/_/", "/_/index.html", "/_/../page.css", "/_/nothing", "//"):
        assert (await ask(page, path)).status == 404, path
    posted = await ask(page, "/_/about", method="POST")
    assert (posted.status, posted.headers["allow"]) == (405, "GET")
    got = await ask(page, "/_/redrive")
    assert (got.status, got.headers["allow"]) == (405, "POST")
    assert (await ask(page, "/", method="DELETE")).status == 405
    with pytest.raises(NotImplementedError, match="websocket"):
        await page({"type": "websocket"}, None, None)  # type: ignore[arg-type]


async def test_it_may_be_mounted_below_a_path(storage: Storage) -> None:
    page = Page(storage)
    assert (await ask(page, "/logs/", root_path="/logs")).status == 200
    assert (await ask(page, "/logs/_/about", root_path="/logs")).status == 200
    bare = await ask(page, "/logs", root_path="/logs")
    assert (bare.status, bare.headers["location"]) == (308, "/logs/")


def test_the_wheel_has_the_files_of_the_page(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"danube_trio/http/page/{path.name}" for path in STATIC.iterdir()} <= names


# ---- rights


async def test_without_a_known_token_there_is_no_data(storage: Storage) -> None:
    page = Page(storage, authenticate=lambda scope: None)
    for path in ("about", "feed/topics", "messages", "search", "redrive"):
        method = "POST" if path == "redrive" else "GET"
        found = await ask(page, f"/_/{path}", method=method)
        assert found.status == 401
        assert found.headers["www-authenticate"].startswith("Bearer")
    assert (await ask(page, "/")).status == 200  # the page itself asks for it


async def test_each_sees_what_may_be_read(storage: Storage, nursery: trio.Nursery) -> None:
    streams = Streams()
    for name in ("a", "b"):
        topic = f"/streams/{name}-1"
        await fill(storage, 1, topic)
        streams.known[topic] = ShownStream(path=name, topic=topic)
    await fill(storage, 1, "/default/a")
    await fill(storage, 1, "/a/b")
    rights = May(frozenset({"a", "a/b", "/a/b"}))
    page = Page(storage, streams, authenticate=lambda scope: rights, config=QUICK)
    seen = await opened(nursery, page, "feed/topics").until("topics", lambda each: each["listed"])
    # Leave to read the stream a/b is no leave to read a topic of that name.
    assert [row["topic"] for row in seen["rows"]] == ["/streams/a-1"]
    assert seen["total"] == 1
    assert "storage" not in seen
    assert (await data(page, "about"))["directory"] == ""
    assert (await ask(page, "/_/messages", topic="/streams/a-1")).status == 200
    for topic in ("/streams/b-1", "/default/a", "/a/b", "/nothing/there"):
        for path in ("messages", "message", "payload", "search", "subscriptions", "feed/topic"):
            found = await ask(page, f"/_/{path}", topic=topic, offset=0, text="x")
            assert found.status == 403, (path, topic)
    rights = May(frozenset({topic_path("/a/b"), EVERYTHING}))
    assert (await ask(page, "/_/messages", topic="/a/b")).status == 200
    assert (await data(page, "about"))["directory"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:4437", 200),
        ("[::1]:4437", 200),
        ("localhost", 200),
        ("logs.localhost:4437", 200),
        ("logs.example:4437", 200),
        ("evil.example:4437", 403),
        ("127.0.0.1.evil.example", 403),
        ("evil.example#localhost", 403),
    ],
)
async def test_nobody_gives_this_machine_another_name(
    storage: Storage, host: str, status: int
) -> None:
    page = Page(storage, hosts=["logs.example"])
    assert (await ask(page, "/_/about", {"host": host})).status == status
    known = Page(storage, authenticate=lambda scope: May())
    assert (await ask(known, "/_/about", {"host": host})).status == 200  # they need a token


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("messages", {}, 400),
        ("messages", {"topic": "one"}, 400),
        ("messages", {"topic": "/a/b/c"}, 400),
        ("messages", {"topic": "/../b"}, 400),
        ("messages", {"topic": ORDERS, "start": "-1"}, 400),
        ("messages", {"topic": ORDERS, "start": "1" * 30}, 400),
        ("messages", {"topic": ORDERS, "start": str(1 << 63)}, 400),
        ("messages", {"topic": ORDERS, "start": "\u0664"}, 400),
        ("messages", {"topic": ORDERS, "time": "noon"}, 400),
        ("messages", {"topic": ORDERS, "time": "nan"}, 400),
        ("messages", {"topic": ORDERS, "time": "1e400"}, 400),
        ("messages", {"topic": ORDERS, "time": "1758383000000"}, 400),
        ("messages", {"topic": ORDERS, "count": "many"}, 400),
        ("messages", {"topic": ORDERS, "x": "y" * 5000}, 414),
        ("message", {"topic": ORDERS}, 400),
        ("message", {"topic": ORDERS, "offset": "99"}, 404),
        ("payload", {"topic": ORDERS, "offset": "99"}, 404),
        ("search", {"topic": ORDERS}, 400),
        ("search", {"topic": ORDERS, "text": "x" * 300}, 400),
        ("feed/messages", {"topic": ORDERS}, 400),
        ("feed/topics", {"sort": "color"}, 400),
        ("feed/topics", {"order": "sideways"}, 400),
        ("feed/topics", {"kind": "other"}, 400),
        ("feed/topic", {"topic": "/no/such"}, 404),
    ],
)
async def test_what_is_asked_wrongly_is_refused_in_words(
    storage: Storage, path: str, query: dict[str, Any], status: int
) -> None:
    await fill(storage, 3)
    found = await ask(Page(storage), f"/_/{path}", **query)
    assert found.status == status
    assert found.data["error"]


async def test_a_query_that_is_no_text_or_says_something_twice_is_refused(storage: Storage) -> None:
    page = Page(storage)
    for raw in (b"topic=%ff", b"topic=\xff", b"topic=/a/b&topic=/a/c"):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            await trio.lowlevel.checkpoint()
            sent.append(message)

        await page({**scope_of("/_/messages"), "query_string": raw}, trio.sleep_forever, send)
        assert sent[0]["status"] == 400


# ---- topics


async def test_the_figures_are_those_of_the_log(storage: Storage, nursery: trio.Nursery) -> None:
    await fill(storage, 10)
    page = Page(storage, config=QUICK)
    feed = opened(nursery, page, "feed/topics")
    await feed.until("topics")
    await fill(storage, 5)
    seen = await feed.until("topics", lambda each: each["rates"]["records"] > 0)
    (row,) = seen["rows"]
    found = storage.topic_statistics(ORDERS)
    assert found is not None
    assert (row["topic"], row["phase"], row["open"]) == (ORDERS, "open", True)
    for name in ("start_offset", "durable_end", "next_offset", "size_bytes"):
        assert row[name] == getattr(found, name), name
    assert row["rates"]["records"] == seen["rates"]["records"]
    assert seen["storage"]["open_topics"] == 1
    assert not seen["has_store"]


async def test_looking_opens_and_makes_nothing(tmp_path: Path, nursery: trio.Nursery) -> None:
    config = StorageConfig(dir=str(tmp_path), idle_seconds=0.01)
    async with open_storage(config) as storage:
        await fill(storage, 1)
        page = Page(storage, config=QUICK)
        feed = opened(nursery, page, "feed/topics")
        seen = await feed.until("topics", lambda each: each["total"] == 1 and not each["open"])
        (row,) = seen["rows"]
        assert row["next_offset"] == 1  # as it was when it was open
        assert row["rates"] == {}
        before = storage.statistics().opens
        one = opened(nursery, page, "feed/topic", topic=ORDERS)
        told = await one.until("topic")
        assert told["statistics"] is None
        assert told["last"]["next_offset"] == 1
        tail = opened(nursery, page, "feed/messages", topic=ORDERS, start=1)
        for path in ("messages", "search", "message", "subscriptions", "feed/messages"):
            query: dict[str, Any] = {"topic": "/no/such", "text": "x", "offset": 0, "start": 0}
            assert (await ask(page, f"/_/{path}", **query)).status == 404
        await feed.until("topics")
        assert storage.statistics().opens == before
        assert not (tmp_path / "no").exists()
        # The tail sees what comes, and lets go of the topic again.
        await fill(storage, 1)
        assert offsets(await tail.until("messages")) == [1]
        await feed.until("topics", lambda each: not each["open"])
        await fill(storage, 1)
        assert offsets(await tail.until("messages")) == [2]
        for each in (feed, one, tail):
            each.leave()


async def test_rows_come_in_every_order_a_part_at_a_time(nursery: trio.Nursery) -> None:
    config = StorageConfig(dir="/logs", max_open_topics=40)
    async with open_storage(config, disk=SimDisk()) as storage:
        streams = Streams()
        for i in range(60):
            topic = f"/streams/s-{i:02}" if i % 3 == 0 else f"/t/n-{i:02}"
            await storage.append_batch(topic, [b"x" * (i + 1)] * (1 + i % 7))
            if i % 3 == 0:
                streams.known[topic] = ShownStream(path=f"S/{i:02}", topic=topic)
        await fill(storage, 1, "/streams/being-made")
        page = Page(storage, streams, config=QUICK)

        async def rows(**query: Any) -> Any:
            feed = opened(nursery, page, "feed/topics", **query)
            found = await feed.until("topics", lambda each: each["total"] >= 60)
            feed.leave()
            return found

        assert (await rows())["total"] == 60
        for sort in SORTS:
            for order in ("up", "down"):
                parts = [
                    (await rows(sort=sort, order=order, first=first, count=25))["rows"]
                    for first in (0, 25, 50)
                ]
                names = [row["topic"] for part in parts for row in part]
                assert len(set(names)) == len(names) == 60
        by_next = (await rows(sort="next", count=60))["rows"]
        known = [row.get("next_offset", -1) for row in by_next]
        assert known == sorted(known, reverse=True)
        names = [row["topic"] for row in (await rows(sort="name", order="up", count=60))["rows"]]
        assert names[0].startswith("/streams")  # by path: /S/...
        beyond = await rows(first=1000, count=25)
        assert (beyond["first"], len(beyond["rows"])) == (50, 10)
        assert (await rows(text="s/0"))["matching"] == 4  # in any case, in what people see
        assert (await rows(kind="streams"))["matching"] == 20
        assert (await rows(kind="topics"))["matching"] == 40
        assert (await rows(kind="open"))["matching"] == 39  # the 40th is no stream yet
        # What is no stream (any more) cannot be asked for.
        assert (await ask(page, "/_/messages", topic="/streams/being-made")).status == 404
        del streams.known["/streams/s-00"]
        assert (await ask(page, "/_/messages", topic="/streams/s-00")).status == 404


async def test_what_is_deleted_goes_from_the_page(storage: Storage, nursery: trio.Nursery) -> None:
    await fill(storage, 1)
    page = Page(storage, config=QUICK)
    feed = opened(nursery, page, "feed/topics")
    one = opened(nursery, page, "feed/topic", topic=ORDERS)
    tail = opened(nursery, page, "feed/messages", topic=ORDERS, start=1)
    await feed.until("topics", lambda each: each["total"] == 1)
    await one.until("topic")
    await storage.delete(ORDERS)
    nursery.start_soon(feed.rest)
    assert await tail.until("gone") == {}
    assert await one.until("gone") == {}


# ---- beside the streams


TOKENS = Tokens(
    """
    everything  admin       aaaaaaaaaaaaaaaaaaaa
    rooms       read        bbbbbbbbbbbbbbbbbbbb   rooms
    writer      write       cccccccccccccccccccc
    """
)
ALL, ROOMS, WRITER = ({"authorization": f"Bearer {letter * 20}"} for letter in "abc")


async def test_streams_have_their_paths(nursery: trio.Nursery) -> None:
    async with open_storage(StorageConfig(dir="/data"), disk=SimDisk()) as storage:
        await fill(storage, 1)

        async def authenticate(scope: Any) -> Rights | None:
            await trio.lowlevel.checkpoint()
            return TOKENS(scope)

        make = partial(page_of, storage, config=QUICK)
        async with open_site(storage, authenticate=authenticate, page=make) as site:

            async def put(path: str, headers: Headers) -> None:
                given = {**ALL, "content-type": "text/plain", **headers}
                made = await ask(site, f"/v1/stream/{path}", given, method="PUT", body=b"x")
                assert made.status == 201, made.body

            await put("rooms/a", {"stream-closed": "true"})
            await put("rooms/b", {"stream-forked-from": "/v1/stream/rooms/a"})
            await put("orders", {"stream-ttl": "60"})
            feed = opened(nursery, site, "feed/topics", headers=ALL)
            seen = await feed.until("topics", lambda each: each["listed"])
            feed.leave()
            shown = {(row["stream"] or {"path": row["topic"]})["path"]: row for row in seen["rows"]}
            assert shown.keys() == {"/rooms/a", "/rooms/b", "/orders", ORDERS}
            assert shown["/rooms/a"]["stream"]["closed"]
            assert shown["/rooms/b"]["stream"]["note"] == "a fork of /rooms/a"
            assert shown["/orders"]["stream"]["note"] == "expires 60 s after its last use"
            # Each token sees its own.
            topics = {name: row["topic"] for name, row in shown.items()}
            rooms = {"/rooms/a", "/rooms/b"}
            for headers, may in ((ALL, {*topics}), (ROOMS, rooms), (WRITER, rooms - rooms)):
                for name, topic in topics.items():
                    found = await ask(site, "/_/messages", headers, topic=topic)
                    assert found.status == (200 if name in may else 403), (headers, name)
            assert (await ask(site, "/_/about")).status == 401
            # A stream that is kept for its fork only is not shown any more.
            gone = await ask(site, "/v1/stream/rooms/a", ALL, method="DELETE")
            assert gone.status == 204
            found = await ask(site, "/_/messages", ALL, topic=topics["/rooms/a"])
            assert found.status == 404
            site.stop()
            assert (await ask(site, "/_/feed/topics", ALL)).status == 503


async def test_the_page_is_not_for_asyncio(tmp_path: Path) -> None:
    async def main() -> None:
        config = StorageConfig(dir=str(tmp_path))
        async with danube_trio.anyio.open_storage(config) as storage:
            with pytest.raises(TypeError, match="trio"):
                Page(storage)

    await trio.to_thread.run_sync(anyio.run, main)


# ---- live answers


async def test_there_is_a_limit_to_live_answers(storage: Storage, nursery: trio.Nursery) -> None:
    page = Page(storage, config=attrs.evolve(QUICK, feeds=2))
    feeds = [opened(nursery, page, "feed/topics") for _ in range(2)]
    for feed in feeds:
        await feed.until("topics")
    refused = await ask(page, "/_/feed/topics")
    assert refused.status == 503
    assert refused.headers["retry-after"]
    feeds[0].leave()
    with pytest.raises(trio.EndOfChannel):
        await feeds[0].until("end")
    again = opened(nursery, page, "feed/topics")
    await again.until("topics")
    again.leave()
    feeds[1].leave()


async def test_a_live_answer_ends_after_its_time(storage: Storage, nursery: trio.Nursery) -> None:
    page = Page(storage, config=attrs.evolve(QUICK, feed_seconds=0.05))
    told = await opened(nursery, page, "feed/topics").rest()
    assert told[-1] == ("end", {"reason": "it has lasted long enough"})


async def test_a_live_answer_that_nobody_takes_ends(storage: Storage) -> None:
    page = Page(storage, config=attrs.evolve(QUICK, send_seconds=0.05))
    feed = Feed(page, "feed/topics")
    await feed.run()  # nobody reads: it comes back by itself


async def test_the_page_ends_its_live_answers(storage: Storage, nursery: trio.Nursery) -> None:
    page = Page(storage, config=QUICK)
    feed = opened(nursery, page, "feed/topics")
    await feed.until("topics")
    page.end()
    assert (await feed.rest())[-1] == ("end", {"reason": "the server stops"})
    assert (await ask(page, "/_/feed/topics")).status == 503


# ---- messages


async def test_a_list_begins_or_ends_where_it_is_wanted(storage: Storage) -> None:
    await fill(storage, 50)
    page = Page(storage)
    last = await data(page, "messages", topic=ORDERS, count=10)
    assert (last["first"], last["next"], last["start"], last["end"]) == (40, 50, 0, 50)
    assert payloads(last)[-1] == b"order 49"
    assert offsets(await data(page, "messages", topic=ORDERS, start=5, count=3)) == [5, 6, 7]
    assert offsets(await data(page, "messages", topic=ORDERS, before=5, count=3)) == [2, 3, 4]
    assert offsets(await data(page, "messages", topic=ORDERS, before=2, count=30)) == [0, 1]
    assert offsets(await data(page, "messages", topic=ORDERS, start=99, count=3)) == []
    assert offsets(await data(page, "messages", topic=ORDERS, before=99, count=1)) == [49]
    assert len((await data(page, "messages", topic=ORDERS, start=0, count=9999))["items"]) == 50


async def test_a_list_begins_at_a_time(tmp_path: Path) -> None:
    now = 1_790_000_000.0
    async with open_storage(StorageConfig(dir=str(tmp_path)), clock=lambda: now) as storage:
        for _ in range(5):
            await fill(storage, 2)
            now += 60
        page = Page(storage)
        found = await data(page, "messages", topic=ORDERS, time=1_790_000_060)
        assert found["first"] == 2
        assert found["items"][0]["append_time"] == 1_790_000_060_000_000
        assert (await data(page, "messages", topic=ORDERS, time=1_790_000_061))["first"] == 4
        assert (await data(page, "messages", topic=ORDERS, time=0))["first"] == 0
        end = await data(page, "messages", topic=ORDERS, time=1_800_000_000)
        assert (end["first"], end["items"]) == (10, [])


async def test_what_was_trimmed_is_not_asked_for(tmp_path: Path) -> None:
    wal = WalConfig(segment_bytes=2000, preallocate_bytes=0)
    async with open_storage(StorageConfig(dir=str(tmp_path), wal=wal)) as storage:
        for _ in range(20):
            await fill(storage, 10)
        async with storage.topic(ORDERS) as log:
            start = await log.trim(50)
        page = Page(storage)
        found = await data(page, "messages", topic=ORDERS, start=0, count=2)
        assert (found["start"], found["first"]) == (start, start)
        gone = await ask(page, "/_/message", topic=ORDERS, offset=0)
        assert gone.status == 404
        assert f"offsets {start} to 200" in gone.data["error"]


async def test_a_list_has_previews_and_a_message_is_whole(storage: Storage) -> None:
    payload = bytes(range(256)) * 1000
    message = StreamMessage(
        payload,
        request_id=(1 << 64) - 1,
        publish_time=1_790_000_000_000,
        producer_name="shop",
        routing_key="k",
        schema_id=7,
        attributes={f"name {i:02}": "v" * 100 for i in range(50)},
    )
    await storage.append_message(ORDERS, message)
    page = Page(storage)
    (item,) = (await data(page, "messages", topic=ORDERS))["items"]
    assert base64.b64decode(item["head"]) == payload[:1024]
    assert item["size"] == len(payload)
    assert item["key"] == "k"
    assert 0 < len(item["attributes"]) < 50
    assert item["attributes_cut"]
    whole = await data(page, "message", topic=ORDERS, offset=0)
    fields = dict(whole["fields"])
    assert fields["request_id"] == str((1 << 64) - 1)  # no number of JavaScript holds it
    assert (fields["producer_name"], fields["schema_id"]) == ("shop", "7")
    assert "schema_version" not in fields  # what is not set is left out
    assert len(whole["attributes"]) == 50
    found = b""
    while len(found) < whole["size"]:
        part = await data(page, "message", topic=ORDERS, offset=0, at=len(found))
        found += base64.b64decode(part["part"])
    assert found == payload
    answer = await ask(page, "/_/payload", topic=ORDERS, offset=0)
    assert answer.body == payload
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == "attachment"


async def test_large_messages_come_a_few_at_a_time(storage: Storage) -> None:
    for _ in range(8):
        await storage.append_message(ORDERS, bytes(100_000))
    page = Page(storage, config=PageConfig(read_bytes=250_000))
    seen: list[int] = []
    before = 8
    while before > 0:  # back to the start, without a hole
        found = await data(page, "messages", topic=ORDERS, before=before, count=8)
        assert found["next"] == before
        assert found["first"] < before
        seen = offsets(found) + seen
        before = found["first"]
    assert seen == list(range(8))
    found = await data(page, "messages", topic=ORDERS, start=0, count=8)
    assert 0 < len(found["items"]) < 8


async def test_damage_is_shown_where_it_is(tmp_path: Path) -> None:
    wal = WalConfig(segment_bytes=3000, preallocate_bytes=0)
    config = StorageConfig(dir=str(tmp_path), wal=wal)
    async with open_storage(config) as storage:
        for _ in range(30):
            await fill(storage, 5)
        async with storage.topic(ORDERS) as log:
            assert log.statistics().segments > 2
    first = sorted((tmp_path / "default" / "orders").glob("wal*.log"))[0]
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    first.write_bytes(damaged)
    async with open_storage(config) as storage:
        page = Page(storage)
        found = await data(page, "messages", topic=ORDERS, start=0, count=100)
        assert "fault" in found["items"][-1]
        assert payloads({"items": found["items"][:-1]})[0] == b"order 0"
        behind = await data(page, "messages", topic=ORDERS, count=5)
        assert "fault" not in behind["items"][-1]
        searched = await data(page, "search", topic=ORDERS, text="order")
        while searched["next"] > searched["start"]:
            before = searched["next"]
            searched = await data(page, "search", topic=ORDERS, text="order", before=before)
        assert searched["faults"]


async def test_what_cannot_be_decoded_is_shown_as_it_is(storage: Storage) -> None:
    await fill(storage, 1)
    async with storage.topic(ORDERS) as log:
        _, acceptor, _ = inside(log)
        await acceptor.append(((b"\xfe\xfd no message", b"", b""),), 64, "fsync", None)
    page = Page(storage)
    _, item = (await data(page, "messages", topic=ORDERS))["items"]
    assert "cannot be decoded" in item["fault"]
    assert b"no message" in base64.b64decode(item["head"])
    whole = await data(page, "message", topic=ORDERS, offset=1)
    assert "cannot be decoded" in whole["fault"]
    body = (await ask(page, "/_/payload", topic=ORDERS, offset=1)).body
    assert body == base64.b64decode(whole["part"])
    assert b"no message" in body
    assert await everything(page, "no message") == [1]


async def test_a_tail_says_what_comes_and_what_it_passed_over(
    storage: Storage, nursery: trio.Nursery
) -> None:
    await fill(storage, 3)
    page = Page(storage, config=attrs.evolve(QUICK, messages=10))
    tail = opened(nursery, page, "feed/messages", topic=ORDERS, start=1)
    assert offsets(await tail.until("messages")) == [1, 2]
    await fill(storage, 1)
    assert offsets(await tail.until("messages")) == [3]
    await fill(storage, 50)
    assert await tail.until("passed") == {"from": 4, "to": 44}
    assert offsets(await tail.until("messages")) == list(range(44, 54))
    tail.leave()
    silent = Page(storage, config=attrs.evolve(QUICK, send_seconds=0.02))
    quiet = opened(nursery, silent, "feed/messages", topic=ORDERS, start=54)
    assert await quiet.until("still") == {"next": 54}
    quiet.leave()


# ---- searching


async def everything(page: Page, text: str, topic: str = ORDERS) -> list[int]:
    """All offsets that a search finds, going on to its end."""
    found: list[int] = []
    query: dict[str, Any] = {}
    while True:
        part = await data(page, "search", topic=topic, text=text, **query)
        found += offsets(part)
        if part["next"] <= part["start"]:
            return found
        assert part["next"] < query.get("before", 1 << 62)
        query = {"before": part["next"]}


async def test_a_search_finds_payload_key_and_attributes_in_any_case(storage: Storage) -> None:
    messages = [
        StreamMessage(b"Nothing here"),
        StreamMessage("Größe: 42".encode()),
        StreamMessage(b"x", routing_key="Customer-7"),
        StreamMessage(b"x", attributes={"Region": "EU-west"}),
        StreamMessage(b"\xff\xfe42\x00"),
        StreamMessage(b"x", producer_name="producer-42"),
    ]
    await storage.append_batch(ORDERS, messages)
    page = Page(storage)
    assert await everything(page, "42") == [4, 1]
    assert await everything(page, "GRÖSSE") == []
    assert await everything(page, "GRÖ") == [1]
    assert await everything(page, "customer-7") == [2]
    assert await everything(page, "region") == await everything(page, "eu-WEST") == [3]
    found = await data(page, "search", topic=ORDERS, text="42")
    assert [item["places"] for item in found["items"]] == [["payload"], ["payload"]]
    assert (found["scanned"], found["next"], found["start"]) == (6, 0, 0)


@given(
    texts=st.lists(st.text(alphabet="abAB \u00e4\u00c4", max_size=6), max_size=60),
    text=st.text(alphabet="abAB\u00e4", min_size=1, max_size=2),
    limit=st.sampled_from([1, 40, 300, 1 << 20]),
)
def test_a_search_finds_what_a_loop_would(texts: list[str], text: str, limit: int) -> None:
    async def run() -> None:
        async with open_storage(StorageConfig(dir="/logs"), disk=SimDisk()) as storage:
            await storage.append_message(ORDERS, b"-")
            for each in texts:
                await storage.append_message(ORDERS, each.encode(), durability="written")
            await storage.flush(ORDERS)
            page = Page(storage, config=PageConfig(read_bytes=limit, search_bytes=limit))
            wanted = [i + 1 for i, each in enumerate(texts) if text.lower() in each.lower()]
            assert await everything(page, text) == wanted[::-1]

    trio.run(run)


async def test_a_search_hands_out_what_is_too_much_later(storage: Storage) -> None:
    await fill(storage, 500)
    page = Page(storage)
    first = await data(page, "search", topic=ORDERS, text="order")
    assert len(first["items"]) == 50
    assert await everything(page, "order") == list(range(499, -1, -1))


# ---- subscriptions


DEAD = SubscriptionOptions(
    poison_policy=PoisonPolicy.DEAD_LETTER, max_redeliveries=0, backoff_initial=0
)


def dispatch_of(storage: Storage, topic: str = ORDERS) -> ReliableDispatch:
    return ReliableDispatch.new_with_persistent(topic, ReliableOptions(), None, storage)


async def bury(subscription: Subscription, count: int) -> None:
    """Have messages fail, until they are dead letters."""
    for _ in range(count):
        with pytest.raises(RuntimeError):
            async with subscription.take():
                raise RuntimeError("declined")
    await subscription.wait_settled(count)
    await subscription.flush()


async def test_a_saved_subscription_is_shown_as_it_was_saved(storage: Storage) -> None:
    await fill(storage, 10)
    async with dispatch_of(storage) as dispatch:
        subscription = await dispatch.add_subscription("billing", DEAD)
        await bury(subscription, 3)
        async with subscription.take():
            pass
        await subscription.flush()
        (found,) = await saved_subscriptions(storage.metadata, "/danube", ORDERS)
        assert found.end == 4
        assert found.lag(10) == await subscription.lag() == 6
    page = Page(storage, config=QUICK)
    (row,) = (await data(page, "subscriptions", topic=ORDERS))["rows"]
    assert (row["phase"], row["end"], row["lag"], row["dead_letters"]) == ("saved", 4, 6, 3)
    assert row["letters"] == f"{ORDERS}-billing-dead"
    assert "in_flight" not in row  # nobody knows
    everywhere = await data(page, "subscriptions")
    assert [each["name"] for each in everywhere["rows"]] == ["billing"]
    assert everywhere["streams"] is None
    assert (await data(page, "subscriptions", text="mail"))["matching"] == 0


async def test_a_subscription_that_is_open_here_tells_more(storage: Storage) -> None:
    await fill(storage, 10)
    async with dispatch_of(storage) as dispatch:
        subscription = await dispatch.add_subscription("billing")
        page = Page(storage, dispatches=lambda: [dispatch], config=QUICK)
        async with subscription.take():
            (row,) = (await data(page, "subscriptions", topic=ORDERS))["rows"]
            assert (row["phase"], row["in_flight"], row["lag"]) == ("open", 1, 10)
            (row,) = (await data(page, "subscriptions"))["rows"]
            assert row["delivered"] == 1


async def test_looking_at_subscriptions_keeps_no_topic_open(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    async with open_storage(StorageConfig(dir=str(tmp_path), idle_seconds=0.01)) as storage:
        await fill(storage, 5)
        async with dispatch_of(storage) as dispatch:
            await bury(await dispatch.add_subscription("billing", DEAD), 2)
        page = Page(storage, config=QUICK)
        (first,) = (await data(page, "subscriptions", topic=ORDERS))["rows"]
        assert (first["lag"], first["dead_letters"]) == (3, 2)
        feed = opened(nursery, page, "feed/topics")
        await feed.until("topics", lambda each: each["listed"] and not each["open"])
        feed.leave()
        opens = storage.statistics().opens
        assert (await data(page, "subscriptions", topic=ORDERS))["rows"] == [first]
        assert storage.statistics().opens == opens
        await fill(storage, 1)
        (again,) = (await data(page, "subscriptions", topic=ORDERS))["rows"]
        assert again["lag"] == 4


async def test_letters_in_a_topic_that_was_chosen(storage: Storage) -> None:
    await fill(storage, 2)
    options = attrs.evolve(DEAD, dead_letter_topic="/default/graveyard")
    async with dispatch_of(storage) as dispatch:
        await bury(await dispatch.add_subscription("billing", options), 2)
        live = Page(storage, dispatches=lambda: [dispatch])
        (row,) = (await data(live, "subscriptions", topic=ORDERS))["rows"]
        assert (row["letters"], row["dead_letters"]) == ("/default/graveyard", 2)
    page = Page(storage)
    (row,) = (await data(page, "subscriptions", topic=ORDERS))["rows"]
    assert "dead_letters" not in row  # only the options say where, and they are the program's
    assert (await redrive(page, subscription="billing")).status == 404
    own = await redrive(page, subscription="billing", letters=ORDERS)
    assert own.status == 409
    done = await redrive(page, subscription="billing", letters="/default/graveyard")
    assert done.data == {"redriven": 2, "more": False}
    (row,) = (await data(page, "subscriptions", topic=ORDERS))["rows"]  # now it is noted
    assert (row["letters"], row["dead_letters"]) == ("/default/graveyard", 0)


async def test_a_cursor_that_cannot_be_read_says_so(storage: Storage) -> None:
    await fill(storage, 1)
    prefix = f"/topics{ORDERS}/subscriptions"
    await storage.metadata.put(f"{prefix}/broken/danube-trio", b"{}")
    await storage.metadata.put(f"{prefix}/danube/cursor", b"0")
    await storage.metadata.put(f"{prefix}/owned/owner", b"x")  # no subscription
    page = Page(storage)
    rows = (await data(page, "subscriptions", topic=ORDERS))["rows"]
    broken, danube = rows
    assert "cannot be read" in broken["fault"]
    assert (danube["end"], danube["lag"]) == (1, 0)
    found = await redrive(page, subscription="broken")
    assert found.status == 409


async def test_subscriptions_below_another_root_and_those_that_move(tmp_path: Path) -> None:
    config = StorageConfig(dir=str(tmp_path), metadata_root="/ours")
    async with open_storage(config) as storage:
        await fill(storage, 2)
        async with dispatch_of(storage) as dispatch:
            await dispatch.add_subscription("own")
        old = f"/topics{ORDERS}/subscriptions"
        await storage.metadata.put(f"{old}/former/cursor", b"0")
        ours = await storage.metadata.get(f"/ours{old}/own/danube-trio")
        assert ours is not None
        await storage.metadata.put(f"{old}/of-others/danube-trio", ours.value)  # says its log
        found = await saved_subscriptions(storage.metadata, "/ours")
        assert [(each.name, each.moves) for each in found] == [("former", True), ("own", False)]
        await fill(storage, 1, f"{ORDERS}-former-dead")
        refused = await redrive(Page(storage), subscription="former")
        assert refused.status == 409
        assert "older versions" in refused.data["error"]


async def redrive(page: Page, headers: Headers | None = None, **fields: Any) -> Answer:
    body = json.dumps({"topic": ORDERS, **fields}).encode()
    given = {"content-type": "application/json", **(headers or {})}
    return await ask(page, "/_/redrive", given, method="POST", body=body)


async def test_dead_letters_are_brought_back_by_who_may(storage: Storage) -> None:
    await fill(storage, 5)
    async with dispatch_of(storage) as dispatch:
        await bury(await dispatch.add_subscription("billing", DEAD), 5)
    rights = May(frozenset({topic_path(ORDERS)}))
    page = Page(storage, authenticate=lambda scope: rights, config=PageConfig(redrive=3))
    assert not (await data(page, "subscriptions", topic=ORDERS))["may_redrive"]
    assert (await redrive(page, subscription="billing")).status == 403
    rights = attrs.evolve(rights, admin=frozenset({topic_path(ORDERS)}))
    assert (await data(page, "subscriptions", topic=ORDERS))["may_redrive"]
    assert (await redrive(page, subscription="nobody")).status == 404
    elsewhere = await redrive(page, subscription="billing", letters="/default/other")
    assert elsewhere.status == 403  # those may not be read
    assert (await redrive(page, subscription="billing")).data == {"redriven": 3, "more": True}
    (row,) = (await data(page, "subscriptions", topic=ORDERS))["rows"]
    assert row["dead_letters"] == 2
    assert (await redrive(page, subscription="billing")).data == {"redriven": 2, "more": False}
    assert (await redrive(page, subscription="billing")).data == {"redriven": 0, "more": False}
    found = await data(page, "messages", topic=ORDERS, start=5)
    assert payloads(found) == [b"order %d" % i for i in range(5)]
    assert found["items"][0]["attributes"] == [["x-redriven", "1"]]
    # Who has the subscription goes on where it was, and gets them again.
    async with dispatch_of(storage) as dispatch:
        subscription = await dispatch.add_subscription("billing", DEAD)
        async with subscription.take() as message:
            assert (message.offset, message.payload) == (5, b"order 0")


async def test_redriving_an_open_subscription_takes_nothing_over(storage: Storage) -> None:
    await fill(storage, 2)
    async with dispatch_of(storage) as dispatch:
        subscription = await dispatch.add_subscription("billing", DEAD)
        await bury(subscription, 2)
        plain = await dispatch.add_subscription("plain")
        for page in (Page(storage), Page(storage, dispatches=lambda: [dispatch])):
            await redrive(page, subscription="billing")
        assert (await redrive(page, subscription="plain")).status == 409  # it has no dead letters
        assert await storage.current_offset(ORDERS) == 4
        async with subscription.take() as message, plain.take():
            assert message.offset == 2
        await subscription.flush()  # it still owns its cursor


async def test_no_other_site_can_redrive(storage: Storage) -> None:
    await fill(storage, 1)
    page = Page(storage)
    wrong: list[tuple[Headers, int]] = [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 403),
    ]
    for headers, status in wrong:
        assert (await redrive(page, headers, subscription="x")).status == status
    known = await redrive(page, {"sec-fetch-site": "same-origin"}, subscription="x")
    assert known.status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{", 400),
        (b'{"topic": 1, "subscription": "x"}', 400),
        (b'{"topic": "bad", "subscription": "x"}', 400),
        (b'{"topic": "/a/b", "subscription": "x"}', 404),
        (b'{"topic": "/a/b", "subscription": "x", "letters": 3}', 400),
        (b"x" * 5000, 413),
    ],
)
async def test_what_is_no_redrive_is_refused(storage: Storage, body: bytes, status: int) -> None:
    headers = {"content-type": "application/json"}
    found = await ask(Page(storage), "/_/redrive", headers, method="POST", body=body)
    assert found.status == status


async def test_subscriptions_to_streams_are_shown_to_who_may_read_these(storage: Storage) -> None:
    known = [
        ShownSubscription(
            name=name, paths=(f"__ds/subscriptions/{name}", name), kind="webhook", phase="idle"
        )
        for name in ("a", "b")
    ]
    rights = May(frozenset({"__ds/subscriptions/a"}))
    page = Page(storage, authenticate=lambda scope: rights, subscriptions=lambda: known)
    found = await data(page, "subscriptions")
    assert [each["name"] for each in found["streams"]] == ["a"]
