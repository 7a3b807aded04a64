"""The page for people, in a real Chromium: what is seen, what keys can do, what is safe.

Each test has a storage, the page under hypercorn, and a browser page of its own, all in one trio
run. ``DANUBE_PICTURE=1`` has the picture in the documentation made
anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from chromium import MISSING, BrowserPage, Chromium, find_chromium
from serving import serving

from danube_trio import CloudConfig, Storage, StorageConfig, StreamMessage, WalConfig, open_storage
from danube_trio.cli.top import words
from danube_trio.cloud import open_store
from danube_trio.dispatch import (
    PoisonPolicy,
    ReliableDispatch,
    ReliableOptions,
    SubscriptionOptions,
)
from danube_trio.http._page import Page, PageConfig, ShownStream, ShownSubscription
from danube_trio.testing import SimDisk

hypercorn = pytest.importorskip("hypercorn")
hypercorn_trio = pytest.importorskip("hypercorn.trio")

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

PICTURE = Path(__file__).parent.parent / "docs" / "_static" / "page.png"
MOST_PICTURE_BYTES = 300_000
ORDERS = "/default/orders"
LINK = "#/topic/%2Fdefault%2Forders"
QUICK = PageConfig(interval=0.05, tail_interval=0.02)
PHONE = 360
HOSTILE = "<img src=x onerror=alert(1)>"

Start = Callable[..., Awaitable[str]]
Open = Callable[..., Awaitable[BrowserPage]]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Generator[Chromium]:
    assert PROGRAM is not None
    browser = Chromium(PROGRAM, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncGenerator[Storage]:
    async with open_storage(StorageConfig(dir=str(tmp_path / "logs"))) as opened:
        yield opened


@pytest.fixture
async def start(nursery: trio.Nursery) -> Start:
    """Serve a page; gives its address."""

    async def started(page: Page) -> str:
        config = hypercorn.Config()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = "{}:{}".format(*probe.getsockname())
        config.bind, config.errorlog = [address], None
        serve = partial(hypercorn_trio.serve, page, config)
        await nursery.start(serve)
        return f"http://{address}/"

    return started


@pytest.fixture
async def browse(chromium: Chromium) -> AsyncGenerator[Open]:
    """Open an address in the browser."""
    async with contextlib.AsyncExitStack() as stack:

        async def opened(url: str, **options: Any) -> BrowserPage:
            page = await stack.enter_async_context(BrowserPage(chromium, **options))
            await page.call("Page.addScriptToEvaluateOnNewDocument", source=LISTEN)
            await page.goto(url)
            return page

        yield opened


# What the policy refuses is told to the page, too.
LISTEN = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (e) => refused.push(e.violatedDirective));
"""


async def fill(storage: Storage, count: int, topic: str = ORDERS) -> None:
    await storage.append_batch(topic, [b"order %d" % i for i in range(count)])


@attrs.define
class Streams:
    """A list of streams."""

    namespace = "streams"
    known: dict[str, ShownStream] = attrs.Factory(dict[str, ShownStream])

    def shown(self) -> list[ShownStream]:
        return list(self.known.values())

    def of_topic(self, topic: str) -> ShownStream | None:
        return self.known.get(topic)


async def check_calm(browser: BrowserPage, url: str) -> None:
    """Nothing was complained of, refused, or asked of another host."""
    assert await browser.js("refused") == []
    assert browser.console() == []
    requests = browser.requests()
    assert requests
    for request in requests:
        assert request["url"].startswith((url, "blob:", "data:")), request["url"]


# ---- what is seen


async def test_topics_appear_with_their_figures(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 1234)
    url = await start(Page(storage, config=QUICK))
    browser = await browse(url)
    await browser.until_text("tbody tr", ORDERS)
    row = await browser.text("tbody tr")
    assert "open" in row
    assert "1,234" in row
    await fill(storage, 1, "/default/new")
    await browser.until_text("tbody tr", "/default/new")
    assert "2 of 2" in await browser.text(".sums")
    await check_calm(browser, url)


