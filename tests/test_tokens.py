"""The example with tokens: a page that is reloaded in the middle of an answer has all of it."""

from __future__ import annotations

import importlib.util
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType

import httpx2
import pytest
import trio
from chromium import MISSING, BrowserPage, Chromium, find_chromium

hypercorn = pytest.importorskip("hypercorn")
hypercorn_trio = pytest.importorskip("hypercorn.trio")

EXAMPLE = Path(__file__).parent.parent / "examples" / "tokens.py"
PROGRAM = find_chromium()


def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tokens_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def serving(folder: Path) -> AsyncGenerator[tuple[str, ModuleType]]:
    """The example under hypercorn; gives its address and its module."""
    module = example()
    config = hypercorn.Config()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*probe.getsockname())
    config.bind, config.errorlog = [address], None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        app = module.Tokens(str(folder / "tokens"))
        serve = partial(hypercorn_trio.serve, app, config, shutdown_trigger=stop.wait)
        await nursery.start(serve)
        yield f"http://{address}/", module
        stop.set()


async def whole(module: ModuleType, question: str) -> str:
    return "".join([token async for token in module.model(question)])


async def test_an_answer_is_a_stream_that_is_closed_at_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as (url, module), httpx2.AsyncClient(base_url=url) as client:
        name = (await client.post("ask", content="why")).text
        path, offset, text = f"v1/stream/answers/{name}", "-1", ""
        while True:
            answer = await client.get(path, params={"offset": offset, "live": "long-poll"})
            text, offset = text + answer.text, answer.headers["stream-next-offset"]
            if answer.headers.get("stream-closed") == "true":
                break
        assert text == await whole(module, "why")


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
async def test_a_page_that_is_reloaded_in_the_middle_has_the_whole_answer(tmp_path: Path) -> None:
    assert PROGRAM is not None
    chromium = Chromium(PROGRAM, tmp_path / "chromium")
    try:
        async with serving(tmp_path) as (url, module), BrowserPage(chromium) as page:
            await page.goto(url)
            await page.click("#question")
            await page.type("is it there")
            await page.press("Enter")
            await page.until("document.getElementById('answer').innerText.length > 20")
            await page.call("Page.reload")
            await page.until("performance.getEntriesByType('navigation')[0].type === 'reload'")
            await page.until("document.getElementById('answer').innerText.length > 30")
            assert await page.text("#state") != "complete"
            await page.until_text("#state", "complete")
            wanted = json.dumps(await whole(module, "is it there"))
            await page.until(f"document.getElementById('answer').textContent === {wanted}")
            assert not [said for said in page.console() if "favicon" not in said]
    finally:
        chromium.close()
