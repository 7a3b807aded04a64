"""The log over the network: Durable Streams over HTTP, as an ASGI application.

::

    from danube_trio import StorageConfig, open_storage
    from danube_trio.http import open_streams

    async with open_storage(StorageConfig(dir="data")) as storage, open_streams(storage) as streams:
        await hypercorn.trio.serve(streams, config)

The protocol is that of https://github.com/durable-streams/durable-streams, version 1.0; its clients
are the clients. ``danube-trio serve`` is the same as a command. `docs/howto/serve.md` begins here,
decision 0080 has how it keeps its promises.
"""

from __future__ import annotations

from danube_trio.http._app import Streams
from danube_trio.http._asgi import Authenticate
from danube_trio.http._config import HttpConfig
from danube_trio.http._open import open_streams
from danube_trio.http._request import Rights
from danube_trio.http._site import LOOPBACK_HOSTS, Access, Page, Site, open_site
from danube_trio.http._subscription import SubscriptionStatistics
from danube_trio.http._tokens import Token, Tokens

__all__ = [
    "LOOPBACK_HOSTS",
    "Access",
    "Authenticate",
    "HttpConfig",
    "Page",
    "Rights",
    "Site",
    "Streams",
    "SubscriptionStatistics",
    "Token",
    "Tokens",
    "open_site",
    "open_streams",
]
