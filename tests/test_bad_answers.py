"""What a store answers is not always what it stores: it is asked again before anything is said."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import trio
import trio.testing
from catalogs import begin, take_over
from cloud_model import World, everything
from fake_http import answering

from danube_trio import open_replica
from danube_trio.catalog import ManifestCatalog, fresh
from danube_trio.cloud import ObjectInfo, StoreOptions, open_store
from danube_trio.errors import (
    AccessDeniedError,
    CorruptDataError,
    StoreUnavailableError,
)
from danube_trio.metadata import EtcdConfig, EtcdMetadata
from danube_trio.testing import SimDisk, SimStore

Damage = Callable[[bytes], bytes]


def flip(data: bytes) -> bytes:
    return data[:-9] + bytes([data[-9] ^ 1]) + data[-8:]


def cut(data: bytes) -> bytes:
    return data[:-1]


class Damaging(SimStore):
    """Answers with damaged bytes as often as `times` says; stores what it is given."""

    damage: Damage
    times: int
    part: str

    @classmethod
    def of(cls, world: World, part: str, times: int, damage: Damage) -> Damaging:
        store = cls()
        store._world = world.store._world
        store.damage, store.part, store.times = damage, part, times
        return store

    async def get(
        self, key: str, start: int = 0, end: int | None = None
    ) -> tuple[ObjectInfo, bytes]:
        info, data = await super().get(key, start, end)
        if self.part in key and self.times > 0:
            self.times -= 1
            data = self.damage(data)
        return info, data


async def written(segments: int = 5) -> World:
    world = World.new("manifests")
    async with world.open() as wal:
        for i in range(segments):
            await wal.append(b"%d " % i * 40, durability="uploaded")
    return world


@pytest.mark.happens
@pytest.mark.parametrize("part", ["/manifest/", "/segments/", "log/log"])
@pytest.mark.parametrize("damage", [flip, cut])
async def test_one_damaged_answer_is_asked_for_again(
    damage: Damage, part: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = await written()
    store = Damaging.of(world, part, 0, damage)
    for i, directory in enumerate((SimDisk(), world.disk)):
        store.times = 1
        async with World(directory, store).open() as wal:
            assert len((await everything(wal)).payloads) == 5 + i
            store.times = 1
            await wal.append(b"x" * 100, durability="uploaded")
    store.times = 1
    async with open_replica(store, prefix="log") as replica:
        assert len([m async for m in replica.reader(end="current")]) == 7


@pytest.mark.happens
async def test_damage_that_stays_is_corruption(autojump_clock: trio.testing.MockClock) -> None:
    world = await written()
    with pytest.raises(CorruptDataError):
        async with World(SimDisk(), Damaging.of(world, "/manifest/", 99, flip)).open():
            raise AssertionError("it was opened")
    async with World(SimDisk(), Damaging.of(world, "/segments/", 99, flip)).open() as wal:
        with pytest.raises(CorruptDataError):
            await everything(wal)


@pytest.mark.parametrize("part", ["/manifest/", "log/log"])
async def test_a_page_in_place_of_an_answer_is_no_corruption(
    part: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = await written()
    store = Damaging.of(world, part, 99, lambda data: b"\n<!doctype html><html></html>")
    if part == "log/log":
        for key in store.tree():
            if "/manifest/" in key:
                await store.delete(key)
    with pytest.raises(StoreUnavailableError, match="proxy"):
        async with World(SimDisk(), store).open():
            raise AssertionError("it was opened")


async def test_a_list_that_does_not_show_what_was_just_made_settles_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The second look of a publication found nothing, because the list was late."""
    store = SimStore()
    first = ManifestCatalog(store.client(), "log")
    state = await first.publish(None, fresh(begin()))
    late = store.client()
    late.stale_keys = 1
    with pytest.raises(StoreUnavailableError, match="does not show manifest 2"):
        await ManifestCatalog(late, "log").publish(state, fresh(take_over(state)))


