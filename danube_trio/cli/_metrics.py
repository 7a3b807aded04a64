"""``/metrics`` of a server: what Prometheus asks.

The answer is put together in a thread, as `danube_trio.prometheus` does it: the loop only gives the
figures. One at a time: whoever else asks waits.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import trio

from danube_trio.storage import Storage

STORAGE = "storage"  # the label of the storage


@contextmanager
def metrics_of(storage: Storage) -> Generator[Any]:
    """An ASGI callable that shows a storage, and this process, for the time of the block.

    Raises:
        ValueError: a package is missing.
    """
    try:
        from danube_trio.prometheus import DanubeCollector
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise ValueError(
            "--metrics needs prometheus_client: pip install 'danube-trio[prometheus]'"
        ) from error
    from prometheus_client import REGISTRY
    from prometheus_client.exposition import choose_encoder

    collector = DanubeCollector()
    limiter = trio.CapacityLimiter(1)

    async def metrics(scope: Any, receive: Any, send: Any) -> None:
        accepted = [value for name, value in scope["headers"] if name.lower() == b"accept"]
        encode, kind = choose_encoder(b",".join(accepted).decode("latin-1"))
        body = await trio.to_thread.run_sync(encode, REGISTRY, limiter=limiter)
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        whole = scope["method"] != "HEAD"
        await send({"type": "http.response.body", "body": body if whole else b""})

    REGISTRY.register(collector)
    try:
        with collector.add_storage(STORAGE, storage):
            yield metrics
    finally:
        REGISTRY.unregister(collector)
