"""Short words for subscriptions: who makes them, who works for them, and what wake streams say."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from http_client import ZERO, Answer, Client

from danube_trio import Storage, StorageConfig, WalConfig, open_storage
from danube_trio.http import HttpConfig, Streams, open_streams
from danube_trio.metadata import MetadataStore
from danube_trio.testing import SimClock, SimDisk

NOW = 1_800_000_000.0
JSON = {"content-type": "application/json"}
WEBHOOKS = HttpConfig(webhooks=("http://127.0.0.1:*", "http://localhost:*", "https://localhost:*"))


@asynccontextmanager
async def open_client(
    disk: SimDisk | None = None,
    config: HttpConfig | None = None,
    *,
    clock: Callable[[], float] | None = None,
    metadata: MetadataStore | None = None,
    **more: Any,
) -> AsyncGenerator[tuple[Client, Storage]]:
    """Streams in memory."""
    clock = clock or SimClock(NOW)
    settings = StorageConfig(dir="/data", wal=WalConfig(preallocate_bytes=0))
    disk = disk if disk is not None else SimDisk()
    async with (
        open_storage(settings, disk=disk, clock=clock, metadata=metadata) as storage,
        open_streams(storage, config, clock=clock, **more) as streams,
    ):
        yield Client(streams), storage


def streams_of(client: Client) -> Streams:
    """The application that is asked."""
    assert isinstance(client.app, Streams)
    return client.app


@attrs.frozen
class Work:
    """What a worker, or a webhook, was told."""

    wake: str
    generation: int
    token: str
    tails: dict[str, str]
    streams: list[dict[str, Any]]

    @classmethod
    def of(cls, said: dict[str, Any]) -> Work:
        """From the answer to a claim, or a webhook's body."""
        token = said["token"] if "token" in said else said["callback_token"]
        tails = {s["path"]: s["tail_offset"] for s in said["streams"] if s["has_pending"]}
        return cls(said["wake_id"], said["generation"], token, tails, said["streams"])


class Subscriber:
    """Of one subscription.

    Args:
        client: that asks.
        id: of the subscription.
    """

    def __init__(self, client: Client, id: str = "sub", token: str | None = None) -> None:
        self.client = client
        self.id = id
        self._own = {"authorization": f"Bearer {token}"} if token else {}

    async def ask(
        self, method: str, rest: str = "", body: object = None, token: str | None = None
    ) -> Answer:
        """Ask for something below it."""
        headers = {**JSON, **self._own}
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        data = b"" if body is None else json.dumps(body).encode()
        return await self.client.ask(method, f"__ds/subscriptions/{self.id}{rest}", data, headers)

    async def put(self, **body: Any) -> Answer:
        """Make it. Without a type it is pull-wake, by the stream ``wake``."""
        if "type" not in body:
            body = {"type": "pull-wake", "wake_stream": "wake", **body}
        return await self.ask("PUT", body=body)

    async def made(self, **body: Any) -> dict[str, Any]:
        """Make it; it is new."""
        answer = await self.put(**body)
        assert answer.status == 201, answer
        return said(answer)

    async def get(self) -> dict[str, Any]:
        """What there is of it."""
        answer = await self.ask("GET")
        assert answer.status == 200, answer
        return said(answer)

    async def acked(self) -> dict[str, str]:
        """How far each stream was processed."""
        return {each["path"]: each["acked_offset"] for each in (await self.get())["streams"]}

    async def claim(self, worker: str = "w1") -> Answer:
        """Claim it."""
        return await self.ask("POST", "/claim", {"worker": worker})

    async def claimed(self, worker: str = "w1") -> Work:
        """Claim it, with success."""
        answer = await self.claim(worker)
        assert answer.status == 200, answer
        return Work.of(said(answer))

    async def ack(
        self,
        work: Work,
        acks: dict[str, str] | None = None,
        *,
        done: bool = True,
        how: str = "ack",
    ) -> Answer:
        """Acknowledge these streams, or all that was told."""
        pairs = work.tails if acks is None else acks
        body = {
            "wake_id": work.wake,
            "generation": work.generation,
            "acks": [{"stream": path, "offset": offset} for path, offset in pairs.items()],
            "done": done,
        }
        return await self.ask("POST", f"/{how}", body, work.token)

    async def release(self, work: Work) -> Answer:
        """Give it back."""
        body = {"wake_id": work.wake, "generation": work.generation}
        return await self.ask("POST", "/release", body, work.token)


def said(answer: Answer) -> dict[str, Any]:
    """The body."""
    found: dict[str, Any] = json.loads(answer.body)
    return found


def code(answer: Answer) -> tuple[int, str]:
    """The status, and the code of an error."""
    return answer.status, said(answer)["error"]["code"]


OK = {"ok": True, "next_wake": False}


class Wakes:
    """The events of a wake stream, one after another."""

    def __init__(self, client: Client, path: str = "wake") -> None:
        self._client = client
        self._path = path
        self._at = ZERO
        self._found: list[dict[str, Any]] = []

    async def next(self) -> dict[str, Any]:
        """Wait for the next one."""
        with trio.fail_after(10_000):
            while not self._found:
                answer = await self._client.ask(
                    "GET", f"{self._path}?offset={self._at}&live=long-poll"
                )
                assert answer.status in (200, 204), answer
                self._at = answer.next
                self._found = json.loads(answer.body or b"[]")
        return self._found.pop(0)

    async def all(self) -> list[dict[str, Any]]:
        """All that there are, from the beginning."""
        found: list[dict[str, Any]] = json.loads((await self._client.read(self._path)).body)
        return found


async def make(client: Client, *paths: str, body: bytes = b"") -> None:
    """Make streams of JSON."""
    for path in paths:
        assert (await client.create(path, body, "application/json")).status == 201


async def write(client: Client, path: str, body: bytes = b"1") -> str:
    """Append; returns the end."""
    answer = await client.append(path, body, "application/json")
    assert answer.status == 204, answer
    return answer.next