async def test_a_topic_shows_marks_syncs_and_figures(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 100)
    url = await start(Page(storage, config=QUICK))
    browser = await browse(f"{url}{LINK}")
    await browser.until_text('[data-mark="durable"]', "100")
    for title in ("marks over time", "syncs", "rates", "how long, how much", "tasks"):
        assert title in await browser.text("main")
    assert "flusher" in await browser.text("main")
    await storage.append_batch(ORDERS, [b"more"] * 50)
    await browser.until_text('[data-mark="next"]', "150")
    drawn = """[...document.querySelectorAll("canvas.plot")].every((canvas) => {
        const pen = canvas.getContext("2d");
        return pen.getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean);
    })"""
    await browser.until(drawn)
    await browser.until_text(".reading", "next 150")
    label = await browser.js("document.querySelector('.marks-bar').getAttribute('aria-label')")
    assert label.startswith("Of 150 records: ")
    # A moment is chosen with the keys, and told below the picture.
    await browser.js("document.querySelector('canvas.plot').focus()")
    await browser.press("Home")
    await browser.until_text(".reading", "ago")
    await check_calm(browser, url)


async def test_a_live_tail_shows_what_is_appended(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 3)
    url = await start(Page(storage, config=QUICK))
    browser = await browse(f"{url}{LINK}/messages")
    await browser.until_text(".message", "order 2")
    assert await browser.js("document.querySelector('.live').ariaPressed") == "true"
    await storage.append_message(ORDERS, StreamMessage(b"just now", routing_key="k-7"))
    await browser.until_text(".message", "just now")
    await browser.until_text(".message:last-child", "k-7")
    await browser.until_text("#said", "message")  # who does not see the list is told
    await browser.click(".live")
    await storage.append_message(ORDERS, b"later")
    await browser.until_text(".status", "of 0 to 5")  # told, and not shown
    assert "later" not in await browser.text(".rows")
    await browser.click(".live")
    await browser.until_text(".message", "later")
    await check_calm(browser, url)


async def test_the_browser_holds_no_more_than_so_many_messages(
    storage: Storage, start: Start, browse: Open
) -> None:
    url = await start(Page(storage, config=QUICK))
    await fill(storage, 10)
    browser = await browse(f"{url}{LINK}/messages")
    await browser.until_text(".message", "order 9")
    for i in range(30):
        await fill(storage, 100)
        await browser.until_text(".status", f" of 0 to {words.amount(110 + 100 * i)}, live")
    assert await browser.js("document.querySelectorAll('.message').length") == 500
    assert "offsets 2,510 to 3,010" in await browser.text(".status")
    # Older ones push the newest out.
    await browser.press("l")
    for first in (2410, 2310):
        await browser.js("document.querySelector('.more').click()")
        await browser.until_text(".status", f"offsets {words.amount(first)}")
    assert await browser.js("document.querySelectorAll('.message').length") == 500


async def test_what_is_loaded_is_filtered_while_it_is_typed_and_all_is_searched(
    storage: Storage, start: Start, browse: Open
) -> None:
    await storage.append_message(ORDERS, StreamMessage(b"the needle", attributes={"a": "b"}))
    await fill(storage, 3000)
    await storage.append_message(ORDERS, StreamMessage(b"x", routing_key="Needle-2"))
    url = await start(Page(storage, config=QUICK))
    browser = await browse(f"{url}{LINK}/messages")
    await browser.until_text(".message", "order 2999")
    await browser.press("/")
    await browser.type("need")
    await browser.until("document.querySelectorAll('.message').length === 1")
    assert await browser.text("mark") == "Need"
    assert "1 of 100 loaded match" in await browser.text(".status")
    await browser.press("Enter")
    await browser.until_text(".status", "2 matches in 3,002 records searched")
    assert "that is all of it" in await browser.text(".status")
    assert await browser.js("document.querySelectorAll('.message').length") == 2
    # From a match to what is around it.
    await browser.press("j")
    await browser.press("Enter")
    await browser.until_text(".detail h2", "offset 0")
    await browser.until_text(".content", "the needle")
    await browser.click(".detail .tools > button:last-child")
    await browser.until_text(".status", "offsets 0 to 100")
    await check_calm(browser, url)


