"""Is this store honest? Asked once, before anything is entrusted to it.

Some servers answer 200 to a create of an object that exists, because they do not know the header
that says "only if there is none": there every writer of a log would believe itself to be the only
one, and overwrite the others. A header cannot be asked for; so it is tried.
"""

from __future__ import annotations

import logging
import secrets

import trio

from danube_trio.cloud._store import CloudStore
from danube_trio.errors import (
    AccessDeniedError,
    DishonestStoreError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreError,
)

log = logging.getLogger("danube_trio.cloud")

# Seconds for removing the probe when the caller was cancelled.
CLEANING_SECONDS = 2.0


async def probe_store(store: CloudStore, *, prefix: str = "") -> None:
    """Check that `create` never overwrites, and that what it made is read and listed at once.

    Makes a random object below `prefix`, tries to make it again, and removes it: five requests.

    Raises:
        DishonestStoreError: the store must not be used for a log; the text says why.
        StoreError: what the store answers otherwise. StoreUnavailableError: nothing is known yet.

    Cancellation: at once but for `CLEANING_SECONDS`; the probe may be left behind.
    """
    name = f"danube-probe-{secrets.token_hex(8)}"
    key = f"{prefix}/{name}" if prefix else name
    try:
        await _probe(store, prefix, key)
    finally:
        with trio.move_on_after(CLEANING_SECONDS) as scope:
            scope.shield = True
            try:
                await store.delete(key)
            except AccessDeniedError as error:  # a store to which one can only add
                log.info("the probe %r stays in %s: %s", key, store.url, error)
            except StoreError as error:
                log.warning("the probe %r stays in %s: %s", key, store.url, error)


async def _probe(store: CloudStore, prefix: str, key: str) -> None:
    first, second = (f"{number} {key}".encode() for number in (1, 2))
    try:
        await store.create(key, first)
    except PreconditionFailedError:
        # Nobody else has this key. A library that repeats requests may have met its own first try.
        if await _read(store, key) != first:
            raise DishonestStoreError(
                f"{store.url} says that an object exists that nobody has made"
            ) from None
    try:
        await store.create(key, second)
    except PreconditionFailedError:
        log.debug("%s refuses to create an object twice, as it must", store.url)
    else:
        raise DishonestStoreError(
            f"{store.url} lets create overwrite an object (it ignores the condition "
            '"if there is none"): two writers of one log would destroy each other\'s data. Use a '
            "store with conditional writes"
        )
    found = await _read(store, key)
    if found != first:
        what = "gone" if found is None else "another one"
        raise DishonestStoreError(
            f"{store.url} refused to create an object twice, and yet the first one is {what}"
        )
    if key not in [info.key for info in await store.list_objects(prefix)]:
        raise DishonestStoreError(
            f"{store.url} does not list an object that it has: a log would not see its newest state"
        )


async def _read(store: CloudStore, key: str) -> bytes | None:
    try:
        return (await store.get(key))[1]
    except ObjectNotFoundError:
        return None
