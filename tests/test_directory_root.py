"""The directory of a directory store: lost mounts, files in the way, links, closing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from danube_trio._core.disk import OpenMode
from danube_trio._disk.real import RealDisk, _RealFile
from danube_trio.cloud import DirectoryStore, open_store
from danube_trio.errors import ObjectNotFoundError, PreconditionFailedError, StoreUnavailableError

MARKER = ".danube-store"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "mount" / "store"


def store_at(root: Path) -> DirectoryStore:
    return DirectoryStore(root, RealDisk())


def all_calls(store: DirectoryStore) -> list[Callable[[], Awaitable[object]]]:
    return [
        partial(store.put, "a/0", b"new"),
        partial(store.put, "root-level", b"new"),
        partial(store.create, "a/1", b"new"),
        partial(store.create, "root-level", b"new"),
        partial(store.upload, "new/dir/2", lambda: iter([b"new"])),
        partial(store.get, "a/0"),
        partial(store.head, "a/0"),
        partial(store.list_objects, ""),
        partial(store.list_objects, "a"),
        partial(store.list_children, ""),
        partial(store.delete, "a/0"),
    ]


async def check_unavailable(store: DirectoryStore, text: str) -> None:
    for call in all_calls(store):
        with pytest.raises(StoreUnavailableError, match=text):
            await call()


async def seen_by_write(store: DirectoryStore) -> None:
    await store.put("a/other", b"")


async def seen_by_read(store: DirectoryStore) -> None:
    assert (await store.get("a/0"))[1] == b"0"


async def seen_by_list(store: DirectoryStore) -> None:
    assert [info.key for info in await store.list_objects("")] == ["a/0"]


SEEN = [seen_by_write, seen_by_read, seen_by_list]


async def make(root: Path) -> None:
    async with store_at(root) as store:
        await store.put("a/0", b"0")


@pytest.mark.parametrize("see", SEEN)
@pytest.mark.parametrize("marked", [True, False])
async def test_a_directory_that_was_seen_is_never_made_again(
    root: Path, see: Callable[[DirectoryStore], Awaitable[None]], marked: bool
) -> None:
    await make(root)
    if not marked:
        (root / MARKER).unlink()
    away = root.with_name("away")
    async with store_at(root) as store:
        await see(store)
        root.rename(away)
        gone = f"the directory {root} is gone: is its file system mounted"
        await check_unavailable(store, gone)
        assert not root.exists()
        root.mkdir()  # a mount point without its file system
        await check_unavailable(store, gone)
        assert list(root.rglob("*")) == []
        root.rmdir()
        root.write_bytes(b"")
        await check_unavailable(store, gone)
        root.unlink()
        away.rename(root)  # mounted again
        assert (await store.get("a/0"))[1] == b"0"
        await store.put("new/0", b"")
    assert (root / MARKER).exists()


async def test_another_store_in_its_place_is_not_taken_for_it(root: Path) -> None:
    await make(root)
    async with store_at(root) as store:
        await seen_by_read(store)
        shutil.rmtree(root)
        await make(root)
        await check_unavailable(store, f"another store is at {root} now")
    await make(root)


async def test_a_store_that_was_lost_between_its_calls_of_the_disk_acknowledges_nothing(
    root: Path,
) -> None:
    await make(root)
    empty = root.with_name("empty")

    class Losing(RealDisk):
        """Lose the file system after the name is there, before it is durable."""

        def rename(self, source: str, target: str) -> None:
            super().rename(source, target)
            lose()

        def link(self, source: str, target: str) -> None:
            super().link(source, target)
            lose()

    def lose() -> None:
        root.rename(root.with_name("away"))
        empty.rename(root)

    async with DirectoryStore(root, Losing()) as store:
        for call in (partial(store.put, "key", b""), partial(store.create, "other", b"")):
            empty.mkdir()
            with pytest.raises(StoreUnavailableError, match="is gone"):
                await call()
            shutil.rmtree(root)
            root.with_name("away").rename(root)


async def test_reading_a_store_that_never_was_makes_nothing(root: Path) -> None:
    async with store_at(root) as store:
        with pytest.raises(ObjectNotFoundError):
            await store.get("a/0")
        assert await store.list_objects("") == []
        assert await store.list_children("") == []
        await store.delete("a/0")
        assert not root.parent.exists()
        await store.put("a/0", b"0")
    assert (root / MARKER).exists()


@pytest.mark.parametrize("content", [[], ["by-hand"]])
async def test_a_directory_without_a_marker_is_adopted(root: Path, content: list[str]) -> None:
    root.mkdir(parents=True)
    for name in content:
        (root / name).write_bytes(b"")
    async with store_at(root) as store, store_at(root) as reader:
        assert [info.key for info in await reader.list_objects("")] == content
        await store.put("a/0", b"0")
        assert (root / MARKER).exists()
        await seen_by_read(reader)
        await store.delete("a/0")


async def test_what_an_older_version_wrote_may_all_be_deleted(root: Path) -> None:
    root.mkdir(parents=True)
    (root / "only").write_bytes(b"")
    async with store_at(root) as store:
        await store.delete("only")
        assert await store.list_objects("") == []


async def test_writers_that_make_it_at_once_agree_about_it(root: Path) -> None:
    stores = [store_at(root) for _ in range(6)]
    async with trio.open_nursery() as nursery:
        for number, store in enumerate(stores):
            nursery.start_soon(store.create, f"a/{number}", b"")
    for store in stores:
        assert len(await store.list_objects("a")) == len(stores)
        await store.aclose()
    assert sorted(path.name for path in root.glob(".danube-*")) == [MARKER]


class Between(RealDisk):
    """Call something once, just after the call number `at` that looks for a name."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at
        self.call: Callable[[], object] | None = None
        self.called = False

    def _looked(self) -> None:
        self.left -= 1
        if self.call is not None and not self.called and self.left < 0:
            self.called = True
            self.call()

    def open(self, path: str, mode: OpenMode) -> _RealFile:
        try:
            return super().open(path, mode)
        finally:
            self._looked()

    def list_dir(self, path: str) -> list[str]:
        try:
            return super().list_dir(path)
        finally:
            self._looked()