async def test_one_goes_to_an_offset_and_to_a_time(
    tmp_path: Path, start: Start, browse: Open
) -> None:
    now = 1_790_000_000.0  # 2026-09-21T13:33:20Z
    async with open_storage(StorageConfig(dir=str(tmp_path)), clock=lambda: now) as storage:
        await fill(storage, 500)
        now += 60
        await fill(storage, 500)
        url = await start(Page(storage, config=QUICK))
        browser = await browse(f"{url}{LINK}/messages")
        await browser.until_text(".message", "order 499")
        for typed, status in (
            ("123", "offsets 123 to 223"),
            ("1,0", "offsets 10 to 110"),
            ("@1790000030", "offsets 500 to 600"),
            ("@2026-09-21T13:34", "offsets 500 to 600"),
            ("@2026-09-21 13:33:00+00:00", "offsets 0 to 100"),
            ("earliest", "offsets 0 to 100"),
            ("latest", "offsets 900 to 1,000"),
        ):
            await browser.press("g")
            await browser.type(typed)
            await browser.press("Enter")
            await browser.until_text(".status", status)
            await browser.press("Escape")
        await browser.press("g")
        await browser.type("noon")
        await browser.press("Enter")
        await browser.until_text(".trouble", "neither earliest, latest, an offset nor @TIME")
        # An address that was sent to somebody leads there.
        other = await browse(f"{url}{LINK}/messages?from=%401790000030")
        await other.until_text(".status", "offsets 500 to 600")


async def test_a_message_is_shown_with_its_fields_in_three_forms(
    storage: Storage, start: Start, browse: Open
) -> None:
    payload = b'{"id": 12345678901234567890, "name": "\xc3\xa4", "list": [1, 2.50], "none": {}}'
    message = StreamMessage(
        payload, attributes={"source": "shop"}, producer_name="till-3", publish_time=1_790_000_000
    )
    await storage.append_message(ORDERS, message)
    await storage.append_message(ORDERS, b"\x00\xff\x80" * 100_000)
    url = await start(Page(storage, config=QUICK))
    browser = await browse(f"{url}{LINK}/messages")
    await browser.until_text(".message", "12345678901234567890")
    await browser.click(".message")
    await browser.until_text(".fields", "till-3")
    assert "1790000000 (2026-09-21T14:13:20" in await browser.text(".fields")
    assert await browser.text(".attributes tbody") == "source\tshop"
    # Every number stands there as it was written.
    shown = await browser.js("document.querySelector('.content').textContent")
    assert '"id": 12345678901234567890,' in shown
    assert "2.50" in shown
    assert json.loads(shown) == json.loads(payload)
    await browser.click(".detail .choice button:nth-child(1)")
    assert await browser.js("document.querySelector('.content').textContent") == payload.decode()
    await browser.click(".detail .choice button:nth-child(3)")
    assert (await browser.text(".content")).startswith("00000000  7b 22 69 64")
    await browser.press("Escape")
    await browser.until("document.querySelector('.detail').hidden")
    await browser.click(".message:last-child")
    await browser.until_text(".detail .hint", "the first 65,536 of 300,000 bytes")
    await browser.click(".detail > button")
    await browser.until_text(".detail .hint", "the first 131,072 of 300,000 bytes")
    assert "00010000  ff 80 00" in await browser.js(
        "document.querySelector('.content').textContent"
    )
    await check_calm(browser, url)


async def test_dead_letters_are_brought_back_after_a_second_question(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 3)
    dispatch = ReliableDispatch.new_with_persistent(ORDERS, ReliableOptions(), None, storage)
    options = SubscriptionOptions(
        poison_policy=PoisonPolicy.DEAD_LETTER, max_redeliveries=0, backoff_initial=0
    )
    async with dispatch:
        subscription = await dispatch.add_subscription("billing", options)
        for _ in range(3):
            with pytest.raises(RuntimeError):
                async with subscription.take():
                    raise RuntimeError("declined")
        await subscription.wait_settled(3)
        await subscription.flush()
    known = [ShownSubscription(name="notify", paths=("",), kind="webhook", phase="idle", lag=3)]
    url = await start(Page(storage, subscriptions=lambda: known, config=QUICK))
    browser = await browse(f"{url}#/subscriptions")
    await browser.until_text("tbody tr", "billing")
    await browser.until_text("tbody tr", "notify")
    await browser.press("j", "Enter")
    await browser.until_text(".card", "3 dead letters")
    await browser.click(".card .row > button")
    assert await browser.text(".card .main") == "Append 3 dead letters to /default/orders again"
    assert await storage.current_offset(ORDERS) == 3
    await browser.press("Enter")  # the focus is there
    await browser.until_text(".card", "3 dead letters brought back")
    await browser.until_text(".card", "0 dead letters")
    assert await storage.current_offset(ORDERS) == 6
    await check_calm(browser, url)


