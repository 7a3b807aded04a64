"""What whoever tries the library first gets wrong, and that the error says what to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import trio

import danube_trio.anyio
from danube_trio import (
    StorageConfig,
    StreamMessage,
    WalConfig,
    open_follower,
    open_replica,
    open_storage,
    open_wal,
)
from danube_trio.blocking import open_wal as open_blocking
from danube_trio.cli.top.figures import View
from danube_trio.cli.top.page import plain
from danube_trio.cli.top.sections import topics
from danube_trio.cloud import MemoryStore

OPENERS: dict[str, Callable[[str], AbstractAsyncContextManager[object]]] = {
    "open_wal": lambda path: open_wal(WalConfig(dir=path)),
    "open_follower": open_follower,
    "open_replica": lambda path: open_replica(MemoryStore(), topic="/default/orders"),
    "open_storage": lambda path: open_storage(StorageConfig(dir=path)),
}


@pytest.mark.parametrize("name", OPENERS)
def test_the_door_of_trio_in_asyncio_names_the_right_one(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with OPENERS[name](str(tmp_path / "log")):
            pass

    with pytest.raises(
        RuntimeError, match=rf"{name}\(\) needs trio's event loop.*danube_trio\.anyio"
    ):
        asyncio.run(main())
    assert not (tmp_path / "log").exists()


def test_a_block_made_outside_of_trio_may_be_entered_there(tmp_path: Path) -> None:
    block = open_wal(WalConfig(dir=str(tmp_path / "log")))

    async def main() -> None:
        async with block as wal:
            assert await wal.append(b"one") == 0

    trio.run(main)


def test_what_is_no_settings_path_or_store_is_named() -> None:
    anything: Any = "orders"
    settings: Any = WalConfig(dir="orders")
    with pytest.raises(TypeError, match=r"config='orders' must be a StorageConfig"):
        open_storage(anything)
    with pytest.raises(TypeError, match=r"must be the path of a log's directory"):
        open_follower(settings)
    with pytest.raises(TypeError, match=r"must be the path of a log's directory"):
        danube_trio.anyio.open_follower(settings)
    with pytest.raises(TypeError, match=r"store='orders' must be an object store"):
        open_replica(anything, topic="/default/orders")


@pytest.mark.parametrize("one", ["text", b"bytes", bytearray(b"bytes"), StreamMessage(b"one")])
def test_one_message_is_no_batch(one: Any) -> None:
    with open_blocking(WalConfig()) as wal:
        with pytest.raises(TypeError, match=rf"not one {type(one).__name__}: append\(\) takes one"):
            wal.append_batch(one)
        assert wal.next_offset == 0


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("anyio", "anyio", "anyio"), ("prometheus", "prometheus_client", "prometheus")],
)
def test_a_module_without_its_package_says_what_to_install(
    module: str, package: str, extra: str
) -> None:
    program = f"import sys\nsys.modules[{package!r}] = None\nimport danube_trio.{module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert done.returncode == 1
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: ")
    assert f"pip install 'danube-trio[{extra}]'" in last


def test_what_waits_for_a_store_has_a_column_only_if_there_is_something() -> None:
    topic = {"topic": "/default/a", "phase": "open", "next_offset": 1, "waiting_bytes": 0}

    def head(waiting: int) -> str:
        now = {"topics": [{**topic, "waiting_bytes": waiting}]}
        return plain(*topics(View({}, None, now))).splitlines()[0]

    assert "waiting" not in head(0)
    assert head(5).rstrip().endswith("waiting")
