"""A real Chromium, driven from a trio program by its debugging pipe.

Chromium reads commands from descriptor 3 and writes answers and events to descriptor 4: JSON, each
ended by a zero byte (``--remote-debugging-pipe``). So a test needs Chromium and nothing else, and
no port is open.

One `Chromium` is for many tests. Each takes a `BrowserPage`, with storage of its own. What Chromium
says of it between two calls waits in the pipe.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import trio

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE = "DANUBE_CHROMIUM"
MISSING = f"no Chromium: install Debian's package chromium, or name a program in {VARIABLE}"
# Without the background's requests: it shall ask nobody but the page's own server.
OPTIONS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage"),
    *("--no-first-run", "--no-default-browser-check", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-extensions", "--mute-audio"),
    *("--force-color-profile=srgb", "--hide-scrollbars"),
)
# For what a page does at once, on a machine that is busy.
PATIENCE_MS = 30_000
# What is said of an expression whose document went before it was true.
GONE = ("navigated or closed", "context was destroyed", "Cannot find context")
KEYS = {
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Tab": (9, ""),
    "ArrowDown": (40, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "Home": (36, ""),
    "End": (35, ""),
    " ": (32, " "),
}


def find_chromium() -> str | None:
    """The program, or None."""
    named = os.environ.get(VARIABLE)
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """A running browser. `close` it."""

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self.write_fd = os.pipe()
        self.read_fd, to_write = os.pipe()
        # Out of the way of 3 and 4, which they are in the child.
        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (to_read, to_write)]
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        arguments = [program, *OPTIONS, *sandbox, f"--user-data-dir={profile}"]
        self.pid = os.posix_spawn(
            program,
            [*arguments, "--remote-debugging-pipe", "about:blank"],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, ends[0], 3),
                (os.POSIX_SPAWN_DUP2, ends[1], 4),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        for fd in (to_read, to_write, *ends):
            os.close(fd)
        self.unread = b""
        self.calls = 0

    def close(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGTERM)
        os.close(self.write_fd)
        os.close(self.read_fd)
        os.waitpid(self.pid, 0)


class BrowserError(AssertionError):
    """The page, or the browser, says that something is wrong."""


class BrowserPage:
    """One page, in an ``async with`` block; for one task.

    Attributes:
        events: what the browser told of it so far, by method: console, requests, dialogs.
    """

    def __init__(self, chromium: Chromium, *, width: int = 1280, dark: bool = False) -> None:
        self._chromium = chromium
        self._width = width
        self._dark = dark
        self._session = ""
        self._context = ""
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def __aenter__(self) -> BrowserPage:
        self._in = trio.lowlevel.FdStream(os.dup(self._chromium.write_fd))
        self._out = trio.lowlevel.FdStream(os.dup(self._chromium.read_fd))
        context = await self.call("Target.createBrowserContext")
        self._context = context["browserContextId"]
        found = await self.call(
            "Target.createTarget", url="about:blank", browserContextId=self._context
        )
        attached = await self.call(
            "Target.attachToTarget", targetId=found["targetId"], flatten=True
        )
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.resize(self._width, dark=self._dark)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._session = ""
        with trio.CancelScope(shield=True):
            await self.call("Target.disposeBrowserContext", browserContextId=self._context)
            await self._in.aclose()
            await self._out.aclose()

    # ---- talking

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        chromium = self._chromium
        chromium.calls += 1
        number = chromium.calls
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        said: dict[str, Any] = {}
        try:
            with trio.fail_after(2 * PATIENCE_MS / 1000):
                await self._in.send_all(json.dumps(message).encode() + b"\0")
                while said.get("id") != number:
                    said = await self._heard()
        except trio.TooSlowError:
            raise BrowserError(f"{method} {params} is not answered") from None
        if "error" in said:
            raise BrowserError(f"{method}: {said['error']}")
        result: dict[str, Any] = said["result"]
        return result

    async def _heard(self) -> dict[str, Any]:
        """The next message; an event of this page is kept."""
        said = await self._next()
        if "method" in said and said.get("sessionId") == self._session:
            self.events.append((said["method"], said["params"]))
        return said

    async def _next(self) -> dict[str, Any]:
        chromium = self._chromium
        while b"\0" not in chromium.unread:
            more = await self._out.receive_some(1 << 18)
            if not more:
                raise BrowserError("Chromium has ended")
            chromium.unread += more
        data, _, chromium.unread = chromium.unread.partition(b"\0")
        said: dict[str, Any] = json.loads(data)
        return said

    # ---- looking

    async def js(self, expression: str) -> Any:
        """The value of an expression in the page; of a promise, what it comes to."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise BrowserError(found["exceptionDetails"]["exception"].get("description"))
        return found["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The value of an expression as soon as it is true, in whatever document is there then."""
        while True:
            try:
                return await self._until(expression)
            except BrowserError as error:
                if not any(text in str(error) for text in GONE):
                    raise

    async def _until(self, expression: str) -> Any:
        return await self.js(
            f"""new Promise((found, failed) => {{
                const last = performance.now() + {PATIENCE_MS};
                const look = () => {{
                    let value;
                    try {{ value = ({expression}); }} catch (error) {{ value = null; }}
                    if (value) found(value);
                    else if (performance.now() > last) failed(new Error(
                        {json.dumps(expression)} + " is not true: " + document.body.innerText));
                    else setTimeout(look, 10);
                }};
                look();
            }})"""
        )

    async def text(self, selector: str) -> str:
        """The text of the first element that a selector finds, once there is one."""
        found = json.dumps(selector)
        await self.until(f"document.querySelector({found})")
        text: str = await self.js(f"document.querySelector({found}).innerText")
        return text

    async def until_text(self, selector: str, text: str) -> None:
        """Wait until an element that a selector finds has this text in it."""
        found, wanted = json.dumps(selector), json.dumps(text)
        await self.until(
            f"[...document.querySelectorAll({found})].some((e) => e.innerText.includes({wanted}))"
        )

    async def picture(self) -> bytes:
        """What is to be seen, as a PNG."""
        found = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(found["data"])

    def console(self) -> list[str]:
        """What the browser complained of: errors, warnings, exceptions, dialogs."""
        found: list[str] = []
        for method, params in self.events:
            if method == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            elif method == "Runtime.consoleAPICalled":
                found.append(str(params["args"]))
            elif method == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif method == "Page.javascriptDialogOpening":
                found.append(f"a dialog: {params['message']}")
        return found

    def requests(self) -> list[dict[str, Any]]:
        """What it asked servers for."""
        told = [params for method, params in self.events if method == "Network.requestWillBeSent"]
        return [params["request"] for params in told]

    # ---- doing

    async def goto(self, url: str) -> None:
        """Open a page."""
        found = await self.call("Page.navigate", url=url)
        if found.get("errorText"):
            raise BrowserError(f"{url}: {found['errorText']}")
        await self.until("document.readyState === 'complete'")

    async def reload(self) -> None:
        """Load the page anew."""
        await self.js("void (window.isOld = true)")
        await self.call("Page.reload")
        await self.until("!window.isOld && document.readyState === 'complete'")

    async def resize(self, width: int, height: int = 800, *, dark: bool = False) -> None:
        """As it is on a screen of this width; a narrow one is a phone's."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def press(self, *keys: str) -> None:
        """Press keys, one after another."""
        for key in keys:
            code, text = KEYS.get(key, (ord(key[0].upper()), key))
            about = {"key": key, "windowsVirtualKeyCode": code}
            kind = "keyDown" if text else "rawKeyDown"
            await self.call("Input.dispatchKeyEvent", type=kind, text=text, **about)
            await self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    async def type(self, text: str) -> None:
        """Type text where the focus is."""
        await self.call("Input.insertText", text=text)

    async def click(self, selector: str) -> None:
        """Click on an element, where it is, once it can be seen."""
        found = json.dumps(selector)
        await self.until(f"document.querySelector({found})?.getClientRects().length")
        x, y = await self.js(
            f"""(() => {{
                const node = document.querySelector({found});
                node.scrollIntoView({{ block: "center" }});
                const box = node.getBoundingClientRect();
                return [box.x + box.width / 2, box.y + box.height / 2];
            }})()"""
        )
        about: dict[str, Any] = {"x": x, "y": y, "button": "left", "clickCount": 1}
        await self.call("Input.dispatchMouseEvent", type="mousePressed", **about)
        await self.call("Input.dispatchMouseEvent", type="mouseReleased", **about)


assert sys.platform != "win32"
