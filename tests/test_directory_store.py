"""A directory as an object store: power cuts, killed processes, failing disks, leftovers."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import warnings
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, cast

import pytest
import trio
import trio.testing
from disks import raises_errno

from danube_trio._core.disk import Disk
from danube_trio.cloud import DirectoryStore
from danube_trio.cloud._object_files import ObjectFiles
from danube_trio.errors import (
    AccessDeniedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StoreUnavailableError,
)
from danube_trio.testing import Operation, SimDisk

SEEDS = int(os.environ.get("DANUBE_STORE_SEEDS", "8"))
ROOT = "/store"
KEY = "topics/a/0"
Call = tuple[int, int, str, bytes | None]  # operations [start, end), and what the key is then


def own_files(disk: SimDisk) -> list[str]:
    """What the store keeps for itself, without what stays: its lock and its marker."""
    names = [path.rsplit("/", 1)[1] for path in disk.tree()]
    stay = (".danube-lock", ".danube-store")
    return [name for name in names if name.startswith(".danube-") and name not in stay]


async def contents(store: DirectoryStore) -> dict[str, bytes]:
    return {info.key: (await store.get(info.key))[1] for info in await store.list_objects("")}


async def work(disk: SimDisk) -> list[Call]:
    """Make one call of each kind; return when each began and ended, and what it did."""
    store = DirectoryStore(ROOT, disk)
    calls: list[Call] = []

    async def do(key: str, data: bytes | None, call: Callable[..., Awaitable[object]]) -> None:
        start = disk.op_count
        await (call(key) if data is None else call(key, data))
        calls.append((start, disk.op_count, key, data))

    await do(KEY, b"first" * 300, store.create)
    await do("topics/b", b"put", store.put)
    await do("topics/b", b"put again" * 200, store.put)
    expected = await store.head(KEY)
    await do(KEY, b"swapped" * 100, partial(store.swap, expected=expected))
    await do("topics/c", b"", store.create)

    async def upload(key: str, data: bytes) -> None:
        await store.upload(key, lambda: iter([data[:1000], b"", data[1000:]]))

    await do("topics/b", b"uploaded" * 1000, upload)
    await do("topics/b", None, store.delete)
    await do("topics/b", b"back", store.create)
    await store.aclose()
    return calls


def allowed(calls: list[Call], at: int) -> dict[str, set[bytes | None]]:
    """What each key may be after a crash before operation `at`."""
    state: dict[str, set[bytes | None]] = {key: {None} for _, _, key, _ in calls}
    for start, end, key, data in calls:
        if end <= at:
            state[key] = {data}
        elif start <= at:
            state[key] = state[key] | {data}
    return state


async def test_a_power_cut_leaves_what_was_answered_and_never_half_an_object() -> None:
    disk = SimDisk(sector_bytes=512, seed=3)
    calls = await work(disk)
    crashes = 0
    for point in disk.crash_points(samples=6):
        for state in point.states:
            crashes += 1
            found = await contents(DirectoryStore(ROOT, state.disk))
            for key, values in allowed(calls, point.op_count).items():
                assert found.pop(key, None) in values, (point.op_count, state.name, key, state.lost)
            assert not found
    assert crashes > 300


async def test_a_power_cut_leaves_no_object_without_a_whole_marker() -> None:
    disk = SimDisk(sector_bytes=1, seed=5)
    await work(disk)
    marked = 0
    for point in disk.crash_points(samples=4):
        for state in point.states:
            tree = state.disk.tree()
            marker = tree.get(f"{ROOT}/.danube-store")
            marked += marker is not None
            assert marker is None or len(marker) == 45, (point.op_count, state.name)
            objects = [path for path in tree if "/.danube-" not in path]
            assert marker is not None or not objects, (point.op_count, state.name, objects)
    assert marked > 200


async def test_after_a_crash_the_leftovers_go_when_somebody_writes() -> None:
    disk = SimDisk(seed=4)
    await work(disk)
    seen = 0
    for point in disk.crash_points(samples=2):
        for state in point.states:
            seen += bool(own_files(state.disk))
            store = DirectoryStore(ROOT, state.disk)
            for key in ("topics/a/new", "topics/new"):
                await store.put(key, b"new")
            await store.aclose()
            assert own_files(state.disk) == []
    assert seen > 50


def killed_at_every_step(disk: Callable[[], SimDisk]) -> Iterator[tuple[SimDisk, SimDisk]]:
    """Yield a disk, and a process on it that will be killed at operation 0, 1, 2 and so on."""
    for number in range(200):
        whole = disk()
        process = whole.process()
        start = whole.op_count

        def kill(
            operation: Operation, process: SimDisk = process, at: int = start + number
        ) -> None:
            if operation.number == at:
                process.kill()

        whole.on_operation = kill
        yield whole, process
        whole.on_operation = None
        if whole.op_count <= start + number:
            return
    raise AssertionError("the call takes more than 200 operations")


async def test_a_create_that_lost_is_about_something_durable() -> None:
    """The winner dies before it has synced; then the power goes. The loser was told it lost."""
    outcomes: set[str] = set()
    for disk, process in killed_at_every_step(SimDisk):
        first, second = DirectoryStore(ROOT, process), DirectoryStore(ROOT, disk)
        try:
            await first.create(KEY, b"first")
        except StoreUnavailableError:
            outcomes.add("killed")
        try:
            await second.create(KEY, b"second")
            right = b"second"
        except PreconditionFailedError:
            right = b"first"
        outcomes.add(right.decode())
        assert (await second.get(KEY))[1] == right
        for state in disk.crash_states(samples=5):
            assert await contents(DirectoryStore(ROOT, state.disk)) == {KEY: right}
        await second.aclose()
        await first.aclose()
    assert outcomes == {"killed", "first", "second"}


async def test_a_killed_writer_leaves_nothing_in_the_way() -> None:
    for disk, process in killed_at_every_step(SimDisk):
        dead = DirectoryStore(ROOT, process)
        killed = False
        try:
            await dead.put(KEY, b"one")
        except StoreUnavailableError:
            killed = True
        store = DirectoryStore(ROOT, disk)
        await store.put(f"{KEY}-other", b"two")
        found = await contents(store)
        assert found.pop(f"{KEY}-other") == b"two"
        assert found in ([{}, {KEY: b"one"}] if killed else [{KEY: b"one"}])
        await store.aclose()
        if killed:
            assert own_files(disk) == []
        await dead.aclose()


async def test_a_live_writer_keeps_its_temporaries() -> None:
    disk = SimDisk()
    slow, quick = DirectoryStore(ROOT, disk), DirectoryStore(ROOT, disk.process())
    pieces: list[bytes] = [b"1", b"2"]
    seen: list[list[str]] = []

    async with trio.open_nursery() as nursery:
        half = trio.Event()

        def chunks() -> Iterator[bytes]:
            for piece in pieces:
                yield piece * (5 << 20)
                half.set()

        nursery.start_soon(slow.upload, KEY, chunks)
        await half.wait()
        await quick.put(f"{KEY}-other", b"")
        seen.append(own_files(disk))
    assert any(name.startswith(".danube-tmp-") for name in seen[0])
    assert (await quick.get(KEY))[1] == b"1" * (5 << 20) + b"2" * (5 << 20)
    await slow.aclose()
    await quick.aclose()
    assert own_files(disk) == []


async def test_a_closed_store_refuses_and_another_one_takes_another_token() -> None:
    disk = SimDisk()
    store, other = DirectoryStore(ROOT, disk), DirectoryStore(ROOT, disk.process())
    await store.put(KEY, b"1")
    await store.aclose()
    await store.aclose()
    for call in (
        partial(store.put, KEY, b"3"),
        partial(store.upload, KEY, lambda: iter([b"3"])),
        partial(store.get, KEY),
        partial(store.list_objects, ""),
        partial(store.delete, KEY),
    ):
        with pytest.raises(StoreUnavailableError, match="was closed; nothing was done"):
            await call()
    assert (await other.get(KEY))[1] == b"1"
    await other.put(KEY, b"2")
    async with DirectoryStore(ROOT, disk) as again:
        await again.put(KEY, b"3")
    assert (await other.get(KEY))[1] == b"3"
    await other.aclose()


# -- failing disks


async def test_after_a_failed_sync_of_names_nothing_is_told_about_them() -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    await store.put("other/0", b"")
    await store.put("a/0", b"")
    disk.fail("sync_dir", path_contains="/a")
    with pytest.raises(StoreUnavailableError, match="create of 'a/1'"):
        await store.create("a/1", b"lost in a power cut")
    for call in (
        partial(store.get, "a/1"),
        partial(store.head, "a/1"),
        partial(store.create, "a/1", b""),
        partial(store.put, "a/2", b""),
        partial(store.delete, "a/1"),
        partial(store.list_objects, "a"),
        partial(store.list_objects, ""),
    ):
        with pytest.raises(StoreUnavailableError, match="open the store again"):
            await call()
    assert (await store.get("other/0"))[1] == b""
    assert "a/1" not in await contents(DirectoryStore(ROOT, disk.crash()))
    await store.aclose()


class Between:
    """Lets something happen right after a link or a new directory was made, as a thread may."""

    def __init__(self, disk: SimDisk) -> None:
        self._disk = disk
        self.then: Callable[[], None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)

    def link(self, source: str, target: str) -> None:
        self._disk.link(source, target)
        then, self.then = self.then, None
        if then is not None:
            then()


@pytest.mark.parametrize("other", ["a/2", "a/b/2"])
def test_a_failed_sync_of_names_is_one_for_all_who_change_them(other: str) -> None:
    """Of one who has made a name, and syncs it after the sync of another one has failed."""
    disk = SimDisk()
    between = Between(disk)
    files = ObjectFiles(cast("Disk", between), ROOT)
    files.create("a/0", b"")

    def fail() -> None:
        disk.fail("sync_dir", path_contains="/a")
        with raises_errno(errno.EIO):
            files.create(other, b"")

    between.then = fail
    with pytest.raises(OSError, match="a sync of the directory failed"):
        files.create("a/1", b"would be lost in a power cut")
    files.close()


@pytest.mark.parametrize("nth", range(1, 12))
async def test_whichever_sync_of_names_fails_what_was_answered_survives(nth: int) -> None:
    disk = SimDisk()
    disk.fail("sync_dir", nth)
    told: dict[str, bytes] = {}
    for attempt in range(2):
        async with DirectoryStore(ROOT, disk) as store:
            for key in ("x", "a/x", "a/b/x", "a/c/d/x", "a/b/y"):
                with contextlib.suppress(StoreUnavailableError):
                    await store.put(f"{key}{attempt}", key.encode())
                    told[f"{key}{attempt}"] = key.encode()
    for state in disk.crash_states():
        assert told.items() <= (await contents(DirectoryStore(ROOT, state.disk))).items(), (
            state.name
        )


async def test_a_sync_that_was_not_even_tried_is_tried_again() -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    await store.put("a/0", b"")
    fault = disk.fail("sync_dir", error=errno.EMFILE, path_contains="/a", sticky=True)
    for call in (partial(store.create, "a/1", b"1"), partial(store.get, "a/1")):
        with pytest.raises(StoreUnavailableError, match="EMFILE"):
            await call()
    fault.cancel()
    assert (await store.get("a/1"))[1] == b"1"
    await store.aclose()


@pytest.mark.parametrize("operation", ["create", "write", "sync_data", "rename", "lock"])
async def test_a_write_that_failed_has_changed_nothing(operation: str) -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    info = await store.put(KEY, b"before")
    for call in (
        partial(store.put, KEY, b"after"),
        partial(store.swap, KEY, b"after", info),
        partial(store.upload, KEY, lambda: iter([b"after"])),
    ):
        fault = disk.fail(operation, error=errno.ENOSPC)
        with pytest.raises(StoreUnavailableError, match="ENOSPC"):
            await call()
        assert fault.hits == 1
        assert await contents(store) == {KEY: b"before"}
        assert [name for name in own_files(disk) if "tmp" in name] == []
    await store.put(KEY, b"after")
    await store.aclose()


@pytest.mark.happens
async def test_a_full_disk_is_unavailable_until_there_is_space() -> None:
    disk = SimDisk(capacity_bytes=10_000)
    store = DirectoryStore(ROOT, disk)
    await store.put(KEY, b"before")
    with pytest.raises(StoreUnavailableError, match="ENOSPC"):
        await store.put(KEY, bytes(20_000))
    await store.put(KEY, bytes(5_000))
    await store.aclose()


async def test_denied() -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    await store.put(KEY, b"")
    disk.fail("open", error=errno.EACCES)
    with pytest.raises(AccessDeniedError, match=f"file://{ROOT}: get of '{KEY}'"):
        await store.get(KEY)
    disk.fail("link", error=errno.EPERM)  # a file system without links
    with pytest.raises(AccessDeniedError, match="create"):
        await store.create(f"{KEY}-other", b"")
    await store.aclose()


# -- keys, tags, cancellation


async def test_an_object_cannot_be_a_directory() -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    await store.put("a/b", b"")
    await store.put("c", b"")
    info = await store.head("c")
    for call in (
        partial(store.put, "a", b""),
        partial(store.create, "a", b""),
        partial(store.upload, "a", lambda: iter([b""])),
        partial(store.put, "c/d", b""),
        partial(store.create, "c/d/e", b""),
    ):
        with pytest.raises(ValueError, match="cannot hold both"):
            await call()
    with pytest.raises(PreconditionFailedError):
        await store.swap("a", b"", info)
    for missing in ("a", "c/d"):
        await store.delete(missing)
        with pytest.raises(ObjectNotFoundError):
            await store.get(missing)
    assert await contents(store) == {"a/b": b"", "c": b""}
    assert [name for name in own_files(disk) if "tmp" in name] == []
    await store.aclose()


async def test_the_names_of_the_store_are_no_keys() -> None:
    store = DirectoryStore(ROOT, SimDisk())
    for key in (".danube-lock", "a/.danube-tmp-1/b"):
        for call in (partial(store.put, key, b""), partial(store.get, key)):
            with pytest.raises(ValueError, match="reserved"):
                await call()


async def test_empty_directories_are_no_children() -> None:
    store = DirectoryStore(ROOT, SimDisk())
    await store.put("a/b/c", b"")
    await store.put("d/e", b"")
    assert await store.list_children("") == ["a", "d"]
    await store.delete("a/b/c")
    assert await store.list_children("") == ["d"]
    await store.aclose()


async def test_foreign_files_are_not_listed() -> None:
    disk = SimDisk()
    disk.write_file(f"{ROOT}/a/line\nbreak", b"")
    disk.write_file(f"{ROOT}/a/.danube-tmp-0123-4", b"")
    disk.write_file(f"{ROOT}/.danube-other/file", b"")
    store = DirectoryStore(ROOT, disk)
    assert await store.list_objects("") == []
    assert await store.list_children("") == []


async def test_a_swap_needs_a_tag() -> None:
    store = DirectoryStore(ROOT, SimDisk())
    await store.put(KEY, b"data")
    (listed,) = await store.list_objects("")
    part, _ = await store.get(KEY, 1, 2)
    for info in (listed, part):
        with pytest.raises(ValueError, match="no tag"):
            await store.swap(KEY, b"", info)
    await store.aclose()


async def test_a_cancelled_upload_leaves_nothing() -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    with trio.CancelScope() as scope:

        def chunks() -> Iterator[bytes]:
            yield bytes(5 << 20)
            scope.cancel()
            yield bytes(5 << 20)
            raise AssertionError("nobody wants more")

        await store.upload(KEY, chunks)
    assert scope.cancelled_caught
    assert await contents(store) == {}
    assert [name for name in own_files(disk) if "tmp" in name] == []
    await store.aclose()


async def test_a_store_that_was_not_closed_says_so() -> None:
    disk = SimDisk()
    stores = [DirectoryStore(ROOT, disk)]
    await stores[0].put(KEY, b"")
    with pytest.warns(ResourceWarning, match=r"DirectoryStore '/store'.*not closed"):
        stores.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DirectoryStore(ROOT, disk)  # it has written nothing: nothing to close


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="must be the path"):
        DirectoryStore(path, SimDisk())


def test_the_url_is_one() -> None:
    store = DirectoryStore("/a b/c", SimDisk())
    assert store.url == "file:///a%20b/c"
    assert repr(store) == "<DirectoryStore '/a b/c'>"


# -- the lock


async def test_a_change_waits_for_the_lock_of_another_process(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    info = await store.put(KEY, b"before")
    for call, after in (
        (partial(store.put, KEY, b"put"), {KEY: b"put"}),
        (partial(store.delete, KEY), {}),
        (partial(store.upload, KEY, lambda: iter([b"before"])), {KEY: b"before"}),
        (partial(store.swap, KEY, b"swapped", info), {KEY: b"swapped"}),
    ):
        before = await contents(store)
        lock = disk.process().lock(f"{ROOT}/.danube-lock", "another process")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await trio.sleep(10)
            await store.create("not/hindered", b"")
            assert await contents(store) == {**before, "not/hindered": b""}
            lock.release()
        await store.delete("not/hindered")
        assert await contents(store) == after
    await store.aclose()


async def test_who_waits_for_the_lock_can_be_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    disk = SimDisk()
    store = DirectoryStore(ROOT, disk)
    await store.put(KEY, b"before")
    lock = disk.process().lock(f"{ROOT}/.danube-lock", "another process")
    with trio.move_on_after(10) as scope:
        await store.put(KEY, b"after")
    assert scope.cancelled_caught
    lock.release()
    assert await contents(store) == {KEY: b"before"}
    assert [name for name in own_files(disk) if "tmp" in name] == []
    await store.aclose()


# -- any order of calls


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_any_calls_of_two_processes_survive_any_power_cut(seed: int) -> None:
    rng = random.Random(seed)
    disk = SimDisk(seed=seed, sector_bytes=rng.choice([1, 512]))
    stores = [DirectoryStore(ROOT, disk), DirectoryStore(ROOT, disk.process())]
    now: dict[str, bytes] = {}
    calls: list[Call] = []
    for number in range(12):
        store, key = rng.choice(stores), rng.choice(["a/1", "a/2", "b/c/3"])
        data = b"%d " % number * rng.choice([0, 1, 400])
        after: bytes | None = data
        start = disk.op_count
        kind = rng.choice(["put", "create", "swap", "delete", "upload"])
        try:
            if kind == "put":
                await store.put(key, data)
            elif kind == "create":
                await store.create(key, data)
            elif kind == "swap":
                await store.swap(key, data, await store.head(key))
            elif kind == "upload":
                await store.upload(key, partial(iter, [data[:50], data[50:]]))
            else:
                after = None
                await store.delete(key)
        except (PreconditionFailedError, ObjectNotFoundError) as error:
            assert (key in now) is isinstance(error, PreconditionFailedError)
            after = now.get(key)
        calls.append((start, disk.op_count, key, after))
        now.pop(key, None)
        if after is not None:
            now[key] = after
        assert await contents(rng.choice(stores)) == now
    for store in stores:
        await store.aclose()
    for point in disk.crash_points(samples=3):
        expected = allowed(calls, point.op_count)
        for state in point.states:
            found = await contents(DirectoryStore(ROOT, state.disk))
            for key, values in expected.items():
                assert found.get(key) in values, (point.op_count, state.name, key, state.lost)
            assert found.keys() <= expected.keys()