async def test_a_thousand_topics_stay_usable(start: Start, browse: Open) -> None:
    config = StorageConfig(dir="/logs", max_open_topics=50)
    async with open_storage(config, disk=SimDisk()) as storage:
        for i in range(1000):
            await storage.append_message(f"/tenants/t-{i:04}", b"x", durability="written")
        url = await start(Page(storage, config=QUICK))
        browser = await browse(url)
        await browser.until_text(".range", "1 to 50 of 1,000")
        assert await browser.js("document.querySelectorAll('tbody tr').length") == 50
        await browser.click('[data-column="name"] button')
        await browser.until_text("tbody tr:first-child", "t-0000")
        await browser.press("n")
        await browser.until_text("tbody tr:first-child", "t-0050")
        await browser.click('[data-column="name"] button')
        await browser.until_text("tbody tr:first-child", "t-0999")
        await browser.press("/")
        await browser.type("t-012")
        await browser.until_text(".range", "1 to 10 of 10")
        assert await browser.js("document.querySelectorAll('tbody tr').length") == 10
        sort = await browser.js("document.querySelector('[data-column=name]').ariaSort")
        assert sort == "descending"


async def test_the_page_says_that_the_server_is_gone_and_comes_back(
    storage: Storage, browse: Open, nursery: trio.Nursery
) -> None:
    await fill(storage, 1)
    config = hypercorn.Config()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*probe.getsockname())
    config.bind, config.errorlog, config.graceful_timeout = [address], None, 0.1
    stop = trio.Event()
    page = Page(storage, config=QUICK)
    await nursery.start(partial(hypercorn_trio.serve, page, config, shutdown_trigger=stop.wait))
    browser = await browse(f"http://{address}/")
    await browser.until_text("tbody tr", ORDERS)
    page.end()
    stop.set()
    await browser.until("document.querySelector('#link').dataset.state === 'lost'")
    await fill(storage, 41)
    await nursery.start(partial(hypercorn_trio.serve, Page(storage, config=QUICK), config))
    await browser.until("document.querySelector('#link').dataset.state === 'live'")
    await browser.until_text("tbody tr", "42")


async def test_it_is_at_the_root_of_danube_trio_serve(tmp_path: Path, browse: Open) -> None:
    with serving(tmp_path / "data") as server:
        server.create("/v1/stream/rooms/a%20b")
        server.append(b"first", "/v1/stream/rooms/a%20b")
        url = f"{server.urls[0]}/"
        browser = await browse(url)
        await browser.until_text("tbody tr", "/rooms/a%20b")
        assert "stream, text/plain" in await browser.text("tbody tr")
        await browser.press("j", "Enter")
        await browser.until_text("h1", "/rooms/a%20b")
        await browser.press("m")
        await browser.until_text(".message", "first")
        server.append(b"second", "/v1/stream/rooms/a%20b")
        await browser.until_text(".message", "second")
        assert await browser.js("document.title") == "/rooms/a%20b - danube-trio"
        await check_calm(browser, url)
        # It does not keep the server from stopping, and says that it is gone.
        assert server.stop() == ""
        await browser.until("document.querySelector('#link').dataset.state === 'lost'")


# ---- who may see it


