"""Random lives of streams, compared with a model of lists, over restarts and power cuts.

`DANUBE_HTTP_LIVES` is the number of lives (default 20).
"""

from __future__ import annotations

import json
import os
import random

import attrs
import pytest
import trio
from http_client import Answer, Client, sent

from danube_trio import StorageConfig, WalConfig, open_storage
from danube_trio.http import HttpConfig, open_streams
from danube_trio.testing import SimDisk

LIVES = int(os.environ.get("DANUBE_HTTP_LIVES", "20"))
STEPS = 150
NOW = 1_800_000_000.0
PATHS = ["a", "b", "c", "d/e", "d%2Fe", "f"]


@attrs.define(eq=False)
class Model:
    """A stream as it should be.

    Attributes:
        json: whether its records are JSON values.
        records: what each has.
        base: how many of them are inherited.
        source: that it was forked from.
        sent: the epoch and last number of each producer.
    """

    json: bool
    records: list[bytes] = attrs.Factory(list[bytes])
    base: int = 0
    source: Model | None = None
    closed: bool = False
    deleted: bool = False
    forks: int = 0
    seq: str = ""
    sent: dict[str, tuple[int, int]] = attrs.Factory(dict[str, tuple[int, int]])


def token(offset: int) -> str:
    return f"{offset:016d}_{0:016d}"