@pytest.mark.happens
@pytest.mark.parametrize("url", ["s3://bucket/prefix", "gs://bucket/prefix"])
async def test_a_page_is_not_read_as_an_empty_list(url: str) -> None:
    with answering((200, b"<html><body>sign in</body></html>")) as script:
        options = script.options(max_retries=0)
        if url.startswith("gs"):
            options = StoreOptions(
                endpoint=script.endpoint, allow_http=True, anonymous=True, max_retries=0
            )
        async with open_store(url, options) as store:
            for call in (store.list_objects, store.list_children):
                with pytest.raises(StoreUnavailableError, match="no object store"):
                    await call("log/manifest")


@pytest.mark.happens
@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidToken", "AuthorizationHeaderMalformed"])
async def test_credentials_that_are_wrong_in_a_bad_request_are_denied(code: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    with answering((400, body)) as script:
        async with open_store("s3://bucket/prefix", script.options()) as store:
            with pytest.raises(AccessDeniedError):
                await store.put("a", b"")


# ---- etcd

HEADER = b'"header": {"revision": "7"}'
AUTHENTICATED = b"{" + HEADER + b', "token": "t%d"}'


@pytest.mark.parametrize(
    "text", ["auth: revision in header is old", "etcdserver: invalid auth token"]
)
async def test_a_token_from_before_a_change_of_users_is_renewed(text: str) -> None:
    answers = [
        (200, AUTHENTICATED % 1),
        (400, b'{"code": 2, "message": "%s"}' % text.encode()),
        (200, AUTHENTICATED % 2),
        (200, b"{" + HEADER + b"}"),
    ]
    with answering(*answers) as script:
        config = EtcdConfig(endpoints=script.endpoint, username="app", password="app")
        store = EtcdMetadata(config)
        assert await store.get("/a") is None
        assert [headers.get("authorization") for headers in script.headers][1::2] == ["t1", "t2"]
        await store.aclose()


async def test_a_certificate_that_names_a_user_is_told_as_that() -> None:
    text = b"CommonName of client sending a request against gateway will be ignored and not used"
    with answering((400, text)) as script:
        store = EtcdMetadata(EtcdConfig(endpoints=script.endpoint))
        with pytest.raises(AccessDeniedError, match="use one without a CommonName"):
            await store.get("/a")
        await store.aclose()


# ---- outages


@pytest.mark.happens
async def test_a_reader_of_a_replica_rides_an_outage_out(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = await written()
    client = world.store.client()
    got: list[int] = []

    async def read() -> None:
        async with open_replica(client, prefix="log") as replica:
            async for message in replica.reader():
                assert message.offset is not None
                got.append(message.offset)
                if message.offset == 5:
                    return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.sleep(60)
        assert len(got) == 5
        fault = client.fail(None, sticky=True)
        async with world.open() as wal:
            await wal.append(b"meanwhile", durability="uploaded")
        await trio.sleep(3600)
        assert got == list(range(5))
        fault.cancel()
    assert got == list(range(6))
    told = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(told) == 2
    assert told[0].startswith("reading sim:/log failed and will be tried again")
    assert told[1].startswith("reading sim:/log works again, after ")


@pytest.mark.happens
async def test_an_outage_of_uploads_is_told_once_and_its_end(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        fault = world.store.fail("upload", sticky=True)
        await wal.append(b"a" * 600)
        await trio.sleep(600)
        statistics = wal.statistics().cloud
        assert statistics is not None
        assert statistics.upload_failures > 100
        assert "no answer" in statistics.upload_error
        fault.cancel()
        await wal.wait_uploaded(1)
        await trio.sleep(1)
    told = [r.message for r in caplog.records if r.levelno >= logging.WARNING]
    assert [text.split(" ")[0:3:2] for text in told] == [["uploading", "sim:"]] * 2
    assert "works again" in told[1]
