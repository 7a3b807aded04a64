"""Danube's own files in the directory of a log: refused before anything is changed."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio
from danube_writer import dnb1, frame, run, segment, sent
from test_cli import CORRUPT, OK, PROBLEMS, call, fill, numbered
from test_cli import run as run_command
from trio.testing import MockClock

from danube_trio import (
    CloudConfig,
    FencedError,
    UnsupportedFormatError,
    WalConfig,
    open_follower,
    open_replica,
    open_wal,
)
from danube_trio._core.danube_ckpt import CHECKPOINT_LAYOUTS, DanubeCheckpoint, encode_checkpoint
from danube_trio.catalog import MetadataCatalog
from danube_trio.cloud import MemoryStore
from danube_trio.metadata import MemoryMetadata
from danube_trio.testing import SimDisk

CHECKPOINT = DanubeCheckpoint(
    last_offset=2, file_seq=0, file_path="/var/danube/wal/default/orders/wal.log"
)
# A directory of Danube's -> what is in it.
DIRECTORIES = {
    "the write-ahead log": {"wal.log": run(0, 3), "wal.1.log": run(3, 5)},
    "the write-ahead log, empty": {"wal.log": b""},
    "its rotated files": {"wal.7.log": run(3, 5)},
    "a write-ahead log of any name": {"orders.bin": run(0, 3)},
    "one without a suffix": {"messages": frame(5, "s1-legacy")},
    "objects": {"data-0-2.dnb1": run(0, 3)},
    "a pending object": {"data-0-pending.dnb1": b""},
    "objects that say what they are": {"renamed": dnb1([(0, sent(0))])},
    "payloads of the first day": {"data-0-2.bin": b"abc"},
    "segments of the first engine": {"segment_0.bin": segment(0, [sent(0)])},
    "the uploader's checkpoint": {"uploader.ckpt": b"x"},
    **{
        f"a checkpoint {layout}": {"wal.ckpt": encode_checkpoint(CHECKPOINT, layout)}
        for layout in CHECKPOINT_LAYOUTS
    },
}


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def made(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


@pytest.mark.happens
@pytest.mark.parametrize("file_name", ["wal.log", "own.log"])
@pytest.mark.parametrize("kind", DIRECTORIES)
async def test_a_directory_of_danube_is_refused_untouched(
    kind: str, file_name: str, tmp_path: Path
) -> None:
    path = made(tmp_path / "danube", DIRECTORIES[kind])
    before = content(path)
    with pytest.raises(UnsupportedFormatError, match="written by Danube") as refused:
        async with open_wal(WalConfig(dir=str(path), file_name=file_name)):
            pass
    assert f"`danube-trio import-danube {path} NEW`" in str(refused.value)
    with pytest.raises(UnsupportedFormatError, match="import-danube"):
        async with open_follower(str(path), file_name=file_name):
            pass
    assert content(path) == before


@pytest.mark.parametrize("kind", ["its rotated files", "objects", "one without a suffix"])
def test_every_command_leads_from_a_directory_of_danube_to_its_import(
    kind: str, tmp_path: Path
) -> None:
    path = made(tmp_path / "danube", DIRECTORIES[kind])
    before = content(path)
    done = run_command("append", path, stdin=b"x\n")
    assert (done.returncode, done.stdout) == (CORRUPT, b"")
    assert b"import-danube" in done.stderr
    for verb in ("info", "tail", "replay", "verify", "repair"):
        result = call(verb, path)
        assert (result.code, result.out) == (CORRUPT, b"")
        assert f"`danube-trio import-danube {path} NEW`" in result.err, verb
    assert content(path) == before


def test_topics_lists_those_that_danube_wrote(tmp_path: Path) -> None:
    (tmp_path / "default").mkdir()
    made(tmp_path / "default" / "orders", DIRECTORIES["objects"])
    result = call("topics", tmp_path)
    assert result.code == PROBLEMS
    assert b"/default/orders" in result.out
    assert b"import-danube" in result.out


@pytest.mark.happens
async def test_a_log_that_a_broker_was_pointed_at_says_which_files_to_move_away(
    tmp_path: Path,
) -> None:
    config = WalConfig(dir=str(tmp_path / "log"), preallocate_bytes=0)
    async with open_wal(config) as wal:
        await wal.append(b"ours")
    theirs = {"orders.log": run(0, 3), "wal.1.log": run(3, 4)}
    theirs["wal.ckpt"] = encode_checkpoint(CHECKPOINT, "C5")
    log = made(tmp_path / "log", theirs)
    before = content(log)
    with pytest.raises(UnsupportedFormatError, match="beside the log") as refused:
        async with open_wal(config):
            pass
    assert str(refused.value).endswith(": orders.log, wal.1.log, wal.ckpt")
    assert content(log) == before
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in theirs:
        (log / name).rename(moved / name)
    async with open_wal(config) as wal:
        assert await wal.append(b"again") == 1


def test_an_import_of_a_log_with_danube_files_in_it_says_which_to_move(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fill(log, numbered(3))
    made(log, {"wal.1.log": run(0, 3)})
    result = call("import-danube", log, tmp_path / "new")
    assert result.code != OK
    assert "(wal.1.log)" in result.err


@pytest.mark.happens
def test_an_import_does_not_leave_out_a_first_file_of_another_name(tmp_path: Path) -> None:
    source = made(tmp_path / "danube", {"orders.log": run(0, 3)})
    result = call("import-danube", source, tmp_path / "new")
    assert "orders.log begins as one of Danube's: name it with --file-name" in result.err
    made(source, {"wal.1.log": run(3, 5)})
    result = call("import-danube", source, tmp_path / "new")
    assert (result.code, b"--file-name" in result.out) == (CORRUPT, True)
    result = call("import-danube", source, tmp_path / "new", "--file-name", "orders.log")
    assert result.code == OK
    assert len(call("replay", tmp_path / "new").lines) == 5


async def test_files_that_are_not_danube_s_are_left_alone() -> None:
    """Among them copies of our own segments, and what only looks like a frame."""
    disk = SimDisk()
    config = WalConfig(dir="/log", preallocate_bytes=0)
    async with open_wal(config, disk=disk) as wal:
        await wal.append(b"ours")
    own = disk.tree()["/log/wal.00000000000000000000.log"]
    assert isinstance(own, bytes)
    broken = bytearray(frame(0))
    broken[-1] ^= 1
    others = {
        "copy of a segment": own,
        "wal.log.bak": frame(0)[:-1],
        "notes.log": b"no frames at all, but long enough for a header",
        "zeros": bytes(4096),
        "broken": bytes(broken),
        "short": b"x",
        "wal.00000000000000000000.log.9.torn": frame(0),
    }
    disk.make_dir("/log/directory")
    for name, data in others.items():
        disk.write_file(f"/log/{name}", data)
    for damage in (b"", bytes(43), b'{"garbage', b"\xff" * 30):
        disk.write_file("/log/wal.ckpt", damage)
        async with open_wal(config, disk=disk):
            pass


# ---- a catalog under Danube's keys

BASE = "/danube/storage/topics/default/orders"
CLOUD = WalConfig(
    dir="/log",
    topic_name="/default/orders",
    preallocate_bytes=0,
    cloud=CloudConfig(upload_interval=0.05),
)


def catalog(metadata: MemoryMetadata) -> MetadataCatalog:
    return MetadataCatalog(metadata, "/default/orders")


async def danube_takes_over(metadata: MemoryMetadata, end: int) -> None:
    """What Danube does to a topic from the offset on."""
    await metadata.delete(f"{BASE}/state")
    name = f'"segment_id":"data-{end}-1768625254.dnb1","size":1,"start_offset":{end}'
    fields = f'"completed":true,"created_at":1768625254,"end_offset":{end + 9},"etag":null,{name}'
    await metadata.put(f"{BASE}/segments/{end:020d}", f"{{{fields}}}".encode())
    await metadata.put(f"{BASE}/segments/cur", b'{"start":"%020d"}' % end)


async def content_of(metadata: MemoryMetadata) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in await metadata.list_entries("/")}


@pytest.mark.happens
async def test_a_topic_that_danube_took_over_is_not_opened_and_nothing_is_changed(
    autojump_clock: MockClock,
) -> None:
    metadata, store, disk = MemoryMetadata(), MemoryStore(), SimDisk()
    async with open_wal(CLOUD, store=store, catalog=catalog(metadata), disk=disk) as wal:
        await wal.append_batch([b"%d" % i for i in range(10)])
        await wal.seal()
    await danube_takes_over(metadata, 10)
    marker = b'{"broker_id":1,"last_committed_offset":19,"sealed":true,"timestamp":1768625254}'
    await metadata.put(f"{BASE}/state", marker)
    before = await content_of(metadata), await store.list_objects(""), disk.tree()
    with pytest.raises(UnsupportedFormatError, match="Danube wrote to this topic"):
        async with open_wal(CLOUD, store=store, catalog=catalog(metadata), disk=disk):
            pass
    after = await content_of(metadata), await store.list_objects(""), disk.tree()
    assert after[:2] == before[:2]
    assert {k: v for k, v in after[2].items() if k != "/log/wal.lock"} == {
        k: v for k, v in before[2].items() if k != "/log/wal.lock"
    }
    async with open_replica(store, catalog=catalog(metadata)) as replica:  # ours can be read
        assert replica.durable_end == 10


@pytest.mark.happens
async def test_a_log_that_danube_writes_beside_is_fenced_and_leaves_no_objects(
    autojump_clock: MockClock,
) -> None:
    metadata, store, disk = MemoryMetadata(), MemoryStore(), SimDisk()
    async with open_wal(CLOUD, store=store, catalog=catalog(metadata), disk=disk) as wal:
        await wal.append_batch([b"%d" % i for i in range(10)])
        await wal.wait_uploaded(10)
        objects = await store.list_objects("storage")
        await danube_takes_over(metadata, 10)
        before = await content_of(metadata)
        await wal.append(b"the same offset")
        with pytest.raises(FencedError, match="fenced by Danube"):
            await wal.wait_uploaded(11)
        with pytest.raises(FencedError):
            await wal.append(b"not accepted")
        await trio.sleep(60)
    assert await store.list_objects("storage") == objects
    assert await content_of(metadata) == before


@pytest.mark.happens
async def test_a_change_that_the_catalog_does_not_take_costs_one_object(
    autojump_clock: MockClock,
) -> None:
    metadata, store, disk = MemoryMetadata(), MemoryStore(), SimDisk()
    async with open_wal(CLOUD, store=store, catalog=catalog(metadata), disk=disk) as wal:
        await wal.append(b"0")
        await wal.wait_uploaded(1)
        head = await metadata.get(f"{BASE}/head")
        assert head is not None
        await metadata.put(f"{BASE}/head", b"damaged")
        await wal.append(b"1")
        await trio.sleep(600)
        assert len(await store.list_objects("storage/topics/default/orders/segments")) == 2
        await metadata.put(f"{BASE}/head", head.value)
        await wal.wait_uploaded(2)
        assert len(await store.list_objects("storage/topics/default/orders/segments")) == 2


@pytest.mark.happens
@pytest.mark.parametrize("keeper", ["in a metadata store", "in the store itself"])
async def test_a_log_is_not_begun_among_objects_of_danube(keeper: str) -> None:
    metadata, store, disk = MemoryMetadata(), MemoryStore(), SimDisk()
    await store.put("storage/topics/default/orders/segments/data-0-1768625254.dnb1", run(0, 3))
    before = await store.list_objects("storage")
    of_danube = catalog(metadata) if keeper == "in a metadata store" else None
    with pytest.raises(UnsupportedFormatError, match="written by Danube itself"):
        async with open_wal(CLOUD, store=store, catalog=of_danube, disk=disk):
            pass
    assert await store.list_objects("storage") == before
    assert not await content_of(metadata)


@pytest.mark.happens
@pytest.mark.parametrize("began", ["by the settings", "without a store"])
async def test_other_layouts_do_not_get_into_a_catalog_of_danube_s(began: str) -> None:
    metadata, store, disk = MemoryMetadata(), MemoryStore(), SimDisk()
    config = attrs.evolve(CLOUD, codec="s1-legacy")
    if began == "without a store":
        async with open_wal(config, disk=disk) as wal:
            await wal.append(b"x")
        config = CLOUD
    before = disk.tree()
    with pytest.raises(ValueError, match=r"codec='s1-legacy'.*Danube reads"):
        async with open_wal(config, store=store, catalog=catalog(metadata), disk=disk):
            pass
    assert not await content_of(metadata)
    assert not await store.list_objects("storage")
    assert disk.tree().keys() - before.keys() <= {"/log", "/log/wal.lock"}
    assert before.get("/log/wal.meta") == disk.tree().get("/log/wal.meta")