async def test_a_read_during_the_first_write_does_not_miss_what_is_being_made(root: Path) -> None:
    called = 0
    for at in range(20):
        disk = Between(at)
        async with DirectoryStore(root, disk) as store:
            disk.call = partial(trio.from_thread.run, partial(store.put, "a/0", b"0"))
            assert [info.key for info in await store.list_objects("")] in ([], ["a/0"])
            if not disk.called:
                break
            called += 1
            await seen_by_read(store)
        shutil.rmtree(root)
    assert called >= 3


async def test_a_marker_that_is_none_is_an_error_with_its_name(root: Path) -> None:
    await make(root)
    (root / MARKER).write_bytes(bytes(1000))
    async with store_at(root) as store:
        await check_unavailable(store, f"{root}/{MARKER} is no marker")


# -- what is in the way


@pytest.mark.parametrize("where", ["mount", "mount/store"])
async def test_a_file_where_the_directory_should_be_is_no_object(
    tmp_path: Path, root: Path, where: str
) -> None:
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_bytes(b"")
    async with store_at(root) as store:
        await check_unavailable(store, "[Nn]ot a directory")


async def test_a_key_below_an_object_is_a_bad_key(root: Path) -> None:
    async with store_at(root) as store:
        await store.put("a/b", b"")
        for key in ("a/b/c", "a/b/c/d"):
            with pytest.raises(ValueError, match=r"key='a/b' is an object and the beginning"):
                await store.put(key, b"")


async def test_lists_follow_no_links_and_skip_what_is_no_file(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "deep"
    outside.mkdir(parents=True)
    (outside / "secret").write_bytes(b"")
    async with store_at(root) as store:
        await store.put("a/0", b"0")
        (root / "a" / "loop").symlink_to(root)
        (root / "self").symlink_to("self")
        (root / "out").symlink_to(outside.parent)
        (root / "file").symlink_to(outside / "secret")
        (root / "dangling").symlink_to("nowhere")
        os.mkfifo(root / "fifo")
        await seen_by_list(store)
        assert await store.list_children("") == ["a"]
        for link in ("out", "out/deep", "a/loop", "a/loop/a", "self", "fifo"):
            assert await store.list_objects(link) == []
            assert await store.list_children(link) == []


async def test_the_directory_itself_may_be_a_link(root: Path) -> None:
    await make(root)
    link = root.with_name("link")
    link.symlink_to(root)
    async with store_at(link) as store:
        await seen_by_list(store)
        await store.put("a/1", b"1")
    assert (root / "a" / "1").read_bytes() == b"1"


async def test_what_is_neither_object_nor_directory_is_in_the_way_of_a_create(root: Path) -> None:
    await make(root)
    (root / "link").symlink_to(root / "a")
    os.mkfifo(root / "fifo")
    async with store_at(root) as store:
        with pytest.raises(PreconditionFailedError):
            await store.create("link", b"")
        with pytest.raises(StoreUnavailableError, match="Not a directory"):
            await store.create("fifo", b"")
        with pytest.raises(ValueError, match="cannot hold both"):
            await store.create("a", b"")
        await seen_by_list(store)


# -- closing


async def test_a_store_is_closed_also_when_its_block_is_cancelled(root: Path) -> None:
    with trio.CancelScope() as scope:
        async with open_store(f"file://{root}", disk=RealDisk()) as store:
            await store.put("a/0", b"0")
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert sorted(path.name for path in root.glob(".danube-*")) == [".danube-lock", MARKER]
