"""`open_streams`, on trio and on asyncio."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from trio.lowlevel import in_trio_run

from danube_trio import Storage
from danube_trio.http._app import OpenStreams, Streams
from danube_trio.http._asgi import Authenticate
from danube_trio.http._config import HttpConfig


def open_streams(
    storage: Storage,
    config: HttpConfig | None = None,
    *,
    authenticate: Authenticate | None = None,
    clock: Callable[[], float] = time.time,
) -> AbstractAsyncContextManager[Streams]:
    """Speak Durable Streams over HTTP: ``async with open_streams(storage) as streams:``.

    `streams` is an ASGI application, to be served or mounted. On asyncio the storage must be of
    `danube_trio.anyio`, and its work is done in the engine's thread.

    Args:
        storage: an open storage. The streams are topics of it, in a namespace of their own, and
            their documents are in its metadata store. One process has both.
        config: the settings.
        authenticate: is called with the ASGI scope of each request, in the server's loop, and says
            what who asks may do; None is 401. It may be async. Without it everybody may everything.
        clock: seconds since 1970.

    Raises, on entering: RuntimeError if the storage's streams are open already, or somebody else
    says what its retention keeps; what the metadata store raises; ValueError or
    UnsupportedFormatError for a document in it that cannot be read.
    """
    config = config if config is not None else HttpConfig()
    if in_trio_run():
        return OpenStreams(storage, config, authenticate, clock)
    from danube_trio.http._on_asyncio import streams_block

    return streams_block(storage, config, authenticate, clock)
