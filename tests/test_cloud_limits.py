"""What waits for an object store, and what does not: levels, limits, retention, statistics."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
import trio
import trio.testing
from cloud_model import CONFIG, World, check_objects, cloud, everything

from danube_trio import StartPosition, WalConfig
from danube_trio.config import CloudConfig
from danube_trio.errors import OffsetTrimmedError, StoreUnavailableError
from danube_trio.testing import SimDisk


def with_cloud(**changes: object) -> WalConfig:
    cloud: CloudConfig = attrs.evolve(CONFIG.cloud, **changes)  # type: ignore[arg-type]
    return attrs.evolve(CONFIG, cloud=cloud)


ON_DEMAND = with_cloud(upload_interval=None)


async def test_the_level_uploaded_means_that_an_object_has_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(attrs.evolve(ON_DEMAND, durability="uploaded")) as wal:
        for i in range(5):
            assert await wal.append(b"%d" % i) == i
            assert wal.uploaded_end == i + 1
            lost = World(SimDisk(), world.store.clone())
            async with lost.open(ON_DEMAND) as elsewhere:
                assert elsewhere.next_offset == i + 1
        receipt = wal.append_batch_nowait([b"a", b"b"])
        with trio.move_on_after(0):
            await receipt.uploaded()
        assert await receipt.uploaded() == range(5, 7)


async def test_an_append_at_the_level_uploaded_is_accepted_or_cancelled_never_both(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    world.store._world.latency = 0.01
    cancelled = 0
    async with world.open(ON_DEMAND) as wal:
        for steps in range(40):
            before, offset = wal.next_offset, -1
            with trio.CancelScope() as scope:

                async def cancel(steps: int = steps, scope: trio.CancelScope = scope) -> None:
                    for _ in range(steps):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                async with trio.open_nursery() as nursery:
                    if not steps:
                        scope.cancel()
                    nursery.start_soon(cancel)
                    offset = await wal.append(b"%d" % steps, durability="uploaded")
            if offset == -1:
                cancelled += 1
                assert wal.next_offset == before
            else:
                assert offset == before
                assert wal.uploaded_end == wal.next_offset == before + 1
    assert cancelled


@pytest.mark.happens
async def test_an_append_says_when_the_store_has_not_got_it_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(with_cloud(upload_timeout=7.0)) as wal:
        fault = world.store.fail("upload", sticky=True)
        before = trio.current_time()
        with pytest.raises(StoreUnavailableError, match=r"0 to 1 are durable.*after 7.0 s: .*"):
            await wal.append(b"a", durability="uploaded")
        assert 7 <= trio.current_time() - before < 8
        assert wal.durable_end == 1
        fault.cancel()
        await wal.wait_uploaded(1)


async def test_failures_are_seen_with_longer_and_longer_pauses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(with_cloud(retry_seconds=8.0)) as wal:
        fault = world.store.fail("upload", sticky=True)
        tries: list[float] = []

        async def note(operation: object) -> None:
            if getattr(operation, "name", "") == "upload":
                tries.append(trio.current_time())

        world.store.before = note
        await wal.append(b"a")
        await trio.sleep(120)
        pauses = [b - a for a, b in pairwise(tries)]
        assert 0.05 <= pauses[0] <= 0.1
        assert all(pause <= 8.01 for pause in pauses)
        assert all(pause >= 4 for pause in pauses[8:])
        assert cloud(wal).upload_failures == len(tries)
        assert "no answer" in cloud(wal).upload_error
        assert cloud(wal).waiting_bytes
        fault.cancel()
        await wal.wait_uploaded(1)
        await trio.sleep(1)
        assert not cloud(wal).upload_error
        assert not cloud(wal).waiting_bytes


@pytest.mark.happens
async def test_a_dead_store_holds_nothing_up_until_the_limit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open(with_cloud(max_local_bytes=3000)) as wal:
        fault = world.store.fail(None, kind="unavailable", sticky=True)
        for i in range(10):
            await wal.append(b"%d" % i * 200)
            assert not cloud(wal).appends_held
            await trio.sleep(3)
        while not cloud(wal).appends_held:
            await wal.append(b"x" * 200)
        assert cloud(wal).waiting_bytes < 3600
        with pytest.raises(trio.WouldBlock):
            wal.append_nowait(b"no")
        done: list[int] = []

        async def append(payload: bytes) -> None:
            done.append(await wal.append(payload))

        async with trio.open_nursery() as nursery:
            for i in range(3):
                nursery.start_soon(append, b"held %d" % i)
            await trio.sleep(200)
            assert not done
            assert wal.statistics().waiting_appends == 3
            assert len((await everything(wal)).payloads) == wal.next_offset
            fault.cancel()
        assert len(done) == 3
        await wal.wait_uploaded(wal.next_offset)
        assert not cloud(wal).appends_held
    await check_objects(world)


async def test_an_idle_log_is_uploaded_after_the_interval(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for config in (with_cloud(upload_interval=30.0), attrs.evolve(ON_DEMAND, segment_age=30.0)):
        world = World.new("manifests")
        async with world.open(config) as wal:
            await wal.append(b"a")
            await trio.sleep(20)
            assert wal.uploaded_end == 0
            await trio.sleep(20)
            assert wal.uploaded_end == 1


@pytest.mark.parametrize("way", ["size", "age", "trim"])
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
async def test_retention_moves_the_catalog_first_and_objects_go_after(
    catalog: str, way: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new(catalog)
    config = attrs.evolve(
        CONFIG,
        retain_bytes=2000 if way == "size" else None,
        retain_age=100.0 if way == "age" else None,
    )
    async with world.open(config) as wal:
        seen: list[tuple[int, int]] = []

        async def look(operation: object) -> None:
            if getattr(operation, "name", "") == "delete" and "segments" in operation.key:  # type: ignore[attr-defined]
                state = await world.catalog().latest()
                assert state is not None
                base = int(operation.key.rpartition("/")[2][:20])  # type: ignore[attr-defined]
                seen.append((base, state.start_offset))
                assert wal.start_offset == state.start_offset > base

        reader = wal.reader()
        for i in range(30):
            await wal.append(b"%d" % i * 100)
            if i == 15:
                await wal.wait_uploaded(i)
        await wal.wait_uploaded(30)
        world.store.after = None
        world.store.before = look
        if way == "trim":
            assert await wal.trim(17) == 17
        await trio.sleep(150)
        world.store.before = None
        start = wal.start_offset
        assert start >= 15 if way != "trim" else start == 17
        assert (await everything(wal)).start == start
        with pytest.raises(OffsetTrimmedError) as caught:
            while True:
                await reader.__anext__()
        assert caught.value.start_offset == start
        with pytest.raises(OffsetTrimmedError):
            wal.reader(StartPosition.offset(start - 1))
        if way == "size":
            assert cloud(wal).object_bytes <= 2000
        if way == "trim":
            assert seen
    state = await check_objects(world)
    assert state.start_offset == start


async def test_uploads_that_failed_leave_nothing_behind_while_the_log_is_open(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """However often reading back fails, a few objects are there at most, and none in the end."""
    world = World.new("manifests")
    async with world.open(with_cloud(retry_seconds=1.0)) as wal:
        fault = world.store.fail("get", key_contains="segments/", sticky=True)
        await wal.append(b"a")
        most = 0
        for _ in range(60):
            await trio.sleep(1)
            most = max(most, len(world.store.tree()))
        assert cloud(wal).upload_failures > 20
        assert most <= 12
        fault.cancel()
        await wal.wait_uploaded(1)
        await trio.sleep(1)
        await check_objects(world)


async def test_a_segment_never_spans_two_epochs(autojump_clock: trio.testing.MockClock) -> None:
    world = World.new("manifests")
    for life in range(3):
        async with world.open(ON_DEMAND) as wal:
            statistics = wal.statistics()
            assert statistics.sealed_end == statistics.next_offset == life
            await wal.append(b"tail")


@pytest.mark.happens
async def test_the_age_of_what_is_not_uploaded_is_a_figure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    world = World.new("manifests")
    async with world.open() as wal:
        assert cloud(wal).waiting_seconds == 0
        await wal.append(b"a", durability="uploaded")
        assert cloud(wal).waiting_seconds == 0
        fault = world.store.fail("upload", sticky=True)
        await trio.sleep(1000)
        assert cloud(wal).waiting_seconds == 0
        for i in range(5):
            await wal.append(b"b" * 300)
            assert cloud(wal).waiting_seconds == 100 * i
            await trio.sleep(100)
    async with world.open() as wal:
        await trio.sleep(7)
        assert 7 <= cloud(wal).waiting_seconds <= 10
        fault.cancel()
        await wal.wait_uploaded(6)
        assert cloud(wal).waiting_seconds == 0


@pytest.mark.happens
@pytest.mark.parametrize("call", ["upload", "get", "create"])
async def test_a_store_that_hangs_is_seen_within_seconds(
    call: str, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new("manifests")
    async with world.open(with_cloud(upload_timeout=20.0)) as wal:
        world.store.fail(call, kind="hang")
        await wal.append(b"a" * 600)
        await trio.sleep(15)
        assert cloud(wal).upload_error.startswith("the store has not answered for 1")
        assert cloud(wal).waiting_seconds > 10
        with pytest.raises(StoreUnavailableError, match="has not answered for"):
            await wal.append(b"b", durability="uploaded")


@pytest.mark.happens
@pytest.mark.parametrize("catalog", ["manifests", "metadata"])
@pytest.mark.parametrize("nth", [1, 3, 5, 6, 8, 10])
async def test_opening_gives_up_when_the_store_hangs(
    catalog: str, nth: int, autojump_clock: trio.testing.MockClock
) -> None:
    world = World.new(catalog)
    world.store.fail(None, nth=nth, kind="hang", sticky=True)
    began = trio.current_time()
    with pytest.raises(StoreUnavailableError, match=r"cloud\.open_timeout=25 s"):
        async with world.open(with_cloud(open_timeout=25.0)):
            if nth == 10:
                raise StoreUnavailableError("it was opened: cloud.open_timeout=25 s")
    assert trio.current_time() - began <= 28
    async with world.process().open() as wal:
        await wal.append(b"a", durability="uploaded")