class Life:
    """One life: steps by chance, each compared."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.streams: dict[str, Model] = {}
        self.client: Client
        self.number = 0

    def payload(self, model_json: bool) -> tuple[bytes, list[bytes]]:
        """A body, and the records that it makes."""
        self.number += 1
        if not model_json:
            body = b"<%d>" % self.number
            return body, [body]
        values = [f'{{"n":{self.number * 10 + i}}}' for i in range(self.rng.randint(1, 3))]
        if len(values) == 1 and self.rng.random() < 0.5:
            return values[0].encode(), [values[0].encode()]
        return f"[{', '.join(values)}]".encode(), [value.encode() for value in values]

    async def step(self) -> None:
        """Do something."""
        steps = [self.create, self.append, self.append, self.append, self.read, self.read]
        await self.rng.choice([*steps, self.close, self.delete, self.fork, self.repeat])()

    async def create(self) -> None:
        path, is_json = self.rng.choice(PATHS), self.rng.random() < 0.5
        body, records = self.payload(is_json) if self.rng.random() < 0.5 else (b"", [])
        closed = self.rng.random() < 0.1
        more = {"stream_closed": "true"} if closed else {}
        answer = await self.client.create(path, body, kind_of(is_json), **more)
        found = self.streams.get(path)
        if found is None:
            assert answer.status == 201, answer
            self.streams[path] = Model(is_json, records, closed=closed)
        elif found.deleted or found.source is not None or found.json is not is_json:
            assert answer.status == 409, answer
        else:
            assert answer.status == (200 if found.closed is closed else 409), answer

    async def append(self) -> None:
        path = self.rng.choice(PATHS)
        model = self.streams.get(path)
        is_json = model.json if model is not None and self.rng.random() < 0.9 else False
        body, records = self.payload(is_json)
        producer = self.rng.choice(["", "p", "q"])
        epoch, seq, gap = 0, 0, False
        if model is not None and producer in model.sent:
            epoch, last = model.sent[producer]
            epoch, seq = self.rng.choice(
                [(epoch, last + 1)] * 4 + [(epoch + 1, 0), (epoch, last + 2)]
            )
            gap = seq > last + 1
        more = sent(producer, epoch, seq) if producer else {}
        answer = await self.client.append(path, body, kind_of(is_json), **more)
        if (refused := self.refused(model)) is not None:
            assert answer.status == refused, answer
        elif model is not None and model.closed:
            assert (answer.status, answer.closed) == (409, True), answer
            assert answer.next == token(len(model.records))
        elif model is not None and model.json is not is_json:
            assert answer.status == 409
        elif gap:
            assert answer.status == 409
            assert answer.headers["producer-received-seq"] == str(seq)
        elif model is not None:
            assert answer.status == (200 if producer else 204), answer
            model.records.extend(records)
            assert answer.next == token(len(model.records))
            if producer:
                model.sent[producer] = (epoch, seq)

    async def repeat(self) -> None:
        """A producer sends again what it has sent."""
        path = self.rng.choice(PATHS)
        model = self.streams.get(path)
        if model is None or model.deleted or not model.sent:
            return
        producer, (epoch, seq) = self.rng.choice(list(model.sent.items()))
        seq = self.rng.randint(0, seq)
        body = b'"again"' if model.json else b"again"
        answer = await self.client.append(
            path, body, kind_of(model.json), **sent(producer, epoch, seq)
        )
        assert answer.status == 204, answer
        assert answer.closed is model.closed
        assert answer.headers["producer-seq"] == str(model.sent[producer][1])

    async def close(self) -> None:
        path = self.rng.choice(PATHS)
        model = self.streams.get(path)
        body, records = b"", list[bytes]()
        if model is not None and self.rng.random() < 0.5:
            body, records = self.payload(model.json)
        kind = kind_of(model.json if model is not None else False)
        headers = {"content-type": kind, "stream-closed": "true"}
        answer = await self.client.ask("POST", path, body, headers)
        if (refused := self.refused(model)) is not None:
            assert answer.status == refused, answer
        elif model is not None:
            assert answer.closed
            assert answer.status == (409 if model.closed and body else 204)
            if not model.closed:
                model.records.extend(records)
                model.closed = True
            assert answer.next == token(len(model.records))

    async def delete(self) -> None:
        path = self.rng.choice(PATHS)
        model = self.streams.get(path)
        answer = await self.client.delete(path)
        if (refused := self.refused(model)) is not None:
            assert answer.status == refused, answer
        elif model is not None:
            assert answer.status == 204
            model.deleted = True
            self.sweep()

    def sweep(self) -> None:
        """What is deleted and has no forks is gone."""
        going = True
        while going:
            going = False
            for path, model in list(self.streams.items()):
                if model.deleted and not model.forks:
                    del self.streams[path]
                    if model.source is not None:
                        model.source.forks -= 1
                    going = True

    async def fork(self) -> None:
        path, source_path = self.rng.sample(PATHS, 2)
        source = self.streams.get(source_path)
        more: dict[str, str] = {}
        at, sub = (len(source.records), 0) if source is not None else (0, 0)
        if source is not None and self.rng.random() < 0.8:
            at = self.rng.randint(0, len(source.records))
            more["stream_fork_offset"] = token(at)
            if at < len(source.records) and self.rng.random() < 0.5:
                most = len(source.records) - at if source.json else len(source.records[at])
                sub = self.rng.randint(0, most)
                more["stream_fork_sub_offset"] = str(sub)
        answer = await self.client.fork(path, source_path, b"", **more)
        if path in self.streams:
            assert answer.status in (200, 409), answer
        elif source is None:
            assert answer.status == 404
        elif source.deleted:
            assert answer.status == 409
        else:
            assert answer.status == 201, answer
            records = source.records[: at + (sub if source.json else 0)]
            if sub and not source.json:
                records.append(source.records[at][:sub])
            base = len(records)
            self.streams[path] = Model(source.json, records, base, source)
            source.forks += 1

    async def read(self) -> None:
        path = self.rng.choice(PATHS)
        model = self.streams.get(path)
        start = self.rng.randint(0, len(model.records)) if model is not None else 0
        answer = await self.client.read(path, token(start))
        if (refused := self.refused(model)) is not None:
            assert answer.status == refused, answer
        elif model is not None:
            self.compare(model, answer, start)

    @staticmethod
    def refused(model: Model | None) -> int | None:
        if model is None:
            return 404
        return 410 if model.deleted else None

    def compare(self, model: Model, answer: Answer, start: int) -> None:
        """An answer to a read with what should be there."""
        assert answer.status == 200, answer
        wanted = model.records[start:]
        if model.json:
            assert json.loads(answer.body) == [json.loads(record) for record in wanted]
        else:
            assert answer.body == b"".join(wanted)
        assert answer.next == token(len(model.records))
        assert answer.closed is model.closed

    async def everything(self) -> None:
        """All streams, from the beginning."""
        for path in PATHS:
            model = self.streams.get(path)
            answer = await self.client.read(path)
            if (refused := self.refused(model)) is not None:
                assert answer.status == refused, (path, answer)
            elif model is not None:
                self.compare(model, answer, 0)


def kind_of(is_json: bool) -> str:
    return "application/json" if is_json else "text/plain"


@pytest.mark.parametrize("seed", range(LIVES))
async def test_streams_are_as_the_model_says(seed: int, autojump_clock: object) -> None:
    life, disk = Life(seed), SimDisk(seed=seed)
    config = StorageConfig(
        dir="/data",
        wal=WalConfig(preallocate_bytes=0, segment_bytes=2000),
        idle_seconds=life.rng.choice([0.5, 60]),
    )
    left = STEPS
    while left > 0:
        async with (
            open_storage(config, disk=disk, clock=lambda: NOW) as storage,
            open_streams(storage, HttpConfig(), clock=lambda: NOW) as streams,
        ):
            life.client = Client(streams)
            await life.everything()
            for _ in range(life.rng.randint(1, 40)):
                left -= 1
                await life.step()
                if life.rng.random() < 0.1:
                    await trio.sleep(life.rng.choice([1, 100]))
            await life.everything()
            if cut := life.rng.random() < 0.5:
                disk = disk.crash(life.rng.choice(["synced only", "everything written"]))
                streams.stop()
        if not cut:
            disk = disk.crash("everything written")