async def test_the_page_asks_for_a_token_and_keeps_it_for_the_tab(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 1)

    class Rights:
        """To everything, but no admin's."""

        def may(self, action: str, path: str) -> bool:
            return action == "read"

    def authenticate(scope: Any) -> Rights | None:
        headers = dict(scope["headers"])
        return Rights() if headers.get(b"authorization") == b"Bearer sesame" else None

    url = await start(Page(storage, authenticate=authenticate, config=QUICK))
    browser = await browse(url)
    await browser.until("document.querySelector('#ask').open")
    assert ORDERS not in await browser.js("document.body.innerText")
    assert await browser.js("document.activeElement.id") == "ask-token"
    await browser.press("Escape")  # there is nothing behind it
    await browser.until("document.querySelector('#ask').open")
    await browser.type("wrong")
    await browser.press("Enter")
    await browser.until_text("#ask-text", "not known")
    await browser.type("sesame")
    await browser.press("Enter")
    await browser.until_text("tbody tr", ORDERS)
    stored = "[sessionStorage, localStorage].map((s) => JSON.stringify({...s}).includes('sesame'))"
    assert await browser.js(stored) == [True, False]
    for request in browser.requests():  # in a header, and nowhere else
        assert "sesame" not in request["url"]
    await browser.reload()
    await browser.until_text("tbody tr", ORDERS)
    await browser.press("?")
    await browser.click("#forget")
    await browser.until("document.querySelector('#ask').open")


async def test_what_is_hostile_is_shown_as_it_is(
    storage: Storage, start: Start, browse: Open
) -> None:
    topic = "/streams/x-1"
    hostile = StreamMessage(
        f"<script>alert(1)</script>{HOSTILE}\x1b[31m\u202eabc".encode(),
        routing_key=HOSTILE,
        producer_name=HOSTILE,
        attributes={HOSTILE: "\"'><svg onload=alert(2)>", "__proto__": "x"},
    )
    await storage.append_message(topic, hostile)
    await storage.append_message(topic, f'{{"a": "{HOSTILE}"}}'.encode())
    dispatch = ReliableDispatch.new_with_persistent(topic, ReliableOptions(), None, storage)
    async with dispatch:
        await dispatch.add_subscription("<img src=x onerror=alert(3)>")
    stream = ShownStream(path=HOSTILE, topic=topic, content_type=f"text/{HOSTILE}", note=HOSTILE)
    known = [
        ShownSubscription(
            name=HOSTILE,
            paths=("",),
            kind=HOSTILE,
            pattern=HOSTILE,
            phase=HOSTILE,
            last_error=HOSTILE,
        )
    ]
    page = Page(storage, Streams({topic: stream}), subscriptions=lambda: known, config=QUICK)
    url = await start(page)
    link = "#/topic/%2Fstreams%2Fx-1"
    browser = await browse(url)
    await browser.until_text("tbody tr", f"/{HOSTILE}")
    for part in ("", "/subscriptions", "/messages"):
        await browser.js(f"void (location.hash = '{link}{part}')")
        await browser.until_text("h1", f"/{HOSTILE}")
        await browser.until_text("main", {"/messages": "<script>"}.get(part, HOSTILE))
    await browser.click(".message")
    await browser.until_text(".fields", HOSTILE)
    await browser.until_text(".attributes", "<svg onload=alert(2)>")
    await browser.until_text(".content", "<script>alert(1)</script>")
    # What a screen would obey is made visible.
    shown = await browser.js("document.querySelector('.content').textContent")
    assert "\u241b[31m\u27e8202E\u27e9abc" in shown
    await browser.press("/")
    await browser.type("<img")
    await browser.until("document.querySelector('.payload mark')")
    await browser.press("Enter")
    await browser.until_text(".status", "2 matches")
    await browser.js("void (location.hash = '#/subscriptions')")
    await browser.until_text("tbody tr", "<img src=x onerror=alert(3)>")
    made = "document.querySelectorAll('main img, main script, main svg, main b').length"
    assert await browser.js(made) == 0
    for wrong in ("#/topic/%00", "#/topic/%ff", "#/topic/<b>x", "#/topic/a%2Fb/messages?from=<b>"):
        await browser.js(f"void (location.hash = '{wrong}')")
        await browser.until("document.querySelector('main .empty')?.innerText")
    assert await browser.js("refused") == []
    assert not [line for line in browser.console() if "400" not in line and "404" not in line]


async def test_the_browser_itself_refuses_what_is_not_the_pages(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 1)
    browser = await browse(await start(Page(storage, config=QUICK)))
    await browser.until_text("tbody tr", ORDERS)
    await browser.js(
        """(() => {
            const script = document.createElement("script");
            try { script.textContent = "window.ran = true"; } catch { refused.push("sink"); }
            document.body.append(script);
            document.body.setAttribute("style", "color: red");
            const image = document.createElement("img");
            image.src = "http://127.0.0.1:9/x.png";
            document.body.append(image);
        })()"""
    )
    await browser.until("refused.length >= 3")
    assert await browser.js("window.ran") is None


