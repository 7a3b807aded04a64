"""A metadata store in an etcd cluster, for programs on several machines.

Everything is one call of etcd's: `transact` is its transaction, with one comparison of a revision
for each expectation; an entry's revision is etcd's `mod_revision`. Reads are linearizable.

**Times to live** are leases, one for each put that has one: etcd counts in whole seconds, so they
are rounded up, and its shortest is about two. A lease that a later put has left behind holds
nothing, and ends by itself: a heartbeat every third of its time to live keeps three of them.

**Authentication** is by name and password (a token, which is renewed when it has run out), or by
client certificate; see `EtcdConfig`. etcd's gateway does not take the user's name from a
certificate: that says only that the client may connect.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from danube_trio.errors import StoreUnavailableError
from danube_trio.metadata._etcd_answer import (
    CompactedError,
    Json,
    LeaseGoneError,
    binary,
    flag,
    header_of,
    number,
    objects,
    understood,
)
from danube_trio.metadata._etcd_config import EtcdConfig
from danube_trio.metadata._etcd_gateway import Gateway
from danube_trio.metadata._etcd_watch import EtcdWatch, decode_key, encode, range_end
from danube_trio.metadata._rules import check_after, check_key, check_prefix, transaction
from danube_trio.metadata._store import Revised

PAGE = 500  # entries in one answer of a list
LIST_TRIES = 5


@contextlib.asynccontextmanager
async def open_etcd(config: EtcdConfig) -> AsyncGenerator[EtcdMetadata]:
    """Use an etcd cluster as a metadata store, and see that it answers.

    Raises:
        StoreUnavailableError: no endpoint answers.
        AccessDeniedError: the cluster refuses this user or certificate.
        ImportError: httpx2 is not installed.
    """
    store = EtcdMetadata(config)
    try:
        await store.check()
        yield store
    finally:
        await store.aclose()


class EtcdMetadata:
    """A `MetadataStore` in etcd.

    Making one connects to nothing; the first call does. `aclose` it, or use `open_etcd`.

    Raises ImportError if httpx2 is not installed; OSError for a certificate that cannot be read.
    """

    def __init__(self, config: EtcdConfig) -> None:
        self._gateway = Gateway(config)

    def __repr__(self) -> str:
        state = "closed" if self._gateway.closed else "open"
        return f"<EtcdMetadata {self.url}, {state}>"

    @property
    def url(self) -> str:
        """Where it is, for people."""
        return f"etcd:{','.join(self._gateway.config.endpoints)}"

    async def check(self) -> None:
        """See that the cluster answers, and knows this user.

        Raises StoreUnavailableError or AccessDeniedError.
        """
        await self._gateway.read("/v3/maintenance/status", {})

    async def get(self, key: str) -> Revised | None:
        """See `MetadataStore.get`."""
        name = check_key(key)
        answer = await self._gateway.read("/v3/kv/range", {"key": encode(name)})
        with understood(self.url):
            entries = _entries(answer, name, name + b"\0")
            return _revised(entries[0]) if entries else None

    async def list_entries(self, prefix: str) -> list[Revised]:
        """See `MetadataStore.list_entries`. All pages are of one revision."""
        start = check_prefix(prefix)
        end = range_end(start)
        for _ in range(LIST_TRIES):
            with contextlib.suppress(CompactedError):  # while it was read: begin again
                return await self._list(start, end)
        raise StoreUnavailableError(
            f"{self.url}: compaction was faster than the list of {prefix!r}, {LIST_TRIES} times"
        )

    async def _list(self, start: bytes, end: bytes) -> list[Revised]:
        found: list[Revised] = []
        body: dict[str, Any] = {"range_end": encode(end), "limit": str(PAGE)}
        while True:
            answer = await self._gateway.read("/v3/kv/range", {**body, "key": encode(start)})
            with understood(self.url):
                entries = _entries(answer, start, end)
                found += [entry for kv in entries if (entry := _revised(kv)) is not None]
                if not flag(answer.get("more", False)):
                    return found
                start = binary(entries[-1]["key"]) + b"\0"
                body.setdefault("revision", str(_revision(answer)))

    async def put(self, key: str, value: bytes, *, ttl: float | None = None) -> int:
        """See `MetadataStore.put`."""
        transaction({}, put={key: value}, ttl=ttl)  # checks them
        body = {"key": encode(key.encode()), "value": encode(value)}
        if ttl is None:
            return await self._put(body)
        try:
            return await self._put_with_lease(body, ttl)
        except LeaseGoneError:  # it ended between the two calls; nothing was put
            with contextlib.suppress(LeaseGoneError):
                return await self._put_with_lease(body, ttl)
        raise StoreUnavailableError(f"{self.url}: leases end before they are used; nothing was put")

    async def _put_with_lease(self, body: dict[str, str], ttl: float) -> int:
        grant = {"TTL": str(math.ceil(ttl)), "ID": "0"}
        answer = await self._gateway.write("/v3/lease/grant", grant)
        with understood(self.url):
            lease = number(answer["ID"])
            if not lease:  # with 0 it would last
                raise ValueError("the lease has no number")
        return await self._put({**body, "lease": str(lease)})

    async def _put(self, body: dict[str, str]) -> int:
        answer = await self._gateway.write("/v3/kv/put", body)
        with understood(self.url):
            return _revision(answer)

    async def delete(self, key: str) -> bool:
        """See `MetadataStore.delete`."""
        body = {"key": encode(check_key(key))}
        answer = await self._gateway.write("/v3/kv/deleterange", body)
        with understood(self.url):
            _revision(answer)
            return number(answer.get("deleted", 0)) > 0

    async def transact(
        self,
        expect: Mapping[str, int],
        *,
        put: Mapping[str, bytes] | None = None,
        delete: Iterable[str] = (),
    ) -> int | None:
        """See `MetadataStore.transact`."""
        wanted = transaction(expect, put=put, delete=delete)
        changes: list[dict[str, Any]] = [
            {"request_put": {"key": encode(p.key.encode()), "value": encode(p.value)}}
            for p in wanted.puts
        ]
        changes += [
            {"request_delete_range": {"key": encode(key.encode())}} for key in wanted.deletes
        ]
        compare = [
            {
                "key": encode(key.encode()),
                "target": "MOD",
                "result": "EQUAL",
                "mod_revision": str(revision),
            }
            for key, revision in wanted.expect.items()
        ]
        answer = await self._gateway.write("/v3/kv/txn", {"compare": compare, "success": changes})
        with understood(self.url):
            revision = _revision(answer)
            return revision if flag(answer.get("succeeded", False)) else None

    def watch(self, prefix: str, *, after: int | None = None) -> EtcdWatch:
        """See `MetadataStore.watch`."""
        check_after(after)
        return EtcdWatch(self._gateway, check_prefix(prefix), after)

    async def aclose(self) -> None:
        """End all calls and watches, which raise StoreUnavailableError, and the connections."""
        await self._gateway.aclose()


# -- taking answers apart, within `understood`


def _revision(answer: Json) -> int:
    return number(header_of(answer)["revision"])


def _entries(answer: Json, start: bytes, end: bytes) -> list[Json]:
    """The entries of a range; ValueError if they are not those of `[start, end)`, in order."""
    _revision(answer)
    entries = objects(answer.get("kvs", []))
    for entry in entries:
        key = binary(entry["key"])
        if not start <= key < end:
            raise ValueError(f"the key {key!r:.100} was not asked for")
        start = key + b"\0"
    return entries


def _revised(entry: Json) -> Revised | None:
    key = decode_key(entry["key"])
    if key is None:
        return None
    return Revised(key, binary(entry.get("value", "")), number(entry["mod_revision"]))
