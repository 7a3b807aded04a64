"""Refusing stores that lie about create-if-absent."""

from __future__ import annotations

import secrets

from danube_trio.cloud._store import CloudStore
from danube_trio.errors import PreconditionFailedError, StoreError, StoreUnavailableError

__all__ = ["probe_store"]


async def probe_store(store: CloudStore) -> None:
    """Create a random object twice; the second time must fail."""
    key = f"probe/{secrets.token_hex(16)}"
    try:
        await store.create(key, b"first")
    except PreconditionFailedError as error:  # nobody else has this key: see `CloudStore`
        raise StoreUnavailableError(f"{store.url} did not answer clearly: {error}") from error
    try:
        await store.create(key, b"second")
    except PreconditionFailedError:
        return
    finally:
        await store.delete(key)
    raise StoreError(f"{store.url} let two creators of one key win")