# ---- how it can be used


async def test_everything_can_be_done_by_keyboard(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 5)
    await fill(storage, 1, "/default/other")
    url = await start(Page(storage, config=QUICK))
    browser = await browse(url)
    await browser.until("document.querySelectorAll('tbody tr').length === 2")
    # By Tab alone: the focus goes through the page in its order, can be seen, and comes out again.
    seen: list[str] = []
    visible = """(() => {
        const node = document.activeElement, style = getComputedStyle(node);
        const box = node.getBoundingClientRect();
        return [style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
                box.width > 0 && box.height > 0 && box.bottom > 0,
                node.innerText || node.placeholder || node.ariaLabel];
    })()"""
    while True:
        await browser.press("Tab")
        if await browser.js("document.activeElement === document.body"):
            break
        outlined, on_screen, name = await browser.js(visible)
        assert outlined and on_screen, name
        seen.append(name.strip())
        assert len(seen) < 60
    wanted = ["To the content", "danube·trio", "Topics", "Subscriptions", "?", "filter by name"]
    assert seen[: len(wanted)] == wanted
    assert seen[-2:] == [ORDERS, "/default/other"] or seen[-2:] == ["/default/other", ORDERS]
    # By the keys that are shown.
    assert "filter" in await browser.text("#hints")
    await browser.press("?")
    await browser.until("document.querySelector('#keys').open")
    assert "go to an offset or a time" in await browser.text("#keys")
    await browser.press("Escape")
    await browser.until("!document.querySelector('#keys').open")
    await browser.press("/")
    await browser.type("orders")
    await browser.until("document.querySelectorAll('tbody tr').length === 1")
    await browser.press("Tab", "Escape", "j")
    await browser.until("document.activeElement.innerText === '/default/orders'")
    await browser.press("Enter")
    await browser.until_text("h1", ORDERS)
    assert await browser.js("document.activeElement.tagName") == "H1"
    await browser.press("m")
    await browser.until_text(".message", "order 4")
    await browser.press("k", "k")
    await browser.until("document.activeElement.dataset.offset === '3'")
    await browser.press("ArrowUp", "Enter")
    await browser.until_text(".detail h2", "offset 2")
    await browser.press("j")  # the next one is shown, without leaving the list
    await browser.until_text(".detail h2", "offset 3")
    await browser.until_text(".content", "order 3")
    await browser.press("Escape")
    await browser.until("document.querySelector('.detail').hidden")
    assert await browser.js("document.activeElement.dataset.offset") == "3"
    await browser.press("u")
    await browser.until_text("main", "This topic has no subscription.")
    await browser.press("s")
    await browser.until_text("main", "No topic has a subscription.")
    await browser.press("t")
    await browser.until_text("tbody", ORDERS)
    # Who uses them for something else turns the keys off.
    await browser.press("?")
    await browser.click("#single")
    await browser.press("Escape")
    await browser.until("!document.querySelector('#keys').open")
    await browser.press("s")
    assert await browser.js("location.hash") == "#/"
    await check_calm(browser, url)


async def test_names_and_roles_are_there_for_those_who_listen(
    storage: Storage, start: Start, browse: Open
) -> None:
    await fill(storage, 2)
    browser = await browse(await start(Page(storage, config=QUICK)))
    await browser.until_text("tbody tr", ORDERS)

    async def tree() -> set[tuple[str, str]]:
        found = await browser.call("Accessibility.getFullAXTree")
        return {
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in found["nodes"]
            if not node["ignored"]
        }

    for width in (1280, PHONE):  # a table stays one, however it is laid out
        await browser.resize(width)
        roles = await tree()
        assert {("table", "Topics"), ("rowheader", ORDERS), ("heading", "Topics")} <= roles
        assert ("searchbox", "Filter by name") in roles
        assert {"banner", "main", "navigation", "contentinfo", "status"} <= {r for r, _ in roles}
        assert not [role for role, name in roles if role in ("button", "link") and not name]
    await browser.js(f"void (location.hash = '{LINK}/messages')")
    await browser.until_text(".message", "order 1")
    roles = await tree()
    assert ("grid", "Messages") in roles
    assert {("textbox", "from"), ("searchbox", "find")} <= roles


