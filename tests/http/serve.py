"""The streams of one directory under a web server, for those who judge them from outside.

    python serve.py --server hypercorn --dir DIR
    python serve.py --server uvicorn --dir DIR

Under hypercorn everything is on trio; under uvicorn the same callable is mounted below `/v1/stream`
in a program on asyncio, and the log is in a thread of its own.

Says ``listening PORT`` on stdout as soon as requests are taken. With `--hold` it says ``loaded``
when everything is imported, opens the directory only when a line with the port comes on stdin, and
ends with its stdin: so the successor of a server that will be killed is at hand, and nothing is
left behind when the tests are interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import trio

from danube_trio import StorageConfig
from danube_trio.http import HttpConfig, open_streams

SERVERS = {
    "hypercorn": [("hypercorn.trio", "serve"), ("danube_trio", "open_storage")],
    "uvicorn": [("uvicorn", "Server"), ("danube_trio.anyio", "open_storage")],
}
PREFIX = "/v1/stream"
BACKLOG = 1024
# Longer than any client leaves a connection alone: one that is closed just when it is used again
# fails a request that is not tried again.
IDLE_SECONDS = 300

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def mounted(app: App) -> App:
    """The app below `PREFIX`, as a framework would mount it; nothing is anywhere else."""

    async def site(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX + "/"):
            await app({**scope, "root_path": scope.get("root_path", "") + PREFIX}, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        elif scope["type"] == "lifespan":
            for _ in ("startup", "shutdown"):
                await send({"type": f"{(await receive())['type']}.complete"})

    return site


async def on_hypercorn(config: StorageConfig, http: HttpConfig, listener: socket.socket) -> None:
    """Serve on trio, until the process is killed."""
    import hypercorn.trio

    from danube_trio import open_storage

    settings = hypercorn.Config()
    settings.bind = [f"fd://{listener.fileno()}"]
    settings.loglevel = "WARNING"
    settings.keep_alive_timeout = IDLE_SECONDS
    settings.keep_alive_max_requests = sys.maxsize  # 1,000 by default, with the same effect
    async with (
        open_storage(config) as storage,
        open_streams(storage, http) as streams,
    ):
        ready(listener)
        await hypercorn.trio.serve(mounted(streams), settings)  # type: ignore[arg-type]


async def on_uvicorn(config: StorageConfig, http: HttpConfig, listener: socket.socket) -> None:
    """Serve on asyncio, until the process is killed."""
    import uvicorn

    from danube_trio.anyio import open_storage

    async with (
        open_storage(config) as storage,
        open_streams(storage, http) as streams,
    ):
        settings = uvicorn.Config(
            mounted(streams),
            lifespan="off",
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_keep_alive=IDLE_SECONDS,
        )
        ready(listener)
        await uvicorn.Server(settings).serve(sockets=[listener])


def ready(listener: socket.socket) -> None:
    """Take connections, and say where; those that come before the server asks wait in the queue."""
    listener.listen(BACKLOG)
    say("listening", listener.getsockname()[1])


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=list(SERVERS), required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--long-poll-seconds", type=float, default=30.0)
    parser.add_argument("--hold", action="store_true")
    given = parser.parse_args()
    port: int = given.port
    # Only what this server needs, and before it says that it is loaded: importing takes long.
    for module, name in SERVERS[given.server]:
        getattr(importlib.import_module(module), name)
    if given.hold:
        say("loaded")
        port = int(sys.stdin.readline() or sys.exit(0))
        threading.Thread(target=end_with_stdin, daemon=True).start()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    config = StorageConfig(dir=given.dir)
    http = HttpConfig(
        long_poll_seconds=given.long_poll_seconds,
        webhooks=("http://127.0.0.1:*/*", "http://127.0.0.1:*"),
        origins=("*",),
    )
    if given.server == "hypercorn":
        trio.run(on_hypercorn, config, http, listener)
    else:
        asyncio.run(on_uvicorn(config, http, listener))


if __name__ == "__main__":
    main()
