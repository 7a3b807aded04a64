"""A server that answers every request with what a test wants, or not at all."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import attrs

from danube_trio.cloud import StoreOptions

# A status with a body; or: never answer; or: close the connection without a word.
Answer = tuple[int, bytes] | Literal["hang", "drop"]


@attrs.define(eq=False)
class Script:
    """What the server does: the answers in turn, the last one again and again.

    Attributes:
        requests: the requests that arrived, and `headers` theirs.
        arrived: set by each.
        over: ends those that hang.
    """

    answers: deque[Answer]
    endpoint: str = ""
    requests: list[str] = attrs.Factory(list[str])
    headers: list[dict[str, str]] = attrs.Factory(list[dict[str, str]])
    arrived: threading.Event = attrs.Factory(threading.Event)
    over: threading.Event = attrs.Factory(threading.Event)

    def options(self, **more: object) -> StoreOptions:
        plain = {
            "endpoint": self.endpoint,
            "region": "here",
            "access_key_id": "id",
            "secret_access_key": "s3cret",
            "allow_http": True,
            **more,
        }
        return StoreOptions.from_plain(plain)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    script: Script

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""

    def handle_one_request(self) -> None:
        with suppress(ConnectionError):
            super().handle_one_request()

    def respond(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script = self.script
        script.headers.append({name.lower(): value for name, value in self.headers.items()})
        script.requests.append(f"{self.command} {self.path}")
        answer = script.answers.popleft() if len(script.answers) > 1 else script.answers[0]
        script.arrived.set()
        self.close_connection = True
        if answer == "hang":
            script.over.wait()
        elif answer != "drop":
            status, body = answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", '"tag"')
            self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = respond


@contextmanager
def answering(*answers: Answer) -> Generator[Script]:
    """Serve in threads until the end of the block."""
    script = Script(deque(answers))
    handler = type("BoundHandler", (Handler,), {"script": script})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = False
    script.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield script
    finally:
        script.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