@pytest.mark.parametrize("width", [PHONE, 768])
async def test_nothing_is_wider_than_a_phone(
    storage: Storage, start: Start, browse: Open, width: int
) -> None:
    long = f"/streams/{'long-' * 20}1"
    await storage.append_message(
        long,
        StreamMessage(b"word" * 1000, routing_key="k" * 200, attributes={"a" * 90: "b" * 300}),
    )
    await fill(storage, 20)
    streams = Streams({long: ShownStream(path="path/" * 30, topic=long, content_type="x/y")})
    async with ReliableDispatch.new_with_persistent(
        ORDERS, ReliableOptions(), None, storage
    ) as dispatch:
        await dispatch.add_subscription("s" * 80)
        name, pattern = "n" * 80, "p" * 120
        known = [ShownSubscription(name=name, paths=("",), kind="x", pattern=pattern, phase="idle")]
        page = Page(
            storage,
            streams,
            dispatches=lambda: [dispatch],
            subscriptions=lambda: known,
            config=QUICK,
        )
        url = await start(page)
        browser = await browse(url, width=width)
        await browser.until_text("tbody tr", ORDERS)
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await browser.js(wide) == 0
        encoded = f"#/topic/{long.replace('/', '%2F')}"
        for link in (LINK, encoded):
            for part, there in (("", ".mark"), ("/messages", ".message"), ("/subscriptions", "h1")):
                await browser.js(f"void (location.hash = '{link}{part}')")
                await browser.until(f"document.querySelector('main {there}')")
                assert await browser.js(wide) == 0, f"{link}{part}"
        await browser.js(f"void (location.hash = '{encoded}/messages')")
        await browser.click(".message")
        await browser.until_text(".content", "wordword")
        assert await browser.js(wide) == 0
        await browser.click(".detail .choice button:nth-child(3)")
        assert await browser.js(wide) == 0
        await browser.js("void (location.hash = '#/subscriptions')")
        await browser.until_text("tbody", "nnnn")
        assert await browser.js(wide) == 0
        # What is pressed is large enough for a finger.
        small = """[...document.querySelectorAll("button, input:not([type=checkbox])")]
            .filter((n) => n.getClientRects().length && n.getBoundingClientRect().height < 24)
            .map((n) => n.outerHTML)"""
        assert await browser.js(small) == []


# Each text with a contrast below 4.5 to what is behind it (WCAG 2, AA), or 3 if it is large.
CONTRAST = """(() => {
    const parse = (color) => {
        const [r, g, b, a = 1] = color.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = ([r, g, b, a], below) =>
        [r, g, b].map((part, i) => part * a + below[i] * (1 - a));
    const light = (color) => {
        const [r, g, b] = color.map((part) => {
            part /= 255;
            return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (node) => {
        if (!node) return [255, 255, 255];
        const color = parse(getComputedStyle(node).backgroundColor);
        return color[3] === 1 ? color.slice(0, 3) : over(color, behind(node.parentElement));
    };
    const bad = [];
    let seen = 0;
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const text = walk.currentNode.data.trim(), node = walk.currentNode.parentElement;
        if (!text || !node.getClientRects().length || node.closest(":disabled")) continue;
        seen += 1;
        const style = getComputedStyle(node), ground = behind(node);
        const lights = [light(over(parse(style.color), ground)), light(ground)];
        const ratio = (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
        if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) bad.push(`${ratio} ${text}`);
    }
    return [seen, bad];
})()"""


