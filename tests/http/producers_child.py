"""Producers of the official Python client, told and heard as those of `producers.mjs`.

    python producers_child.py '{"url": ..., "seed": ..., "producers": [...]}'

Facts about durable-streams 0.1.0:
- It has no idempotent producer. It sends the headers that a handle is given, so one handle per
  batch over one connection pool says who sends it: that is the producer of this file.
- It tries nothing again. A broken or refused connection is an error of httpx.
- 409 is a `SeqConflictError` that tells nothing of the answer, whatever the 409 was for.
- Every 2xx must have `Stream-Next-Offset`, or it is a ValueError: also the 204 of a repeated
  batch, which the protocol's reference server answers without one.
- Its automatic batching must be off here: a batch that fails fails for each of those whose message
  was in it, and they would come again one by one, under numbers of their own.

Half of the producers are threads with the synchronous client, one batch at a time; half are tasks
with the asynchronous one, up to `IN_FLIGHT` batches at a time. Of JSON a batch is one message here:
the client wraps each value that it is given into an array of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from durable_streams import AsyncDurableStream, DurableStream, SeqConflictError

AWAY_SECONDS = 60
# A server that is there and does not answer is not away: its ReadTimeout ends the program.
AWAY = (httpx.NetworkError, httpx.RemoteProtocolError)
ANSWER_SECONDS = 30
PAUSE_SECONDS = 0.03
IN_FLIGHT = 4
TYPES = {True: "application/json", False: "application/octet-stream"}

# As the client's own type has it.
Headers = dict[str, str | Callable[[], str]]

stopping = threading.Event()


class Author:
    """What one producer sends, and how the batches are numbered."""

    def __init__(self, seed: str, id: str, is_json: bool) -> None:
        self.id = id
        self.is_json = is_json
        self.random = random.Random(f"{seed}/{id}")
        self.count = 0
        self.epoch = 0
        self._seq = 0

    def headers(self) -> Headers:
        """Of the next batch."""
        self._seq += 1
        return {
            "Producer-Id": self.id,
            "Producer-Epoch": str(self.epoch),
            "Producer-Seq": str(self._seq - 1),
        }

    def begin_anew(self) -> None:
        """What a producer does that was started again; nothing may be in flight."""
        self.epoch += 1
        self._seq = 0

    def batch(self) -> Any:
        """What goes into one append."""
        if self.is_json:
            self.count += 1
            return {"id": self.id, "number": self.count - 1, "padding": self._padding()}
        lines = range(self.count, self.count + self.random.randint(1, 20))
        self.count = lines.stop
        return "".join(f"{self.id} {number} {self._padding()}\n" for number in lines).encode()

    def _padding(self) -> str:
        return "x" * self.random.randrange(20_000 if self.random.random() < 0.05 else 100)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())  # whole, whichever thread says it


def produce(url: str, author: Author) -> None:
    """The synchronous client."""
    with httpx.Client(timeout=ANSWER_SECONDS) as client:
        while not stopping.is_set():
            if author.random.random() < 0.03:
                author.begin_anew()
            stream = DurableStream(
                url,
                headers=author.headers(),
                content_type=TYPES[author.is_json],
                client=client,
                batching=False,
            )
            data = author.batch()
            give_up = time.monotonic() + AWAY_SECONDS
            while True:
                try:
                    stream.append(data)
                    break
                except AWAY:
                    if time.monotonic() > give_up:
                        raise
                    time.sleep(author.random.random() * PAUSE_SECONDS)
            say("acked", author.id)
    say("sent", author.id, author.count)


async def produce_pipelined(url: str, author: Author) -> None:
    """The asynchronous client. A batch that came too early waits for the one before it."""
    room = asyncio.Semaphore(IN_FLIGHT)

    async def send(
        client: httpx.AsyncClient, before: asyncio.Task[None] | None, headers: Headers, data: Any
    ) -> None:
        stream = AsyncDurableStream(
            url, headers=headers, content_type=TYPES[author.is_json], client=client, batching=False
        )
        give_up = time.monotonic() + AWAY_SECONDS
        async with room:
            while True:
                early = before is not None and not before.done()
                try:
                    await stream.append(data)
                    break
                except AWAY:
                    if time.monotonic() > give_up:
                        raise
                    await asyncio.sleep(author.random.random() * PAUSE_SECONDS)
                except SeqConflictError:
                    if before is None or not early:
                        raise  # then it was not the order
                    await before
        say("acked", author.id)

    last: asyncio.Task[None] | None = None
    async with httpx.AsyncClient(timeout=ANSWER_SECONDS) as client, asyncio.TaskGroup() as tasks:
        while not stopping.is_set():
            anew = last is None or author.random.random() < 0.03
            if last is not None and anew:
                await last  # and with it all before
                author.begin_anew()
            async with room:
                last = tasks.create_task(send(client, last, author.headers(), author.batch()))
            if anew:  # one batch alone: an epoch that begins with another number is refused
                await last
            await asyncio.sleep(0)
    say("sent", author.id, author.count)


def hear() -> None:
    if not sys.stdin.readline():
        os._exit(1)  # whoever started this is gone
    stopping.set()


async def main(given: dict[str, Any]) -> None:
    threading.Thread(target=hear, daemon=True).start()
    async with asyncio.TaskGroup() as tasks:
        for place, producer in enumerate(given["producers"]):
            url = f"{given['url']}/v1/stream/{producer['stream']}"
            author = Author(given["seed"], producer["id"], producer["json"])
            if place % 2:
                tasks.create_task(produce_pipelined(url, author))
            else:
                tasks.create_task(asyncio.to_thread(produce, url, author))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