@pytest.mark.parametrize("dark", [False, True])
async def test_all_text_stands_out_in_light_and_in_dark(
    storage: Storage, start: Start, browse: Open, dark: bool
) -> None:
    await fill(storage, 20)
    async with ReliableDispatch.new_with_persistent(
        ORDERS, ReliableOptions(), None, storage
    ) as dispatch:
        await dispatch.add_subscription("billing")
        page = Page(storage, dispatches=lambda: [dispatch], config=QUICK)
        browser = await browse(await start(page), dark=dark)
        await browser.until_text("tbody tr", "20")
        ground = await browser.js("getComputedStyle(document.documentElement).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 150) == dark
        looks = [
            ("#/", "tbody tr", None),
            (LINK, ".grid tbody tr", None),
            (f"{LINK}/messages", ".message", "/"),
            (f"{LINK}/subscriptions", ".card dd", None),
            ("#/subscriptions", "tbody tr", "?"),
        ]
        for link, there, key in looks:
            await browser.js(f"void (location.hash = '{link}')")
            await browser.until(f"document.querySelector('{there}')")
            if key == "/":
                await browser.press("/")
                await browser.type("order 1")
                await browser.until("document.querySelector('mark')")
                await browser.click(".message")
                await browser.until_text(".content", "order 1")
            elif key is not None:
                await browser.press(key)
            seen, bad = await browser.js(CONTRAST)
            assert seen > 10
            assert bad == [], link


async def test_words_are_those_of_top(storage: Storage, start: Start, browse: Open) -> None:
    browser = await browse(await start(Page(storage, config=QUICK)))
    numbers = [0, 1, 9.96, 42, 99.94, 100, 999, 1023, 1024, 1536, 123_456, 1_048_576, 5e9, 3e15]
    seconds = [0, 2e-6, 16e-6, 0.00099, 0.001, 0.0123, 0.9994, 1, 59.94, 119.9, 120, 3725, 1e6]
    for name, function, values in (
        ("amount", words.amount, numbers),
        ("size", words.size, numbers),
        ("perSecond", words.per_second, numbers),
        ("duration", words.duration, seconds),
    ):
        told = f"{json.dumps(values)}.map((value) => words.{name}(value))"
        shown = await browser.js(f"import('/_/words.js').then((words) => {told})")
        assert shown == [function(value) for value in values], name
    texts = ['{"a":[1,{"b":"x\\"],{"}],"c":{},"d":[]}', "[]", "12", '"x"', "{'a'}", "", "[1,2"]
    shown = await browser.js(
        f"import('/_/words.js').then((words) => {json.dumps(texts)}.map(words.indented))"
    )
    for text, found in zip(texts, shown, strict=True):
        try:
            wanted = json.loads(text)
        except ValueError:
            assert found is None
        else:
            assert json.loads(found) == wanted


# ---- the picture in the documentation


async def test_the_picture_of_the_documentation(tmp_path: Path, start: Start, browse: Open) -> None:
    """A topic while it is written, sealed and uploaded. It takes a while only if it is made."""
    made = not PICTURE.exists() or bool(os.environ.get("DANUBE_PICTURE"))
    cloud = CloudConfig(upload_interval=2.5)
    wal = WalConfig(segment_bytes=200_000, fsync_interval_ms=150, cloud=cloud)
    async with (
        open_store("memory:") as store,
        open_storage(StorageConfig(dir=str(tmp_path), wal=wal), store=store) as storage,
        trio.open_nursery() as producers,
    ):
        producers.start_soon(produce, storage)
        page = Page(storage, config=PageConfig(interval=0.25 if made else 0.02))
        browser = await browse(f"{await start(page)}", width=1200)
        await browser.resize(1200, 900)
        await browser.until_text("tbody tr", ORDERS)
        await browser.js(f"void (location.hash = '{LINK}')")
        reading = "document.querySelector('.reading').innerText"
        await browser.until(reading)
        for _ in range(75 if made else 3):  # so many looks are in the picture at least
            before = await browser.js(reading)
            await browser.until(f"{reading} !== {json.dumps(before)}")
        picture = await browser.picture()
        producers.cancel_scope.cancel()
    assert picture.startswith(b"\x89PNG")
    assert 20_000 < len(picture) < MOST_PICTURE_BYTES
    if made:
        PICTURE.write_bytes(picture)


async def produce(storage: Storage) -> None:
    """Append in bursts, until cancelled; some of it waits for the disk."""
    number = 0
    while True:
        number += 1
        batch = [b"order %d" % number * 8] * 6 * (1 + number // 40 % 3)
        await storage.append_batch(ORDERS, batch, durability="written")
        if number % 7 == 0:
            await storage.append_message(ORDERS, b"an order that waits")
        await trio.sleep(0.02)  # the pace of the picture; nothing is concluded from it
